"""The seam between edges and routers: what each may ask of the other.

In one process an ``Edge`` and a ``Router`` hold each other directly; between processes the same
calls travel in frames. Everything here is in domain words; nothing here knows sockets or Redis.
Plain functions never wait: they do their work at once, or start it and report the outcome through
the callback named in their docstring. Calls take effect in their order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from tidegate.core.attempt import ONLY_ATTEMPT, Attempt
from tidegate.core.standing import Standing
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will

#: The outcome of a publish, at once or later: reason codes of PUBACK and PUBREC.
PUBLISHED = 0x00
NO_MATCHING_SUBSCRIBERS = 0x10
#: Not a reason code: a newer connection owns the publisher's session; send no acknowledgement.
FENCED = -1


class SessionFenced(Exception):
    """A newer connection owns the session; the caller's connection must be closed."""


class SessionLost(SessionFenced):
    """The store has gone back to an older state, and has lost the session of the connection."""


class SessionOwned(Exception):
    """The session belongs to another user: the CONNECT is refused, and nothing was changed."""


class SessionQuotaExceeded(Exception):
    """The user has as many durable sessions as it may have: the CONNECT is refused."""


class RouterUnavailable(Exception):
    """No router is reachable, or the store behind it is not available."""


class SharedReceipt(Protocol):
    """How delivery of a shared subscription's message to one member ended."""

    def done(self) -> None:
        """The member acknowledged it, or it was dropped and counted."""

    def returned(self) -> None:
        """The member disconnected without acknowledging it: give it to another one."""


class Origin(Protocol):
    """A publisher, as the router sees it."""

    client_id: str
    epoch: int

    @property
    def is_will(self) -> bool:
        """Whether its message is the will of a connection that has ended."""

    @property
    def is_superseded(self) -> bool:
        """Whether a newer connection has the session: nothing of it may take effect any more."""

    def identity(self, message: Publish) -> str:
        """Name a QoS 2 exchange or a will, the same at every attempt; "" for other messages."""

    def receipt(self, message: Publish) -> int:
        """The receipt byte to store before PUBREC for this QoS 2 publish; -1: none is stored."""

    def published(self, message: Publish, code: int) -> None:
        """Handle the outcome of a publish for which ``RouterLink.publish`` returned None."""


@dataclass(slots=True)
class AttachSession:
    """A CONNECT, as the router needs it. ``session_expiry_s`` is already capped.

    ``client_id`` is a session key (``core.session_key``), here as in all calls of the link.
    """

    client_id: str
    clean_start: bool
    session_expiry_s: int
    will: Will | None = None
    username: str | None = None
    #: The epoch of the connection that may lose its session to this one; 0: none, None: any.
    supersedes: int | None = None
    #: Numbers the CONNECTs of an edge: one that comes again is a repetition. 0: it has none.
    number: int = 0
    #: How often it was sent before, to routers that did not answer.
    tries: int = 0
    #: Whether the session of another user is refused (``auth.session_owner``).
    checks_user: bool = False
    #: For the edge's end of the link: the epoch of the client's connection to this edge; 0: none.
    own_epoch: int = 0
    #: For the edge's end of the link: whether the client still waits.
    is_wanted: Callable[[], bool] | None = field(default=None, compare=False)


@dataclass(slots=True, frozen=True)
class PendingWill:
    """A will that an edge publishes: by the router of its topic, in order with what follows."""

    will_id: str
    client_id: str
    #: Of the connection whose will it is.
    epoch: int
    message: Publish


@dataclass(slots=True)
class DetachedSession:
    """What the end of a connection has brought."""

    #: For the link: to be published by the edge.
    wills: Sequence[PendingWill] = ()
    #: A newer connection has the session: nothing was changed.
    is_fenced: bool = False


@dataclass(slots=True)
class AttachedSession:
    """The session of a connection; see ``store.api.AttachReply`` for the fields."""

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
    #: Of earlier connections, for the link: they are published before CONNACK.
    wills: list[PendingWill] = field(default_factory=list)
    #: For the link: routers must have read the change log up to there before CONNACK; 0: no need.
    fence_position: int = 0
    #: For the link: not 0 when nothing was changed, since a connection with this epoch has it.
    taken_epoch: int = 0
    #: Subscriptions with retained messages to be sent: (filter, generation, last topic sent).
    replays: list[tuple[str, str, str]] = field(default_factory=list)
    #: Whether a durable session was discarded.
    has_discarded: bool = False
    #: Whether the store has it; False in one process only, for some that end with the connection.
    #: Nobody is told of the end of one that is not stored.
    is_stored: bool = True


