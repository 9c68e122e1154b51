"""The store in domain words: what a router can call, and what is returned.

Owns the value types of these calls. Implemented by ``tidegate.store.redis_store.RedisStore``. All
times are Unix milliseconds and arguments; the store reads no clock. Every call is atomic by itself
(one script), and concurrent calls are gathered into few round trips.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, TypeAlias

from tidegate.bans.ban import Ban
from tidegate.core.attempt import ONLY_ATTEMPT, Attempt
from tidegate.core.standing import Standing
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import RecordConfig

#: A session expiry interval of this value means "never" (MQTT5 §3.1.2.11.2).
NEVER_EXPIRES_S = 0xFFFFFFFF


class StoreUnavailable(Exception):
    """Redis did not answer, or answered that it cannot write now. Retry is the caller's choice."""


class StoreInUse(StoreUnavailable):
    """Another broker uses the store, and shares it with no other; the message says which."""


class WriterFenced(Exception):
    """This writer is fenced: other routers have taken over what it has not written."""


class OwnedByAnother(Exception):
    """The session belongs to another user; nothing was changed."""


@dataclass(slots=True, frozen=True)
class History:
    """The history of a partition, as one reader has found it.

    Numbers (epochs; in the global one, of leases) up to ``first`` were given out in an earlier one.
    ``replaces``: a router has begun it, in place of one that had gone back. ``seen``: what this
    reader had written last, None if there was nothing. ``time_ms`` is the server's clock.
    """

    first: int
    replaces: bool
    seen: int | None
    time_ms: int


#: What belongs to no partition has a history, too; in lists of partitions it is this number.
GLOBAL: Final = -1


class TooManySessions(Exception):
    """The user has as many durable sessions as it may have; nothing was changed."""


class LateRequest(Exception):
    """A later attempt at this request, or a newer one, has been stored; nothing was changed."""


class AppendOutcome(Enum):
    """Why an append did not queue: the reasons of the drop counters.

    UNAVAILABLE is none of them: the server of this session did not answer while others did. The
    append is to be retried, with all later ones of the same session, in order.
    """

    QUEUE_FULL = "queue_full"
    DUPLICATE = "duplicate"
    NO_SESSION = "no_session"
    QUEUE_BYTES = "queue_bytes"
    STORE_FULL = "store_full"
    UNAVAILABLE = "unavailable"


#: Outcomes for which a publish is refused with 0x97 (Quota exceeded).
OVER_QUOTA: Final = frozenset({AppendOutcome.STORE_FULL})


class RetainRefusal(Enum):
    """Why a retained message was not stored: the reasons of the drop counters."""

    STORE_FULL = "store_full"
    RETAINED_QUOTA = "retained_quota"


@dataclass(slots=True, frozen=True)
class RetainedBefore:
    """The newest ``count`` changes had been stored before, and nothing was: the next is to be."""

    count: int


@dataclass(slots=True)
class RetainedUse:
    """How many retained messages and bytes an owner has, and all owners together."""

    messages: int = 0
    bytes: int = 0
    all_messages: int = 0
    all_bytes: int = 0


@dataclass(slots=True)
class RetainedCharge:
    """Who a retained message counts for, and how much may be added; None: no limit.

    ``added`` is what has been added, or would have been; ``previous_owner`` had the message that
    was replaced, with so many bytes.
    """

    owner: str
    messages: int | None
    bytes: int | None
    all_messages: int | None
    all_bytes: int | None
    added: RetainedUse = field(default_factory=RetainedUse)
    previous_owner: str = ""
    previous_bytes: int = 0


@dataclass(slots=True)
class AttachRequest:
    """One CONNECT. ``will`` is an encoded record (see ``records``), None without a will."""

    client_id: str
    edge_id: str
    clean_start: bool
    session_expiry_s: int
    now_ms: int
    will: bytes | None = None
    will_delay_s: int = 0
    #: The epoch of the only connection that may lose its session to this one; 0: none, None: any.
    #: A CONNECT that is late, because a router or the store hung, must not supersede a newer one.
    supersedes: int | None = None
    #: Of this CONNECT at its edge: one that comes again was repeated by the edge. 0: it has none.
    number: int = 0
    #: The user that has the session from now on, "" for anonymous clients.
    user: str = ""
    #: Whether the session of another user is refused. One that an older version has made has none.
    checks_user: bool = False
    #: How many durable sessions more the user may have; None: any number.
    sessions_left: int | None = None
    #: How often this CONNECT was sent before, to routers that did not answer.
    tries: int = 0


