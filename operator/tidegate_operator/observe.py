"""Asks edges how many clients they have, over their admin port.

Called by ``reconcile`` from time to time; an edge that does not answer soon is left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Final

import aiohttp

from tidegate_operator.names import ADMIN_PORT
from tidegate_operator.observed import Pod

TIMEOUT_S: Final = 2.0
_MAX_ANSWER_BYTES: Final = 65_536
_AT_ONCE: Final = 16


class Edges:
    """A client of the admin API of edges. Use as an asynchronous context manager."""

    def __init__(self, port: int = ADMIN_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Edges:
        # Each edge is asked once in a while: nothing is gained by keeping connections.
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def connections(self, pods: Iterable[Pod], token: bytes) -> int | None:
        """Return how many clients all ready edges have together; None if none has answered."""
        edges = [pod for pod in pods if pod.component == "edge" and pod.is_ready and pod.address]
        counts = await asyncio.gather(*(self._count(pod.address, token) for pod in edges))
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    async def _count(self, address: str, token: bytes) -> int | None:
        assert self._session is not None
        host = f"[{address}]" if ":" in address else address
        headers = {"Authorization": f"Bearer {token.decode('latin-1').strip()}"}
        try:
            async with (
                self._places,
                self._session.get(f"http://{host}:{self._port}/status", headers=headers) as answer,
            ):
                if answer.status != 200:
                    return None
                found = json.loads(await answer.content.read(_MAX_ANSWER_BYTES))
                return int(found["clients"])
        except (TimeoutError, OSError, aiohttp.ClientError, ValueError, LookupError, TypeError):
            return None
