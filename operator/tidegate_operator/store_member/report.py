"""What a member reports about replication: for probes, for the operator, for Prometheus. Pure.

``member`` makes it of what its server and its Sentinel say; ``admin`` serves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

#: ``starting``: it has not been started, or is loading its file.
Role = Literal["primary", "replica", "starting"]


@dataclass(slots=True, frozen=True)
class Report:
    """State of one server. ``primary``: who that is, as this pod's Sentinel says."""

    host: str
    role: Role = "starting"
    primary: str = ""
    #: Of a replica: whether it receives from the primary, and has all that it had before.
    link_up: bool = False
    #: Of a primary: replicas that confirm what they receive, and the slowest confirmation.
    in_sync: int = 0
    lag_s: int = 0
    #: Of a primary: bytes that the slowest of them lacks.
    behind_bytes: int = 0
    #: Sentinels and replicas that this pod's Sentinel knows, reachable or not; it counts itself.
    sentinels: int = 0
    replicas: int = 0
    #: Whether Sentinel knows this server, so that it can be promoted.
    is_known: bool = False
    used_memory_bytes: int = 0
    max_memory_bytes: int = 0
    #: Why the server is not started, "" if it is.
    waits: str = ""
    #: For how long a server that was started has not replied.
    silent_s: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the server is the primary, or a replica that could become it without loss."""
        if self.role == "primary":
            return self.primary == self.host
        return self.role == "replica" and self.link_up and self.is_known

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def report(
    host: str, info: Mapping[str, str], sentinel: Mapping[str, str], waits: str = ""
) -> Report:
    """Return the report of a server. ``info``: its INFO, empty if it does not reply; ``sentinel``:
    the same of SENTINEL MASTER."""
    primary = sentinel.get("ip", "")
    sentinels = int(sentinel.get("num-other-sentinels", -1)) + 1
    replicas = int(sentinel.get("num-slaves", 0))
    if not info or info.get("loading") != "0":
        return Report(
            host, "starting", primary, sentinels=sentinels, replicas=replicas, waits=waits
        )
    role: Role = "primary" if info["role"] == "master" else "replica"
    lags, offsets = _replicas(info)
    offset = int(info.get("master_repl_offset", 0))
    return Report(
        host=host,
        role=role,
        primary=primary,
        link_up=info.get("master_link_status") == "up"
        and info.get("master_sync_in_progress") == "0",
        in_sync=int(info.get("min_slaves_good_slaves", len(lags))) if role == "primary" else 0,
        lag_s=max(lags, default=0),
        behind_bytes=max((offset - one for one in offsets), default=0) if role == "primary" else 0,
        sentinels=sentinels,
        replicas=replicas,
        used_memory_bytes=int(info.get("used_memory", 0)),
        max_memory_bytes=int(info.get("maxmemory", 0)),
    )


def _replicas(info: Mapping[str, str]) -> tuple[list[int], list[int]]:
    """Return lag and offset of replicas that are online."""
    lags, offsets = [], []
    for number in range(int(info.get("connected_slaves", 0))):
        facts = dict(part.partition("=")[::2] for part in info.get(f"slave{number}", "").split(","))
        if facts.get("state") == "online":
            lags.append(int(facts.get("lag", 0)))
            offsets.append(int(facts.get("offset", 0)))
    return lags, offsets


def metrics(found: Report) -> str:
    """Return the metrics in the text format of Prometheus."""
    rows = (
        (
            "store_server_up",
            "Whether the server of this pod is ready: primary, or replica in step",
            found.is_ready,
        ),
        (
            "store_server_primary",
            "Whether the server of this pod is the primary",
            found.role == "primary",
        ),
        (
            "store_server_replicas_in_sync",
            "Replicas that confirm writes (of the primary)",
            found.in_sync,
        ),
        (
            "store_server_replica_lag_seconds",
            "Age of the oldest confirmation of a replica",
            found.lag_s,
        ),
        (
            "store_server_replica_behind_bytes",
            "Bytes that the slowest replica lacks",
            found.behind_bytes,
        ),
        (
            "store_server_sentinels",
            "Sentinels that this pod's Sentinel knows, with itself",
            found.sentinels,
        ),
        ("store_server_used_memory_bytes", "Memory in use by the server", found.used_memory_bytes),
        (
            "store_server_max_memory_bytes",
            "Memory above which writes are refused",
            found.max_memory_bytes,
        ),
    )
    return "".join(
        f"# HELP tidegate_{name} {text}.\n"
        f"# TYPE tidegate_{name} gauge\n"
        f"tidegate_{name} {int(value)}\n"
        for name, text, value in rows
    )
