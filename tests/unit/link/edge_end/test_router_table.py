"""Whom session work goes to while routers leave."""

from __future__ import annotations

from tidegate.link.edge_end.router_peer import RouterPeer, State
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.outbox import Outbox
from tidegate.link.v1 import link_pb2 as pb


def _connected(table: RouterTable, name: str) -> RouterPeer:
    router = RouterPeer(name, f"{name}:7000")
    router.outbox = Outbox(pb.EdgeFrame)
    table.connect(router)
    table.add(router)
    return router


async def test_session_work_leaves_a_router_that_has_had_it_and_leaves() -> None:
    table = RouterTable()
    _connected(table, "r1")
    _connected(table, "r2")
    before = table.session_router("client")
    assert before is not None
    before.state = State.LEAVING
    after = table.session_router("client")
    assert after is not None
    assert after is not before


async def test_session_work_stays_with_a_router_that_leaves_when_there_is_no_other() -> None:
    table = RouterTable()
    only = _connected(table, "r1")
    only.state = State.LEAVING
    assert table.session_router("client") is only