@dataclass(slots=True)
class DueWill:
    """A will that must be published now. ``will_id`` is for ``will_published``."""

    will_id: str
    client_id: str
    #: Of the connection whose will it is.
    epoch: int
    record: bytes


@dataclass(slots=True)
class EndedSession:
    """A durable session whose state has just been discarded: its subscriptions must go."""

    client_id: str
    incarnation: int


@dataclass(slots=True)
class AttachReply:
    """What CONNECT learns from the store.

    ``epoch`` fences every later write of this connection. ``incarnation`` numbers the state of the
    session: a new one begins whenever state is discarded; 0 for a session that is not durable,
    which has no queue. A durable session that is resumed with expiry 0 keeps its incarnation and
    its queue until the connection ends. ``previous_edge``/``previous_epoch`` are the connection
    that was live until now ("" and 0: none). ``sent_seq``: every queued entry up to it has been
    sent before, unless ``sent_uncertain`` (the old edge did not report it), when any of them may
    have been. ``released`` are the entries in PUBREL state; ``receipts`` has one byte per packet
    identifier (index 0 unused, may be shorter than 65536): bit 0 = PUBLISH received and not yet
    released, bits 1..7 = completed exchanges modulo 128.
    """

    epoch: int
    incarnation: int
    session_present: bool
    previous_edge: str = ""
    previous_epoch: int = 0
    sent_seq: int = 0
    sent_uncertain: bool = False
    last_seq: int = 0
    queued_count: int = 0
    released: list[int] = field(default_factory=list)
    receipts: bytes = b""
    subscriptions: list[tuple[str, SubscriptionOptions]] = field(default_factory=list)
    #: Subscriptions with retained messages to be sent: (filter, generation, last topic sent).
    replays: list[tuple[str, str, str]] = field(default_factory=list)
    #: Wills of earlier connections that are to be published now, by the edge of this one.
    wills: list[DueWill] = field(default_factory=list)
    #: Where the change log says that other edges are fenced for this client; 0: none had to be.
    fence_position: int = 0
    #: Not 0: nothing was changed, a connection with this epoch has the session.
    taken_epoch: int = 0
    #: The incarnation that was discarded by this CONNECT (clean start), 0 if none.
    discarded_incarnation: int = 0
    #: Packet identifier → how often its count of completed exchanges (seven bits of ``receipts``)
    #: has wrapped. An identity needs it: 128 exchanges later the byte is the same again.
    receipt_wraps: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class DetachRequest:
    """The end of a connection. ``session_expiry_s`` None keeps what CONNECT said."""

    client_id: str
    epoch: int
    now_ms: int
    publish_will: bool
    session_expiry_s: int | None = None
    sent_seq: int = 0


@dataclass(slots=True)
class DetachReply:
    """``fenced``: a newer connection owns the session, nothing was changed."""

    fenced: bool
    ended: EndedSession | None = None
    wills: list[DueWill] = field(default_factory=list)


@dataclass(slots=True)  # a frozen one takes four times as long to make, for each message
class Append:
    """One message for one durable session's queue.

    ``record`` is an encoded queue record. ``identity`` is empty, or names a QoS 2 publish
    (publisher, packet identifier, exchange): a second append with the same identity is refused as
    DUPLICATE. The exchange must be counted beyond seven bits (``AttachReply.receipt_wraps``).
    ``claimed``: the message has been claimed for this session (``Store.claim``); if the queue is
    full then, it refuses this identity from now on, as QUEUE_FULL.
    """

    client_id: str
    incarnation: int
    record: bytes
    identity: str = ""
    claimed: bool = False


#: A durable session: client identifier and incarnation.
Holder: TypeAlias = tuple[str, int]


