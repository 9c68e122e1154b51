"""Counters: plain integers that hot paths increment, and the closed sets of reasons.

One ``Counters`` per process, handed down by the composition root and exported by
``telemetry.metrics``. A reason that is not in its set raises KeyError: every label value is known
beforehand, and none ever holds a client identifier or a topic.

The accounting of G7 is over *copies*: a message that matches three subscribers is three copies, one
that matches none is one copy. At rest, ``published == delivered + queued + dropped``.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final

from tidegate.mqtt.enums import ReasonCode


def _unique(*words: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


_REASON_CODE_NAMES: Final = tuple(code.name.lower() for code in ReasonCode if code >= 0x80)

#: Why a copy of a message was not delivered and is not queued.
DROP_REASONS: Final = (
    "queue_full",
    "queue_bytes",
    "expired",
    "too_large",
    "not_authorized",
    "slow_consumer",
    "no_session",
    "duplicate",
    "no_subscriber",
    "mailbox_full",
    "link_lost",
    "qos0_offline",
    "store_unavailable",
    "retained_too_large",
    "disconnected",
    "shutdown",
    "session_ended",
    "superseded",  # a newer connection had taken its publisher's session over
    "retained_quota",  # limits.max_retained_messages and its neighbours
    "store_full",  # the store keeps the rest of its memory for other things
    "redispatched",  # another member of the shared subscription got it instead
    "queue_cleared",  # an operator has cleared the queue
)
#: Why a connection was not accepted: a reason code's name, a ``Refusal`` of a listener, or a reason
#: of CONNECT.
REFUSE_REASONS: Final = _unique(
    *_REASON_CODE_NAMES,
    "max_connections",
    "max_connections_per_address",
    "descriptors",  # no more files may be open
    "accept_error",
    "proxy_untrusted",
    "proxy_header",
    "tls_handshake",
    "not_mqtt",
    "not_websocket",
    "timeout",
    "unfinished_bytes",  # of all that is not complete, this connection had most
    "abandoned",
    "websocket_400",
    "websocket_403",
    "websocket_404",
    "websocket_405",
    "websocket_426",
    "websocket_431",
    "internal_error",
    "connect_timeout",
    "protocol_error",
    "authentication_method",
    "client_identifier",
    "not_authorized",
    "will",
    "unavailable",
    "taken_over",
    "answer_too_large",  # CONNACK or AUTH exceeds the Maximum Packet Size of the client
    "session_quota",  # limits.max_sessions_per_user
    "session_owner",  # the session of its client identifier belongs to another user
)
#: Why a connection was closed: a reason code's name, a ``CloseReason`` of the channel, or one of
#: the client's own.
CLOSE_REASONS: Final = _unique(
    *_REASON_CODE_NAMES,
    "peer_closed",
    "reset",
    "timeout",
    "tls_error",
    "websocket_error",
    "write_timeout",
    "local_close",
    "aborted",
    "internal_error",
    "disconnect",
    "disconnect_with_will",
    "connect_timeout",
    "keep_alive",
    "lost",
    "protocol_error",
    "refused",
    "server",
    "shed",
    "shutdown",
    "slow_consumer",
    "taken_over",
    "answer_too_large",  # SUBACK, UNSUBACK or AUTH exceeds the Maximum Packet Size of the client
    "session_lost",  # the store has gone back to an older state
)
#: Why authentication failed.
AUTH_FAILURE_REASONS: Final = (
    "anonymous",
    "unknown_user",
    "bad_password",
    "no_password",
    "no_certificate",
    "busy",
)
#: What the access control list denied.
ACL_ACTIONS: Final = ("read", "write", "subscribe")
#: The result of reloading a changed file.
RELOAD_RESULTS: Final = ("ok", "failed")

#: Upper bounds in seconds of the latency histograms.
LATENCY_BOUNDS_S: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)


def _zeros(reasons: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(reasons, 0)


class Histogram:
    """Counts observations in buckets. ``counts`` has one more entry than ``bounds``."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value in the first bucket whose upper bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many values up to it), as Prometheus wants them."""
        running = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        return buckets


