"""``MqttBroker.status``: the model for the CRD's schema. ``status.conditions`` fills it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field

from tidegate_operator.spec.backups import RestorePhase
from tidegate_operator.spec.fields import SpecSection

#: ``Reconciling`` and ``Stalled`` are those of kstatus, which Helm 4 and Flux use.
ConditionType = Literal[
    "Ready",
    "Progressing",
    "Degraded",
    "CertificatesReady",
    "ConfigApplied",
    "Reconciling",
    "Stalled",
    "StoreReplicated",
]
#: Only of brokers whose store is replicated.
STORE_REPLICATED: Final = "StoreReplicated"


#: Longer values are truncated: some clouds list every node as an address, and messages of webhooks
#: and containers are unbounded.
MAX_MESSAGE: Final = 4096
MAX_ADDRESSES: Final = 32
#: How old ``lastSeen`` gets before a status is written that has not changed otherwise.
SEEN_INTERVAL: Final = timedelta(minutes=5)


class Reason(StrEnum):
    """Reasons of conditions. docs/kubernetes.md says what to do about each."""

    # All, until the operator has seen the resource
    NOT_OBSERVED = "NotObserved"
    # Ready
    SERVING = "Serving"
    STORE_NOT_READY = "StoreNotReady"
    RESTORING = "Restoring"
    ROUTERS_NOT_READY = "RoutersNotReady"
    EDGES_NOT_READY = "EdgesNotReady"
    SCALED_TO_ZERO = "ScaledToZero"
    ADDRESS_PENDING = "AddressPending"
    # Progressing
    ROLLING_OUT = "RollingOut"
    WAITING_FOR_CERTIFICATES = "WaitingForCertificates"
    ROLLOUT_WAITING = "RolloutWaiting"
    WINDOW_CLOSED = "WindowClosed"
    COMPLETE = "Complete"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    # Degraded, and conditions that follow from it
    AS_EXPECTED = "AsExpected"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    APPLY_REFUSED = "ApplyRefused"
    STORAGE_NOT_APPLIED = "StorageNotApplied"
    FIELDS_DROPPED = "FieldsDropped"
    GATEWAY_API_MISSING = "GatewayApiMissing"
    ROUTE_NOT_ACCEPTED = "RouteNotAccepted"
    REFERENCE_MISSING = "ReferenceMissing"
    REFERENCE_INVALID = "ReferenceInvalid"
    IMAGE_NOT_PULLED = "ImageNotPulled"
    NODE_LOST = "NodeLost"
    PODS_FAILING = "PodsFailing"
    RESTORE_FAILED = "RestoreFailed"
    BACKUP_FAILING = "BackupFailing"
    CONFIG_REJECTED = "ConfigRejected"
    STORE_NOT_REPLICATED = "StoreNotReplicated"
    PAUSED = "Paused"
    # CertificatesReady
    NOT_NEEDED = "NotNeeded"
    ISSUED = "Issued"
    ENDS_SOON = "EndsSoon"
    PENDING = "Pending"
    MISSING = "Missing"
    INVALID = "Invalid"
    # ConfigApplied
    APPLIED = "Applied"
    APPLYING = "Applying"
    NO_PODS = "NoPods"
    # StoreReplicated
    REPLICATED = "Replicated"
    NOT_REPLICATED = "NotReplicated"
    NO_PRIMARY = "NoPrimary"
    SHARED_NODE = "SharedNode"
    NOT_REPORTED = "NotReported"


class Condition(SpecSection):
    """A condition of the broker."""

    type: ConditionType
    """Ready, Progressing, Degraded, CertificatesReady, ConfigApplied, Reconciling, Stalled, or
    StoreReplicated."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]+$")]
    """Reason in CamelCase, of a closed set (docs/kubernetes.md)."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE)] = ""
    """Details, and what to do."""
    last_transition_time: str = Field(default="", json_schema_extra={"format": "date-time"})
    """When `status` changed last."""
    observed_generation: int = 0
    """The generation of the resource that this refers to; of Ready, the newest one that was not
    refused."""


class RouteStatus(SpecSection):
    """A route of the Gateway API, and what its Gateways say of it."""

    kind: str
    """Kind of the route."""
    name: str
    """Name of the route."""
    accepted: Literal["True", "False", "Unknown"] = "Unknown"
    """Whether all its Gateways have accepted it; Unknown: one has not answered yet."""
    resolved_refs: Literal["True", "False", "Unknown"] = "Unknown"
    """Whether they have found the Service."""
    programmed: Literal["True", "False"] | None = None
    """Whether it is in effect; not set by Gateways that do not say it of routes."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What is wrong, or missing."""


