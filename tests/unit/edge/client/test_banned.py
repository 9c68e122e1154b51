"""Bans at an edge: who is refused, who is disconnected, and who is banned for flapping.

Input: bytes of clients of a lone edge, bans as a router sends them. Output: packets, and what
reaches the router. Lists of bans by themselves are in ``unit/bans``.
"""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.mqtt_bytes import V5, V311
from support.virtual_time import turns
from tidegate.bans.ban import Ban, BanKind
from tidegate.edge.client import banned
from tidegate.record.events import Event, Kind

CLIENT = Ban.make(BanKind.CLIENT, "c", reason="stolen")
USER = Ban.make(BanKind.USER, "ann")
ADDRESS = Ban.make(BanKind.ADDRESS, "127.0.0.0/8")


@pytest.mark.parametrize(("version", "code"), [(V5, 0x8A), (V311, 5)])
@pytest.mark.parametrize("ban", [CLIENT, USER, ADDRESS])
async def test_who_is_banned_is_refused(ban: Ban, version: int, code: int) -> None:
    async with LoneEdge() as alone:
        alone.edge.set_bans([ban.encode(), b"of another version"])
        client = alone.accept(version)
        client.send(mqtt_bytes.connect("c", version=version, username="ann", password=b"x"))
        await turns()
        (connack,) = client.received()
        assert (connack.kind, connack.reason) == ("CONNACK", code)
        assert alone.router.attached == []
        assert alone.edge.counters.refused["banned"] == 1
        alone.edge.set_bans([])
        await alone.connect("c", version, username="ann", password=b"x")


@pytest.mark.parametrize("ban", [CLIENT, USER, ADDRESS])
async def test_who_is_connected_is_disconnected(ban: Ban) -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c", username="ann", password=b"x")
        old = await alone.connect("old", V311, username="ann", password=b"x")
        alone.edge.set_bans([ban.encode()])
        await turns()
        (disconnect,) = client.received()
        assert (disconnect.kind, disconnect.reason) == ("DISCONNECT", 0x98)
        assert client.channel.is_closed
        assert old.channel.is_closed is (ban is not CLIENT)
        alone.edge.context.recorder.send_all()
        events = [Event.decode(event) for _, event in alone.router.recorded]
        banned = [one for one in events if one and one.kind is Kind.BANNED]
        assert {one.reason for one in banned} == {"banned"}
        assert banned[0].detail == (ban.reason or "banned")


async def test_who_is_banned_while_it_waits_for_its_session_is_refused() -> None:
    async with LoneEdge() as alone:
        alone.router.reachable.clear()
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"))
        await turns()
        alone.edge.set_bans([CLIENT.encode()])
        alone.router.reachable.set()
        await turns()
        (connack,) = client.received()
        assert (connack.kind, connack.reason) == ("CONNACK", 0x8A)
        assert len(alone.router.detached) == 1


async def test_a_flapping_client_is_banned_here_at_once_and_elsewhere_by_the_router() -> None:
    flapping = {"enabled": True, "max_disconnects": 3}
    async with LoneEdge(limits={"flapping": flapping}) as alone:
        alone.now_ms = 1000
        for _ in range(3):
            (await alone.connect("c")).lose()
        (stored,) = alone.router.bans
        ban = Ban.decode(stored)
        assert ban is not None
        assert (ban.kind, ban.value, ban.until) == (BanKind.CLIENT, "c", 301.0)
        assert ban.reason == "3 disconnects within 60 s"
        await alone.connect("other")
        for _ in range(2):
            client = alone.accept()
            client.send(mqtt_bytes.connect("c"))
            await turns()
            assert client.received()[0].reason == 0x8A
            alone.edge.set_bans([])  # the store has not got it yet
        alone.now_ms = 301_000
        await alone.connect("c")


async def test_a_flapping_client_may_come_back_when_its_ban_is_deleted() -> None:
    flapping = {"enabled": True, "max_disconnects": 2}
    async with LoneEdge(limits={"flapping": flapping}) as alone:
        for _ in range(2):
            (await alone.connect("c")).lose()
        alone.edge.set_bans(alone.router.bans)
        alone.edge.set_bans([])
        await alone.connect("c")


async def test_bans_that_wait_for_the_store_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banned, "MAX_OWN", 2)
    flapping = {"enabled": True, "max_disconnects": 2}
    async with LoneEdge(limits={"flapping": flapping}) as alone:
        for client_id in ("a", "b", "c", "x" * 1025):
            for _ in range(2):
                (await alone.connect(client_id)).lose()
        assert len(alone.router.bans) == 3
        await alone.connect("a")
        await alone.connect("x" * 1025)
        client = alone.accept()
        client.send(mqtt_bytes.connect("b"))
        await turns()
        assert client.received()[0].reason == 0x8A


async def test_ends_that_are_not_the_clients_doing_do_not_count() -> None:
    flapping = {"enabled": True, "max_disconnects": 2}
    async with LoneEdge(limits={"flapping": flapping}) as alone:
        for _ in range(4):
            await alone.connect("c")
            alone.edge.clients["c"].shed()
        assert alone.router.bans == []


async def test_nobody_is_banned_for_flapping_by_default() -> None:
    async with LoneEdge() as alone:
        for _ in range(20):
            (await alone.connect("c")).lose()
        assert alone.router.bans == []
