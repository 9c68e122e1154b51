"""HTTP client of the admin API of pods: their status, shedding clients, reports of the store.

Called by ``poller``. A pod that does not respond in time is a result, not an error;
``config_state`` parses what pods report. Never accesses the API server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable
from typing import Final

import aiohttp

from tidegate_operator.live_state import Pod
from tidegate_operator.names import ADMIN_PORT
from tidegate_operator.pods.config_state import (
    UNAUTHORIZED,
    UNREACHABLE,
    PodReport,
    parse_report,
)
from tidegate_operator.replicas.servers import StoreServer, parse_server

log = logging.getLogger(__name__)

#: Timeout of one request, and of polling all pods of a broker.
TIMEOUT_S: Final = 2.0
ROUND_S: Final = 8.0
_MAX_RESPONSE_BYTES: Final = 1_048_576
_MAX_CONCURRENT: Final = 64


class AdminClient:
    """A client of the admin API of edges and routers. Use as an asynchronous context manager."""

    def __init__(self, port: int = ADMIN_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def __aenter__(self) -> AdminClient:
        # Pods are polled at long intervals: keeping connections open has no benefit.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def poll(self, pods: Iterable[Pod], token: bytes) -> dict[str, PodReport]:
        """Return the reports of pods, by key, that were polled within ``ROUND_S``; the first ones
        are polled first."""
        reports: dict[str, PodReport] = {}

        async def poll_one(pod: Pod) -> None:
            async with self._slots:
                reports[pod.key] = await self._status(pod, token)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND_S):
                await asyncio.gather(*(poll_one(pod) for pod in pods))
        return reports

    async def shed(self, pod: Pod, token: bytes, connections: int) -> int | None:
        """Make an edge disconnect so many clients. Returns how many it will; None if it rejects."""
        status, body = await self._send("POST", pod, f"shed?connections={connections}", token)
        count = body.get("shedding") if isinstance(body, dict) else None
        if not isinstance(count, int):
            log.warning("edge rejected shed request", extra={"pod": pod.name, "status": status})
            return None
        return count

    async def servers(self, pods: Iterable[Pod]) -> dict[str, StoreServer]:
        """Return the reports of a replicated store's servers, by the name of the pod."""
        found: dict[str, StoreServer] = {}

        async def ask(pod: Pod) -> None:
            async with self._slots:
                _, body = await self._send("GET", pod, "store", b"")
            server = parse_server(body)
            if server is not None:
                found[pod.name] = server

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND_S):
                await asyncio.gather(*(ask(pod) for pod in pods if pod.address))
        return found

    async def _status(self, pod: Pod, token: bytes) -> PodReport:
        status, body = await self._send("GET", pod, "status", token)
        if status == 401:
            return UNAUTHORIZED
        return parse_report(body) if status == 200 else UNREACHABLE

    async def _send(self, method: str, pod: Pod, page: str, token: bytes) -> tuple[int, object]:
        """Return the status (0: no response) and the JSON of a response."""
        assert self._session is not None
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        url = f"http://{host}:{self._port}/{page}"
        headers = {"Authorization": f"Bearer {token.decode('latin-1').strip()}"}
        try:
            async with self._session.request(
                method, url, headers=headers, allow_redirects=False
            ) as response:
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > _MAX_RESPONSE_BYTES:
                        return 0, None
                is_json = response.status in {200, 202}
                return response.status, json.loads(body) if is_json else None
        # Whatever a pod responds: JSON that is nested too deeply counts as no response.
        except (TimeoutError, OSError, aiohttp.ClientError, ValueError, RecursionError):
            return 0, None
