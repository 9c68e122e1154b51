"""Where a session is connected, when answers come in another order than the questions."""

from __future__ import annotations

import asyncio
from typing import Any

from support.fake_link import FakeEdge
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.link.interfaces import AttachSession, DetachSession
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AttachReply

CONNECT = AttachSession("c", False, 300)


class _Harness:
    """A router that is alone, and two edges."""

    def __init__(self) -> None:
        self.store = FakeStore()
        store: Any = self.store
        self.router = Router(store, LimitsConfig(), FeaturesConfig(), Counters(), self.store.now_ms)
        self.edges = [FakeEdge("edge-1"), FakeEdge("edge-2")]

    async def start(self) -> None:
        """Load, and attach the edges."""
        await self.router.start()
        for edge in self.edges:
            self.router.attach_edge(edge)

    @property
    def location(self) -> tuple[str, int]:
        """Where the session is connected, and by which epoch."""
        session = self.router.table.sessions["c"]
        return session.edge.edge_id if session.edge is not None else "", session.epoch


async def _harness() -> _Harness:
    harness = _Harness()
    await harness.start()
    return harness


@in_virtual_time
async def test_a_late_answer_of_the_store_does_not_put_a_session_back() -> None:
    harness = await _harness()
    loop = asyncio.get_running_loop()
    first: asyncio.Future[AttachReply] = loop.create_future()
    second: asyncio.Future[AttachReply] = loop.create_future()
    harness.store.attach_replies = [first, second]
    older = asyncio.create_task(harness.router.attach("edge-1", CONNECT))
    newer = asyncio.create_task(harness.router.attach("edge-2", CONNECT))
    await turns()
    second.set_result(AttachReply(2, 1, True, "edge-1", 1))
    await newer
    first.set_result(AttachReply(1, 1, False))
    await older
    assert harness.location == ("edge-2", 2)
    assert harness.edges[0].kicked[0][:2] == ("c", 1)


@in_virtual_time
async def test_the_end_of_an_older_connection_leaves_the_newer_one_connected() -> None:
    harness = await _harness()
    for epoch, edge_id in ((1, "edge-1"), (2, "edge-2")):
        reply: asyncio.Future[AttachReply] = asyncio.get_running_loop().create_future()
        reply.set_result(AttachReply(epoch, 1, epoch > 1))
        harness.store.attach_replies = [reply]
        await harness.router.attach(edge_id, CONNECT)
    await harness.router.detach(DetachSession("c", 1, False))
    assert harness.location == ("edge-2", 2)
    await harness.router.detach(DetachSession("c", 2, False))
    assert harness.location == ("", 2)
    assert [one.epoch for one in harness.store.detached] == [1, 2]
