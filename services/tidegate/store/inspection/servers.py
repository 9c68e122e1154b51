"""What each server of the store says of itself, over the connections that are open anyway.

Used by ``tidegate.console``. INFO is sent once to each server, whatever number of partitions it
has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tidegate.store.inspection.access import StoreAccess
from tidegate.store.keys import GLOBAL_PREFIX

_SECTIONS: Final = (
    "server", "clients", "memory", "persistence", "stats", "replication", "keyspace",
)  # fmt: skip
_ROUND_TRIPS: Final = 5


@dataclass(slots=True, frozen=True)
class ServerInfo:
    """INFO of one server, and how many partitions it has."""

    info: Mapping[str, str]
    partitions: int

    def number(self, name: str) -> int:
        """Return a number; 0 if the server has none."""
        try:
            return int(float(self.info.get(name, "0")))
        except ValueError:
            return 0


async def read_servers(access: StoreAccess) -> list[ServerInfo]:
    """Ask each server once. Raises StoreUnavailable."""
    prefixes = (GLOBAL_PREFIX, *access.keys.prefixes)
    found: dict[str, tuple[dict[str, str], int]] = {}
    run_ids = await asyncio.gather(
        *(access.read(prefix, b"INFO", b"server") for prefix in prefixes)
    )
    first: dict[str, bytes] = {}
    counts: dict[str, int] = {}
    for prefix, raw in zip(prefixes, run_ids, strict=True):
        run_id = _fields(raw).get("run_id", "")
        first.setdefault(run_id, prefix)
        counts[run_id] = counts.get(run_id, 0) + (prefix != GLOBAL_PREFIX)
    for run_id, prefix in first.items():
        texts = await asyncio.gather(
            *(access.read(prefix, b"INFO", section.encode()) for section in _SECTIONS)
        )
        info: dict[str, str] = {}
        for text in texts:
            info |= _fields(text)
        found[run_id] = info, counts[run_id]
    return [ServerInfo(info, count) for info, count in found.values()]


async def round_trips_s(access: StoreAccess) -> list[float]:
    """Return how long some round trips take, the shortest first. Raises StoreUnavailable."""
    found = []
    for _ in range(_ROUND_TRIPS):
        started = time.perf_counter()
        await access.read(GLOBAL_PREFIX, b"EXISTS", GLOBAL_PREFIX + b"console-key")
        found.append(time.perf_counter() - started)
    return sorted(found)


def _fields(raw: bytes) -> dict[str, str]:
    lines = raw.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
