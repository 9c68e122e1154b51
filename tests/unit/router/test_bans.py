"""Bans at a router: read when they have changed, given to every edge."""

from __future__ import annotations

import asyncio
from typing import Any

from support.fake_link import FakeEdge
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time
from tidegate.bans.ban import Ban, BanKind
from tidegate.router.bans import CLEAN_S, POLL_S, Bans
from tidegate.runtime.telemetry.counters import Counters

BAN = Ban.make(BanKind.CLIENT, "c")


def _bans(store: FakeStore, *edges: FakeEdge) -> Bans:
    attached: Any = {str(number): edge for number, edge in enumerate(edges)}
    fake: Any = store
    return Bans(fake, attached, Counters(), lambda: 0)


@in_virtual_time
async def test_edges_have_a_ban_a_moment_after_it_was_stored() -> None:
    store, edge, later = FakeStore(), FakeEdge(), FakeEdge()
    bans = _bans(store, edge)
    await bans.start()
    bans.attached(later)
    assert later.bans == []
    await store.add_ban(BAN)
    await asyncio.sleep(2 * POLL_S)
    assert edge.bans == [BAN.encode()]
    bans.attached(later)
    assert later.bans == [BAN.encode()]
    store.bans.clear()
    store.bans_changed += 1
    await asyncio.sleep(2 * POLL_S)
    assert edge.bans == []
    read = store.calls.count("stored_bans")
    await asyncio.sleep(10)
    assert store.calls.count("stored_bans") == read
    await bans.stop()


@in_virtual_time
async def test_without_the_store_they_stay_as_they_are() -> None:
    store, edge = FakeStore(), FakeEdge()
    await store.add_ban(BAN)
    bans = _bans(store, edge)
    await bans.start()
    store.fails |= {"bans_version", "add_ban"}
    bans.add(Ban.make(BanKind.CLIENT, "other").encode())
    await asyncio.sleep(5)
    assert edge.bans == [BAN.encode()]
    store.fails.clear()
    bans.add(Ban.make(BanKind.CLIENT, "other").encode())
    await asyncio.sleep(1)
    assert len(edge.bans) == 2
    await asyncio.sleep(CLEAN_S)
    assert "delete_ended_bans" in store.calls
    await bans.stop()