@dataclass(slots=True, frozen=True)
class Claim:
    """Which member of a group of shared subscriptions a QoS 2 message is for.

    Made before it is appended there, so that the same message is not queued for another member by
    another router. The first claim of an identity counts; ``moved_from`` moves it from a member
    that has refused the message.
    """

    group: str
    identity: str
    holder: Holder
    moved_from: Holder | None = None


@dataclass(slots=True)
class AppendReply:
    """The outcomes of appends, and where to push what was queued.

    ``outcomes``: for each append the seq it got (1, 2, … within an incarnation), or why not.
    ``locations``: (client_id, incarnation) → (edge_id, epoch) of the connection that owned the
    session in the very step that queued its messages; sessions that are offline are not in it.
    ``evicted``: the same → how many of the oldest messages ``drop_oldest`` has dropped for these,
    and the topic of the first; they are counted already.
    """

    outcomes: list[int | AppendOutcome] = field(default_factory=list)
    locations: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    evicted: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class AbandonedQueue:
    """The queue of a durable session that has ended and had shared subscriptions.

    Or entries of an offline member's queue (``Store.abandon_entries``); then the incarnation is a
    number that is used for nothing else.

    Its entries that came through a shared subscription (``records.queued_group``) are redelivered
    to other members, except QoS 2 messages whose delivery may have begun [MQTT-4.8.2-5]: those up
    to ``sent_seq``, or all when ``sent_uncertain``.
    """

    client_id: str
    incarnation: int
    sent_seq: int
    sent_uncertain: bool


@dataclass(slots=True, frozen=True)
class OfflineMember:
    """A durable session without a connection, with messages, and with shared subscriptions.

    What was queued through these can be redelivered to connected members, except QoS 2 messages
    whose delivery may have begun: they stay for this client [MQTT-4.8.2-4]. Those are the ones up
    to ``sent_seq``, or all when ``sent_uncertain``. ``epoch`` is that of its last connection: with
    another one, the client has reconnected.
    """

    client_id: str
    incarnation: int
    epoch: int
    sent_seq: int
    sent_uncertain: bool


@dataclass(slots=True)
class DueWork:
    """What a sweep found, by kind."""

    ended: list[EndedSession] = field(default_factory=list)
    wills: list[DueWill] = field(default_factory=list)
    abandoned_queues: list[AbandonedQueue] = field(default_factory=list)
    offline_members: list[OfflineMember] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class SessionSubscribed:
    """A durable session has these subscriptions now (new ones, or with new options)."""

    client_id: str
    incarnation: int
    subscriptions: tuple[tuple[str, SubscriptionOptions], ...]


@dataclass(slots=True, frozen=True)
class SessionUnsubscribed:
    """A durable session has none of these subscriptions any more."""

    client_id: str
    incarnation: int
    topic_filters: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class SessionEnded:
    """A durable session's state has been discarded, its subscriptions with it."""

    client_id: str
    incarnation: int


@dataclass(slots=True, frozen=True)
class ConnectionFenced:
    """What this edge publishes for this client has no effect if its epoch is lower than this."""

    client_id: str
    edge_id: str
    epoch: int


@dataclass(slots=True, frozen=True)
class EdgeLost:
    """The lease of this edge has ended: its sessions are going to be given up."""

    edge_id: str


@dataclass(slots=True, frozen=True)
class RetainedAdded:
    """A topic that had no retained message has one."""

    topic: str


@dataclass(slots=True, frozen=True)
class RetainedRemoved:
    """A topic has no retained message any more."""

    topic: str


Change: TypeAlias = (
    SessionSubscribed
    | SessionUnsubscribed
    | SessionEnded
    | ConnectionFenced
    | EdgeLost
    | RetainedAdded
    | RetainedRemoved
)


@dataclass(slots=True)
class Changes:
    """What routers changed since a position, each client's and each topic's in their order.

    ``positions``: where to continue reading, one for each partition. ``has_gap``: some changes
    before these are missing (trimmed, or the server has lost or replaced its contents), so
    everything must be reloaded, beginning with ``log_positions``. ``more``: read again at once.
    """

    changes: list[Change] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    has_gap: bool = False
    more: bool = False


