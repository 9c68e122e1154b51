"""Events of the record over the link: to a router that has room, or to none."""

from __future__ import annotations

import pytest

from support.build import sources_only
from support.fake_link import until
from support.linked import Wires
from tidegate.link.edge_end import router_client

EVENTS = [("a/\0c", b"\xff one"), ("", b"two")]


@sources_only
async def test_events_reach_a_router_whole_and_in_their_order(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    assert edge.router_client.record(EVENTS)
    assert edge.router_client.record(EVENTS[:1])
    await until(lambda: len(router.fake.named("record")) == 2, "both have come")
    assert router.fake.named("record") == [(EVENTS,), (EVENTS[:1],)]
    monkeypatch.setattr(router_client, "RECORD_ROOM_BYTES", 0)
    assert not edge.router_client.record(EVENTS), "it has no room"
