"""paho-mqtt and MQTT.js with ordinary settings through a rolling restart, behind a load balancer.

Inputs: clients with keep alive 60 and their own automatic reconnect; SIGTERM and a new start of
each process in turn. Observed: how often each client lost its connection, and that it still gets
messages. The load balancer is a proxy that sends new connections to edges that say they are ready.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from support import processes
from support.cluster import Cluster, Node, ended
from support.faulting_proxy import FaultingProxy
from support.node_clients import installed
from support.paho_client import stop_loop
from support.tools import require
from support.waiting import wait_for_async

TOPIC = "stable/topic"
BACK_S = 20.0
STOP_S = 20.0
V311, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5


@dataclass(slots=True)
class Seen:
    """What one kind of clients saw, by client identifier."""

    online: set[str] = field(default_factory=set)
    losses: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


class Pahos:
    """paho-mqtt clients, each with its thread."""

    def __init__(self, count: int) -> None:
        self.seen = Seen()
        self.names = [f"paho-{number}" for number in range(count)]
        self._clients: list[paho.Client] = []

    def start(self, port: int) -> None:
        """Connect everybody."""
        for number, name in enumerate(self.names):
            version = V311 if number % 2 else V5
            session: dict[str, Any] = {"clean_session": False} if version == V311 else {}
            client = paho.Client(
                CallbackAPIVersion.VERSION2, client_id=name, protocol=version, **session
            )
            client.on_connect = self._connected
            client.on_disconnect = self._disconnected
            client.on_message = self._message
            client.user_data_set(name)
            client.connect_async("127.0.0.1", port, 60)
            client.loop_start()
            self._clients.append(client)

    def _connected(self, client: Any, name: Any, flags: Any, reason: Any, props: Any) -> None:
        if reason.is_failure:
            self.seen.errors.append(f"{name}: {reason}")
            return
        self.seen.online.add(name)
        client.subscribe(TOPIC, 1)

    def _disconnected(self, client: Any, name: Any, flags: Any, reason: Any, props: Any) -> None:
        if name in self.seen.online:
            self.seen.losses[name] += 1
            self.seen.online.discard(name)

    def _message(self, client: Any, name: Any, message: Any) -> None:
        self.seen.messages[name] += 1

    def stop(self) -> None:
        """End them."""
        for client in self._clients:
            client.disconnect()
            stop_loop(client)


class Scripts:
    """MQTT.js clients in one Node process."""

    def __init__(self, count: int) -> None:
        self.seen = Seen()
        self.names = [f"js-{number}" for number in range(count)]
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._output: Path | None = None

    def start(self, port: int, directory: Path) -> None:
        """Connect everybody."""
        job = {
            "url": f"mqtt://127.0.0.1:{port}",
            "prefix": "js",
            "versions": [5 - number % 2 for number in range(len(self.names))],
            "topic": TOPIC,
        }
        self._output = directory / "js.txt"
        with self._output.open("wb") as out:
            self._process = processes.start(
                [require("node"), "stable.mjs", json.dumps(job)],
                cwd=installed(),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
            )

    def read(self) -> None:
        """Take in what it has told since the last time."""
        assert self._output is not None
        lines = self._output.read_bytes().split(b"\n")[:-1]
        for line in lines[self._read :]:
            told = json.loads(line)
            name = told["name"]
            match told["event"]:
                case "connect":
                    self.seen.online.add(name)
                case "close" if name in self.seen.online:
                    self.seen.losses[name] += 1
                    self.seen.online.discard(name)
                case "message":
                    self.seen.messages[name] += 1
                case "error":
                    self.seen.errors.append(told["text"])
        self._read = len(lines)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(10)


class Harness:
    """A cluster behind a load balancer, and the clients."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.leaving: set[str] = set()
        self.pahos = Pahos(4)
        self.scripts = Scripts(4)
        self._directory = directory
        self._turn = 0
        self._balancer = FaultingProxy(self._next_edge)

    def _next_edge(self) -> tuple[str, int] | None:
        edges = [
            edge for edge in self.cluster.edges if edge.running and edge.name not in self.leaving
        ]
        self._turn += 1
        return edges[self._turn % len(edges)].mqtt if edges else None

    async def start(self) -> None:
        """Start the load balancer and the clients; return when all have subscribed."""
        await self._balancer.start()
        port = int(self._balancer.address.partition(":")[2])
        self.pahos.start(port)
        await asyncio.to_thread(self.scripts.start, port, self._directory)
        await self.everybody_gets_a_message()

    async def stop(self) -> None:
        """End them."""
        await asyncio.to_thread(self.pahos.stop)
        await asyncio.to_thread(self.scripts.stop)
        await self._balancer.stop()

    def losses(self) -> Counter[str]:
        """How often each client has lost its connection."""
        self.scripts.read()
        return self.pahos.seen.losses + self.scripts.seen.losses

    async def everybody_gets_a_message(self) -> None:
        """Wait until everybody is online and has received something that was sent just now."""
        names = {*self.pahos.names, *self.scripts.names}

        def back() -> bool:
            self.scripts.read()
            return names <= self.pahos.seen.online | self.scripts.seen.online

        await wait_for_async(back, BACK_S, "everybody online")
        before = self.pahos.seen.messages + self.scripts.seen.messages
        sender = paho.Client(CallbackAPIVersion.VERSION2, client_id="sender", protocol=V5)
        host, port = next(edge for edge in self.cluster.edges if edge.running).mqtt
        await asyncio.to_thread(sender.connect, host, port, 60)
        sender.loop_start()

        def heard() -> bool:
            self.scripts.read()
            sender.publish(TOPIC, b"are you there?", 1)
            now = self.pahos.seen.messages + self.scripts.seen.messages
            return all(now[name] > before[name] for name in names)

        try:
            await wait_for_async(heard, BACK_S, "a message at everybody")
        finally:
            sender.disconnect()
            await asyncio.to_thread(stop_loop, sender)


@pytest.fixture
async def harness(
    start_cluster: Callable[..., Awaitable[Cluster]], tmp_path: Path
) -> AsyncIterator[Harness]:
    cluster = await start_cluster()
    made = Harness(cluster, tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def _restart(harness: Harness, node: Node) -> Counter[str]:
    """Restart one process as a rolling update does; how often each client was lost by that."""
    before = harness.losses()
    harness.leaving.add(node.name)
    node.terminate()
    await ended(node, STOP_S)
    await asyncio.to_thread(node.start)
    await harness.cluster.until_ready()
    harness.leaving.discard(node.name)
    await harness.everybody_gets_a_message()
    return harness.losses() - before


@pytest.mark.timeout(180)
async def test_a_stable_client_reconnects_once_when_its_edge_restarts_and_never_for_a_router(
    harness: Harness,
) -> None:
    by_routers = {node.name: await _restart(harness, node) for node in harness.cluster.routers}
    by_edges = {node.name: await _restart(harness, node) for node in harness.cluster.edges}
    shown = {name: dict(lost) for name, lost in (by_routers | by_edges).items()}
    print(f"connections lost by restarts: {shown}")
    assert not any(by_routers.values()), f"a router's restart cost connections: {by_routers}"
    assert any(by_edges.values()), "nobody was on any edge"
    assert all(max(lost.values(), default=0) <= 1 for lost in by_edges.values()), by_edges
    # A write into a socket that the server is just closing is no error of the protocol.
    errors = [*harness.pahos.seen.errors, *harness.scripts.seen.errors]
    assert not [error for error in errors if "EPIPE" not in error and "ECONNRESET" not in error]
