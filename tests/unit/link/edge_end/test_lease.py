"""How long an edge believes in its lease: as the store does, or for less."""

from __future__ import annotations

import asyncio

import pytest

from support.fake_link import MOMENT_S, FakeEdge, FakeRouter, fleet_of
from support.virtual_time import in_virtual_time
from tidegate.link.interfaces import AttachSession, RouterUnavailable
from tidegate.link.v1 import link_pb2 as pb
from tidegate.runtime.process.clock import BrokerClock


@in_virtual_time
async def test_a_lease_lasts_from_the_question_and_not_from_its_answer() -> None:
    """The store counts from some time in between: an edge must not count on more than it has."""
    router_client = fleet_of(FakeEdge(), timeout_s=1.0, heartbeat_s=0.5)
    router = FakeRouter(router_client, "r1")
    await router.join()
    lease = router_client.lease
    lease.until_s = 0.0
    router.silent_about = {"lease"}
    keeping = asyncio.create_task(lease.keep())
    await asyncio.sleep(lease.duration_s - 1)
    router.answer_all("lease")
    router.silent_about = {"lease"}  # it is not renewed any more
    await router_client.attach("edge-1", AttachSession("c", False, 0))
    await asyncio.sleep(1)
    with pytest.raises(RouterUnavailable):
        await router_client.attach("edge-1", AttachSession("c", False, 0))
    keeping.cancel()


@in_virtual_time
async def test_the_clock_is_set_to_broker_time_with_each_renewal() -> None:
    """Also when the answer is late; one without a time, of an older router, sets nothing."""
    loop = asyncio.get_running_loop()
    router_client = fleet_of(FakeEdge(), timeout_s=10.0, heartbeat_s=5)
    router = FakeRouter(router_client, "r1")
    await router.join()
    lease = router_client.lease
    lease.clock = clock = BrokerClock(lambda: int(loop.time() * 1e9), lambda: 0)
    keeping = asyncio.create_task(lease.keep())
    await asyncio.sleep(MOMENT_S)
    assert not clock.is_known
    clock.set(60_000, 60_000)
    times = pb.LeaseReply(broker_time_ms=5000, wall_time_ms=7000)
    router.replies["lease"] = pb.Reply(lease=times)
    router.silent_about = {"lease"}
    await asyncio.sleep(lease.duration_s / 4 + 1)
    router.answer_all("lease")
    await asyncio.sleep(MOMENT_S)
    # The router read its clock at some time since it was asked, 1 s ago or more.
    assert 6000 <= clock.now_ms() <= 6300
    assert clock.wall_ms() - clock.now_ms() == 2000
    keeping.cancel()
