"""Where a session is connected, when answers come in another order than the questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from support.fake_link import FakeEdge
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time, turns
from tidegate.core.standing import Standing
from tidegate.link.interfaces import AttachSession, DetachSession, RouterUnavailable
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AttachReply, DetachReply, DetachRequest, StoreUnavailable

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
    older = asyncio.ensure_future(harness.router.attach("edge-1", CONNECT))
    newer = asyncio.ensure_future(harness.router.attach("edge-2", CONNECT))
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


@in_virtual_time
async def test_connect_and_the_end_take_no_task_when_the_store_answers() -> None:
    harness = await _harness()
    loop = asyncio.get_running_loop()
    attached: asyncio.Future[AttachReply] = loop.create_future()
    detached: asyncio.Future[DetachReply] = loop.create_future()
    store: Any = harness.store
    store.attach, store.detach = lambda _: attached, lambda _: detached
    tasks = asyncio.all_tasks()
    begun = harness.router.attach("edge-1", CONNECT)
    attached.set_result(AttachReply(1, 1, False))
    assert (await begun).epoch == 1
    ended = harness.router.detach(DetachSession("c", 1, False))
    detached.set_result(DetachReply(False))
    assert not (await ended).is_fenced
    assert asyncio.all_tasks() == tasks


@in_virtual_time
async def test_a_session_that_nobody_waits_for_any_more_is_not_connected_here() -> None:
    harness = await _harness()
    reply: asyncio.Future[AttachReply] = asyncio.get_running_loop().create_future()
    harness.store.attach_replies = [reply]
    waiting = asyncio.ensure_future(harness.router.attach("edge-1", CONNECT))
    await turns()
    waiting.cancel()
    reply.set_result(AttachReply(1, 1, False))
    await turns()
    assert "c" not in harness.router.table.sessions


@in_virtual_time
async def test_the_end_of_a_connection_is_repeated_until_it_is_stored() -> None:
    harness = await _harness()
    outcomes: list[StoreUnavailable | DetachReply] = [
        StoreUnavailable("down"),
        StoreUnavailable("down"),
        DetachReply(True),
    ]

    async def detach(_request: DetachRequest) -> DetachReply:
        outcome = outcomes.pop(0)
        if isinstance(outcome, StoreUnavailable):
            raise outcome
        return outcome

    store: Any = harness.store
    store.detach = detach
    assert (await harness.router.detach(DetachSession("c", 1, False))).is_fenced
    assert not outcomes


@in_virtual_time
async def test_connect_fails_when_the_store_does() -> None:
    harness = await _harness()
    reply: asyncio.Future[AttachReply] = asyncio.get_running_loop().create_future()
    harness.store.attach_replies = [reply]
    reply.set_exception(StoreUnavailable("down"))
    with pytest.raises(RouterUnavailable, match="down"):
        await harness.router.attach("edge-1", CONNECT)


@in_virtual_time
async def test_a_connection_that_has_the_session_is_named_and_no_store_that_went_back() -> None:
    harness = await _harness()
    reply: asyncio.Future[AttachReply] = asyncio.get_running_loop().create_future()
    reply.set_result(AttachReply(0, 0, False, taken_epoch=7))
    harness.store.attach_replies = [reply]
    harness.router.history.first[harness.store.partition("c")] = 5
    attached = await harness.router.attach("edge-2", CONNECT)
    assert attached.taken_epoch == 7


@in_virtual_time
async def test_a_session_that_is_gone_is_lost_when_the_store_has_gone_back() -> None:
    """[MQTT-4.1.0-1] Nobody has taken it over."""
    harness = await _harness()
    store: Any = harness.store

    async def verify(connections: Sequence[tuple[str, int]]) -> list[Standing]:
        return [Standing.GONE] * len(connections)

    store.verify = verify
    assert await harness.router.verify([("c", 1), ("d", 2)]) == [Standing.GONE] * 2
    store.histories = {one: (0, {}) for one in store.all_histories}
    assert await harness.router.verify([("c", 1), ("d", 2)]) == [Standing.LOST] * 2
