"""How long an edge's event loop is taken for the pages of the admin API, in CPU time.

One edge in this process, with clients that have no sockets; its answers are made callback by
callback. CPU time of the thread, not of the clock, so that a busy machine shows the same.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from measure.fleet import COMMON
from support import mqtt_bytes
from support.lone_edge import LoneEdge
from tidegate.edge.inspection.pages import handlers_of
from tidegate.runtime.admin.control import Page
from tidegate.runtime.admin.http import Request

#: The least of so many: something else of the machine only ever adds.
TIMES: Final = 7
PAGES: Final[dict[str, dict[str, str]]] = {
    "/find-clients": {"limit": "100"},
    "/find-clients, 1,000": {"limit": "1000"},
    "/find-clients, a user": {"limit": "100", "user": "user-7"},
    "/find-clients, nobody": {"limit": "100", "prefix": "x"},
    "/subscribers": {"limit": "100", "filter": COMMON},
    "/subscribers, 1,000": {"limit": "1000", "filter": COMMON},
    "/connected-receivers": {"topic": COMMON},
}


class _TimedLoop(asyncio.SelectorEventLoop):
    """Notes the CPU time of each callback, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_s: list[float] = []

    def call_soon(  # type: ignore[override]  # as loops call it
        self, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> asyncio.Handle:
        def timed() -> None:
            started_s = time.thread_time()
            callback(*arguments)
            self.taken_s.append(time.thread_time() - started_s)

        return super().call_soon(timed, context=context)


def longest_callbacks(clients: int) -> dict[str, dict[str, float]]:
    """Return the longest callback of each page, and all of its CPU time, in ms."""
    with asyncio.Runner(loop_factory=_TimedLoop) as runner:
        return runner.run(_measured(clients))


async def _measured(clients: int) -> dict[str, dict[str, float]]:
    async with LoneEdge() as lone:
        for number in range(clients):
            client = lone.accept()
            name = f"client-{number:06d}"
            client.send(mqtt_bytes.connect(name, username=f"user-{number % 20}"))
            await _turns(3)
            client.send(mqtt_bytes.subscribe(1, [(f"own/{number}", 1), (COMMON, 1)]))
        await _turns(10)
        pages = handlers_of(lone.edge)
        # As brokers do after their start; a collection would be the longest callback.
        gc.collect()
        gc.freeze()
        return {
            name: await _least(pages[name.partition(",")[0]], query)
            for name, query in PAGES.items()
        }


async def _least(page: Page, query: dict[str, str]) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _TimedLoop)
    found: list[tuple[float, float]] = []
    for _ in range(TIMES):
        loop.taken_s.clear()
        await page(Request("GET", "/", query, {}))
        await asyncio.sleep(0)
        found.append((max(loop.taken_s), sum(loop.taken_s)))
    longest_s, whole_s = min(found)
    return {"longest_ms": round(1000 * longest_s, 2), "cpu_ms": round(1000 * whole_s, 2)}


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
