"""Names in Kubernetes: API group, labels and annotations, objects, ports, files. Pure.

Used by every other module; imports none. Selectors of Deployments and StatefulSets are immutable in
Kubernetes, so these names never change; a test pins them.
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

BACKUP_KIND: Final = "MqttBackup"
BACKUP_PLURAL: Final = "mqttbackups"
BACKUP_SINGULAR: Final = "mqttbackup"
BACKUP_SHORT_NAME: Final = "mqbk"
BACKUP_CRD_NAME: Final = f"{BACKUP_PLURAL}.{GROUP}"

#: Namespace and name of an MqttBroker.
BrokerKey = tuple[str, str]

#: The field manager of server-side apply.
FIELD_MANAGER: Final = "tidegate-operator"
#: The field manager of annotations on pods, which belong to their controllers.
POD_FIELD_MANAGER: Final = f"{FIELD_MANAGER}-pods"

NAME_LABEL: Final = "app.kubernetes.io/name"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
PART_OF_LABEL: Final = "app.kubernetes.io/part-of"
APPLICATION: Final = "tidegate"

#: Label of pods that have an admin port.
METRICS_LABEL: Final = f"{GROUP}/metrics"
#: Annotation of pod templates: hash of the configuration that needs a restart (see
#: ``render.restart_hash``).
RESTART_HASH: Final = f"{GROUP}/restart-hash"
#: Annotation of pods that are to reload their configuration: its digest.
CONFIGURATION: Final = f"{GROUP}/configuration"
#: Annotation of the console's pods: the conditions of the broker, as JSON.
CONDITIONS: Final = f"{GROUP}/conditions"
#: Annotation of the pod template of a replicated store: digest of what its servers read at start.
STORE_CONFIGURATION: Final = f"{GROUP}/store-configuration"
#: Annotation of every object: hash of what was applied last; an equal object is not written.
APPLIED_HASH: Final = f"{GROUP}/applied-hash"
#: Annotations of workloads and configurations: hashes of the spec and of the pod template that they
#: were made from, by which ``rollout`` tells whose change a new pod template is.
SPEC_HASH: Final = f"{GROUP}/spec-hash"
TEMPLATE_HASH: Final = f"{GROUP}/template-hash"
#: Annotation of the edges' Deployment while the operator rolls the broker by itself: since when.
ROLLING_SINCE: Final = f"{GROUP}/rolling-since"
#: Label of MqttBackups that a schedule has made, and of their Jobs: the broker.
SCHEDULE_LABEL: Final = f"{GROUP}/schedule"
#: Annotation of Jobs of a schedule: the spec of the MqttBackup that is to be made of them.
BACKUP_SPEC: Final = f"{GROUP}/backup-spec"
#: Finalizer of MqttBackups whose file is deleted with them.
BACKUP_FINALIZER: Final = f"{GROUP}/backup-file"
#: Annotation of the CRD: its revision. An operator does not replace a newer one.
CRD_REVISION: Final = f"{GROUP}/crd-revision"

#: A component that runs ``tidegate``: it has a configuration, and an admin API.
Process = Literal["edge", "router"]
PROCESSES: Final[tuple[Process, ...]] = ("edge", "router")
#: A part of a broker that runs as pods.
Component = Literal["edge", "router", "redis", "console"]
#: A component that reads files which a spec refers to.
Reader = Literal["edge", "router", "console"]
#: Components of pods that run once: they are no part of what serves.
JOB_COMPONENTS: Final = frozenset({"backup", "restore"})

LINK_PORT: Final = 7000
ADMIN_PORT: Final = 18083
CONSOLE_PORT: Final = 18080
REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
#: The bundled store's name among its Sentinels.
STORE_NAME: Final = "store"

CONFIG_DIR: Final = "/etc/tidegate/config"
FILES_DIR: Final = "/etc/tidegate/files"
#: The console's certificate and key, without which its pods do not start.
CERTIFICATE_DIR: Final = "/etc/tidegate/certificate"
#: Where the console's pods have that annotation as a file.
CONDITIONS_DIR: Final = "/etc/tidegate/broker"
CONDITIONS_FILE: Final = "conditions.json"
CONFIG_FILE: Final = "tidegate.yaml"
#: Files and directories of the bundled store's pods. What a replicated one's containers exchange is
#: in the last directory.
STORE_CONFIG_FILE: Final = "valkey.conf"
STORE_MEMBER_FILE: Final = "member.json"
STORE_DATA_DIR: Final = "/data"
STORE_RUN_DIR: Final = "/run/tidegate"

#: The longest broker name for which all derived names are valid, including the revision label of
#: the StatefulSet's pods.
MAX_BROKER_NAME: Final = 40
BROKER_NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"


def selector(broker: str, component: Component | Literal["backup", "restore"]) -> dict[str, str]:
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
    """The Deployment or StatefulSet of a component, its ConfigMap, Secret and ServiceAccount."""
    return f"{broker}-{component}"


def store_members(broker: str, namespace: str, count: int) -> list[str]:
    """The host names of the bundled store's servers; they stay while pods and addresses change."""
    name = workload(broker, "redis")
    return [f"{name}-{number}.{name}.{namespace}.svc" for number in range(count)]


def client_service(broker: str) -> str:
    """The Service that clients connect to."""
    return broker


def listener_service(broker: str, listener: str) -> str:
    """The Service of a listener that has its own, unless it names another."""
    return f"{broker}-{listener}"


def reserved_services(broker: str) -> tuple[str, ...]:
    """The Services of a broker that no listener can have as its own."""
    return (
        client_service(broker),
        routers_service(broker),
        metrics_service(broker),
        workload(broker, "redis"),
    )


def console_services(broker: str) -> tuple[str, ...]:
    """The Services of a console; no listener can have them while there is one."""
    return (
        workload(broker, "console"),
        nodes_service(broker, "edge"),
        nodes_service(broker, "router"),
    )


def nodes_service(broker: str, process: Process) -> str:
    """The headless Service that the console resolves to find the admin ports of a component."""
    return f"{broker}-console-{process}s"


def console_token(broker: str) -> str:
    """The Secret with the console's first token."""
    return f"{broker}-console-token"


def routers_service(broker: str) -> str:
    """The headless Service that edges resolve to find routers."""
    return f"{broker}-routers"


def metrics_service(broker: str) -> str:
    """The headless Service that Prometheus uses to find edges and routers."""
    return f"{broker}-metrics"


def authorities_secret(broker: str) -> str:
    """The Secret with the keys of the broker's certificate authorities; no pod mounts it."""
    return f"{broker}-authorities"


def authorities_map(broker: str) -> str:
    """The ConfigMap with the certificate of the authority that clients trust."""
    return f"{broker}-ca"


def admin_secret(broker: str) -> str:
    """The Secret with the token of the admin API."""
    return f"{broker}-admin"


def route(broker: str, listener: str) -> str:
    """The route of the Gateway API to a listener."""
    return f"{broker}-{listener}"


def listener_certificate(broker: str, listener: str) -> str:
    """The cert-manager Certificate of a listener, and its Secret."""
    return f"{broker}-{listener}-tls"


def last_applied_secret(broker: str) -> str:
    """The Secret with the objects that are made again while a spec is refused."""
    return f"{broker}-last-applied"


def console_certificate(broker: str) -> str:
    """The cert-manager Certificate of the console, and its Secret."""
    return f"{broker}-console-tls"


def backup_schedule(broker: str) -> str:
    """The CronJob of scheduled backups."""
    return f"{broker}-backup"


def restore_job(broker: str) -> str:
    """The Job that restores a new broker."""
    return f"{broker}-restore"
