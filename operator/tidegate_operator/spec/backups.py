"""Backups: the specs of ``MqttBackup``, of a broker's schedule, and of what it is restored from.

Pure. ``backups`` makes Jobs from them; ``backup_crd`` generates the CRD of MqttBackup.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tidegate_operator.spec.fields import LabelMap, ObjectName, OpaqueList, SpecSection, rules
from tidegate_operator.spec.workloads import Resources

#: No component begins with a dot, so that none leads out of the volume.
Location = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9_][-A-Za-z0-9._]*(/[A-Za-z0-9_][-A-Za-z0-9._]*)*$",
        min_length=1,
        max_length=512,
    ),
]


class ClaimTarget(SpecSection):
    """A directory of a volume."""

    claim_name: ObjectName
    """The PersistentVolumeClaim, in the namespace of the resource. It is mounted by the Job only;
    with access mode ReadWriteOnce, by one node at a time."""
    path: Location | None = None
    """The directory. Unset: NAMESPACE/BROKER/on-demand, of a schedule NAMESPACE/BROKER/scheduled,
    from the names of the broker."""


class CredentialsSecret(SpecSection):
    """A Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, optionally,
    AWS_SESSION_TOKEN."""

    name: ObjectName
    """The Secret, in the namespace of the resource."""


class S3Target(SpecSection):
    """A bucket of an S3-compatible store."""

    endpoint: (
        Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+/?$", max_length=512)] | None
    ) = None
    """URL of the store; unset: that of AWS for the region."""
    bucket: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]$", max_length=63)
    ]
    """The bucket."""
    prefix: Location | None = None
    """Prefix of the objects' names. Unset: NAMESPACE/BROKER/on-demand, of a schedule
    NAMESPACE/BROKER/scheduled, from the names of the broker."""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=64)] = "us-east-1"
    """The region that requests are signed for."""
    credentials_secret: CredentialsSecret
    """The credentials."""


class BackupTarget(SpecSection):
    """Where backups are: a volume or a bucket."""

    model_config = rules(
        (
            "has(self.persistentVolumeClaim) != has(self.s3)",
            "exactly one of persistentVolumeClaim and s3 is required",
        ),
    )

    persistent_volume_claim: ClaimTarget | None = None
    """A directory of a volume."""
    s3: S3Target | None = None
    """A bucket of an S3-compatible store."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.persistent_volume_claim is None) == (self.s3 is None):
            raise ValueError("exactly one of persistent_volume_claim and s3 is required")
        return self


class BackupJob(SpecSection):
    """Settings of the Job and its pod."""

    resources: Resources | None = None
    """Resources of the container. Unset: small requests and a memory limit."""
    node_selector: LabelMap = Field(default_factory=dict)
    """As in a pod (spec.nodeSelector)."""
    tolerations: OpaqueList = Field(default_factory=list)
    """As in a pod (spec.tolerations)."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a failed pod is replaced (backoffLimit of the Job)."""
    deadline_s: Annotated[int, Field(ge=60, le=604_800)] = 21_600
    """How long it may take with all retries (activeDeadlineSeconds of the Job)."""


class MqttBackupSpec(SpecSection):
    """What is backed up, and where to. Immutable, except `deletionPolicy`."""

    model_config = rules(
        (
            "self.broker == oldSelf.broker && self.target == oldSelf.target"
            " && has(self.job) == has(oldSelf.job) && (!has(self.job) || self.job == oldSelf.job)",
            "spec is immutable: make another MqttBackup",
        ),
    )

    broker: ObjectName
    """The MqttBroker, in the same namespace."""
    target: BackupTarget
    """Where the backup is written."""
    job: BackupJob = BackupJob()
    """The Job that writes it."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to a complete backup when the MqttBackup is deleted: Delete has a Job delete its
    file, and the MqttBackup goes when that has ended."""
    keep_job_s: Annotated[int, Field(ge=0, le=2_592_000)] = 86_400
    """How long the finished Job and its log are kept (ttlSecondsAfterFinished of the Job)."""


