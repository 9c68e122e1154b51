"""Jobs that run ``tidegate backup`` and ``tidegate restore`` beside a broker. Pure.

Their pod has the routers' store settings and files (ConfigMap and Secret ``NAME-router``, of which
only the files of the store are mounted), so it reaches the store whenever routers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tidegate_operator import names
from tidegate_operator.names import CONFIG_DIR, FILES_DIR, REDIS_PORT, SENTINEL_PORT
from tidegate_operator.render.broker_config import router_config
from tidegate_operator.render.inputs import Broker, Manifest, Settings
from tidegate_operator.render.pod_template import (
    CONTAINER,
    account_name,
    container_security,
    pod_security,
)
from tidegate_operator.spec.backups import BackupJob, BackupTarget, S3Target

Purpose = Literal["backup", "restore"]

#: Where a volume with backups is mounted.
TARGET_DIR: Final = "/backups"
#: Runs a command, and leaves its last line where the kubelet reads it.
_REPORTED: Final = ("python", "-m", "tidegate_operator.backups.pod_report")
_DELETE: Final = ("python", "-m", "tidegate_operator.backups.pod_delete")
#: How long a Job waits for the store: the name of one that has just become ready is not resolved at
#: once, and a replicated one has no primary during a failover.
_STORE_S: Final = 120
#: How long the deletion of a file may take.
_DELETE_S: Final = 600
_GRACE_S: Final = 30
_CREDENTIALS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105  # the name of a variable
_RESOURCES: Final[Manifest] = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}
#: Keys that the Secret with credentials must have.
CREDENTIAL_KEYS: Final = frozenset(_CREDENTIALS)


@dataclass(slots=True, frozen=True)
class Place:
    """A target with the directory or prefix in it."""

    target: BackupTarget
    #: Directory of the volume, or prefix in the bucket.
    path: str

    @property
    def argument(self) -> str:
        """What ``tidegate`` calls it."""
        if self.target.s3 is not None:
            return f"s3://{self.target.s3.bucket}/{self.path}"
        return f"{TARGET_DIR}/{self.path}"

    def location(self, name: str) -> str:
        """Return where a backup is, for people."""
        file = f"{self.path}/{name}.tgbackup"
        if self.target.s3 is not None:
            return f"s3://{self.target.s3.bucket}/{file}"
        claim = self.target.persistent_volume_claim
        assert claim is not None
        return f"{claim.claim_name}:{file}"


def place(target: BackupTarget, namespace: str, broker: str, folder: str = "on-demand") -> Place:
    """Return a target with its path, or the default one of a broker."""
    default = f"{namespace}/{broker}/{folder}"
    if target.s3 is not None:
        return Place(target, target.s3.prefix or default)
    claim = target.persistent_volume_claim
    assert claim is not None
    return Place(target, claim.path or default)


def job_spec(
    broker: Broker,
    settings: Settings,
    purpose: Purpose,
    where: Place,
    job: BackupJob,
    arguments: Sequence[str] = (),
) -> Manifest:
    """Return the spec of a Job."""
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": account_name(broker, "router", broker.spec.router),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": pod_security(settings),
        "containers": [_container(broker, settings, purpose, where, job, arguments)],
        "volumes": _volumes(broker, purpose, where),
    }
    if broker.spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": one.name} for one in broker.spec.image_pull_secrets]
    if job.node_selector:
        pod["nodeSelector"] = dict(job.node_selector)
    if job.tolerations:
        pod["tolerations"] = job.tolerations
    return {
        "backoffLimit": job.retries,
        "activeDeadlineSeconds": job.deadline_s,
        "template": {"metadata": {"labels": names.labels(broker.name, purpose)}, "spec": pod},
    }


def _container(
    broker: Broker,
    settings: Settings,
    purpose: Purpose,
    where: Place,
    job: BackupJob,
    arguments: Sequence[str],
) -> Manifest:
    spec = broker.spec
    mounts: list[Manifest] = [
        {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
        {"name": "files", "mountPath": FILES_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a volume of the pod's own
    ]
    if where.target.s3 is None:
        mount: Manifest = {"name": "target", "mountPath": TARGET_DIR}
        mounts.append(mount | ({"readOnly": True} if purpose == "restore" else {}))
    config = f"{CONFIG_DIR}/{names.CONFIG_FILE}"
    options = ["--config", config, "--wait", str(_STORE_S), *arguments, "--json"]
    command = ["tidegate", purpose, where.argument, *options]
    container: Manifest = {
        "name": CONTAINER,
        "image": spec.image or settings.image,
        "command": [*_REPORTED, *command],
        "resources": _resources(job),
        "securityContext": container_security(),
        "volumeMounts": mounts,
        # Of a pod that ends before it can report.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if where.target.s3 is not None:
        container["env"] = _environment(where.target.s3)
    if spec.image_pull_policy is not None:
        container["imagePullPolicy"] = spec.image_pull_policy
    return container


def _resources(job: BackupJob) -> Manifest:
    if job.resources is None:
        return _RESOURCES
    amounts = (("requests", job.resources.requests), ("limits", job.resources.limits))
    return {key: dict(values) for key, values in amounts if values}


def _environment(s3: S3Target) -> list[Manifest]:
    def of_secret(key: str, *, optional: bool = False) -> Manifest:
        source: Manifest = {"name": s3.credentials_secret.name, "key": key}
        return {
            "name": key,
            "valueFrom": {"secretKeyRef": source | ({"optional": True} if optional else {})},
        }

    variables: list[Manifest] = [{"name": "AWS_REGION", "value": s3.region}]
    if s3.endpoint is not None:
        variables.append({"name": "AWS_ENDPOINT_URL", "value": s3.endpoint})
    variables += [of_secret(key) for key in _CREDENTIALS]
    return [*variables, of_secret(_SESSION_TOKEN, optional=True)]


def _volumes(broker: Broker, purpose: Purpose, where: Place) -> list[Manifest]:
    name = names.workload(broker.name, "router")
    files: Manifest = {"secretName": name, "defaultMode": 0o440, "items": _store_files(broker)}
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": name}},
        {"name": "files", "secret": files},
        {"name": "tmp", "emptyDir": {}},
    ]
    claim = where.target.persistent_volume_claim
    if claim is not None:
        source: Manifest = {"claimName": claim.claim_name}
        if purpose == "restore":
            source["readOnly"] = True
        volumes.append({"name": "target", "persistentVolumeClaim": source})
    return volumes


def _store_files(broker: Broker) -> list[Manifest]:
    """Return the files of routers that the settings of the store name: no keys of the link."""
    prefix = f"{FILES_DIR}/"
    values: Mapping[str, Any] = router_config(broker)["store"]
    found = (value for value in values.values() if isinstance(value, str))
    keys = sorted(value.removeprefix(prefix) for value in found if value.startswith(prefix))
    # Without items all of them would be mounted. An empty list means that, too.
    return [{"key": key, "path": key} for key in keys or ["link-ca.crt"]]


def backup_job(
    broker: Broker,
    settings: Settings,
    metadata: Manifest,
    where: Place,
    job: BackupJob,
    keep_job_s: int,
) -> Manifest:
    """Return the Job of an MqttBackup."""
    spec = job_spec(broker, settings, "backup", where, job)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": spec | {"ttlSecondsAfterFinished": keep_job_s},
    }


def delete_job(
    broker: Broker | None, settings: Settings, metadata: Manifest, where: Place, backup: str
) -> Manifest:
    """Return the Job that deletes a backup's file; it needs no broker.

    It outlives its MqttBackup, and has no owner: it would be deleted before it has ended.
    """
    container: Manifest = {
        "name": CONTAINER,
        "image": (None if broker is None else broker.spec.image) or settings.image,
        "command": [*_REPORTED, *_DELETE, where.argument, backup],
        "resources": _RESOURCES,
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(settings),
        "containers": [container],
    }
    if broker is not None and broker.spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": one.name} for one in broker.spec.image_pull_secrets]
    claim = where.target.persistent_volume_claim
    if where.target.s3 is not None:
        container["env"] = _environment(where.target.s3)
    elif claim is not None:
        container["volumeMounts"] = [{"name": "target", "mountPath": TARGET_DIR}]
        source = {"claimName": claim.claim_name}
        pod["volumes"] = [{"name": "target", "persistentVolumeClaim": source}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 2,
            "activeDeadlineSeconds": _DELETE_S,
            "ttlSecondsAfterFinished": 3600,
            "template": {"metadata": {"labels": metadata["labels"]}, "spec": pod},
        },
    }


def store_policy(broker: Broker, metadata: Manifest) -> Manifest:
    """Return a NetworkPolicy that admits pods of Jobs to the bundled store."""
    peers = [
        {"podSelector": {"matchLabels": names.selector(broker.name, purpose)}}
        for purpose in ("backup", "restore")
    ]
    ports = [{"port": port, "protocol": "TCP"} for port in (REDIS_PORT, SENTINEL_PORT)]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": names.selector(broker.name, "redis")},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports, "from": peers}],
        },
    }
