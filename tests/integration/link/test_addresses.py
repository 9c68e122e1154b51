"""Which addresses an edge connects to, and what it does when two lead to the same router."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from support.fake_link import FakeOrigin, until
from support.faulting_proxy import FaultingProxy
from support.linked import WiredRouter, Wires
from tidegate.link.edge_end import discovery
from tidegate.mqtt.packets import Publish


@contextlib.asynccontextmanager
async def ways(router: WiredRouter, count: int) -> AsyncIterator[list[FaultingProxy]]:
    """Yield proxies that all lead to one router."""
    host, _, port = router.address.rpartition(":")
    proxies = [FaultingProxy(lambda: (host, int(port))) for _ in range(count)]
    try:
        for proxy in proxies:
            await proxy.start()
        yield proxies
    finally:
        for proxy in proxies:
            await proxy.stop()


async def test_a_second_address_of_a_router_leaves_the_first_connection_alone(
    wires: Wires,
) -> None:
    router = await wires.router("r1", listen="127.0.0.1:0")
    async with ways(router, 2) as (one, other):
        edge = await wires.edge(one.address, other.address)
        await edge.uses("r1")
        await until(lambda: one.forwarded_bytes and other.forwarded_bytes, "both were tried")
        await until(lambda: not one.ends or not other.ends, "one of them was given up")
        origin = FakeOrigin()
        for number in range(20):
            edge.router_client.publish(origin, Publish("t", b"%d" % number, 1))
            await asyncio.sleep(0)
        await until(lambda: len(origin.answers) == 20, "all are answered")
        assert router.fake.payloads == [b"%d" % number for number in range(20)]
        assert len(router.fake.named("attach_edge")) == 1
        assert not router.fake.named("lose_edge")
        assert not edge.holding


async def test_the_second_address_is_used_once_the_first_is_gone(wires: Wires) -> None:
    router = await wires.router("r1", listen="127.0.0.1:0")
    async with ways(router, 2) as proxies:
        edge = await wires.edge(*(proxy.address for proxy in proxies))
        await edge.uses("r1")
        await until(lambda: all(proxy.forwarded_bytes for proxy in proxies), "both were tried")
        await until(lambda: not all(proxy.ends for proxy in proxies), "one was given up")
        (used,) = (proxy for proxy in proxies if proxy.ends)
        (spare,) = (proxy for proxy in proxies if proxy is not used)
        used.cut()
        await until(lambda: spare.ends, "the other address is tried")
        await edge.uses("r1")
        edge.router_client.publish(FakeOrigin(), Publish("t", b"after", 1))
        await until(lambda: router.fake.payloads == [b"after"], "it arrives")


async def test_every_address_of_a_name_is_used(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("r1", "r2", "r3"):
        await wires.router(name)
    found = {wires.place("r1"), wires.place("r2")}

    async def resolve(_places: object) -> tuple[set[str], bool]:
        return found, True

    monkeypatch.setattr("tidegate.link.edge_end.router_membership.resolve", resolve)
    edge = await wires.edge("routers.test:7000")
    await edge.uses("r1", "r2")
    found = {wires.place("r2"), wires.place("r3")}
    await until(lambda: "r3" in edge.open_to(), "a new address is used")
    # An address that is not named any more is used for as long as the connection lasts.
    assert edge.open_to() == {"r1", "r2", "r3"}


async def test_an_address_that_is_gone_is_not_tried_again(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await wires.router("r1")
    await wires.router("r2")
    found = {wires.place("r1"), wires.place("r2")}

    async def resolve(_places: object) -> tuple[set[str], bool]:
        return found, True

    monkeypatch.setattr("tidegate.link.edge_end.router_membership.resolve", resolve)
    edge = await wires.edge("routers.test:7000")
    await edge.uses("r1", "r2")
    found = {wires.place("r2")}
    await first.stop()
    await edge.uses("r2")
    await until(
        lambda: list(edge.router_client.membership.streams) == [wires.place("r2")],
        "it is forgotten",
    )


async def test_names_that_cannot_be_looked_up_take_nothing_from_the_others(wires: Wires) -> None:
    await wires.router("r1")
    edge = await wires.edge("no-such-host.invalid:7000", wires.place("r1"))
    await edge.uses("r1")


async def test_a_name_that_cannot_be_looked_up_for_a_while_is_still_tried(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = True
    looked = 0

    async def resolve(_places: object) -> tuple[set[str], bool]:
        nonlocal looked
        looked += 1
        return ({wires.place("r1")}, True) if known else (set(), False)

    monkeypatch.setattr("tidegate.link.edge_end.router_membership.resolve", resolve)
    edge = await wires.edge("routers.test:7000")
    await until(lambda: edge.router_client.membership.streams, "it is tried")
    known = False
    before = edge.router_client.membership.streams[wires.place("r1")]
    once = looked
    edge.router_client.membership.discover_now()
    # The second time it has been asked what came of the first.
    await until(lambda: looked > once + 1, "it was looked up again")
    assert edge.router_client.membership.streams[wires.place("r1")] is before
    await wires.router("r1")
    await edge.uses("r1")


async def test_routers_that_come_late_or_at_other_addresses_are_found_soon_if_there_is_none(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[str] = set()

    async def resolve(_places: object) -> tuple[set[str], bool]:
        return set(found), bool(found)

    monkeypatch.setattr("tidegate.link.edge_end.router_membership.resolve", resolve)
    # Nobody waits for the next turn of an hour.
    edge = await wires.edge("routers.test:7000", discovery_interval_s=3600)
    first = await wires.router("r1")
    found.add(wires.place("r1"))
    await edge.uses("r1")
    await first.stop()
    await wires.router("r2")
    found.clear()
    found.add(wires.place("r2"))
    await until(lambda: "r2" in edge.open_to(), "the other one is used")


async def test_looking_up_a_host_finds_all_of_its_addresses() -> None:
    found, complete = await discovery.resolve(["localhost:7000", "[::1]:7001", "unix:/run/x"])
    assert complete
    assert found >= {"127.0.0.1:7000", "[::1]:7001", "unix:/run/x"}
    assert found <= {"127.0.0.1:7000", "[::1]:7000", "[::1]:7001", "unix:/run/x"}


async def test_looking_up_says_when_it_does_not_know_everything() -> None:
    found, complete = await discovery.resolve(["127.0.0.1:7000", "no-such-host.invalid:7000"])
    assert found == {"127.0.0.1:7000"}
    assert not complete
