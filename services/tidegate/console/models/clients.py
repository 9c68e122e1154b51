"""Clients, connected and offline: their connections, sessions, queues and subscriptions."""

from __future__ import annotations

from enum import StrEnum

from tidegate.console.models.common import Model, Page


class ClientState(StrEnum):
    """Whether a client has a connection."""

    CONNECTED = "connected"
    OFFLINE = "offline"


class ClientFilter(StrEnum):
    """Which clients are listed."""

    CONNECTED = "connected"
    OFFLINE = "offline"
    ALL = "all"


class Connection(Model):
    """The connection of a client, as its edge describes it."""

    edge: str
    address: str
    """Address and port of the client, as the listener has it (behind a proxy, the proxy's word)."""
    listener: str
    transport: str
    version: str
    since: str
    """RFC 3339, UTC."""
    slow: bool = False
    """It does not read what is sent to it."""
    in_flight: int = 0
    """Messages with QoS 1 or 2 that were sent and are not acknowledged."""
    waiting: int = 0
    """Messages in the memory of the edge that wait for room in the window."""
    keep_alive_s: float | None = None
    idle_s: float | None = None
    """Since the client has last sent something; only where one client is asked for."""
    receive_maximum: int | None = None
    """How many messages may be in flight; only where one client is asked for."""


class InFlight(Model):
    """A message that was sent and that the client has not acknowledged."""

    packet_id: int
    seq: int
    awaits: str
    """`puback`, `pubrec` or `pubcomp`."""
    topic: str | None = None
    """Null once PUBREC has come: only the packet identifier is kept then."""
    qos: int
    size_bytes: int | None = None


class Queue(Model):
    """The queue of a durable session."""

    length: int
    size_bytes: int
    """Memory in the store, about."""
    last_seq: int = 0
    """The number of the newest message that was ever queued."""
    sent_seq: int | None = None
    """Messages up to this number have been sent at least once; null: not known, as while the client
    is connected."""
    expiring: int = 0
    """Messages that have an expiry interval."""
    oldest_at: float | None = None
    """When the oldest message was queued, in seconds since 1970; null: there is none, or an earlier
    version of Tidegate has queued it, or it is from a backup."""


class QueueEntry(Model):
    """A queued message."""

    seq: int
    topic: str | None = None
    qos: int | None = None
    retain: bool = False
    size_bytes: int
    """Of its record in the store."""
    payload_size_bytes: int = 0
    payload_base64: str = ""
    """The first 256 bytes."""
    is_cut: bool = False
    """Whether `payload_base64` is only the beginning."""
    queued_at: float | None = None
    """When it was queued, in whole seconds since 1970; null: an earlier version of Tidegate has
    queued it, or it is from a backup."""
    expires_at: float | None = None
    """Unix time."""
    subscription_ids: list[int] = []
    shared_group: str | None = None
    """`SHARE/FILTER`, where it came through a shared subscription."""
    is_sent: bool | None = None
    """Whether it may have been sent to the client before; null: its edge has that."""
    is_readable: bool = True
    """False: a later version of Tidegate has written it, and it is shown without its parts."""


class Will(Model):
    """The will of a client."""

    topic: str
    qos: int
    retain: bool
    payload_size_bytes: int
    payload_base64: str
    """The first 256 bytes."""
    delay_s: int
    due_at: float | None = None
    """When it is published, Unix time: the client is offline and its will delay passes."""
    is_pending: bool = False
    """It is due, and is being published."""


class Session(Model):
    """The state of a durable session in the store."""

    expiry_s: int
    """Session expiry interval; 4294967295: it never ends."""
    ends_at: float | None = None
    """Unix time; null while the client is connected, or if it never ends."""
    epoch: int
    incarnation: int
    user: str | None = None
    """Whose session it is; empty: an anonymous client's."""
    queue: Queue
    subscription_count: int
    awaiting_pubcomp: int = 0
    """QoS 2 messages whose PUBREC has come and whose PUBCOMP has not."""


class ClientSummary(Model):
    """A client in a list."""

    client_id: str
    mount_point: str = ""
    state: ClientState
    user: str | None = None
    durable: bool
    subscriptions: int | None = None
    queued: int | None = None
    """Messages in its queue in the store; null where the session is not durable, or not looked
    at (connected clients of a list)."""
    ends_at: float | None = None
    connection: Connection | None = None


class ClientDetail(Model):
    """One client."""

    client_id: str
    mount_point: str = ""
    state: ClientState
    user: str | None = None
    connection: Connection | None = None
    session: Session | None = None
    """Null: its session ends with the connection."""
    in_flight: list[InFlight] = []
    """The oldest ones."""
    wills: list[Will] = []
    missing: list[str] = []


class Subscription(Model):
    """A subscription of a client."""

    client_id: str
    mount_point: str = ""
    filter: str
    """As the client has sent it, without the mount point."""
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    subscription_id: int | None = None
    durable: bool = False
    """Whether it stays when the client goes offline."""
    state: ClientState = ClientState.CONNECTED
    edge: str | None = None


class Done(Model):
    """What an action has done."""

    done: bool = True
    detail: str = ""


class Cleared(Model):
    """How many messages were deleted from a queue."""

    deleted: int


class ClientPage(Page[ClientSummary]):
    """Clients, connected ones first."""


class QueuePage(Page[QueueEntry]):
    """Queued messages, the oldest first."""


class SubscriptionPage(Page[Subscription]):
    """Subscriptions."""
