"""``MqttBroker.status``: what the operator found, for the CRD's schema. See ``conditions``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from tidegate_operator.spec.fields import SpecSection

ConditionType = Literal["Ready", "Progressing", "Degraded", "CertificatesReady", "ConfigApplied"]


#: What does not fit is cut: some clouds name every node as an address, and what webhooks and
#: containers say has no limit.
MAX_MESSAGE: Final = 4096
MAX_ADDRESSES: Final = 32


class Reason(StrEnum):
    """Why a condition is as it is. docs/kubernetes.md says what to do about each."""

    # Ready
    SERVING = "Serving"
    STORE_NOT_READY = "StoreNotReady"
    ROUTERS_NOT_READY = "RoutersNotReady"
    EDGES_NOT_READY = "EdgesNotReady"
    SCALED_TO_ZERO = "ScaledToZero"
    ADDRESS_PENDING = "AddressPending"
    # Progressing
    ROLLING_OUT = "RollingOut"
    WAITING_FOR_CERTIFICATES = "WaitingForCertificates"
    COMPLETE = "Complete"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    # Degraded, and others that follow from it
    AS_EXPECTED = "AsExpected"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    APPLY_REFUSED = "ApplyRefused"
    REFERENCE_MISSING = "ReferenceMissing"
    REFERENCE_INVALID = "ReferenceInvalid"
    PODS_FAILING = "PodsFailing"
    CONFIG_REJECTED = "ConfigRejected"
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


class Condition(SpecSection):
    """One statement about the broker, as Kubernetes words them."""

    type: ConditionType
    """Ready, Progressing, Degraded, CertificatesReady or ConfigApplied."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]+$")]
    """Why, in one word of a closed set (docs/kubernetes.md)."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE)] = ""
    """Why, and what to do, in words."""
    last_transition_time: str = Field(default="", json_schema_extra={"format": "date-time"})
    """When `status` changed last."""
    observed_generation: int = 0
    """The generation of the resource that this is about."""


class ListenerStatus(SpecSection):
    """Where a listener can be reached."""

    name: str
    """The listener."""
    protocol: str = ""
    """What it speaks."""
    port: int = 0
    """Port of the Service."""
    addresses: list[str] = Field(default_factory=list, max_length=MAX_ADDRESSES)
    """Host names and addresses that clients use."""
    certificate_not_after: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}
    )
    """When its first certificate expires."""


class PodsStatus(SpecSection):
    """Pods of one component."""

    desired: int = 0
    """How many are wanted."""
    ready: int = 0
    """How many serve."""
    updated: int = 0
    """How many have the newest pod template."""
    configured: int = 0
    """How many have said that they use the newest configuration and the newest files."""
    selector: str = ""
    """Labels that select them (for the scale subresource)."""


class BrokerStatus(SpecSection):
    """What is there."""

    observed_generation: int = 0
    """The generation of the resource that this is about."""
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Statements about the broker."""
    address: str = ""
    """Where clients connect: the first address and port."""
    listeners: list[ListenerStatus] = Field(default_factory=list, max_length=32)
    """Where each listener can be reached."""
    edges: PodsStatus = PodsStatus()
    """Edges."""
    routers: PodsStatus = PodsStatus()
    """Routers."""
    connections: int | None = None
    """Clients connected to all edges, as of the last look."""