class BackupSchedule(SpecSection):
    """Backups at certain times."""

    cron: Annotated[
        str,
        StringConstraints(
            pattern=r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|\S+( +\S+){4})$",
            max_length=100,
        ),
    ]
    """When, as in a CronJob: minute, hour, day of month, month, day of week; or @daily and the
    like."""
    time_zone: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", max_length=64)
    ] = "Etc/UTC"
    """The time zone of `cron`, such as Europe/Berlin."""
    suspend: bool = False
    """Make no backups until it is false again."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 7
    """How many complete backups are kept: older ones are deleted after each new one, files and
    MqttBackups alike. It counts the files at the target's path or prefix."""
    starting_deadline_s: Annotated[int, Field(ge=60, le=604_800)] = 3600
    """How late a backup may begin; later, it is left out (startingDeadlineSeconds of the
    CronJob)."""
    target: BackupTarget
    """Where the backups are written."""
    job: BackupJob = BackupJob()
    """The Jobs that write them."""


class BackupSpec(SpecSection):
    """Backups of the store: sessions, queues, retained messages."""

    schedule: BackupSchedule | None = None
    """Backups at certain times; unset: none. A CronJob of Kubernetes makes them, also while the
    operator is away."""


class BackupReference(SpecSection):
    """An MqttBackup."""

    name: ObjectName
    """The MqttBackup."""
    namespace: ObjectName | None = None
    """Its namespace; unset: that of the broker. A volume cannot be used from another namespace, a
    bucket can: the Secret with its credentials has to be in the broker's namespace too, with the
    same name."""


class RestoreFrom(SpecSection):
    """The backup that a new broker begins with."""

    model_config = rules(
        ("has(self.backup) != has(self.target)", "exactly one of backup and target is required"),
        ("!has(self.name) || has(self.target)", "name requires target"),
    )

    backup: BackupReference | None = None
    """An MqttBackup that is complete."""
    target: BackupTarget | None = None
    """Where the backup is. Without a path or prefix, that of a broker of this name in this
    namespace is used (NAMESPACE/BROKER/on-demand)."""
    name: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][-A-Za-z0-9._]*$", max_length=253)]
        | None
    ) = None
    """Name of the backup at the target; unset: the latest one."""
    job: BackupJob = BackupJob()
    """The Job that restores it."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.backup is None) == (self.target is None):
            raise ValueError("exactly one of backup and target is required")
        if self.name is not None and self.target is None:
            raise ValueError("name requires target")
        return self


# Status

RestorePhase = Literal["Waiting", "Running", "Complete", "Failed"]
BackupPhase = Literal["Pending", "Running", "Complete", "Failed"]
BackupConditionType = Literal["Complete", "Failed", "Reconciling", "Stalled"]


class BackupCondition(SpecSection):
    """A condition of a backup."""

    type: BackupConditionType
    """Complete, Failed, Reconciling or Stalled."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]+$")]
    """Reason in CamelCase, of a closed set (docs/kubernetes-backups.md)."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Details, and what to do."""
    last_transition_time: str = Field(default="", json_schema_extra={"format": "date-time"})
    """When `status` changed last."""
    observed_generation: int = 0
    """The generation of the resource that this refers to."""


class BackupProgress(SpecSection):
    """How far a running backup is."""

    step: Annotated[str, Field(max_length=32)] = ""
    """reading, writing, verifying or deleting."""
    keys: Annotated[int, Field(ge=0)] = 0
    """Keys of the store so far."""
    bytes: Annotated[int, Field(ge=0)] = 0
    """Bytes so far."""


class MqttBackupStatus(SpecSection):
    """Observed state of the backup."""

    observed_generation: int = 0
    """The generation of the resource that this refers to."""
    phase: BackupPhase | None = None
    """Pending, Running, Complete or Failed."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """What it does, or why it failed and what to do."""
    job: str = ""
    """The Job."""
    started_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When the Job started."""
    completed_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When it was complete, or had failed."""
    progress: BackupProgress | None = None
    """How far it is; only while it runs, and updated every few seconds."""
    name: str = ""
    """Name of the backup at its target."""
    location: str = ""
    """Where it is: s3://BUCKET/PREFIX/NAME.tgbackup, or CLAIM:PATH/NAME.tgbackup."""
    bytes: int | None = None
    """Its size."""
    sha256: str = ""
    """SHA-256 of the file."""
    sessions: int | None = None
    """Sessions in it."""
    queued_messages: int | None = None
    """Messages in the queues of sessions."""
    retained_messages: int | None = None
    """Retained messages."""
    format: int | None = None
    """Format of the file."""
    version: str = ""
    """Version of Tidegate that wrote it."""
    taken_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """The moment whose state it has."""
    conditions: list[BackupCondition] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Conditions of the backup."""
