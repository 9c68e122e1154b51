"""What is true of a client now, as ``why`` wants it: filled in by who reads the store and nodes.

Plain values, without a word of how they were read. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True, frozen=True)
class SessionState:
    """The session of a client; there is none: None in its place."""

    is_connected: bool
    #: Where its connection is; "" when it is offline.
    edge: str = ""
    #: Whether it outlives its connection.
    is_durable: bool = True
    session_expiry_s: int | None = None
    #: When it ends if the client does not come back, Unix time in seconds.
    ends_at: float | None = None
    user: str = ""


@dataclass(slots=True, frozen=True)
class SubscriptionState:
    """One subscription: its filter as the client has it, ``$share/…`` included."""

    topic_filter: str
    qos: int = 0
    #: How much of it the ACL lets the client read; "unknown": nobody has asked.
    readable: Literal["all", "some", "none", "unknown"] = "unknown"


@dataclass(slots=True, frozen=True)
class QueueState:
    """The queue of a durable session."""

    length: int
    #: ``limits.max_queued_messages``; 0: not known.
    limit: int = 0
    size_bytes: int = 0
    #: When its oldest message was queued, Unix time in seconds.
    oldest_at: float | None = None


@dataclass(slots=True, frozen=True)
class BanState:
    """A ban that is in force for the client."""

    #: What it names: ``client``, ``user`` or ``address``, and its value.
    kind: str
    value: str
    reason: str = ""
    #: When it ends, Unix time in seconds; None: never.
    until: float | None = None
