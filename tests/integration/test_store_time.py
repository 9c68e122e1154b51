"""Broker time in the store: what a router that starts takes from it, and what renewals do to it.

Inputs: clocks as routers have them, renewals of leases with times of the test, the stored time.
Observed: the time that a clock shows afterwards, leases. The clock itself is in tests/unit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from support.store_groups import AnyStore
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.process.clock import BrokerClock
from tidegate.store.redis_store import RedisStore

KEY = "tg:{g}:clock"
#: Broker time of the tests, far from everybody's wall clock.
NOW = 1_500_000_000_000
HOUR_MS = 3_600_000
#: For a slow machine.
SLACK_MS = 5000


@pytest.fixture
async def store(server: AnyStore) -> AsyncIterator[RedisStore]:
    server.command("FLUSHALL")
    store = await RedisStore.connect(
        url=server.url, limits=LimitsConfig(), store=StoreConfig(partitions=4)
    )
    yield store
    await store.close()


def server_ms() -> int:
    """The time of the server, which is on this machine."""
    return time.time_ns() // 1_000_000


def keep(server: AnyStore, now_ms: int, age_ms: int = 0) -> None:
    """Store a broker time, as if a router had done it a while ago."""
    server.command("SET", KEY, f"{now_ms} {server_ms() - age_ms}")


async def shared(store: RedisStore) -> BrokerClock:
    clock = BrokerClock()
    await store.share_time(clock)
    return clock


async def test_an_empty_store_has_its_servers_time(store: RedisStore) -> None:
    before = server_ms()
    clock = await shared(store)
    assert before <= clock.now_ms() <= before + SLACK_MS
    assert abs(clock.offset_s()) < 1


async def test_a_router_takes_the_time_of_one_that_runs(store: RedisStore) -> None:
    await store.renew_router("r", NOW, 1000, [])
    clock = await shared(store)
    assert NOW <= clock.now_ms() <= NOW + SLACK_MS
    # What its wall clock should show is the server's.
    assert abs(clock.wall_ms() - server_ms()) < SLACK_MS


async def test_the_time_in_which_no_router_has_run_counts(
    store: RedisStore, server: AnyStore
) -> None:
    keep(server, NOW, age_ms=HOUR_MS)
    clock = await shared(store)
    assert NOW + HOUR_MS <= clock.now_ms() <= NOW + HOUR_MS + SLACK_MS


async def test_a_servers_clock_that_has_gone_back_takes_no_time_back(
    store: RedisStore, server: AnyStore
) -> None:
    keep(server, NOW, age_ms=-HOUR_MS)
    clock = await shared(store)
    assert NOW <= clock.now_ms() <= NOW + SLACK_MS


async def test_a_step_of_the_servers_clock_is_none_of_the_time_while_a_router_runs(
    store: RedisStore, server: AnyStore
) -> None:
    """The stored time is old by the server's clock; the router that runs renews its lease."""
    await store.renew_router("r", NOW, 1000, [])
    keep(server, NOW, age_ms=HOUR_MS)
    sharing = asyncio.create_task(shared(store))
    await asyncio.sleep(0)  # it has asked
    await store.renew_router("r", NOW + 200, 1000, [])
    clock = await sharing
    assert NOW + 200 <= clock.now_ms() <= NOW + 200 + SLACK_MS


async def test_a_lease_lasts_by_the_newest_time_that_a_router_has_had(store: RedisStore) -> None:
    """A router that is behind takes no lease away, and gives none that has ended already."""
    assert not await store.renew_lease("e", NOW, 2000)
    assert await store.renew_lease("e", NOW - HOUR_MS, 2000)
    assert await store.leased_edges(NOW + 1999) == ["e"]
    assert await store.leased_edges(NOW + 2000) == []
    records = await store.renew_router("late", NOW - HOUR_MS, 1000, [])
    assert [record.instance for record in records] == ["late"]
    assert [record.instance for record in await store.routers(NOW + 999)] == ["late"]


@pytest.mark.parametrize("renewed", ["edge", "router"])
async def test_a_clock_that_is_behind_is_set_by_the_renewal_of_a_lease(
    store: RedisStore, renewed: str
) -> None:
    clock = await shared(store)
    ahead = clock.now_ms() + HOUR_MS
    if renewed == "edge":
        await store.renew_lease("e", ahead, 1000)
    else:
        await store.renew_router("r", ahead, 1000, [])
    assert ahead <= clock.now_ms() <= ahead + SLACK_MS
