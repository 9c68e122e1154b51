"""The seam between edges and routers: what each may ask of the other.

In one process an ``Edge`` and a ``Router`` hold each other directly; between processes the same
calls travel in frames. Everything here is in domain words; nothing here knows sockets or Redis.
Calls that are plain functions never wait: they do their work at once or start it and report back
through the callback named in their docstring. Order of calls is order of effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
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


class SharedReceipt(Protocol):
    """What an edge says of a shared subscription's message that it was given for one member."""

    def done(self) -> None:
        """The member has acknowledged it, or it was dropped and counted."""

    def returned(self) -> None:
        """The member has gone without acknowledging it: another one must have it."""


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

    async def interest_synced(self) -> None:
        """Return when all of this edge's interest is known to every router it is attached to."""

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue after ``after_seq``. Raises RouterUnavailable."""

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """Deliveries are complete: forget them, then call ``done``.

        A fenced one ends in ``EdgeLink.kick``.
        """

    async def release(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """PUBREC has come for these. Raises SessionFenced, RouterUnavailable."""

    async def complete_receipt(
        self, client_id: str, epoch: int, packet_id: int, value: int
    ) -> None:
        """PUBREL has come: store the receipt byte. Raises SessionFenced, RouterUnavailable."""

    def match_retained(self, topic_filter: str) -> AsyncIterator[list[str]]:
        """Topics with a retained message that match a filter, in pages.

        Raises RouterUnavailable.
        """

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """The retained messages of these topics that are there and have not expired."""

    async def enqueue(self, client_id: str, incarnation: int, messages: Sequence[Publish]) -> None:
        """Queue messages for one durable session (retained ones after SUBSCRIBE)."""

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a shared subscription's message to another member: the first one has gone."""


class RouterService(RouterLink, Protocol):
    """What the router's end of a link asks of the router, beside what edges ask."""

    @property
    def instance(self) -> str:
        """Names this life of the router; a new one after it has been declared dead."""

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        excluded: Sequence[str] = (),
    ) -> None:
        """As in RouterLink; the caller itself waits for the router instances in ``excluded``."""

    async def unsubscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        filters: Sequence[str],
        excluded: Sequence[str] = (),
    ) -> None:
        """As in RouterLink; the caller itself waits for the router instances in ``excluded``."""

    def attach_edge(self, edge: EdgeLink) -> None:
        """An edge has come (again: it takes the place of the one with its identifier)."""

    def detach_edge(self, edge: EdgeLink) -> None:
        """An edge has gone: forget its interest, its members, its connections."""

    def join_groups(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
    ) -> None:
        """Make a connection without a durable session a member of shared subscriptions."""

    def set_session_location(
        self, edge_id: str, client_id: str, epoch: int, incarnation: int, ended: bool
    ) -> None:
        """A durable session's connection is, or is no longer, at this edge."""

    async def heartbeat(self, edge_id: str) -> bool:
        """Renew an edge's lease; False: it had run out. Raises RouterUnavailable."""

    async def leased_edges(self) -> list[str]:
        """Every edge that has a lease, wherever it is attached. Raises RouterUnavailable."""

    async def end_lease(self, edge_id: str) -> None:
        """An edge ends, after its last connection. Raises RouterUnavailable."""

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[bool]:
        """Which (client_id, epoch) still own their sessions. Raises RouterUnavailable."""

    async def fence(self, instance: str) -> None:
        """Refuse every later write of another router's life. Raises RouterUnavailable."""

    async def catch_up(self) -> None:
        """Learn every change of subscriptions stored until now. Raises RouterUnavailable."""

    async def enqueue(self, client_id: str, incarnation: int, messages: Sequence[Publish]) -> None:
        """As in RouterLink. Raises RouterUnavailable: the caller asks another router."""

    def live_routers(self) -> list[str]:
        """Instances of the routers that live, as far as known."""


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
        self,
        client_id: str,
        epoch: int,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """Give a shared subscription's message to one member; False when it is not here.

        What becomes of a QoS 1 message is told to ``receipt`` if there is one, and otherwise
        through ``RouterLink.redispatch``.
        """

    def kick(self, client_id: str, epoch: int, reason_code: ReasonCode) -> None:
        """End the connection of an older epoch (or, with epoch 0, any)."""

    def pushes_lost(self) -> None:
        """Pushes may have been lost: durable sessions look into their queues."""
