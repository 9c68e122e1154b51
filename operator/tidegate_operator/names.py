"""Names that the operator gives, in one place: API group, labels, objects, ports, files.

What is a selector of a Deployment or StatefulSet can never change; a test holds these still.
"""

from __future__ import annotations

from typing import Final, Literal

GROUP: Final = "tidegate.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "MqttBroker"
PLURAL: Final = "mqttbrokers"
SINGULAR: Final = "mqttbroker"
SHORT_NAME: Final = "mqb"
CRD_NAME: Final = f"{PLURAL}.{GROUP}"

#: Who owns the fields that the operator applies (server-side apply).
FIELD_MANAGER: Final = "tidegate-operator"
#: The same for what it writes onto pods, which are their controllers'.
POD_FIELD_MANAGER: Final = f"{FIELD_MANAGER}-pods"

NAME_LABEL: Final = "app.kubernetes.io/name"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
PART_OF_LABEL: Final = "app.kubernetes.io/part-of"
APPLICATION: Final = "tidegate"

#: On pods that have an admin port.
METRICS_LABEL: Final = f"{GROUP}/metrics"
#: On a pod template: what of the configuration needs a restart (see ``render.restart``).
RESTART_HASH: Final = f"{GROUP}/restart-hash"
#: On pods that have to look at their configuration again: which one they shall find.
CONFIGURATION: Final = f"{GROUP}/configuration"
#: On every object: what was applied last, so that nothing is written without need.
APPLIED_HASH: Final = f"{GROUP}/applied-hash"
#: On the CRD: how new it is; an older operator leaves a newer one alone.
CRD_REVISION: Final = f"{GROUP}/crd-revision"

#: A part of a broker that runs as pods.
Component = Literal["edge", "router", "redis"]

LINK_PORT: Final = 7000
ADMIN_PORT: Final = 18083
REDIS_PORT: Final = 6379

CONFIG_DIR: Final = "/etc/tidegate/config"
FILES_DIR: Final = "/etc/tidegate/files"
CONFIG_FILE: Final = "tidegate.yaml"

#: Names of brokers are short enough for every name that is made of them, the revision labels of
#: their StatefulSet's pods included.
MAX_BROKER_NAME: Final = 40
BROKER_NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"


def selector(broker: str, component: Component) -> dict[str, str]:
    """Return the labels that select the pods of a component; they never change."""
    return {
        NAME_LABEL: APPLICATION,
        INSTANCE_LABEL: broker,
        COMPONENT_LABEL: component,
    }


def labels(broker: str, component: str) -> dict[str, str]:
    """Return the labels of an object that belongs to a broker."""
    return {
        NAME_LABEL: APPLICATION,
        INSTANCE_LABEL: broker,
        MANAGED_BY_LABEL: FIELD_MANAGER,
        PART_OF_LABEL: APPLICATION,
        COMPONENT_LABEL: component,
    }


def workload(broker: str, component: Component) -> str:
    """The Deployment or StatefulSet of a component, and all that belongs to its pods."""
    return f"{broker}-{component}"


def client_service(broker: str) -> str:
    """The Service that clients connect to."""
    return broker


def routers_service(broker: str) -> str:
    """The headless Service by which edges find routers."""
    return f"{broker}-routers"


def metrics_service(broker: str) -> str:
    """The headless Service by which Prometheus finds edges and routers."""
    return f"{broker}-metrics"


def authorities_secret(broker: str) -> str:
    """The Secret with the keys of the broker's own authorities; no pod mounts it."""
    return f"{broker}-authorities"


def authorities_map(broker: str) -> str:
    """The ConfigMap with the certificates of its authority, for clients."""
    return f"{broker}-ca"


def admin_secret(broker: str) -> str:
    """The Secret with the token of the admin API."""
    return f"{broker}-admin"


def listener_certificate(broker: str, listener: str) -> str:
    """cert-manager's Certificate of a listener, and the Secret that it fills."""
    return f"{broker}-{listener}-tls"
