"""The bundled store: Valkey servers, each with a volume and an append-only file. Pure.

One pod, or three: a primary and two replicas, of which ``replicated_store`` renders the rest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from tidegate_operator import names
from tidegate_operator.names import (
    CONFIG_DIR,
    FILES_DIR,
    REDIS_PORT,
)
from tidegate_operator.names import STORE_CONFIG_FILE as CONFIG_FILE
from tidegate_operator.names import STORE_DATA_DIR as DATA_DIR
from tidegate_operator.render import replicated_store
from tidegate_operator.render.inputs import Inputs, Manifest
from tidegate_operator.render.merge import merged
from tidegate_operator.render.pod_template import (
    CONTAINER,
    container_security,
    grace_period_s,
    image,
    resources,
    template,
)
from tidegate_operator.render.restart_hash import digest
from tidegate_operator.spec.workloads import BundledRedis

#: The claim template of its volume.
CLAIM: Final = "data"
#: Time to write and sync the append-only file at shutdown.
SHUTDOWN_S: Final = 55
#: ``maxmemory`` as a share of the memory limit; the rest is for AOF rewrites and client buffers.
MEMORY_SHARE: Final = Decimal("0.7")

#: Quantities are 64-bit in Kubernetes.
_MAX_BYTES: Final = 2**63
#: Exponents are limited to three digits.
_QUANTITY: Final = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,3}))?"
)
_SUFFIXES: Final = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}


def redis(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the objects of the bundled store; none with an external one."""
    settings = inputs.spec.redis.own
    if settings is None:
        return
    broker = inputs.broker
    name = names.workload(broker.name, "redis")
    metadata = broker.metadata(name, "redis")
    yield broker.secret(name, "redis", password_files(inputs.owned_secrets.redis_password))
    is_replicated = inputs.spec.redis.is_replicated
    config = valkey_config(inputs)
    more = replicated_store.files(inputs) if is_replicated else {}
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {CONFIG_FILE: config, **more},
    }
    service: Manifest = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "selector": names.selector(broker.name, "redis"),
        "ports": [
            {"name": "redis", "port": REDIS_PORT, "targetPort": REDIS_PORT, "protocol": "TCP"}
        ],
    }
    if is_replicated:
        replicated_store.extend_service(service)
        yield replicated_store.budget(broker)
    yield {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service}
    yield _stateful_set(inputs, settings, _restart_annotations(inputs, config, more))


def password_files(password: bytes) -> dict[str, bytes]:
    """Return the files of the server's Secret."""
    auth = b"requirepass " + password.strip() + b"\n"
    return {"password": password, "auth.conf": auth}


def _restart_annotations(inputs: Inputs, config: str, more: dict[str, str]) -> dict[str, str]:
    """Return annotations that change with what a server reads at start only.

    The password is random, so its hash discloses nothing.
    """
    auth = password_files(inputs.owned_secrets.redis_password)["auth.conf"]
    password_hash = hashlib.sha256(auth).hexdigest()
    if not more:
        return {names.RESTART_HASH: digest([config, password_hash])}
    scripts = [more[name] for name in (replicated_store.START, replicated_store.STOP)]
    return {
        # Servers with different passwords cannot replicate: a new one restarts all at once.
        names.RESTART_HASH: digest([password_hash]),
        names.STORE_CONFIGURATION: digest([config, *scripts]),
    }


def valkey_config(inputs: Inputs) -> str:
    """Return the configuration file of the server."""
    redis_spec = inputs.spec.redis
    settings = redis_spec.own
    assert settings is not None
    fsync = "everysec" if redis_spec.promised_durability == "everysec" else "always"
    lines = [
        f"port {REDIS_PORT}",
        "bind * -::*",
        # A password is set, and a NetworkPolicy restricts access.
        "protected-mode no",
        f"dir {DATA_DIR}",
        "databases 1",
        "appendonly yes",
        f"appendfsync {fsync}",
        'save ""',
        # Acknowledged data is never evicted: a full store rejects writes.
        "maxmemory-policy noeviction",
        *(replicated_store.settings_lines() if redis_spec.is_replicated else ()),
        f"include {FILES_DIR}/auth.conf",
    ]
    limit = _memory_limit(settings)
    if limit is not None:
        lines.insert(-1, f"maxmemory {int(limit * MEMORY_SHARE)}")
    return "\n".join(lines) + "\n"


