"""Two brokers with one store: the second waits for the end of the first one, or does not start.

Inputs: ``tidegate serve``, alone and with processes of its own, and routers, on the same server,
started, stopped, killed and paused. Output: who becomes ready, what the other one says, exit codes,
and that sessions go on with the second one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Node, ended
from support.mqtt_bytes import V5
from support.raw_client import RawClient
from support.store_groups import start_store
from support.store_server import StoreServer
from support.waiting import wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

#: A lease of three seconds, and a start.
DEADLINE_S = 20.0
#: What the broker that is waited for may take to stop; and its lease.
SHORT = {"drain": {"deadline_s": 0.5}, "shutdown_timeout_s": 0.5}
WAITS = "waiting until the store is free"
SERVED = "the store is used by another `tidegate serve`"
ROUTED = "the store is used by routers of a cluster"


class _Brokers:
    """Processes on one store."""

    def __init__(self, directory: Path, store: StoreServer) -> None:
        self._directory = directory
        self.store = store
        self.nodes: list[Node] = []

    def make(self, role: str, name: str, **more: Any) -> Node:
        directory = self._directory / name
        directory.mkdir()
        settings: dict[str, Any] = {
            "name": name,
            "store": {"url": self.store.url},
            "admin": {"port": 0},
        }
        if role == "serve":
            settings["auth"] = {"allow_anonymous": True}
            settings["listeners"] = [
                {"name": "tcp", "protocol": "tcp", "address": "127.0.0.1", "port": 0}
            ]
        else:
            settings["link"] = {"listen": f"unix:{self._directory}/{name}.sock"}
        node = Node(directory, role, name, settings | more)
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        for node in self.nodes:
            print(f"--- {node.name}\n{node.stderr()[-3000:]}")
            node.cleanup()
        self.store.stop()


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[_Brokers]:
    """Yield what makes processes on one store; all end with the test."""
    store = start_store("valkey", tmp_path)
    assert isinstance(store, StoreServer)
    running = _Brokers(tmp_path, store)
    yield running
    running.stop()


async def _until_it_says(node: Node, text: str) -> None:
    await wait_for_async(lambda: text in node.stderr(), DEADLINE_S, f"{node.name} says {text!r}")


async def _connect(node: Node, client_id: str, *, durable: bool = False) -> RawClient:
    host, port = node.mqtt
    client = await RawClient.open(f"tcp://{host}:{port}", version=V5)
    props = [("session_expiry", 300)] if durable else []
    await client.connect(client_id, clean=not durable, props=props)
    return client


async def _sleeping_session(node: Node) -> None:
    sleeper = await _connect(node, "sleeper", durable=True)
    await sleeper.subscribe(("t", 1))
    await sleeper.disconnect()
    publisher = await _connect(node, "publisher")
    await publisher.deliver("t", b"kept")


async def _session_is_resumed(node: Node) -> None:
    sleeper = await _connect(node, "sleeper", durable=True)
    assert sleeper.connack is not None
    assert sleeper.connack.session_present
    assert (await sleeper.expect("PUBLISH")).payload == b"kept"


async def test_a_second_broker_begins_when_the_first_one_has_stopped(brokers: _Brokers) -> None:
    """The overlap of a rolling update: nothing that was acknowledged is lost."""
    first, second = brokers.make("serve", "first"), brokers.make("serve", "second")
    await asyncio.to_thread(first.start)
    second.launch()
    await _until_it_says(second, WAITS)
    await _sleeping_session(first)
    assert await asyncio.to_thread(first.stop) == 0
    await asyncio.to_thread(second.wait_until_ready)
    assert second.stderr().count(SERVED) == 1
    await _session_is_resumed(second)


async def test_a_second_broker_begins_when_the_lease_of_a_killed_one_has_ended(
    brokers: _Brokers,
) -> None:
    first, second = brokers.make("serve", "first"), brokers.make("serve", "second")
    await asyncio.to_thread(first.start)
    await _sleeping_session(first)
    first.kill()
    await asyncio.to_thread(second.start)
    await _session_is_resumed(second)


@pytest.mark.parametrize("processes", [{}, {"cluster": {"edges": 1, "routers": 2}}])
async def test_a_second_broker_that_waits_too_long_ends_with_one_sentence(
    brokers: _Brokers, processes: dict[str, Any]
) -> None:
    first = brokers.make("serve", "first", **processes)
    await asyncio.to_thread(first.start)
    second = brokers.make("serve", "second", **SHORT, **processes)
    second.launch()
    assert await ended(second, DEADLINE_S) == 1
    said = second.stderr()
    assert f"tidegate: cannot start: {SERVED} (first." in said
    assert "Traceback" not in said
    # The first one has not been disturbed.
    client = await _connect(first, "client")
    await client.subscribe(("t", 1))
    await client.publish("t", b"own", qos=1)
    await client.expect_among("PUBLISH", payload=b"own")


async def test_a_broker_does_not_begin_beside_routers(brokers: _Brokers) -> None:
    router = brokers.make("router", "router")
    await asyncio.to_thread(router.start)
    broker = brokers.make("serve", "broker", **SHORT)
    broker.launch()
    assert await ended(broker, DEADLINE_S) == 1
    assert f"tidegate: cannot start: {ROUTED}" in broker.stderr()
    # Routers are one cluster.
    another = brokers.make("router", "another")
    await asyncio.to_thread(another.start)


async def test_routers_begin_when_a_broker_has_stopped(brokers: _Brokers) -> None:
    broker, router = brokers.make("serve", "broker"), brokers.make("router", "router")
    await asyncio.to_thread(broker.start)
    router.launch()
    await _until_it_says(router, SERVED)
    await asyncio.to_thread(broker.stop)
    await asyncio.to_thread(router.wait_until_ready)
    assert router.stderr().count(SERVED) == 1


async def test_a_broker_that_was_suspended_ends_when_another_one_has_the_store(
    brokers: _Brokers,
) -> None:
    first, second = brokers.make("serve", "first"), brokers.make("serve", "second")
    await asyncio.to_thread(first.start)
    first.pause()
    await asyncio.to_thread(second.start)
    first.resume()
    assert await ended(first, DEADLINE_S) == 1
    assert "store lost, exiting" in first.stderr()
    client = await _connect(second, "client")
    await client.expect_nothing()


async def test_a_broker_keeps_a_store_that_was_away_or_was_emptied(brokers: _Brokers) -> None:
    first = brokers.make("serve", "first")
    await asyncio.to_thread(first.start)
    brokers.store.kill()
    await asyncio.to_thread(brokers.store.start)
    brokers.store.command("FLUSHALL")
    await _until_it_says(first, "store has gone back")
    second = brokers.make("serve", "second", **SHORT)
    second.launch()
    assert await ended(second, DEADLINE_S) == 1
    assert first.running