class EndedPublisher(Protocol):
    """The publishes of a connection that has ended."""

    #: To be set when a newer connection has the session.
    is_superseded: bool
    #: Called when nothing of it is under way any more.
    on_settled: Callable[[], object] | None

    def is_under_way(self) -> bool:
        """Whether a publish that is acknowledged has no outcome yet."""


@dataclass(slots=True)
class DetachSession:
    """The end of a connection whose session is stored.

    ``session_expiry_s`` None keeps that of CONNECT.

    ``publisher``, for the edge's end of the link: what it has published may be under way; None:
    it has published nothing.
    """

    client_id: str
    epoch: int
    publish_will: bool
    session_expiry_s: int | None = None
    sent_seq: int = 0
    publisher: EndedPublisher | None = field(default=None, compare=False)
    #: For the edge's end of the link: it has ended because a newer connection has the session.
    is_superseded: bool = field(default=False, compare=False)
    #: For the edge's end of the link: the store may have lost the session. Its will, if it is to be
    #: published; it is published here if the store does not have the connection any more.
    lost_will: PendingWill | None = field(default=None, compare=False)


@dataclass(slots=True)
class RetainedPage:
    """Retained messages that match topic filters, in the order of their topics."""

    messages: list[Publish]
    #: The messages of topics up to this one have been returned; None: this is the last page.
    after: str | None = None
    #: What makes the next page cheap, by instance of a router; and the routers it is valid for.
    lists: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    #: The topics that are left, where a router knows no pages of messages.
    topics: Sequence[str] = ()
    #: It has what its topics retained when it was sent, not only what was not written meanwhile.
    is_of_now: bool = False


#: Called when a router's part of a page arrives; its argument says whether a topic is in that part.
OnRead: TypeAlias = Callable[[Callable[[str], bool]], None]


@dataclass(slots=True, frozen=True)
class RetainedForQueue:
    """A retained message for the queue of a durable session, by one of its subscriptions."""

    topic_filter: str
    options: SubscriptionOptions
    #: As it was read; what is queued is what the topic has retained then.
    message: Publish


@dataclass(slots=True, frozen=True)
class RetainedRequest:
    """A request for retained messages to one router.

    It returns those of the topics that rendezvous hashing over ``names`` gives to ``name``; of all
    topics, when there are no names.
    """

    filters: Sequence[str]
    after: str = ""
    #: The list in which this router keeps the topics that match, 0: none.
    list_number: int = 0
    name: str = ""
    names: Sequence[str] = ()


