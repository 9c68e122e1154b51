"""The seam between edges and routers: what each may ask of the other.

In one process an ``Edge`` and a ``Router`` hold each other directly; between processes the same
calls travel in frames. Everything here is in domain words; nothing here knows sockets or Redis.
Calls that are plain functions never wait: they do their work at once or start it and report back
through the callback named in their docstring. Order of calls is order of effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will

#: What a publish came to, when it is known at once or later. Reason codes of PUBACK and PUBREC.
PUBLISHED = 0x00
NO_MATCHING_SUBSCRIBERS = 0x10
#: Not a reason code: a newer connection owns the publisher's session, so nothing may be answered.
FENCED = -1


class SessionFenced(Exception):
    """A newer connection owns the session; the caller's connection is over."""


class RouterUnavailable(Exception):
    """No router, or no store behind it, can do this now."""


class Origin(Protocol):
    """A publisher, as the router sees it."""

    client_id: str
    epoch: int

    def identity(self, message: Publish) -> str:
        """Name a QoS 2 exchange, the same name on every attempt; "" for other messages."""

    def receipt(self, message: Publish) -> int:
        """The receipt byte to store before this QoS 2 publish is answered; -1: none is kept."""

    def published(self, message: Publish, code: int) -> None:
        """Take the outcome of a publish for which ``RouterLink.publish`` returned None."""


@dataclass(slots=True, frozen=True)
class AttachSession:
    """A CONNECT, as the router needs it. ``session_expiry_s`` is already capped."""

    client_id: str
    clean_start: bool
    session_expiry_s: int
    will: Will | None = None
    username: str | None = None


@dataclass(slots=True)
class AttachedSession:
    """The session a connection has got; see ``store.api.AttachReply`` for the fields."""

    epoch: int
    incarnation: int
    session_present: bool
    sent_seq: int = 0
    sent_uncertain: bool = False
    last_seq: int = 0
    released: list[int] = field(default_factory=list)
    receipts: bytes = b""
    receipt_wraps: dict[int, int] = field(default_factory=dict)
    subscriptions: list[tuple[str, SubscriptionOptions]] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class DetachSession:
    """The end of a connection. ``session_expiry_s`` None keeps what CONNECT said."""

    client_id: str
    epoch: int
    publish_will: bool
    session_expiry_s: int | None = None
    sent_seq: int = 0


class RouterLink(Protocol):
    """What an edge may ask of routers."""

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message. A code when it is done; None when ``origin.published`` will tell."""

    async def attach(self, edge_id: str, request: AttachSession) -> AttachedSession:
        """Make this edge the owner of a session. Raises RouterUnavailable."""

    async def detach(self, request: DetachSession) -> None:
        """End a connection; retried until the store has it."""

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
    ) -> None:
        """Apply subscriptions (filters as sent, $share/… included) everywhere before returning.

        Raises SessionFenced, RouterUnavailable.
        """

    async def unsubscribe(
        self, edge_id: str, client_id: str, epoch: int, incarnation: int, filters: Sequence[str]
    ) -> None:
        """Remove subscriptions. Raises SessionFenced, RouterUnavailable."""

    def leave_groups(self, client_id: str, epoch: int, filters: Sequence[str]) -> None:
        """Take a connection that ended out of its shared subscription groups."""

    def add_interest(self, edge_id: str, topic_filter: str) -> None:
        """Send this edge what matches, from now on."""

    def remove_interest(self, edge_id: str, topic_filter: str) -> None:
        """No client of this edge wants this filter any more."""

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue after ``after_seq``. Raises RouterUnavailable."""

    def complete(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """Deliveries are complete: forget them. A fenced one ends in ``EdgeLink.kick``."""

    async def release(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """PUBREC has come for these. Raises SessionFenced, RouterUnavailable."""

    async def complete_receipt(
        self, client_id: str, epoch: int, packet_id: int, value: int
    ) -> None:
        """PUBREL has come: store the receipt byte. Raises SessionFenced, RouterUnavailable."""

    def match_retained(self, topic_filter: str) -> list[str]:
        """Topics with a retained message that match a filter."""

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """The retained messages of these topics that are there and have not expired."""

    async def enqueue(self, client_id: str, incarnation: int, messages: Sequence[Publish]) -> None:
        """Queue messages for one durable session (retained ones after SUBSCRIBE)."""

    async def heartbeat(self, edge_id: str) -> None:
        """Renew the edge's lease. Raises RouterUnavailable."""

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a shared subscription's message to another member: the first one has gone."""


class EdgeLink(Protocol):
    """What a router may ask of an edge."""

    edge_id: str

    def deliver(self, message: Publish, publisher_id: str) -> None:
        """Give a message to every connected client of this edge that it matches.

        Durable sessions take only QoS 0 from here; the rest reaches them through ``push``.
        """

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        """Offer a queued message to the connected client whose session it belongs to."""

    def deliver_shared(
        self, client_id: str, epoch: int, message: Publish, group: str, options: SubscriptionOptions
    ) -> bool:
        """Give a shared subscription's message to one member; False when it is not here."""

    def kick(self, client_id: str, epoch: int, reason_code: ReasonCode) -> None:
        """End the connection of an older epoch (or, with epoch 0, any)."""
