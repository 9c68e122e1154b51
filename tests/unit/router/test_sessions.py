"""Where a session is connected, when answers come in another order than the questions."""

from __future__ import annotations

import asyncio
from typing import Any

from support.played_link import PlayedEdge, in_virtual_time, turns
from support.played_store import PlayedStore
from tidegate.link.interfaces import AttachSession, DetachSession
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AttachReply

CONNECT = AttachSession("c", False, 300)


class _Scene:
    """A router that is alone, and two edges."""

    def __init__(self) -> None:
        self.store = PlayedStore()
        store: Any = self.store
        self.router = Router(store, LimitsConfig(), FeaturesConfig(), Counters(), self.store.now_ms)
        self.edges = [PlayedEdge("edge-1"), PlayedEdge("edge-2")]

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


async def _scene() -> _Scene:
    scene = _Scene()
    await scene.start()
    return scene


@in_virtual_time
async def test_a_late_answer_of_the_store_does_not_put_a_session_back() -> None:
    scene = await _scene()
    loop = asyncio.get_running_loop()
    first: asyncio.Future[AttachReply] = loop.create_future()
    second: asyncio.Future[AttachReply] = loop.create_future()
    scene.store.attach_replies = [first, second]
    older = asyncio.create_task(scene.router.attach("edge-1", CONNECT))
    newer = asyncio.create_task(scene.router.attach("edge-2", CONNECT))
    await turns()
    second.set_result(AttachReply(2, 1, True, "edge-1", 1))
    await newer
    first.set_result(AttachReply(1, 1, False))
    await older
    assert scene.location == ("edge-2", 2)
    assert scene.edges[0].kicked[0][:2] == ("c", 1)


@in_virtual_time
async def test_the_end_of_an_older_connection_leaves_the_newer_one_connected() -> None:
    scene = await _scene()
    for epoch, edge_id in ((1, "edge-1"), (2, "edge-2")):
        reply: asyncio.Future[AttachReply] = asyncio.get_running_loop().create_future()
        reply.set_result(AttachReply(epoch, 1, epoch > 1))
        scene.store.attach_replies = [reply]
        await scene.router.attach(edge_id, CONNECT)
    await scene.router.detach(DetachSession("c", 1, False))
    assert scene.location == ("edge-2", 2)
    await scene.router.detach(DetachSession("c", 2, False))
    assert scene.location == ("", 2)
    assert [one.epoch for one in scene.store.detached] == [1, 2]
