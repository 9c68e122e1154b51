"""What the cluster's tests share: a cluster of the test's own processes, and its story on failure.

Inputs: real processes that are killed, paused and cut off; clients of ``support.load``. Observed:
what the clients see, judged by ``support.history_check``. The broker's parts by themselves are
tested elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from support.cluster import Cluster, Node, Store
from support.cluster_clients import ClusterClients, settled
from support.raw_client import RawClient

#: Try the tests themselves on one process that is edge and router at once.
SOLO = bool(os.environ.get("TIDEGATE_SOLO"))

_running: list[Cluster] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the processes' logs of a failed test, and say where."""
    report = yield
    if report.failed:
        for cluster in _running:
            kept = cluster.keep_logs()
            report.sections.append(("logs of the cluster's processes", str(kept)))
            for node in cluster.nodes:
                report.sections.append((f"stderr of {node.name}", node.stderr()[-3000:]))
    return report


class StartCluster(Protocol):
    """Start a cluster of this test's own."""

    async def __call__(self, **layout: Any) -> Cluster:
        """Return it once every process is ready; arguments as of ``Cluster``."""


@pytest.fixture
async def start_cluster() -> AsyncIterator[StartCluster]:
    """Yield a function that starts clusters; all end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**layout: Any) -> Cluster:
            # Short, because the path of a Unix socket has about a hundred bytes.
            name = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tgc-", ignore_cleanup_errors=True)
            )
            cluster = Cluster(Path(name).resolve(), **{"solo": SOLO} | layout)
            _running.append(cluster)
            stack.callback(_running.remove, cluster)
            stack.push_async_callback(cluster.stop)
            await cluster.start()
            return cluster

        yield start
        await RawClient.reset_all()


@pytest.fixture(scope="session")
def steady_cluster() -> Iterator[Cluster]:
    """Yield one cluster for all tests that leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="tgc-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name).resolve(), solo=SOLO, store={"operation_timeout_s": 2})
        _running.append(cluster)
        try:
            _in_a_thread(cluster.start())
            yield cluster
        finally:
            _running.remove(cluster)
            _in_a_thread(cluster.stop())


def _in_a_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own: a fixture of the session has none."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@pytest.fixture
async def cluster_clients(steady_cluster: Cluster) -> AsyncIterator[ClusterClients]:
    """Yield raw clients on the shared cluster; what the test breaks there is mended after it."""
    yield ClusterClients(steady_cluster)
    await RawClient.reset_all()
    await steady_cluster.heal()
    await steady_cluster.until_ready()
    parts: list[Node | Store] = [*steady_cluster.nodes, steady_cluster.store]
    hung = [part for part in parts if part.was_paused]
    if hung:
        # Whoever hung for longer than a lease has sessions to give up.
        await settled(steady_cluster)
        for part in hung:
            part.was_paused = False
    await RawClient.reset_all()


@pytest.fixture
def seed() -> int:
    """The seed of everything random in this test: TIDEGATE_SEED, or a new one."""
    chosen = int(os.environ.get("TIDEGATE_SEED", random.randrange(10**6)))
    print(f"TIDEGATE_SEED={chosen}")
    return chosen
