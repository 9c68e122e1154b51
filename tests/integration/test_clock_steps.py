"""The wall clock of ``tidegate serve`` steps: nothing ends early, nothing late, and it is reported.

Inputs: a broker under libfaketime whose clock steps forward or back, on an embedded store that has
the same clock, or on one that has not; everything in it that ends by time. Observed: what clients
get, /readyz, /status, the metric and the log. Edges and routers of a cluster are in tests/cluster.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broker import StartBroker, Tidegate
from support.store_groups import start_store
from support.store_server import StoreServer
from support.timed_state import TimedState
from support.waiting import wait_for
from support.wall_clock import WallClock

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

LEASE_S = 2
REPORT_S = 10


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreServer]:
    """A store of its own, with the real clock."""
    running = start_store("valkey", tmp_path)
    assert isinstance(running, StoreServer)
    yield running
    running.stop()


def _place(broker: Tidegate) -> str:
    address = broker.address("tcp")
    return f"tcp://{address.host}:{address.port}"


def _get(broker: Tidegate, path: str) -> str:
    """The body of an answer with 200."""
    admin = broker.address("admin")
    with urllib.request.urlopen(f"http://{admin.host}:{admin.port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def _offset_s(broker: Tidegate) -> float:
    sample = re.search(
        r"^tidegate_clock_offset_seconds (.+)$", _get(broker, "/metrics"), re.MULTILINE
    )
    assert sample
    return float(sample[1])


def _expect_report(broker: Tidegate, step_s: int) -> None:
    """It is ready, and says everywhere how far its clock is off."""
    side = "ahead of" if step_s > 0 else "behind"
    text = f"wall clock {abs(step_s)} s {side} the broker's"
    wait_for(lambda: _get(broker, "/readyz").strip() == f"ready; {text}", REPORT_S, text)
    assert _offset_s(broker) == pytest.approx(step_s, abs=1)
    assert json.loads(_get(broker, "/status"))["clock"]["problem"] == text
    line = "wall clock is off, leases and expiry are not affected"
    wait_for(lambda: line in broker.stderr(), REPORT_S, "the warning")
    assert broker.stderr().count(line) == 1


def _expect_no_report(broker: Tidegate) -> None:
    wait_for(lambda: _get(broker, "/readyz").strip() == "ready", REPORT_S, "no report")
    assert _offset_s(broker) == pytest.approx(0, abs=1)
    line = "wall clock agrees with the broker's"
    wait_for(lambda: line in broker.stderr(), REPORT_S, "the log line")


@pytest.mark.parametrize("step_s", [30, -30, 3600, -3600])
@pytest.mark.statement("MQTT-3.1.2-8", "MQTT-3.3.2-5")
async def test_a_step_of_the_brokers_clock_ends_nothing(
    start_broker: StartBroker, store: StoreServer, clock: WallClock, step_s: int
) -> None:
    """The clock of the store's server stays."""
    settings = {"url": store.url, "edge_lease_s": LEASE_S}
    broker = start_broker(environment=clock.environment, store=settings)
    state = await TimedState.lay_out(_place(broker), _place(broker), "c")
    clock.step(step_s)
    await state.check()
    _expect_report(broker, step_s)
    clock.step(0)
    _expect_no_report(broker)


@pytest.mark.parametrize("step_s", [30, -30, 3600, -3600])
async def test_a_step_of_the_brokers_and_the_stores_clock_ends_nothing(
    start_broker: StartBroker, clock: WallClock, tmp_path: Path, step_s: int
) -> None:
    """The embedded server is a child of the broker: it has the same clock."""
    settings = {"data_dir": str(tmp_path / "data"), "edge_lease_s": LEASE_S}
    broker = start_broker(environment=clock.environment, store=settings)
    state = await TimedState.lay_out(_place(broker), _place(broker), "c")
    clock.step(step_s)
    await state.check()
    _expect_report(broker, step_s)
    clock.step(0)
    _expect_no_report(broker)


async def test_what_a_broker_has_stored_lasts_over_a_step_and_a_restart(
    start_broker: StartBroker, clock: WallClock, tmp_path: Path
) -> None:
    """The store keeps how far broker time is from its clock."""
    settings = {"data_dir": str(tmp_path / "data"), "edge_lease_s": LEASE_S}
    broker = start_broker(environment=clock.environment, store=settings)
    clock.step(3600)
    wait_for(lambda: "server has stepped" in broker.stderr(), REPORT_S, "the step is noticed")
    state = await TimedState.lay_out(_place(broker), _place(broker), "c")
    broker.restart(crash=True)
    await state.check_kept(b"lasting")
    assert _get(broker, "/readyz").strip() == "ready"


async def test_a_step_of_the_clock_of_a_whole_cluster_ends_nothing(
    start_broker: StartBroker, clock: WallClock, tmp_path: Path
) -> None:
    """Supervisor, edges, routers and store are on one machine; /readyz names each process."""
    listener = {"name": "tcp", "address": "127.0.0.1", "port": 0}
    broker = start_broker(
        environment=clock.environment,
        cluster={"edges": 2, "routers": 1},
        listeners=[listener],
        store={"data_dir": str(tmp_path / "data"), "edge_lease_s": LEASE_S},
    )
    state = await TimedState.lay_out(_place(broker), _place(broker), "c")
    clock.step(3600)
    await state.check()
    off = "wall clock 3600 s ahead of the broker's"
    text = f"ready; router-1: {off}; edge-1: {off}; edge-2: {off}"
    wait_for(lambda: _get(broker, "/readyz").strip() == text, REPORT_S, text)
