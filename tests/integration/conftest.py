"""Fixtures of the tests that call a store: each kind of server, and a ``RedisStore`` on it.

A module that wants other servers or other settings has fixtures of these names of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from support.store_groups import KINDS, AnyStore, start_store
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.redis_store import RedisStore


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyStore]:
    """Each kind of server, for all tests of a module."""
    running = start_store(request.param, tmp_path_factory.mktemp("s"))
    yield running
    running.stop()


@pytest.fixture
async def store(server: AnyStore) -> AsyncIterator[RedisStore]:
    """A store with default settings on a server that has been emptied."""
    server.command("FLUSHALL")
    store = await RedisStore.connect(url=server.url, limits=LimitsConfig(), store=StoreConfig())
    yield store
    await store.close()
