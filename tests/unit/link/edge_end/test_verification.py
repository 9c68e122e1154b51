"""Which connections are asked for, and when once more."""

from __future__ import annotations

import asyncio

from support.fake_link import MOMENT_S, FakeEdge, FakeRouter, fleet_of
from support.virtual_time import in_virtual_time
from tidegate.link.v1 import link_pb2 as pb


@in_virtual_time
async def test_what_is_missed_while_connections_are_verified_has_them_verified_once_more() -> None:
    """What was asked for before may have changed since, and what came since was not asked for."""
    router_client = fleet_of(FakeEdge())
    router = FakeRouter(router_client, "r1")
    await router.join()
    verification = router_client.verification
    verification.connections = lambda: [("first", 1)]
    router.silent_about = {"verify"}
    verification.start()
    await asyncio.sleep(MOMENT_S)
    verification.connections = lambda: [("first", 1), ("second", 2)]
    for _ in range(3):  # together once
        verification.start()
    router.answer_all("verify")
    await asyncio.sleep(MOMENT_S)
    assert [list(one.client_ids) for one in router.of("verify")] == [
        ["first"],
        ["first", "second"],
    ]


@in_virtual_time
async def test_lost_connections_end_as_lost_and_others_as_taken_over() -> None:
    """A router of an older version says of none that it is lost."""
    edge = FakeEdge()
    router_client = fleet_of(edge)
    router = FakeRouter(router_client, "r1")
    await router.join()
    verification = router_client.verification
    verification.connections = lambda: [("owned", 1), ("taken", 2), ("lost", 3)]
    live = [True, False, False]
    for lost in ([False, False, True], []):
        router.replies["verify"] = pb.Reply(verify=pb.VerifyReply(live=live, lost=lost))
        verification.start()
        await asyncio.sleep(MOMENT_S)
    assert edge.lost == [("lost", 3)]
    assert [(name, epoch) for name, epoch, _ in edge.kicked] == [
        ("taken", 2),
        ("taken", 2),
        ("lost", 3),
    ]