class Counters:
    """Everything that a process counts. Owners increment the attributes directly.

    Lists are indexed by QoS (``messages_*``) or by packet type (``packets_*``); dicts are filled
    beforehand from a closed set.
    """

    __slots__ = (
        "acl_denied",
        "auth_failures",
        "bytes_received",
        "bytes_sent",
        "clients_maximum",
        "closed",
        "config_reloads",
        "connections_accepted",
        "connections_open",
        "delivered",
        "draining",
        "dropped",
        "duplicates",
        "event_loop_lag",
        "event_loop_lag_s",
        "internal_errors",
        "link_connections_closed",
        "messages_received",
        "messages_sent",
        "packets_received",
        "packets_sent",
        "password_hashes",
        "protocol_errors",
        "publish_bytes_received",
        "publish_bytes_sent",
        "published",
        "queued",
        "record_dropped",
        "record_events",
        "refused",
        "retained_count",
        "sessions",
        "sessions_expired",
        "store_circuit_open",
        "store_circuit_openings",
        "store_commands",
        "store_errors",
        "store_full",
        "store_latency",
        "store_moved",
        "store_replica_waits",
        "store_rollbacks",
        "store_round_trips",
        "subscriptions",
        "wills_published",
    )

    def __init__(self) -> None:
        self.connections_accepted = 0
        self.connections_open = 0
        self.draining = 0
        self.refused = _zeros(REFUSE_REASONS)
        self.closed = _zeros(CLOSE_REASONS)
        self.packets_received = [0] * 16
        self.packets_sent = [0] * 16
        self.bytes_received = 0
        self.bytes_sent = 0
        self.messages_received = [0, 0, 0]
        self.messages_sent = [0, 0, 0]
        self.publish_bytes_received = 0
        self.publish_bytes_sent = 0
        self.published = 0
        self.delivered = 0
        self.queued = 0
        self.dropped = _zeros(DROP_REASONS)
        self.retained_count = 0
        self.subscriptions = 0
        self.sessions = 0
        self.sessions_expired = 0
        self.wills_published = 0
        self.record_events = 0
        self.record_dropped = 0
        self.store_round_trips = 0
        self.store_commands = 0
        self.store_errors = 0
        self.store_full = 0
        self.store_circuit_open = 0
        self.store_circuit_openings = 0
        self.store_rollbacks = 0
        self.store_moved = 0
        self.store_replica_waits = 0
        self.store_latency = Histogram()
        self.auth_failures = _zeros(AUTH_FAILURE_REASONS)
        self.password_hashes = 0
        self.acl_denied = _zeros(ACL_ACTIONS)
        self.config_reloads = _zeros(RELOAD_RESULTS)
        self.internal_errors = 0
        self.link_connections_closed = 0
        self.protocol_errors = 0
        self.clients_maximum = 0
        self.duplicates = 0
        self.event_loop_lag_s = 0.0
        self.event_loop_lag = Histogram()

    @property
    def dropped_total(self) -> int:
        """All dropped copies, whatever the reason."""
        return sum(self.dropped.values())

    def connection_closed(self, reason: str) -> None:
        """Count the end of a connection that had been accepted."""
        self.closed[reason] += 1

    def unaccounted(self) -> int:
        """Copies that are neither delivered, nor queued, nor dropped: 0 when nothing is moving."""
        return self.published - self.delivered - self.queued - self.dropped_total


async def watch_event_loop_lag(counters: Counters, interval_s: float = 0.5) -> None:
    """Measure for ever how late timers fire; the owner cancels it."""
    while True:
        due_s = monotonic() + interval_s
        await asyncio.sleep(interval_s)
        lag_s = max(0.0, monotonic() - due_s)
        counters.event_loop_lag_s = lag_s
        counters.event_loop_lag.observe(lag_s)
