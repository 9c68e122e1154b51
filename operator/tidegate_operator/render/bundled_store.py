"""The bundled store: a Valkey server with a volume and an append-only file. Pure.

One pod: a second one without failover would not add availability. A store that survives the loss of
a node is external (``spec.redis.external``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from tidegate_operator import names
from tidegate_operator.names import CONFIG_DIR, FILES_DIR, REDIS_PORT
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

CONFIG_FILE: Final = "valkey.conf"
DATA_DIR: Final = "/data"
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
    files = password_files(inputs.owned_secrets.redis_password)
    yield broker.secret(name, "redis", files)
    config = valkey_config(inputs)
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {CONFIG_FILE: config},
    }
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": names.selector(broker.name, "redis"),
            "ports": [
                {"name": "redis", "port": REDIS_PORT, "targetPort": REDIS_PORT, "protocol": "TCP"}
            ],
        },
    }
    # The server reads its password at start only. It is random, so its hash discloses nothing.
    restart = digest([config, hashlib.sha256(files["auth.conf"]).hexdigest()])
    yield _stateful_set(inputs, settings, restart)


def password_files(password: bytes) -> dict[str, bytes]:
    """Return the files of the server's Secret."""
    auth = b"requirepass " + password.strip() + b"\n"
    return {"password": password, "auth.conf": auth}


def valkey_config(inputs: Inputs) -> str:
    """Return the configuration file of the server."""
    redis_spec = inputs.spec.redis
    settings = redis_spec.own
    assert settings is not None
    fsync = "everysec" if redis_spec.durability == "everysec" else "always"
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
        f"include {FILES_DIR}/auth.conf",
    ]
    limit = _memory_limit(settings)
    if limit is not None:
        lines.insert(-1, f"maxmemory {int(limit * MEMORY_SHARE)}")
    return "\n".join(lines) + "\n"


def _memory_limit(settings: BundledRedis) -> Decimal | None:
    """Return the memory limit of the server's container in bytes, by the spec and ``podTemplate``;
    None without a limit, or with one that the API server will reject or truncate."""
    base = {"containers": [{"name": CONTAINER, "resources": resources("redis", settings)}]}
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


def _stateful_set(inputs: Inputs, settings: BundledRedis, restart: str) -> Manifest:
    broker = inputs.broker
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
            "replicas": 1,
            "serviceName": name,
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
            "template": template(
                inputs,
                "redis",
                settings,
                _container(inputs, settings),
                [
                    {"name": "config", "configMap": {"name": name}},
                    {"name": "files", "secret": {"secretName": name, "defaultMode": 0o440}},
                    {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
                ],
                grace_period_s(SHUTDOWN_S),
                {names.RESTART_HASH: restart},
            ),
        },
    }


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
        "resources": resources("redis", settings),
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "files", "mountPath": FILES_DIR, "readOnly": True},
            {"name": CLAIM, "mountPath": DATA_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a volume of the pod's own
        ],
    }