class ListenerStatus(SpecSection):
    """Addresses and certificate of a listener."""

    name: str
    """Name of the listener."""
    protocol: str = ""
    """Protocol of the listener."""
    service: str = ""
    """The Service that publishes it; empty: none does (yet)."""
    port: int = 0
    """Port of the Service; 0: none."""
    addresses: list[str] = Field(default_factory=list, max_length=MAX_ADDRESSES)
    """Host names and addresses for clients."""
    route: RouteStatus | None = None
    """The route of the Gateway API that it asks for."""
    certificate_not_after: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}
    )
    """Expiry of the certificate that expires first."""


class PodsStatus(SpecSection):
    """Pods of one component."""

    desired: int = 0
    """Desired number of pods."""
    ready: int = 0
    """Number of ready pods."""
    updated: int = 0
    """Number of pods with the newest pod template."""
    configured: int = 0
    """Number of pods that have confirmed the newest configuration and files."""
    selector: str = ""
    """Label selector of the pods (for the scale subresource)."""


class ConsoleStatus(SpecSection):
    """The console."""

    service: str = ""
    """Service and port: HOST:PORT within the cluster."""
    token_secret: str = ""
    """Secret with the token that the operator has made; empty: the spec names users or tokens."""
    desired: int = 0
    """Desired number of pods."""
    ready: int = 0
    """Number of ready pods."""
    route: RouteStatus | None = None
    """The route of the Gateway API that it asks for."""
    certificate_not_after: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}
    )
    """Expiry of its certificate."""


class LastBackup(SpecSection):
    """A scheduled backup that has ended."""

    name: str
    """The MqttBackup."""
    completed_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When it ended."""
    location: str = ""
    """Where it is, of a complete one."""
    message: str = ""
    """Why it failed."""


class ScheduledBackups(SpecSection):
    """Scheduled backups."""

    last_successful: LastBackup | None = None
    """The last complete one."""
    last_failed: LastBackup | None = None
    """The last failed one, of those that are kept."""
    next_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When the next one is due; unset while the schedule is suspended."""


class RestoreStatus(SpecSection):
    """The restore of a new broker."""

    phase: RestorePhase
    """Waiting, Running, Complete or Failed."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE)] = ""
    """What it waits for, or why it failed and what to do."""
    name: str = ""
    """Name of the backup."""
    sessions: int | None = None
    """Restored sessions."""
    queued_messages: int | None = None
    """Restored messages in the queues of sessions."""
    retained_messages: int | None = None
    """Restored retained messages."""


class BrokerStatus(SpecSection):
    """Observed state of the broker."""

    observed_generation: int = 0
    """The generation of the resource that this refers to."""
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Conditions of the broker."""
    address: str = ""
    """HOST:PORT of the first listener that a Service publishes."""
    listeners: list[ListenerStatus] = Field(default_factory=list, max_length=32)
    """Addresses and certificates by listener."""
    edges: PodsStatus = PodsStatus()
    """Pods of edges."""
    routers: PodsStatus = PodsStatus()
    """Pods of routers."""
    console: ConsoleStatus | None = None
    """The console; unset without one."""
    backup: ScheduledBackups | None = None
    """Scheduled backups; unset without a schedule."""
    restore: RestoreStatus | None = None
    """The restore of `spec.restoreFrom`; unset without it."""
    connections: int | None = None
    """Clients connected to all edges, updated every 30 seconds."""
    last_seen: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When an operator wrote this status: at every change, and at least every five minutes. Older
    than 15 minutes: no operator runs for this resource, and the status is that of then."""


def seen(status: dict[str, Any], before: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """Return a status with ``lastSeen``: that of ``before`` while nothing has changed and it is
    younger than ``SEEN_INTERVAL``, so that an unchanged status is seldom written."""
    last = (before or {}).get("lastSeen")
    if last is not None and before == status | {"lastSeen": last}:
        age = now - datetime.fromisoformat(last)
        if timedelta() <= age < SEEN_INTERVAL:
            return status | {"lastSeen": last}
    return status | {"lastSeen": now.strftime("%Y-%m-%dT%H:%M:%SZ")}


def not_observed() -> dict[str, Any]:
    """Return the status of a resource that no operator has seen: the default in the CRD.

    Without one, tools consider a resource current as soon as it exists.
    """
    return {
        "observedGeneration": -1,
        "conditions": [
            {
                "type": kind,
                "status": "Unknown",
                "reason": Reason.NOT_OBSERVED.value,
                "message": "No operator has seen this resource yet: check that one runs for this "
                "namespace.",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }
            for kind in get_args(ConditionType)
            if kind != STORE_REPLICATED
        ],
    }
