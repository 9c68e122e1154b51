"""Log lines of connections: connected, disconnected, refused, and what the ACL has denied.

One per edge, called by its clients. Owns the limits on these lines: one for each address, one for
all, and one for connections that have broken a rule. Each is looked at before anything of a line is
made, so that a client that connects ten thousand times a second costs next to nothing here. What
was not written is counted, and the count is logged every ``SUMMARY_S``. The setting is
``log.connections`` (docs/operations.md lists the lines).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.mqtt.enums import ProtocolVersion
from tidegate.runtime.telemetry.log import PeerFaultLog, write_line

if TYPE_CHECKING:
    from tidegate.edge.channel import Channel
    from tidegate.mqtt.connection import ServerConnection
    from tidegate.mqtt.packets import Connect
    from tidegate.runtime.config.model import ListenerConfig, LogConfig

log = logging.getLogger(__name__)

#: Seconds of its rate that an address, and all addresses together, may use at once.
BURST_S: Final = 10.0
#: Interval of lines that say how many were not written.
SUMMARY_S: Final = 10.0
#: After that long the same denial is logged again.
DENIAL_S: Final = 60.0
#: Lines about connections that have broken a rule, in a second.
FAULTS_PER_S: Final = 10
#: Addresses and denials that are remembered.
MAX_REMEMBERED: Final = 10_000
#: Topic filters of one SUBSCRIBE that a line names.
MAX_FILTERS: Final = 10

VERSION_NAMES: Final = {
    ProtocolVersion.V31: "3.1",
    ProtocolVersion.V311: "3.1.1",
    ProtocolVersion.V5: "5.0",
}
_BY_CLIENT: Final = frozenset({"disconnect", "disconnect_with_will", "peer_closed"})
_BY_NETWORK: Final = frozenset({"reset", "timeout", "lost"})


class _Queue(Protocol):
    """What a client has sent (``packet_queue.PacketQueue``)."""

    received_packets: int
    received_bytes: int


class LoggedClient(Protocol):
    """What is logged of a ``Client``."""

    client_id: str
    username: str | None
    version: ProtocolVersion
    channel: Channel
    connection: ServerConnection
    connect: Connect | None
    listener: ListenerConfig
    since_s: float
    keep_alive_s: int
    sent_packets: int
    sent_bytes: int

    @property
    def queue(self) -> _Queue:
        """What it has sent."""


class ConnectionLog:
    """See the module's docstring. Times are seconds of the loop's clock, as of the last tick."""

    __slots__ = (
        "_address_interval_s",
        "_all_allowed_s",
        "_all_interval_s",
        "_allowed_s",
        "_denied",
        "_faults",
        "_full_s",
        "_is_enabled",
        "_is_on",
        "_summary_s",
        "_suppressed",
        "now_s",
    )

    def __init__(self, config: LogConfig) -> None:
        self.now_s = 0.0
        #: ``BURST_S`` from now: nobody may have lines that are paid for later than that.
        self._full_s = BURST_S
        #: When the lines that an address has had would be paid for at its rate.
        self._allowed_s: dict[object, float] = {}
        self._all_allowed_s = 0.0
        #: (client identifier, topic or filter) -> when a denial of it was logged; oldest first.
        self._denied: dict[tuple[str, str], float] = {}
        #: Lines that were not written since the last summary, by address.
        self._suppressed: dict[str, int] = {}
        self._summary_s = 0.0
        self._faults = PeerFaultLog(log, FAULTS_PER_S, lambda: self.now_s)
        self.reconfigure(config)

    def reconfigure(self, config: LogConfig) -> None:
        """Go by other settings from now on."""
        self._is_on = config.connections
        self._is_enabled = self._is_on and log.isEnabledFor(logging.INFO)
        each, together = config.connections_rate_per_address, config.connections_rate
        self._address_interval_s = 1 / each if each else 0.0
        self._all_interval_s = 1 / together if together else 0.0
        self._allowed_s.clear()
        self._all_allowed_s = 0.0

    def tick(self, now_s: float) -> None:
        """Take the time; from time to time, say what was not written, and forget what is over."""
        self.now_s = now_s
        self._full_s = now_s + BURST_S
        self._is_enabled = self._is_on and log.isEnabledFor(logging.INFO)
        if now_s < self._summary_s + SUMMARY_S:
            return
        self._summary_s = now_s
        self._forget()
        if self._suppressed:
            suppressed, self._suppressed = self._suppressed, {}
            most = max(suppressed, key=suppressed.__getitem__)
            log.info(
                "lines about connections not written",
                extra={
                    "lines": sum(suppressed.values()),
                    "addresses": len(suppressed),
                    "most_from": most,
                    "lines_of_it": suppressed[most],
                },
            )

    # Lines

    def connected(self, client: LoggedClient, session_present: bool) -> None:
        """A client has its CONNACK."""
        packet = client.connect
        if packet is None or not self._may_write(client):
            return
        write_line(
            log,
            "client connected",
            {
                **_who(client),
                "transport": client.channel.peer.transport,
                "version": VERSION_NAMES[client.version],
                "clean": packet.clean_start,
                "keep_alive_s": client.keep_alive_s,
                "session_present": session_present,
            },
        )

    def disconnected(self, client: LoggedClient, reason: str, detail: str) -> None:
        """A connected client's connection has ended; ``reason`` is the one that is counted."""
        if not self._may_write(client):
            return
        queue = client.queue
        fields = {
            **_who(client),
            "reason": reason,
            "by": _ended_by(reason),
            "duration_s": round(max(0.0, self.now_s - client.since_s), 1),
            "received_packets": queue.received_packets,
            "received_bytes": queue.received_bytes,
            "sent_packets": client.sent_packets,
            "sent_bytes": client.sent_bytes,
        }
        if detail:
            fields["detail"] = detail
        write_line(log, "client disconnected", fields)

    def refused(self, client: LoggedClient, reason: str, detail: str) -> None:
        """A connection has ended before CONNACK, or with one that refuses it."""
        if not self._may_write(client):
            return
        fields = {**_who(client), "reason": reason}
        if detail:
            fields["detail"] = detail
        write_line(log, "connection refused", fields)

    def publish_denied(self, client: LoggedClient, topic: str) -> None:
        """The ACL does not let a client publish to an (internal) topic."""
        if self._is_enabled and self._is_first(client, topic) and self._may_write(client):
            self._denied[client.client_id, topic] = self.now_s
            write_line(
                log, "publish refused: not authorized to write", {**_who(client), "topic": topic}
            )

    def subscribe_denied(
        self, client: LoggedClient, filters: Sequence[str], is_granted: bool
    ) -> None:
        """The ACL does not let a client read (internal) topic filters; ``is_granted`` though."""
        if not self._is_enabled:
            return
        new = [name for name in filters if self._is_first(client, name)]
        if new and self._may_write(client):
            named = new[:MAX_FILTERS]
            for name in named:
                self._denied[client.client_id, name] = self.now_s
            write_line(
                log,
                "subscription granted without messages: not authorized to read"
                if is_granted
                else "subscription refused: not authorized to read",
                {
                    **_who(client),
                    "count": len(new),
                    "topic_filters": ", ".join(named),
                },
            )

    def fault(self, client: LoggedClient, message: str, **fields: object) -> None:
        """A client has broken a rule, which ends its connection."""
        if self._faults.may_write():
            self._faults.write(message, {**_who(client), **fields})

    # Limits

    def _may_write(self, client: LoggedClient) -> bool:
        """Whether one more line about a client may be written; one that may not is counted."""
        if not self._is_enabled:
            return False
        address, full_s = client.channel.peer.address, self._full_s
        interval_s = self._address_interval_s
        if not interval_s:
            return self._take_of_all(address)
        key = _network(address) if ":" in address else address
        allowed_s = self._allowed_s.get(key, 0.0)
        if allowed_s + interval_s > full_s:
            self._count(address)
            return False
        if len(self._allowed_s) >= MAX_REMEMBERED and key not in self._allowed_s:
            self._forget()
            if len(self._allowed_s) >= MAX_REMEMBERED:
                self._count(address)
                return False
        if not self._take_of_all(address):
            return False
        self._allowed_s[key] = max(allowed_s, self.now_s) + interval_s
        return True

    def _take_of_all(self, address: str) -> bool:
        """Whether all addresses together may have one more line."""
        allowed_s = max(self._all_allowed_s, self.now_s) + self._all_interval_s
        if allowed_s > self._full_s:
            self._count(address)
            return False
        self._all_allowed_s = allowed_s
        return True

    def _count(self, address: str) -> None:
        suppressed = self._suppressed
        if address not in suppressed and len(suppressed) >= MAX_REMEMBERED:
            address = "others"
        suppressed[address] = suppressed.get(address, 0) + 1

    def _is_first(self, client: LoggedClient, name: str) -> bool:
        """Whether no denial of a topic or filter has been logged in the last minute."""
        logged_s = self._denied.get((client.client_id, name))
        if logged_s is not None and self.now_s < logged_s + DENIAL_S:
            return False
        if len(self._denied) >= MAX_REMEMBERED:
            self._forget()
        return len(self._denied) < MAX_REMEMBERED

    def _forget(self) -> None:
        """Forget addresses that have all their lines again, and denials that are old."""
        now_s = self.now_s
        self._allowed_s = {key: at_s for key, at_s in self._allowed_s.items() if at_s > now_s}
        self._denied = {key: at_s for key, at_s in self._denied.items() if now_s < at_s + DENIAL_S}


def _who(client: LoggedClient) -> dict[str, object]:
    """What every line says of a client, also of one that has not been accepted."""
    packet = client.connect
    client_id, username = client.client_id, client.username
    if packet is not None and not client_id:
        client_id, username = packet.client_id, packet.username
    peer = client.channel.peer
    fields: dict[str, object] = {
        "client_id": client_id,
        "username": username or "",
        "address": peer.address,
        "port": peer.port,
        "listener": peer.listener,
    }
    if client.listener.mount_point:
        fields["mount_point"] = client.listener.mount_point
    return fields


def _ended_by(reason: str) -> str:
    """Who ended a connection: ``client``, ``server``, ``administrator`` or ``network``."""
    if reason in _BY_CLIENT:
        return "client"
    if reason in _BY_NETWORK:
        return "network"
    return "administrator" if reason == "administrative_action" else "server"


def _network(address: str) -> object:
    """The /64 network of an IPv6 address: one customer or machine can use all of it."""
    if address.startswith("::ffff:"):
        return address  # an IPv4 address
    try:
        return socket.inet_pton(socket.AF_INET6, address)[:8]
    except OSError:
        return address