class RouterLink(Protocol):
    """What an edge calls."""

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message. Returns the outcome, or None: ``origin.published`` is called with it."""

    def attach(self, edge_id: str, request: AttachSession) -> Awaitable[AttachedSession]:
        """Make this edge the owner of a session.

        Raises SessionOwned, SessionQuotaExceeded, RouterUnavailable.
        """

    def detach(self, request: DetachSession) -> Awaitable[DetachedSession]:
        """End a connection; retried until it is stored.

        It is stored when what the connection has published is with its routers.
        """

    def hasten(self, client_id: str) -> None:
        """Store the end of a client's connections now: it is back at this edge."""

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        *,
        generation: str = "",
        again: Sequence[str] = (),
    ) -> None:
        """Apply subscriptions (filters as sent, $share/… included) at every router, then return.

        With a ``generation`` it is stored which subscriptions of a durable session have retained
        messages to be sent, until ``replayed``; ``again`` are those of them that it had before.
        Raises SessionFenced, RouterUnavailable.
        """

    async def unsubscribe(
        self, edge_id: str, client_id: str, epoch: int, incarnation: int, filters: Sequence[str]
    ) -> None:
        """Remove subscriptions. Raises SessionFenced, RouterUnavailable."""

    def leave_groups(self, client_id: str, epoch: int, filters: Sequence[str]) -> None:
        """Remove a connection that ended from its shared subscription groups."""

    def add_interest(
        self, edge_id: str, filters: Sequence[str], *, only_qos0: bool = False
    ) -> None:
        """Send this edge the messages that match these filters, from now on.

        ``only_qos0``: of these filters only messages of QoS 0. It takes the place of what was said
        of a filter before. A message goes to the edge if any filter that matches says so.
        """

    def remove_interest(self, edge_id: str, filters: Sequence[str]) -> None:
        """Stop that: no client of this edge has these filters any more."""

    async def interest_synced(self) -> None:
        """Return when every attached router knows all of this edge's interest."""

    async def fetch(
        self,
        client_id: str,
        epoch: int,
        incarnation: int,
        after_seq: int,
        max_count: int,
        max_bytes: int,
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue after ``after_seq``, for the connection that owns it.

        A superseded one reads nothing: its successor could not know what it has sent, and repeat
        that with DUP [MQTT-3.3.1-1]. Raises SessionFenced, RouterUnavailable.
        """

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """Remove completed deliveries from the queue, then call ``done``.

        If the session is fenced, ``EdgeLink.kick`` is called before that.
        """

    async def release(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """Store that PUBREC was received for these. Raises SessionFenced, RouterUnavailable."""

    async def complete_receipt(
        self, client_id: str, epoch: int, packet_id: int, value: int
    ) -> None:
        """Store the receipt byte after PUBREL. Raises SessionFenced, RouterUnavailable."""

    async def return_entries(
        self, client_id: str, epoch: int, incarnation: int, seqs: Sequence[int], sent_seq: int
    ) -> None:
        """Take entries of a session's queue that its client may not read.

        What came through a shared subscription goes to another member, the rest is dropped. Those
        up to ``sent_seq`` may have been sent to the client before. May be repeated. Raises
        SessionFenced, RouterUnavailable.
        """

    def retains_none(self, filters: Sequence[str]) -> bool:
        """Whether it is certain at once that no message that matches a filter is retained."""

    async def read_retained(
        self,
        filters: Sequence[str],
        last: RetainedPage | None = None,
        on_read: OnRead | None = None,
    ) -> RetainedPage:
        """Return the retained messages that match any of these filters, in pages.

        ``last`` is the page before. The first page comes when every attached router knows all of
        this edge's interest. A message that a router routes after it has read a page reaches the
        edge after that page. The first page has what its topics retain when it is sent: when a
        router's part arrives, ``on_read`` is called, for what has been delivered of its topics
        until then is not newer, though it may be older (its edge had no interest for a moment).
        From a later page a topic that is written while it is read is left out, for its message
        reaches the edge before; so it is from each page of routers of earlier versions, which
        ``on_read`` is not called for. Raises RouterUnavailable.
        """

    async def queue_retained(
        self, client_id: str, incarnation: int, items: Sequence[RetainedForQueue]
    ) -> None:
        """Queue retained messages for a durable session, each by the router of its topic.

        Without those whose topic has had a live message with RETAIN for this session since the
        SUBSCRIBE. Raises RouterUnavailable.
        """

    async def replayed(
        self, client_id: str, epoch: int, items: Sequence[tuple[str, str, str]]
    ) -> None:
        """Store up to which topic retained messages were sent: (filter, generation, topic).

        "" for the topic: all of them. Raises SessionFenced, RouterUnavailable.
        """

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a shared subscription's message to another member: the first one disconnected."""

    def record(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """Add events to the record, each with its session key ("": of no session).

        False: no router can take them now. They may be lost, and nothing waits for them.
        """

    def ban(self, ban: bytes) -> None:
        """Store a ban that is in force at this edge already (``bans.ban``), for all edges."""


class RouterService(RouterLink, Protocol):
    """What the router's end of the link calls, in addition to what edges call."""

    @property
    def instance(self) -> str:
        """Names this instance of the router; another one after it has been fenced."""

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        excluded: Sequence[str] = (),
        *,
        generation: str = "",
        again: Sequence[str] = (),
        attempt: Attempt = ONLY_ATTEMPT,
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
        *,
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> None:
        """As in RouterLink; the caller itself waits for the router instances in ``excluded``."""

    def edges_only(self, topic: str, qos: int) -> Sequence[EdgeLink]:
        """Return the edges that a message goes to if nothing else is to be done with it now.

        Empty: it must be published. The message is of QoS 0 or 1, without RETAIN. Instead of
        publishing it the caller delivers it to these edges, in its place among their messages.
        """

    def attach_edge(self, edge: EdgeLink) -> None:
        """Add an edge; it replaces one with the same identifier."""

    def detach_edge(self, edge: EdgeLink) -> None:
        """Remove an edge with its interest, its group members and its connections."""

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
        """Note that a durable session is connected at this edge, or (``ended``) is no longer."""

    async def heartbeat(self, edge_id: str) -> bool:
        """Renew an edge's lease; False: it had expired. Raises RouterUnavailable."""

    async def leased_edges(self) -> list[str]:
        """Return every edge with a lease, wherever it is attached. Raises RouterUnavailable."""

    async def end_lease(self, edge_id: str) -> None:
        """Remove the lease of an edge that shuts down. Raises RouterUnavailable."""

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        """Return whether (client_id, epoch) still own their sessions. Raises RouterUnavailable."""

    async def settle(self, client_id: str, position: int, excluded: Sequence[str]) -> None:
        """Return when every live router has read a client's change log up to a position.

        Not those in ``excluded``: the caller itself waits for them. Raises RouterUnavailable.
        """

    def publish_will(self, will: PendingWill) -> None:
        """Publish a will here: the edge cannot (it is of an older version)."""

    async def withdraw_wills(self, will_ids: Sequence[str]) -> None:
        """Delete wills that are not to be published; retried until it is done."""

    async def withdraw_connects(
        self, edge_id: str, connects: Sequence[tuple[str, Attempt]]
    ) -> None:
        """Withdraw CONNECTs to which nobody has answered, with how often they were sent.

        One that has been stored ends, without its will. Raises RouterUnavailable.
        """

    async def verify_wills(self, edge_id: str, will_ids: Sequence[str]) -> list[bool]:
        """Which of these wills are still the edge's to publish. Raises RouterUnavailable."""

    async def wills_published(self, will_ids: Sequence[str]) -> None:
        """Delete wills that edges have published. Raises RouterUnavailable."""

    async def fence(self, instance: str) -> None:
        """Have the store refuse later writes of a router instance. Raises RouterUnavailable."""

    async def catch_up(self) -> None:
        """Apply every change of subscriptions stored until now. Raises RouterUnavailable."""

    async def retained_page(self, request: RetainedRequest) -> RetainedPage:
        """Return a page of retained messages, as ``read_retained``. Raises RouterUnavailable."""

    def match_retained(self, topic_filter: str) -> AsyncIterator[list[str]]:
        """Return the topics with a retained message that match a filter, in pages.

        This and ``get_retained`` are for edges of link version 2. Raises RouterUnavailable.
        """

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """Return the retained messages of these topics, without those that have expired."""

    def replay_again(self, client_id: str, filters: Sequence[str]) -> None:
        """Retained messages of these subscriptions are sent once more, from now on."""

    async def enqueue(self, client_id: str, incarnation: int, messages: Sequence[Publish]) -> None:
        """Queue messages for one durable session, for edges of link version 2.

        Raises RouterUnavailable: the caller tries another router.
        """

    def live_routers(self) -> list[str]:
        """Return the instances of the routers whose lease lasts, as far as known."""


class EdgeLink(Protocol):
    """What a router calls."""

    edge_id: str

    @property
    def knows_wills(self) -> bool:
        """Whether it publishes wills at all, once it is attached."""

    @property
    def publishes_wills(self) -> bool:
        """Whether ``publish_will`` can be called with success now."""

    def deliver(self, message: Publish, publisher_id: str, identity: str = "") -> None:
        """Deliver a message to every connected client of this edge that it matches.

        Durable sessions are sent only QoS 0 from here; the rest reaches them through ``push``. A
        message with an identity may come again, by another router: no client gets it twice.
        """

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        """Deliver a queued message to the connected client whose session it belongs to."""

    def deliver_shared(
        self,
        client_id: str,
        epoch: int,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """Deliver a shared subscription's message to one member; False when it is not here.

        How delivery at QoS 1 ends is reported to ``receipt``; without one, a message that was not
        acknowledged goes to ``RouterLink.redispatch``.
        """

    def kick(self, client_id: str, epoch: int, reason_code: ReasonCode) -> None:
        """Close the connection with this epoch (0: with any)."""

    def session_lost(self, client_id: str, epoch: int) -> None:
        """Close the connection with this epoch: the store has lost its session."""

    def connections(self) -> list[tuple[str, int]] | None:
        """Its connections, for the router to verify; None: it verifies them itself.

        Without those whose session is not stored.
        """

    def verify_sessions(self) -> None:
        """Verify which connections still own their sessions: the store may have lost some."""

    def fence(self, client_id: str, epoch: int) -> None:
        """Nothing that this client has published with a lower epoch takes effect any more."""

    def publish_will(self, will: PendingWill) -> bool:
        """Publish a will, by the router of its topic; False: it cannot now."""

    def give_up(self) -> None:
        """Its lease has ended: it must verify its connections before it publishes again."""

    def pushes_lost(self) -> None:
        """Have durable sessions read their queues: pushes may have been lost."""

    def set_bans(self, bans: Sequence[bytes]) -> None:
        """Go by these bans (``bans.ban``) from now on: refuse and disconnect whom they name."""
