"""How long an edge believes in its lease: as the store does, or for less."""

from __future__ import annotations

import asyncio

import pytest

from support.fake_link import FakeEdge, FakeRouter, fleet_of
from support.virtual_time import in_virtual_time
from tidegate.link.interfaces import AttachSession, RouterUnavailable


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
