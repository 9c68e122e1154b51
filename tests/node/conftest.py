"""What the tests on a node share: the node, the operator and one broker that serves.

Inputs: what a user does with helm and kubectl, and what a cluster does to pods. Observed: what real
clients see at the address of the Service, and what Kubernetes and the status of the resource say.
Needs root; everything is in a network namespace of its own. What is made of a spec, and what the
operator says to an API server, is tested in tests/operator and tests/kube.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from support import console_page, node_clients
from support.kube import node as nodes
from support.kube import node_images
from support.kube.node import Node
from support.kube.node_product import SYSTEM, Broker, Operator, broker_spec, measured
from support.raw_client import RawClient

BROKERS = "brokers"

_running: list[Broker] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One node is for all: play what has nodes of its own first, what takes the product away last.

    There is one cluster at a time on a machine.
    """
    here = Path(__file__).parent
    turns = {
        here / "test_keeper.py": -2,
        here / "test_lost_node.py": -1,
        here / "test_uninstall.py": 1,
    }
    items.sort(key=lambda item: turns.get(item.path, 0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell how the broker is when a test fails."""
    report = yield
    if report.failed and item.path.parent == Path(__file__).parent:
        for broker in _running:
            report.sections.append(("the broker", broker.story()))
    return report


@pytest.fixture(scope="session")
def running() -> list[Broker]:
    """The brokers that a test which fails tells of."""
    return _running


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> BaseException | None:
    """The page of the console, made before the image is; why it could not be, if so."""
    if any("page" in getattr(item, "fixturenames", ()) for item in request.session.items):
        try:
            console_page.build()
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            return error
    return None


@pytest.fixture
def page(built: BaseException | None) -> None:
    """The image carries the page of the console; else skip by name (CI: fail)."""
    if built is not None:
        raise built


@pytest.fixture(scope="session")
def image(built: BaseException | None) -> node_images.Image:
    """The project's image."""
    nodes.programs()
    return node_images.ours()


@pytest.fixture(scope="session")
def fetched(request: pytest.FixtureRequest) -> BaseException | None:
    """What tests want of npm, fetched while there is a way to it; why there is none, if so."""
    if any("scripts" in getattr(item, "fixturenames", ()) for item in request.session.items):
        try:
            node_clients.installed()
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            return error
    return None


@pytest.fixture
def scripts(fetched: BaseException | None) -> None:
    """The JavaScript clients are there; else skip by name (CI: fail)."""
    if fetched is not None:
        raise fetched


@pytest.fixture(scope="session")
def node(image: node_images.Image, fetched: BaseException | None) -> Iterator[Node]:
    """A node; the tests are inside its network, from which no registry is reached."""
    with nodes.running([image]) as found:
        print(f"node: {found.times}")
        yield found


@pytest.fixture(scope="session")
def operator(node: Node, image: node_images.Image) -> Operator:
    """The operator, in a namespace that only takes restricted pods."""
    node.namespaced(SYSTEM)
    found = Operator(node, image)
    print(f"helm install --wait: {measured(found.install):.1f} s")
    return found


@pytest.fixture(scope="session")
def served(node: Node, operator: Operator) -> Iterator[Broker]:
    """A broker that is ready, with one edge and one router."""
    node.namespaced(BROKERS)
    found = Broker(node, BROKERS, "demo", broker_spec())
    _running.append(found)
    found.apply()
    found.ready_s = measured(found.wait_until_settled)
    print(f"Ready after {found.ready_s:.1f} s")
    yield found
    _running.remove(found)


@pytest.fixture
async def broker(served: Broker) -> AsyncIterator[Broker]:
    """The broker as it is at the beginning; what a test changes is changed back after it."""
    yield served
    await RawClient.reset_all()
    served.spec = broker_spec()
    served.apply()
    served.wait_until_settled()


@pytest.fixture
def kept_logs() -> Path:
    """Where the logs of a test that fails are kept."""
    directory = Path(tempfile.gettempdir()) / "tidegate-node-logs"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


@pytest.fixture
def seed() -> int:
    """The seed of everything random in this test: TIDEGATE_SEED, or a new one."""
    chosen = int(os.environ.get("TIDEGATE_SEED", random.randrange(10**6)))
    print(f"TIDEGATE_SEED={chosen}")
    return chosen
