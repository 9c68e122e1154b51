"""The ``$SYS/broker/…`` topics with mosquitto's names, from counters that somebody else keeps.

Called every few seconds by whoever publishes them; what it returns is meant to be published with
RETAIN. Names, units and number formats are mosquitto 2's, since monitoring tools expect those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Final

PREFIX: Final = "$SYS/broker/"

_LOAD_MINUTES: Final = (1, 5, 15)
# What mosquitto calls a change of a load: the figures have two decimals.
_LOAD_RESOLUTION: Final = 0.01
# Load topic -> counter of the snapshot.
_LOADS: Final = (
    ("load/messages/received", "packets_received"),
    ("load/messages/sent", "packets_sent"),
    ("load/publish/dropped", "publish_dropped"),
    ("load/publish/received", "publish_received"),
    ("load/publish/sent", "publish_sent"),
    ("load/bytes/received", "bytes_received"),
    ("load/bytes/sent", "bytes_sent"),
    ("load/sockets", "sockets_opened"),
    ("load/connections", "connections_accepted"),
)


@dataclass(slots=True, frozen=True)
class SysSnapshot:
    """The broker's figures at one moment. Those of the second half only grow.

    ``clients_disconnected`` counts durable sessions without a connection; ``packets_*`` all
    control packets; ``publish_*`` PUBLISH packets and, as ``*_bytes``, their payloads;
    ``messages_stored`` what is held for sessions or retained. ``heap_bytes`` is the process's
    memory. ``connections_accepted`` counts accepted CONNECTs, ``sockets_opened`` sockets.
    """

    clients_connected: int = 0
    clients_disconnected: int = 0
    clients_maximum: int = 0
    subscriptions: int = 0
    shared_subscriptions: int = 0
    retained_messages: int = 0
    messages_stored: int = 0
    messages_stored_bytes: int = 0
    heap_bytes: int = 0

    clients_expired: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    publish_received: int = 0
    publish_sent: int = 0
    publish_dropped: int = 0
    publish_received_bytes: int = 0
    publish_sent_bytes: int = 0
    sockets_opened: int = 0
    connections_accepted: int = 0


#: Those of the first half that are a process' own, and those of the second.
_PRESENT: Final = ("clients_connected", "subscriptions", "heap_bytes")
_GROWING: Final = (
    "clients_expired",
    "packets_received",
    "packets_sent",
    "bytes_received",
    "bytes_sent",
    "publish_received",
    "publish_sent",
    "publish_dropped",
    "publish_received_bytes",
    "publish_sent_bytes",
    "sockets_opened",
    "connections_accepted",
)
#: Instances whose figures are kept one by one; more than any cluster has processes.
MAX_INSTANCES: Final = 1000


class Totals:
    """Adds up the figures of a cluster's processes; what an ended one has counted stays.

    A process is named by its instance, so that one that was unreachable for a while counts once.
    """

    __slots__ = ("_by_instance", "_of_forgotten")

    def __init__(self) -> None:
        self._by_instance: dict[str, dict[str, int]] = {}
        self._of_forgotten = dict.fromkeys(_GROWING, 0)

    def add_up(
        self, parts: Mapping[str, Mapping[str, int]], whole: Mapping[str, int]
    ) -> SysSnapshot:
        """Return the broker's figures.

        ``parts`` are those of the running processes, by instance: fields of ``SysSnapshot``, and
        ``queued``. ``whole`` are fields known of the whole broker; ``subscriptions``
        and ``messages_stored`` of both are added. Unknown names are ignored.
        """
        for instance, figures in parts.items():
            # Moved to the end: the instances that were missing for longest come first.
            self._by_instance.pop(instance, None)
            self._by_instance[instance] = {name: figures.get(name, 0) for name in _GROWING}
        while len(self._by_instance) > MAX_INSTANCES:
            self._forget(next(iter(self._by_instance)))
        found = {
            name: self._of_forgotten[name]
            + sum(figures[name] for figures in self._by_instance.values())
            for name in _GROWING
        }
        for name in _PRESENT:
            found[name] = sum(figures.get(name, 0) for figures in parts.values())
        # One process queues, another one delivers: only together they are a number of messages.
        queued = max(0, sum(figures.get("queued", 0) for figures in parts.values()))
        found |= {
            "subscriptions": found["subscriptions"] + whole.get("subscriptions", 0),
            "messages_stored": queued + whole.get("retained_messages", 0),
            "clients_disconnected": whole.get("clients_disconnected", 0),
            "clients_maximum": whole.get("clients_maximum", 0),
            "shared_subscriptions": whole.get("shared_subscriptions", 0),
            "retained_messages": whole.get("retained_messages", 0),
        }
        return SysSnapshot(**found)

    def _forget(self, instance: str) -> None:
        for name, value in self._by_instance.pop(instance).items():
            self._of_forgotten[name] += value


class SysTree:
    """Turns snapshots into the topics that have changed since the last one.

    ``started_s`` is when the broker started, on the clock of ``values``; the first call, if not
    given.
    """

    __slots__ = (
        "_clients_maximum",
        "_heap_maximum",
        "_last",
        "_last_s",
        "_loads",
        "_published",
        "_started_s",
        "_version",
    )

    def __init__(self, version: str, started_s: float | None = None) -> None:
        self._version = version
        self._started_s = started_s
        self._last = SysSnapshot()
        self._last_s: float | None = started_s
        self._loads: dict[str, float] = {}
        self._clients_maximum = 0
        self._heap_maximum = 0
        self._published: dict[str, bytes] = {}

    def values(
        self, now_s: float, snapshot: SysSnapshot, full: bool = False
    ) -> list[tuple[str, bytes]]:
        """Return (topic, payload) of what has changed since the last call; all of it if ``full``.

        ``now_s`` is seconds on a clock that does not go back.
        """
        if self._started_s is None or self._last_s is None:
            self._started_s = self._last_s = now_s
        self._clients_maximum = max(
            self._clients_maximum, snapshot.clients_maximum, snapshot.clients_connected
        )
        self._heap_maximum = max(self._heap_maximum, snapshot.heap_bytes)
        figures = self._figures(int(now_s - self._started_s), snapshot)
        figures.update(self._load_figures(now_s - self._last_s, snapshot))
        self._last, self._last_s = snapshot, now_s

        changed = []
        for name, payload in figures.items():
            if full or self._published.get(name) != payload:
                self._published[name] = payload
                changed.append((PREFIX + name, payload))
        return changed

    def _figures(self, uptime_s: int, snapshot: SysSnapshot) -> dict[str, bytes]:
        connected, disconnected = snapshot.clients_connected, snapshot.clients_disconnected
        numbers = {
            "clients/total": connected + disconnected,
            "clients/maximum": self._clients_maximum,
            "clients/active": connected,
            "clients/inactive": disconnected,
            "clients/connected": connected,
            "clients/disconnected": disconnected,
            "clients/expired": snapshot.clients_expired,
            "messages/received": snapshot.packets_received,
            "messages/sent": snapshot.packets_sent,
            "messages/stored": snapshot.messages_stored,
            "publish/messages/received": snapshot.publish_received,
            "publish/messages/sent": snapshot.publish_sent,
            "publish/messages/dropped": snapshot.publish_dropped,
            "publish/bytes/received": snapshot.publish_received_bytes,
            "publish/bytes/sent": snapshot.publish_sent_bytes,
            "bytes/received": snapshot.bytes_received,
            "bytes/sent": snapshot.bytes_sent,
            "store/messages/count": snapshot.messages_stored,
            "store/messages/bytes": snapshot.messages_stored_bytes,
            "subscriptions/count": snapshot.subscriptions,
            "shared_subscriptions/count": snapshot.shared_subscriptions,
            "retained messages/count": snapshot.retained_messages,
            "heap/current": snapshot.heap_bytes,
            "heap/maximum": self._heap_maximum,
        }
        figures = {
            "version": f"tidegate version {self._version}".encode(),
            "uptime": b"%d seconds" % uptime_s,
        }
        figures.update((name, b"%d" % number) for name, number in numbers.items())
        return figures

    def _load_figures(self, elapsed_s: float, snapshot: SysSnapshot) -> dict[str, bytes]:
        """Move the averages on: events per minute, weighted by how long ago they were.

        After t seconds the old average counts exp(-t / period), the rate since then the rest. A
        change of less than 0.01 moves the average and is not published.
        """
        figures: dict[str, bytes] = {}
        for name, counter in _LOADS:
            events: int = getattr(snapshot, counter) - getattr(self._last, counter)
            for minutes in _LOAD_MINUTES:
                topic = f"{name}/{minutes}min"
                old = self._loads.get(topic, 0.0)
                new = old
                if elapsed_s > 0:
                    per_minute = events * 60 / elapsed_s
                    new = per_minute + exp(-elapsed_s / (60 * minutes)) * (old - per_minute)
                self._loads[topic] = new
                known = self._published.get(topic)
                if known is not None and abs(new - old) < _LOAD_RESOLUTION:
                    figures[topic] = known
                else:
                    figures[topic] = b"%.2f" % new
        return figures
