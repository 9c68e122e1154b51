"""CONNECT and the end of a connection at the edge's end of the link: tasks only where they wait.

Inputs: calls of ``RouterLink`` on a real router client, a router that the test plays. Observed: the
tasks that there are, requests, and what the caller gets.
"""

from __future__ import annotations

import asyncio

import pytest

from support.fake_link import FakeEdge, FakeRouter, fleet_of
from support.virtual_time import in_virtual_time, turns
from tidegate.link.edge_end.router_client import RouterClient
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    RouterUnavailable,
    SessionOwned,
)
from tidegate.link.messages import write_attached
from tidegate.link.v1 import link_pb2 as pb

CONNECT = AttachSession("c", True, 0)


async def _harness() -> tuple[RouterClient, FakeRouter]:
    router_client = fleet_of(FakeEdge())
    router = FakeRouter(router_client, "r1")
    await router.join()
    await asyncio.sleep(1)
    return router_client, router


@in_virtual_time
async def test_connect_and_the_end_take_no_task_on_their_usual_way() -> None:
    router_client, router = await _harness()
    write_attached(
        router.replies.setdefault("attach", pb.Reply()).attach, AttachedSession(7, 0, False)
    )
    tasks = asyncio.all_tasks()
    attached = router_client.attach("edge-1", CONNECT)
    assert asyncio.all_tasks() == tasks
    assert await attached == AttachedSession(7, 0, False)
    detached = router_client.detach(DetachSession("c", 7, False))
    assert asyncio.all_tasks() == tasks
    assert await detached == DetachedSession()
    assert asyncio.all_tasks() == tasks


@in_virtual_time
async def test_a_lost_connection_counts_as_a_try() -> None:
    router_client, router = await _harness()
    router.silent_about = {"attach"}
    attached = router_client.attach("edge-1", CONNECT)
    await turns()
    (first,) = router.of("attach")
    router.lose()
    await turns()
    with pytest.raises(RouterUnavailable):
        await attached
    assert first.tries == 0
    await router.join()
    await asyncio.sleep(1)
    # The router may still hold it.
    (withdrawn,) = router.of("withdraw_connects")
    assert list(withdrawn.numbers) == [first.number]
    assert list(withdrawn.tries) == [2]


@in_virtual_time
async def test_a_refused_session_is_not_withdrawn() -> None:
    router_client, router = await _harness()
    router.replies["attach"] = pb.Reply(failure=pb.FAILURE_OWNED)
    with pytest.raises(SessionOwned):
        await router_client.attach("edge-1", CONNECT)
    await asyncio.sleep(1)
    assert not router.of("withdraw_connects")


@in_virtual_time
async def test_who_does_not_wait_any_more_has_no_effect() -> None:
    router_client, router = await _harness()
    router.silent_about = {"attach", "detach"}
    attached = router_client.attach("edge-1", CONNECT)
    detached = router_client.detach(DetachSession("d", 3, False))
    await turns()
    attached.cancel()
    detached.cancel()
    router.lose()
    await turns()
    tasks = asyncio.all_tasks()
    await asyncio.sleep(1)
    assert not [task for task in tasks if "SessionRequests" in repr(task)]
    assert not router_client.endings.withdrawn("d", 4)


@in_virtual_time
async def test_the_end_of_a_connection_waits_a_moment_for_a_store_that_is_away() -> None:
    router_client, router = await _harness()
    router.replies["detach"] = pb.Reply(failure=pb.FAILURE_UNAVAILABLE)
    detached = router_client.detach(DetachSession("c", 7, False))
    await turns()
    assert len(router.of("detach")) == 1
    assert router_client.endings.withdrawn("c", 8) == 7
    del router.replies["detach"]
    assert not (await detached).is_fenced
    assert len(router.of("detach")) == 2
    assert not router_client.endings.withdrawn("c", 8)
