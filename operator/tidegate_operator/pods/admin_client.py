"""Asks edges and routers how they are, over their admin port, and tells edges to let clients go.

Called by ``reconcile`` from time to time. A pod that does not answer soon is no error: it is said
in the status. See ``configuration`` for what pods say.
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
from tidegate_operator.pods.config_state import NO_ANSWER, REFUSED, Answer, answer_of

log = logging.getLogger(__name__)

#: How long one pod may take, and all pods of a broker together.
TIMEOUT_S: Final = 2.0
ROUND_S: Final = 8.0
_MAX_ANSWER_BYTES: Final = 1_048_576
_AT_ONCE: Final = 64


class AdminClient:
    """A client of the admin API of edges and routers. Use as an asynchronous context manager."""

    def __init__(self, port: int = ADMIN_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> AdminClient:
        # Each pod is asked once in a while: nothing is gained by keeping connections.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, pods: Iterable[Pod], token: bytes) -> dict[str, Answer]:
        """Return what pods say, by key, of those that could be asked within ``ROUND_S``; pods that
        come first are asked first."""
        found: dict[str, Answer] = {}

        async def ask_one(pod: Pod) -> None:
            async with self._places:
                found[pod.key] = await self._status(pod, token)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND_S):
                await asyncio.gather(*(ask_one(pod) for pod in pods))
        return found

    async def shed(self, pod: Pod, token: bytes, connections: int) -> int | None:
        """Tell an edge to let so many clients go. Returns how many will; None if it does not."""
        status, found = await self._send("POST", pod, f"shed?connections={connections}", token)
        count = found.get("shedding") if isinstance(found, dict) else None
        if not isinstance(count, int):
            log.warning("an edge sheds no clients", extra={"pod": pod.name, "status": status})
            return None
        return count

    async def _status(self, pod: Pod, token: bytes) -> Answer:
        status, found = await self._send("GET", pod, "status", token)
        if status == 401:
            return REFUSED
        return answer_of(found) if status == 200 else NO_ANSWER

    async def _send(self, method: str, pod: Pod, page: str, token: bytes) -> tuple[int, object]:
        """Return the status (0: no answer) and the JSON of an answer."""
        assert self._session is not None
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        url = f"http://{host}:{self._port}/{page}"
        headers = {"Authorization": f"Bearer {token.decode('latin-1').strip()}"}
        try:
            async with self._session.request(
                method, url, headers=headers, allow_redirects=False
            ) as answer:
                body = b""
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > _MAX_ANSWER_BYTES:
                        return 0, None
                is_json = answer.status in {200, 202}
                return answer.status, json.loads(body) if is_json else None
        # Whatever a pod answers: too deep for a parser is as good as nothing.
        except (TimeoutError, OSError, aiohttp.ClientError, ValueError, RecursionError):
            return 0, None