@dataclass(slots=True)
class RouterRecord:
    """A router with a lease: its instance, and how far it has applied each partition's changes."""

    instance: str
    positions: list[int]


@dataclass(slots=True)
class StoredSubscriptions:
    """A durable session with its subscriptions, as loaded at router start.

    ``edge_id`` is the edge that holds its connection ("" when offline), ``epoch`` its epoch.
    """

    client_id: str
    incarnation: int
    edge_id: str
    epoch: int
    subscriptions: list[tuple[str, SubscriptionOptions]]


class Store(Protocol):
    """Everything a router calls. Every method may raise StoreUnavailable.

    ``writer`` names the router instance that appends and retains ("" = one that cannot be fenced).
    Operations that wait keep the name that was set when they were called.
    """

    writer: str
    #: Called when a server is another one, or has been restarted: it may have lost something.
    on_replaced: Callable[[], None]

    @property
    def is_reachable(self) -> bool:
        """Whether calls do not fail at once: as far as is known, the store is there."""

    async def reserve_epochs(self, partition: int, count: int) -> int:
        """Return the first of so many epochs, one after the other, that no connection has or gets.

        They are higher than those that the partition has given out, and lower than later ones.
        """

    async def connected_edges(self) -> tuple[set[str], list[str]]:
        """Edges that have, or may have, stored connections; clients with wills to be published."""

    def attach(self, request: AttachRequest) -> Awaitable[AttachReply]:
        """Raise the epoch of the client identifier, discard or resume its session (G3).

        Raises WriterFenced, OwnedByAnother, TooManySessions, LateRequest.
        """

    async def withdraw_connects(
        self, edge_id: str, connects: Sequence[tuple[str, Attempt]], now_ms: int
    ) -> None:
        """End without its will what one of these CONNECTs has begun, and refuse earlier attempts.

        ``tries`` is how often it was sent.
        """

    async def user_sessions(self, user: str) -> int:
        """How many durable sessions a user has."""

    def detach(self, request: DetachRequest) -> Awaitable[DetachReply]:
        """End a connection: keep or discard the session, keep, arm or discard its will."""

    async def subscribe(
        self,
        client_id: str,
        epoch: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
        generation: str = "",
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> int:
        """Store subscriptions of a durable session; return a position in its change log.

        With a ``generation`` also that those have retained messages to be sent whose Retain
        Handling asks for it, until ``replayed``.

        A router that has read up to that position knows them, and earlier equal ones. 0: fenced,
        and nothing was stored. -1: there is nothing to read (the session is not durable, or this
        is a late attempt).
        """

    async def replayed(
        self, client_id: str, epoch: int, items: Sequence[tuple[str, str, str]]
    ) -> bool:
        """Store up to which topic retained messages have been sent: (filter, generation, topic).

        "" for the topic: all of them. False: fenced.
        """

    async def unsubscribe(
        self,
        client_id: str,
        epoch: int,
        topic_filters: Sequence[str],
        attempt: Attempt = ONLY_ATTEMPT,
    ) -> int:
        """Remove subscriptions of a durable session; return a position, as ``subscribe`` does."""

    async def append(self, appends: Sequence[Append], now_ms: int = 0) -> AppendReply:
        """Queue messages; the outcome of each, and where their sessions are connected.

        What has expired at ``now_ms`` holds no place in a full queue, and is deleted.
        Raises WriterFenced when ``writer`` was fenced; some of them may have been queued.
        """

    async def claim(self, claims: Sequence[Claim]) -> list[Holder]:
        """Claim messages for members of groups; who has each claim now. Raises WriterFenced."""

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """Read queued records with seq > after_seq in order, bounded; at least one if any."""

    async def fetch_owned(
        self,
        client_id: str,
        epoch: int,
        incarnation: int,
        after_seq: int,
        max_count: int,
        max_bytes: int,
    ) -> list[tuple[int, bytes]] | None:
        """``fetch`` for a connection, which is to be sent what is read; None if it is fenced."""

    async def complete(self, client_id: str, epoch: int, seqs: Sequence[int]) -> bool:
        """Delete entries whose delivery is complete (also their PUBREL state); False if fenced."""

    async def complete_many(self, items: Sequence[tuple[str, int, Sequence[int]]]) -> list[bool]:
        """``complete`` for several (client_id, epoch, seqs) at once."""

    async def release(self, client_id: str, epoch: int, seqs: Sequence[int]) -> bool:
        """Store that PUBREC was received for these entries: from now on PUBREL is re-sent."""

    async def receipt(self, client_id: str, epoch: int, packet_id: int, value: int) -> bool:
        """Store one byte of ``receipts``; False when fenced."""

    async def set_expiry(self, client_id: str, epoch: int, session_expiry_s: int) -> bool:
        """Change the session expiry of a live connection's session; False when fenced."""

    async def verify_wills(self, edge_id: str, will_ids: Sequence[str]) -> list[bool]:
        """Which of these wills are pending, and this edge's to publish."""

    async def will_published(self, will_ids: Sequence[str]) -> None:
        """Delete wills that have been published; without it they come due again."""

    async def record(self, events: Sequence[tuple[str, bytes]], config: RecordConfig) -> None:
        """Add events to the record: (session key, encoded event); "": of no session."""

    async def bans_version(self) -> bytes:
        """What changes with every change of bans."""

    async def stored_bans(self) -> list[bytes]:
        """Every ban, as it is stored."""

    async def add_ban(self, ban: Ban) -> None:
        """Add a ban, or replace the one of the same client, user or address."""

    async def delete_ended_bans(self, now: float) -> None:
        """Delete bans that have ended."""

    async def set_retained(
        self,
        topic: str,
        record: bytes | None,
        expires_at_ms: int,
        charge: RetainedCharge | None = None,
        identities: Sequence[str] = (),
    ) -> RetainRefusal | RetainedBefore | None:
        """Replace (or, with None, remove) the retained message of a topic. 0 = no expiry.

        ``charge``: it counts, within this; what was added is entered there. ``identities``: its
        own, "" if it has none, and those of the changes that it replaces, the newest first: each
        is stored once. Returns why it was refused, None if it is stored. Raises WriterFenced.
        """

    async def retained_use(self, owner: str) -> RetainedUse:
        """How much the retained messages that count use."""

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        """The retained records of these topics, in order, None where there is none."""

    def retained_topics(self) -> AsyncIterator[list[str]]:
        """Every topic with a retained message, in chunks."""

    async def expire_queued(self, now_ms: int, limit: int) -> bool:
        """Delete about ``limit`` expired queue entries; True when there may be more.

        Not those whose delivery may have begun. They hold no place in a full queue, either.
        """

    async def expired_retained(self, now_ms: int, limit: int) -> list[str]:
        """Remove up to ``limit`` retained messages whose expiry has passed; their topics."""

    def stored_subscriptions(self) -> AsyncIterator[list[StoredSubscriptions]]:
        """Every durable session with its subscriptions, in chunks."""

    def partition(self, name: str) -> int:
        """The partition of a client identifier or topic: an index into lists of positions."""

    async def log_positions(self) -> list[int]:
        """The end of each partition's change log. Read it before loading, then read from there."""

    async def changes(self, after: Sequence[int], limit: int) -> Changes:
        """Read what has changed after these positions (one for each partition).

        About ``limit`` changes at most (where partitions are on several servers, up to four times
        as many, and never less than one of each); of large ones fewer. Cheap when nothing has
        changed. Changes are kept for some ten minutes and some megabytes.
        """

    async def renew_lease(self, edge_id: str, now_ms: int, ttl_ms: int) -> bool:
        """Renew an edge's lease; True when it had not ended.

        False: the lease is new, or it had ended, and sessions may have been taken from the edge.
        Then ``verify`` its connections, including those that were being attached meanwhile. Sweeps
        that began before this returned False change nothing afterwards.
        """

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        """Which of these connections (client identifier, epoch) still own their sessions."""

    @property
    def watched_histories(self) -> Sequence[int]:
        """The partitions whose histories tell of all others, too: one for each server."""

    @property
    def all_histories(self) -> Sequence[int]:
        """Every partition that has a history."""

    async def read_histories(
        self, reader: str, number: int, partitions: Sequence[int]
    ) -> list[History | None]:
        """Read histories, and write a number into each; None where a server is not available.

        A history that lacks the number that its reader has written last has gone back.
        """

    async def replace_histories(self, items: Sequence[tuple[int, int]], least: int) -> list[int]:
        """Begin new histories, with numbers above ``least``: (partition, its first number) of each.

        The first numbers now; one that is not the same any more has been replaced already.
        """

    async def sweep_history(self, now_ms: int, limit: int, publisher: str = "") -> DueWork:
        """Detach (as lost) connections of earlier histories that no edge has ended."""

    async def end_lease(self, edge_id: str) -> None:
        """End an edge's lease: its remaining sessions may be swept at once."""

    async def leased_edges(self, now_ms: int) -> list[str]:
        """Every edge whose lease lasts until after ``now_ms``; delete the other leases."""

    async def end_all_leases(self) -> None:
        """End the leases of all edges: for the only user of the server, before the first lease."""

    async def sweep_edges(
        self,
        now_ms: int,
        limit: int,
        publisher: str = "",
        read_to: Sequence[int] | None = None,
        leases_hold: Callable[[], Awaitable[bool]] | None = None,
    ) -> DueWork:
        """Detach (as a lost connection) up to ``limit`` sessions of edges without a lease.

        ``publisher`` is the edge that publishes their wills, "" for none. ``read_to``: what every
        router has read of each partition's change log; an edge is logged as lost first, and its
        sessions are left until all have read that. None: no other router has to read it.
        ``leases_hold`` is called when the leases have been read: nothing is done if they are not
        those that were granted, since the store has gone back.
        """

    async def sweep_due(self, now_ms: int, limit: int, publisher: str = "") -> DueWork:
        """Claim expired sessions, delayed wills, abandoned queues, queues of offline members.

        Also what was claimed ten seconds ago and is not finished. ``publisher`` is the edge that
        publishes the wills, "" for none.
        """

    async def fetch_abandoned(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """Read an abandoned queue, as ``fetch`` does."""

    async def trim_abandoned(
        self, client_id: str, incarnation: int, through_seq: int, now_ms: int
    ) -> bool:
        """Delete entries of an abandoned queue; True when there are more: its claim is renewed."""

    async def abandon_entries(
        self, member: OfflineMember, seqs: Sequence[int], now_ms: int, next_check_ms: int
    ) -> int | None:
        """Make these entries an abandoned queue of their own, claimed now; its incarnation.

        0 if none of them is left, None if the client has reconnected or its session has ended: then
        nothing was done. The member's queue is due again at ``next_check_ms``, never if that is 0.
        """

    async def return_entries(
        self, client_id: str, epoch: int, seqs: Sequence[int], sent_seq: int, now_ms: int
    ) -> int | None:
        """Make entries of a connected session's queue an abandoned queue, claimed now.

        Its incarnation; 0 if none of them is left, None if the session is fenced: then nothing was
        done. Those up to ``sent_seq`` may have been sent to the client.
        """

    async def schedule_checks(self, client_ids: Sequence[str], now_ms: int) -> None:
        """Have the queues of these clients checked in a moment, if they are still offline then."""

    async def renew_router(
        self, instance: str, now_ms: int, ttl_ms: int, positions: Sequence[int]
    ) -> list[RouterRecord]:
        """Renew this router's lease, with how far it has read; every router with a lease."""

    async def end_router(self, instance: str) -> None:
        """End this router's lease."""

    async def routers(self, now_ms: int) -> list[RouterRecord]:
        """Every router with a lease."""

    async def fence_writer(self, writer: str) -> None:
        """Refuse later appends and retained messages of this writer, for a day."""

    async def ping(self) -> None:
        """Prove that the server answers and accepts writes."""

    async def close(self) -> None:
        """Finish what is under way and close the connections."""