def _memory_limit(settings: BundledRedis) -> Decimal | None:
    """Return the memory limit of the server's container in bytes, by the spec and ``podTemplate``;
    None without a limit, or with one that the API server will reject or truncate."""
    base = {"containers": [{"name": CONTAINER, "resources": _resources(settings)}]}
    overlay = settings.pod_template.get("spec", {}).get("containers")
    pod = merged(base, {"containers": overlay} if isinstance(overlay, list) else {})
    try:
        limit = quantity(str(pod["containers"][0]["resources"]["limits"]["memory"]))
    except (KeyError, TypeError, ValueError):
        return None
    return limit if limit < _MAX_BYTES else None


def quantity(text: str) -> Decimal:
    """Return a quantity as a number: 1Gi is 1073741824, 500m is 0.5. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text} is not a quantity")
    number, suffix, exponent = match.groups()
    return Decimal(number) * _SUFFIXES[suffix or ""] * Decimal(10) ** int(exponent or 0)


def _resources(settings: BundledRedis) -> Manifest:
    if settings.resources is None and settings.replicas > 1:
        return replicated_store.SERVER_RESOURCES
    return resources("redis", settings)


def _stateful_set(inputs: Inputs, settings: BundledRedis, restart: dict[str, str]) -> Manifest:
    broker, is_replicated = inputs.broker, settings.replicas > 1
    name = names.workload(broker.name, "redis")
    storage = settings.storage
    claim: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        claim["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": broker.metadata(name, "redis"),
        "spec": {
            "replicas": inputs.store_pods or settings.replicas,
            "serviceName": name,
            # The operator replaces the pods of several servers: replicas first, the primary last.
            **({"updateStrategy": replicated_store.UPDATE_STRATEGY} if is_replicated else {}),
            # With OrderedReady, a pod that never becomes ready blocks the rollout of its
            # replacement.
            "podManagementPolicy": "Parallel",
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": names.selector(broker.name, "redis")},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": storage.on_delete.capitalize(),
                "whenScaled": "Retain",
            },
            "volumeClaimTemplates": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": CLAIM},
                    "spec": claim,
                }
            ],
            "template": _template(inputs, settings, restart),
        },
    }


def _template(inputs: Inputs, settings: BundledRedis, restart: dict[str, str]) -> Manifest:
    name = names.workload(inputs.broker.name, "redis")
    containers = [_container(inputs, settings)]
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": name}},
        {"name": "files", "secret": {"secretName": name, "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]
    if settings.replicas == 1:
        grace_s = grace_period_s(SHUTDOWN_S)
        return template(inputs, "redis", settings, containers, volumes, grace_s, restart)
    replicated_store.extend_container(containers[0])
    containers.append(replicated_store.sentinel_container(inputs))
    volumes.append(replicated_store.run_volume())
    grace_s = grace_period_s(replicated_store.HAND_OVER_S, SHUTDOWN_S)
    placed = replicated_store.spread(inputs.broker, settings)
    pod = template(inputs, "redis", placed, containers, volumes, grace_s, restart)
    return merged({"spec": {"dnsConfig": replicated_store.DNS_CONFIG}}, pod)


def _container(inputs: Inputs, settings: BundledRedis) -> Manifest:
    check = {
        "tcpSocket": {"port": REDIS_PORT},
        "timeoutSeconds": 3,
    }
    return {
        "name": CONTAINER,
        **image(inputs),
        **({"image": settings.image} if settings.image is not None else {}),
        "command": ["valkey-server", f"{CONFIG_DIR}/{CONFIG_FILE}"],
        "ports": [{"name": "redis", "containerPort": REDIS_PORT, "protocol": "TCP"}],
        "readinessProbe": check | {"periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 4},
        # The port is open while a large file is loaded.
        "livenessProbe": check | {"periodSeconds": 20, "failureThreshold": 6},
        "resources": _resources(settings),
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "files", "mountPath": FILES_DIR, "readOnly": True},
            {"name": CLAIM, "mountPath": DATA_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a volume of the pod's own
        ],
    }
