"""The figures of one process for the ``$SYS`` topics.

Called by the composition roots; ``router.sys_publisher`` publishes the sums of all processes.
"""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.edge.edge import Edge
    from tidegate.runtime.telemetry.counters import Counters


def figures_of(counters: Counters, edge: Edge | None = None) -> dict[str, int]:
    """Return the figures of this process; without ``edge`` it has no clients."""
    return {
        "clients_connected": len(edge.clients) if edge is not None else 0,
        "subscriptions": edge.registry.subscription_count if edge is not None else 0,
        "heap_bytes": _peak_memory_bytes(),
        "queued": counters.queued,
        "clients_expired": counters.sessions_expired,
        "packets_received": sum(counters.packets_received),
        "packets_sent": sum(counters.packets_sent),
        "bytes_received": counters.bytes_received,
        "bytes_sent": counters.bytes_sent,
        "publish_received": sum(counters.messages_received),
        "publish_sent": sum(counters.messages_sent),
        "publish_dropped": counters.dropped_total,
        "publish_received_bytes": counters.publish_bytes_received,
        "publish_sent_bytes": counters.publish_bytes_sent,
        "sockets_opened": counters.connections_accepted + sum(counters.refused.values()),
        "connections_accepted": counters.connections_accepted,
    }


def _peak_memory_bytes() -> int:
    """Return the peak memory in bytes (ru_maxrss: KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
