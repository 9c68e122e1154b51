"""The store: its servers, their memory, and how fast it answers."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from fastapi import APIRouter

from tidegate.console.access import VIEWER
from tidegate.console.models.nodes import StoreServer, StoreState
from tidegate.console.parts import PartsOf
from tidegate.runtime.config.report import settings_of
from tidegate.store.api import StoreUnavailable
from tidegate.store.inspection.servers import ServerInfo, read_servers, round_trips_s

router = APIRouter(tags=["nodes"])

#: How long the answer waits for the store.
WAIT_S: Final = 2.0


@router.get("/store", dependencies=[VIEWER])
async def store(parts: PartsOf) -> StoreState:
    """Return the state of the store. One that does not answer is no error of the request."""
    config = parts.config()
    found = StoreState(
        reachable=False,
        url=settings_of(config)["store.url"] or "",
        durability=config.store.durability,
        partitions=config.store.partitions,
        history=await _history(parts),
    )
    try:
        async with asyncio.timeout(WAIT_S):
            latencies = await round_trips_s(parts.store.access)
            servers = await read_servers(parts.store.access)
    except StoreUnavailable as error:
        found.problem = str(error)
        return found
    except TimeoutError:
        found.problem = f"the store has not answered within {WAIT_S:.0f} s"
        return found
    found.reachable = True
    found.latency_ms = [round(1000 * each, 3) for each in latencies]
    found.servers = [_server(each) for each in servers]
    return found


async def _history(parts: PartsOf) -> dict[str, Any] | None:
    nodes = await parts.nodes.routers() or await parts.nodes.edges()
    answers = await parts.nodes.ask(nodes, "GET", "/status")
    found = (answer.body.get("store_history") for answer in answers.good)
    return next((history for history in found if history), None)


def _server(each: ServerInfo) -> StoreServer:
    info = each.info
    name = "Valkey" if "valkey_version" in info else "Redis"
    replicas = each.number("connected_slaves")
    lags = [
        int(lag.group(1))
        for number in range(replicas)
        if (lag := re.search(r"lag=(\d+)", info.get(f"slave{number}", "")))
    ]
    keys = re.search(r"keys=(\d+)", info.get("db0", ""))
    return StoreServer(
        version=f"{name} {info.get(f'{name.lower()}_version', 'unknown')}",
        role=info.get("role", ""),
        uptime_s=each.number("uptime_in_seconds"),
        clients=each.number("connected_clients"),
        memory_bytes=each.number("used_memory"),
        memory_limit_bytes=each.number("maxmemory"),
        append_only=info.get("aof_enabled") == "1",
        append_only_ok=info.get("aof_last_write_status", "ok") == "ok",
        fsync_pending=each.number("aof_pending_bio_fsync"),
        replicas=replicas,
        replica_lag_s=max(lags, default=None),
        operations_per_s=each.number("instantaneous_ops_per_sec"),
        keys=int(keys.group(1)) if keys else None,
        partitions=each.partitions,
    )
