"""``$SYS``: the broker's figures as retained topics, with mosquitto's names.

Run by the composition root; reads the counters, the edge and the router, publishes through the
router like any other publisher, so that existing dashboards and MQTT Explorer work.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from typing import TYPE_CHECKING

from tidegate.core.sys_topics import SysSnapshot, SysTree
from tidegate.mqtt.packets import Publish

if TYPE_CHECKING:
    from tidegate.edge.edge import Edge
    from tidegate.router.router import Router
    from tidegate.runtime.telemetry import Counters


class _SystemOrigin:
    """The publisher of ``$SYS`` topics: nobody's client identifier."""

    client_id = ""
    epoch = 0

    def identity(self, message: Publish) -> str:
        """QoS 0 only."""
        return ""

    def receipt(self, message: Publish) -> int:
        """QoS 0 only."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """Nobody waits."""


class SystemTopics:
    """Publishes what has changed every ``interval_s`` seconds."""

    def __init__(
        self, edge: Edge, router: Router, counters: Counters, version: str, interval_s: float
    ) -> None:
        self._edge = edge
        self._router = router
        self._counters = counters
        self._interval_s = interval_s
        self._tree = SysTree(version)
        self._origin = _SystemOrigin()
        self._started_s = time.monotonic()

    async def run(self) -> None:
        """Publish for ever; the owner cancels it."""
        full = True
        while True:
            now_s = time.monotonic() - self._started_s
            for topic, value in self._tree.values(now_s, self._snapshot(), full=full):
                self._router.publish(self._origin, Publish(topic, value, retain=True))
            full = False
            await asyncio.sleep(self._interval_s)

    def _snapshot(self) -> SysSnapshot:
        counters, edge, table = self._counters, self._edge, self._router.table
        connected = len(edge.clients)
        offline = sum(1 for session in table.sessions.values() if session.edge is None)
        return SysSnapshot(
            clients_connected=connected,
            clients_disconnected=offline,
            clients_maximum=counters.clients_maximum,
            subscriptions=edge.subscription_count + table.offline_subscription_count(),
            shared_subscriptions=len(table.shared),
            retained_messages=len(self._router.retained),
            messages_stored=max(0, counters.queued) + len(self._router.retained),
            heap_bytes=_peak_memory_bytes(),
            clients_expired=counters.sessions_expired,
            packets_received=sum(counters.packets_received),
            packets_sent=sum(counters.packets_sent),
            bytes_received=counters.bytes_received,
            bytes_sent=counters.bytes_sent,
            publish_received=sum(counters.messages_received),
            publish_sent=sum(counters.messages_sent),
            publish_dropped=counters.dropped_total,
            publish_received_bytes=counters.publish_bytes_received,
            publish_sent_bytes=counters.publish_bytes_sent,
            sockets_opened=counters.connections_accepted + sum(counters.refused.values()),
            connections_accepted=counters.connections_accepted,
        )


def _peak_memory_bytes() -> int:
    """The most memory this process has had, in bytes (ru_maxrss: KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
