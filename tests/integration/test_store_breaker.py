"""The circuit breaker: nobody waits again and again for a server that fails.

Inputs: calls of ``RedisStore``, and servers that hang, vanish, or drop every call. Observed: how
long callers wait, how often it is tried, the counters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.store_server import DEADLINE_S, StoreServer, programs
from support.store_stub import CLOSE, StoreStub, usable
from support.virtual_time import turns
from support.waiting import wait_for_async
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import StoreUnavailable
from tidegate.store.redis_store import RedisStore

TIMEOUT_S = 0.3


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreServer]:
    program = programs()[request.param]
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    running = StoreServer(program, tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def counters() -> Counters:
    return Counters()


async def connect(url: str, counters: Counters, timeout_s: float = TIMEOUT_S) -> RedisStore:
    return await RedisStore.connect(
        url=url,
        limits=LimitsConfig(),
        store=StoreConfig(operation_timeout_s=timeout_s),
        counters=counters,
    )


@pytest.fixture
async def store(server: StoreServer, counters: Counters) -> AsyncIterator[RedisStore]:
    store = await connect(server.url, counters)
    yield store
    await store.close()


async def refused(store: RedisStore) -> bool:
    """Whether a call, which fails, does so at once: it waits for nobody, however long for."""
    call = asyncio.ensure_future(store.ping())
    await turns()
    at_once = call.done()
    with pytest.raises(StoreUnavailable):
        await call
    return at_once


async def test_only_the_first_callers_wait_for_a_server_that_hangs(
    store: RedisStore, server: StoreServer, counters: Counters
) -> None:
    server.pause()
    waiting = [asyncio.ensure_future(store.ping()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting += [asyncio.ensure_future(store.ping()) for _ in range(5)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await turns()
    assert all(one.done() for one in waiting), "some wait for another answer"
    assert all(isinstance(one.exception(), StoreUnavailable) for one in waiting)
    assert all([await refused(store) for _ in range(50)])
    assert counters.store_circuit_open == 1
    assert counters.store_circuit_openings == 1
    server.resume()


async def test_the_circuit_closes_when_the_server_answers_again(
    store: RedisStore, server: StoreServer, counters: Counters
) -> None:
    server.pause()
    await refused(store)
    assert counters.store_circuit_open == 1
    server.resume()
    await wait_for_async(lambda: not counters.store_circuit_open, DEADLINE_S, "the circuit closes")
    await store.ping()
    assert counters.store_circuit_openings == 1


async def test_a_lost_connection_alone_opens_no_circuit(
    store: RedisStore, server: StoreServer, counters: Counters
) -> None:
    await store.ping()
    server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await refused(store)
    await store.ping()
    assert counters.store_circuit_openings == 0


async def test_a_store_that_is_closed_counts_no_open_circuit(
    store: RedisStore, server: StoreServer, counters: Counters
) -> None:
    server.pause()
    await refused(store)
    await store.close()
    assert counters.store_circuit_open == 0
    server.resume()


async def test_a_server_that_drops_every_call_is_tried_less_and_less(counters: Counters) -> None:
    dropping = False

    def answer(words: list[bytes]) -> bytes:
        return CLOSE if dropping and words[0] == b"EVALSHA" else usable(words)

    async with StoreStub(answer) as stub:
        store = await connect(f"redis://{stub.host}", counters)
        dropping = True
        waited = 0
        end = time.monotonic() + 1
        while time.monotonic() < end:
            waited += not await refused(store)
            await asyncio.sleep(0.01)
        # 1, 2 and 3 at once, then after pauses of 0.1 to 0.2, 0.2 to 0.4, 0.4 to 0.8 s …
        assert 4 <= stub.connection_count <= 8
        assert waited <= stub.connection_count
        dropping = False
        await wait_for_async(
            lambda: not counters.store_circuit_open, DEADLINE_S, "the circuit closes"
        )
        await store.ping()
        await store.close()


async def test_a_server_that_is_gone_is_tried_less_and_less(counters: Counters) -> None:
    async with StoreStub(usable) as stub:
        store = await connect(f"redis://{stub.host}", counters)
        await store.ping()
    # The port is closed now; a listener that counts takes its place.
    await refused(store)
    attempts = 0

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    await refused(store)
    host, port = stub.address
    listener = await asyncio.start_server(count, host, port)
    async with listener:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert await refused(store)
            await asyncio.sleep(0.01)
        assert 1 <= attempts <= 6
        await store.close()


async def test_operations_that_wait_when_the_server_is_lost_go_out_on_the_next_connection(
    counters: Counters,
) -> None:
    drop = False

    def answer(words: list[bytes]) -> bytes:
        nonlocal drop
        if drop and words[0] == b"EVALSHA":
            drop = False
            return CLOSE
        return usable(words)

    async with StoreStub(answer) as stub:
        store = await connect(f"redis://{stub.host}", counters)
        drop = True
        first = asyncio.ensure_future(store.ping())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asyncio.ensure_future(store.ping())
        with pytest.raises(StoreUnavailable):
            await first
        await second
        assert stub.connection_count == 2
        assert counters.store_circuit_openings == 0
        await store.close()
