"""Shapes of the overview."""

from __future__ import annotations

from typing import Literal

from tidegate.console.models.common import Model, Partial


class Finding(Model):
    """Something that is to be known, and what to do about it; as `tidegate doctor` says it."""

    area: str
    level: Literal["ok", "advice", "problem"]
    text: str
    change: str = ""
    """What to do; empty where nothing is to be done."""
    node: str = ""
    """The node that it is about; empty: the whole broker."""


class Totals(Model):
    """Numbers of now."""

    connections: int
    sessions: int
    subscriptions: int
    retained: int
    queued: int
    """Message copies that are queued, or sent and not yet acknowledged."""


class NodeSummary(Model):
    """A node in one line."""

    name: str
    role: str
    ready: bool
    reason: str
    version: str
    clients: int | None = None
    draining: bool = False


class Condition(Model):
    """A condition of the MqttBroker."""

    type: str
    """Ready, Progressing, Degraded, …"""
    status: str
    """True, False or Unknown."""
    reason: str
    message: str
    changed_at: float | None = None
    """When `status` changed last, in seconds since 1970."""


class Resource(Model):
    """The MqttBroker that the console belongs to."""

    name: str
    namespace: str
    generation: int
    observed_generation: int
    """The generation that the conditions refer to."""
    seen_at: float | None = None
    """When the operator wrote the conditions, in seconds since 1970: at every change, and at least
    every five minutes."""
    conditions: list[Condition]


class Overview(Partial):
    """Whether the broker is well, and if not, what to do first."""

    state: Literal["ok", "degraded", "down"]
    """down: no client can connect."""
    findings: list[Finding]
    """The worst first; without those that are ok."""
    totals: Totals | None = None
    """null: no node answers."""
    rates: dict[str, float]
    """Figures of the newest sample (see /figures), those per second."""
    dropped: dict[str, int]
    """Message copies dropped in the last five minutes, by reason."""
    refused: dict[str, int]
    """Connections refused in the last five minutes, by reason."""
    nodes: list[NodeSummary]
    resource: Resource | None = None
    """null: the console does not run on Kubernetes, or the operator has not said anything yet."""
    store_reachable: bool
