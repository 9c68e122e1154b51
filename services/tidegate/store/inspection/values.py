"""What is read: sessions, queue entries, subscriptions, retained messages. Values, no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.store.records import RetainedRecord, WillRecord

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Part(Generic[T]):
    """A part of a list; ``after`` is the cursor of the next one, None: it is the last.

    It may be short, or empty, and not the last one.
    """

    items: Sequence[T]
    after: str | None


@dataclass(slots=True, frozen=True)
class SessionQuery:
    """Which sessions are listed; None: any. ``prefix`` is that of the client identifier."""

    prefix: str = ""
    mount_point: str | None = None
    user: str | None = None
    is_connected: bool | None = None


@dataclass(slots=True, frozen=True)
class StoredSession:
    """A durable session in a list. ``key``: see ``core.session_key``. Times in ms, 0: never."""

    key: str
    #: The edge that holds its connection, "" when it is offline.
    edge_id: str
    incarnation: int
    expiry_s: int
    ends_at_ms: int
    user: str
    queued: int
    subscriptions: int


@dataclass(slots=True, frozen=True)
class StoredWill:
    """A will. ``due_at_ms``: when its delay ends, 0: it has none, or the client is connected."""

    record: WillRecord
    due_at_ms: int = 0
    is_pending: bool = False


@dataclass(slots=True, frozen=True)
class SessionState:
    """What the store has of a client: a durable session, or a connection (``incarnation`` 0)."""

    key: str
    edge_id: str
    epoch: int
    incarnation: int
    expiry_s: int
    ends_at_ms: int
    #: None: a version before ``auth.session_owner`` has made it.
    user: str | None
    queued: int
    queue_bytes: int
    last_seq: int
    #: None: not known, as while the client is connected.
    sent_seq: int | None
    expiring: int
    subscriptions: int
    released: int
    wills: Sequence[StoredWill] = field(default=())
    #: When the oldest message was queued, in Unix seconds; None: not known.
    oldest_s: int | None = None


@dataclass(slots=True, frozen=True)
class Entry:
    """A queued message; ``publish`` None: this version cannot read it."""

    seq: int
    publish: Publish | None
    size_bytes: int
    #: The shared subscription that it came through, "" for none.
    group: str = ""
    #: When it was queued, in Unix seconds; None: not known.
    queued_s: int | None = None


@dataclass(slots=True, frozen=True)
class StoredSubscription:
    """A subscription of a durable session; the filter is under the mount point."""

    key: str
    edge_id: str
    topic_filter: str
    options: SubscriptionOptions


@dataclass(slots=True, frozen=True)
class Topic:
    """A topic with a retained message; ``record`` None: this version cannot read it.

    The payload may be only its beginning; ``payload_bytes`` is its length.
    """

    topic: str
    record: RetainedRecord | None
    payload_bytes: int


@dataclass(slots=True)
class Level:
    """A level of topics with retained messages, and what is at it or below it."""

    name: str
    topics: int = 0
    bytes: int = 0
    has_message: bool = False
