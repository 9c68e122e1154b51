"""The store goes back under ``tidegate serve``: emptied, in part emptied, or with an older copy.

Input: real servers, which lose what they have while clients are connected. Output: how their
connections end, what the next CONNECT and SUBSCRIBE say, wills, counters. In a cluster of
processes: tests/cluster/test_rollbacks.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V31, V311, Property, Will
from support.raw_client import DEADLINE_S, RawClient
from support.store_groups import AnyStore, Cluster, Watched, start_store
from support.store_server import StoreServer, programs
from support.waiting import wait_for, wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DURABLE: list[Property] = [("session_expiry", 3600)]
#: The store's history is read each second.
NOTICE_S = 8.0
UNSPECIFIED = 0x80
WENT_BACK = "sessions of connected clients are lost"


@pytest.fixture(params=["valkey", "redis", "valkey-limited", "valkey-cluster"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStore]:
    """Run a store of each kind."""
    running = start_store(request.param, tmp_path)
    yield running
    running.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    """Run one server."""
    running = start_store("valkey", tmp_path)
    assert isinstance(running, StoreServer)
    yield running
    running.stop()


class _Served:
    """A broker on a store, and clients on it."""

    def __init__(self, start_broker: StartBroker, url: str) -> None:
        self.broker: Tidegate = start_broker(
            store={"url": url}, listeners=[{"name": "tcp", "port": 0}]
        )

    async def connect(
        self, client_id: str, version: int = V5, *, durable: bool = True, will: Will | None = None
    ) -> RawClient:
        address = self.broker.address("tcp")
        client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)
        props = DURABLE if version == V5 and durable else []
        await client.connect(client_id, clean=not durable, props=props, will=will)
        return client

    def _admin(self, path: str) -> str:
        address = self.broker.addresses["admin"]
        url = f"http://{address.host}:{address.port}{path}"
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as reply:
            text: str = reply.read().decode()
        return text

    def metric(self, name: str) -> float:
        found = re.search(f"^{re.escape(name)} (.*)$", self._admin("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def history(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._admin("/status"))["store_history"]
        return found

    async def reported(self, count: int) -> None:
        """It says so as often as it was: log, counter, /status."""
        await wait_for_async(
            lambda: self.history()["rollbacks"] >= count and self.history()["state"] == "current",
            NOTICE_S,
            "the store is found to have gone back",
        )
        assert self.history()["rollbacks"] == count
        assert self.metric("tidegate_store_rollbacks_total") == count
        assert self.broker.stderr().count(WENT_BACK) == count


async def _is_ended(client: RawClient) -> None:
    """The connection ends, with a reason that says why. [MQTT-4.1.0-1]"""
    last = await client.expect_closed(reasons=[UNSPECIFIED], timeout_s=NOTICE_S)
    if client.version == V5:
        assert last is not None
        assert "store has gone back" in str(last.get("reason_string"))


async def _begins_anew(served: _Served, client_id: str, version: int = V5) -> RawClient:
    client = await served.connect(client_id, version)
    assert client.connack is not None
    assert not client.connack.session_present
    assert (await client.subscribe(("t", 1))).codes == [1]
    return client


@pytest.mark.parametrize("version", [V31, V311, V5], ids=["3.1", "3.1.1", "5.0"])
async def test_an_emptied_store_ends_connections_and_nobody_stays_deaf(
    server: StoreServer, start_broker: StartBroker, version: int
) -> None:
    """Nothing is granted without effect, whether the client waits or acts. [MQTT-3.8.4-6]"""
    served = _Served(start_broker, server.url)
    waiting = await served.connect("waiting", version)
    await waiting.subscribe(("t", 1))
    clean = await served.connect("clean", version, durable=False)
    acting = await served.connect("acting", version)
    server.command("FLUSHALL")
    # Its SUBSCRIBE finds that the session is gone, before the next check.
    await acting.send(mqtt_bytes.subscribe(1, [("t", 1)], version=version))
    for client in (acting, waiting, clean):
        await _is_ended(client)
    waiting = await _begins_anew(served, "waiting", version)
    publisher = await served.connect("publisher", version, durable=False)
    await publisher.deliver("t", b"after")
    assert (await waiting.expect("PUBLISH")).payload == b"after"
    await served.reported(1)
    assert served.metric('tidegate_connections_closed_total{reason="session_lost"}') == 3.0


async def test_every_kind_of_store_may_be_emptied_again_and_again(
    store: AnyStore, start_broker: StartBroker
) -> None:
    """No CONNECT is refused because a number has not been reached yet."""
    served = _Served(start_broker, store.url)
    for count in (1, 2):
        clients = [await _begins_anew(served, f"c{number}") for number in range(5)]
        _empty(store)
        for client in clients:
            await _is_ended(client)
        await served.reported(count)
    last = await _begins_anew(served, "c0")
    await last.publish("t", b"own", qos=1)
    await last.expect_among("PUBLISH", payload=b"own")


def _empty(store: AnyStore) -> None:
    servers = store.masters if isinstance(store, Cluster) else [store]
    for server in servers:
        server.command("FLUSHALL")


async def test_wills_of_ended_connections_are_published(
    server: StoreServer, start_broker: StartBroker
) -> None:
    """The store has lost them; the connections end without DISCONNECT. [MQTT-3.1.2-8]"""
    served = _Served(start_broker, server.url)
    doomed = await served.connect("doomed", durable=False, will=Will("t", b"gone", qos=1))
    server.command("FLUSHALL")
    await _is_ended(doomed)
    await served.reported(1)
    assert served.metric("tidegate_wills_published_total") == 1


async def test_a_session_that_a_copy_has_goes_on_with_what_the_copy_has(
    server: StoreServer, start_broker: StartBroker
) -> None:
    served = _Served(start_broker, server.url)
    kept = await _begins_anew(served, "kept")
    publisher = await served.connect("publisher", durable=False)
    await kept.disconnect()
    for payload in (b"one", b"two"):
        await publisher.deliver("t", payload, qos=2)
    copy = await asyncio.to_thread(server.keep_copy)
    kept = await served.connect("kept")
    for payload in (b"one", b"two"):
        packet = await kept.expect("PUBLISH", payload=payload)
        await kept.acknowledge(packet)
    lost = await _begins_anew(served, "lost")
    await asyncio.to_thread(server.go_back, copy)
    for client in (kept, lost, publisher):
        await _is_ended(client)
    publisher = await served.connect("publisher", durable=False)
    await publisher.deliver("t", b"three", qos=2)
    kept = await served.connect("kept")
    assert kept.connack is not None
    assert kept.connack.session_present
    for payload in (b"one", b"two", b"three"):
        packet = await kept.expect("PUBLISH", payload=payload)
        await kept.acknowledge(packet)
    await _begins_anew(served, "lost")
    await served.reported(1)


async def test_a_store_that_restarts_with_all_it_had_ends_no_connection(
    server: StoreServer, start_broker: StartBroker
) -> None:
    served = _Served(start_broker, server.url)
    client = await _begins_anew(served, "client")
    server.kill()
    await asyncio.to_thread(server.start)
    await client.publish("t", b"own", qos=1)
    await client.expect_among("PUBLISH", payload=b"own")
    await client.expect("PUBACK")
    assert served.history()["rollbacks"] == 0
    await client.expect_nothing()


async def test_a_laggard_that_is_promoted_is_a_store_that_has_gone_back(
    tmp_path: Path, start_broker: StartBroker
) -> None:
    """A replica did not have the last seconds when the sentinels made it the master."""
    program = programs()["valkey"] or programs()["redis"]
    assert program is not None
    watched = Watched(program, tmp_path)
    await asyncio.to_thread(watched.start)
    try:
        served = _Served(start_broker, watched.url)
        kept = await _begins_anew(served, "kept")
        await asyncio.to_thread(wait_for, partial(_is_in_step, watched), DEADLINE_S, "replication")
        watched.replicas[0].pause()
        publisher = await served.connect("publisher", durable=False)
        for _ in range(30):  # more than sockets hold
            await publisher.deliver("t", bytes(500_000))
        lost = await _begins_anew(served, "lost")
        watched.master.kill()
        watched.replicas[0].resume()
        for client in (kept, lost, publisher):
            await _ends_in_the_end(client)
        kept = await served.connect("kept")
        assert kept.connack is not None
        assert kept.connack.session_present
        await _begins_anew(served, "lost")
        await served.reported(1)
    finally:
        watched.stop()


def _is_in_step(watched: Watched) -> bool:
    with watched.master.client() as client:
        facts = client.info("replication")
    return bool(facts["slave0"]["offset"] == facts["master_repl_offset"])


async def _ends_in_the_end(client: RawClient) -> None:
    """What had been delivered before comes first."""
    while (packet := await client.receive(3 * NOTICE_S)).kind == "PUBLISH":
        pass
    assert (packet.kind, packet.reason) == ("DISCONNECT", UNSPECIFIED)


async def test_the_loss_of_one_server_of_several_ends_the_connections_of_its_partitions(
    tmp_path: Path, start_broker: StartBroker
) -> None:
    """Clients of the others notice nothing."""
    store = start_store("valkey-cluster", tmp_path)
    try:
        assert isinstance(store, Cluster)
        served = _Served(start_broker, store.url)
        clients = {
            client_id: await _begins_anew(served, client_id)
            for client_id in (f"c{number}" for number in range(12))
        }
        flushed = store.masters[0]
        names = [f"{name}".encode() for name in clients]
        keys = flushed.key_names()
        hit = {name.decode() for name in names if any(key.endswith(b":s:" + name) for key in keys)}
        assert 0 < len(hit) < len(clients)
        flushed.command("FLUSHALL")
        for client_id in hit:
            await _is_ended(clients[client_id])
            clients[client_id] = await _begins_anew(served, client_id)
        await served.reported(1)
        # The publisher may have been one of them.
        publisher = await served.connect("publisher", durable=False)
        await publisher.deliver("t", b"after")
        for client in clients.values():
            await client.expect_among("PUBLISH", payload=b"after")
    finally:
        store.stop()
