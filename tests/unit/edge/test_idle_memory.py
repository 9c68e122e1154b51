"""What one idle connection takes in Python's heap: objects that are its own, by size.

Transport, channel, client and all that only they refer to are counted, on the event loop that runs
in production, so that neither other tests nor the allocator have a part in it. The kernel's part
and libuv's (0.3 KiB) are not in it, nor places in the tables of all connections (0.1 KiB). Which
one-line fault would this find? A packet that is kept, or a container that is made for a connection
which may never need it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter, deque
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, Final

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.mqtt_bytes import V5, V311
from support.virtual_time import turns
from tidegate.edge.client.client import NO_SUBSCRIPTIONS, Client
from tidegate.edge.client.delivery import Delivery
from tidegate.edge.client.publish import PublishReceiver
from tidegate.edge.transport.listeners import Listeners
from tidegate.mqtt.packets import Connect, Properties
from tidegate.runtime.process import event_loop

#: Bytes, rounded up as the allocator does. The interpreted build takes 80 less. An address that no
#: other connection has is 64 more.
TCP_BYTES: Final = 1_776
WEBSOCKET_BYTES: Final = 1_984
#: A client that has subscribed and published with QoS 1 takes so much more.
USED_BYTES: Final = 1_800

_CONTAINERS: Final = (dict, list, set, deque, bytearray)
_REQUEST: Final = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\nCookie: a=%b\r\n\r\n" % bytes(1000).replace(b"\0", b"x")
)


def _frame(payload: bytes) -> bytes:
    """A masked binary frame; the mask is zero."""
    assert len(payload) < 126
    return bytes((0x82, 0x80 | len(payload), 0, 0, 0, 0)) + payload


class _Idle:
    """An edge with a listener, and clients that are connected to it."""

    def __init__(self, protocol: str) -> None:
        self._wrap: Callable[[bytes], bytes] = _frame if protocol == "ws" else bytes
        self._protocol = protocol
        self._alone = LoneEdge(listeners=[{"protocol": protocol, "port": 0}])
        self._listeners = Listeners(self._alone.config.listeners, self._alone.edge.handler_factory)
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, client_id: str, version: int) -> Client:
        """Return a client that has its CONNACK, as the edge has it."""
        (addresses,) = self._listeners.addresses.values()
        host, _, port = addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        self._writers.append(writer)
        if self._protocol == "ws":
            writer.write(_REQUEST)
            await reader.readuntil(b"\r\n\r\n")
        await self.exchange(reader, writer, mqtt_bytes.connect(client_id, version=version))
        self.streams = reader, writer
        await turns()
        return self._alone.edge.clients[client_id]

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, packet: bytes
    ) -> None:
        """Send a packet, and take what comes back."""
        writer.write(self._wrap(packet))
        assert await reader.read(1000)

    def own(self, client: Client, other: Client) -> list[object]:
        """Return the objects of a client's connection that another one does not have as well."""
        edge, listener = self._alone.edge, self._listeners.all_listeners[0]
        shared = (edge, edge.context, edge.registry, listener, listener.config, listener.loop)
        others = _reachable(other.channel, shared)
        mine = _reachable(client.channel, (*shared, *others.values()))
        return list(mine.values())

    async def __aenter__(self) -> _Idle:
        await self._alone.__aenter__()
        await self._listeners.start()
        return self

    async def __aexit__(self, *arguments: object) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await turns()
        await self._listeners.close(0.0)
        await self._alone.__aexit__()


def _reachable(root: object, stop: tuple[object, ...]) -> dict[int, object]:
    """Return by identity what an object refers to, directly or not, without passing ``stop``."""
    found: dict[int, object] = {}
    ignored = {id(one) for one in stop}
    queue = deque([root])
    while queue:
        one = queue.popleft()
        if id(one) in found or id(one) in ignored:
            continue
        if isinstance(one, type | ModuleType | FunctionType):
            continue
        found[id(one)] = one
        queue.extend(gc.get_referents(one))
    return found


def _size(objects: list[object]) -> int:
    return sum((sys.getsizeof(one) + 15) // 16 * 16 for one in objects)


def _table(objects: list[object]) -> str:
    """What takes how much, for the message of a test that fails."""
    sizes: Counter[str] = Counter()
    for one in objects:
        sizes[type(one).__name__] += _size([one])
    return "\n".join(f"{size:6} {name}" for name, size in sizes.most_common())


def _run(work: Callable[[_Idle], Any], protocol: str) -> None:
    async def main() -> None:
        async with _Idle(protocol) as idle:
            await work(idle)

    event_loop.run(main())


@pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5.0"])
@pytest.mark.parametrize(("protocol", "most"), [("tcp", TCP_BYTES), ("ws", WEBSOCKET_BYTES)])
def test_an_idle_connection_takes_little(protocol: str, most: int, version: int) -> None:
    async def work(idle: _Idle) -> None:
        other = await idle.connect("device-0000001", version)
        client = await idle.connect("device-0000002", version)
        objects = idle.own(client, other)
        assert client in objects, "the walk has come to the client"
        assert _size(objects) <= most, _table(objects)
        kept = [one for one in objects if isinstance(one, Connect | Properties)]
        assert not kept, "of CONNECT only the will is needed"
        ours = [one for one in objects if type(one).__module__.startswith("tidegate.")]
        parts = {id(part) for one in ours for part in gc.get_referents(one)}
        empty = [one for one in objects if isinstance(one, _CONTAINERS) and not one]
        assert not [one for one in empty if id(one) in parts], "containers that nothing is in"
        assert not any(isinstance(one, Delivery | PublishReceiver) for one in objects)

    _run(work, protocol)


def test_connections_from_one_address_share_it() -> None:
    async def work(idle: _Idle) -> None:
        other = await idle.connect("device-0000001", V5)
        client = await idle.connect("device-0000002", V5)
        assert client.channel.peer.address is other.channel.peer.address

    _run(work, "tcp")


def test_a_client_that_is_used_takes_what_it_needs() -> None:
    async def work(idle: _Idle) -> None:
        other = await idle.connect("device-0000001", V5)
        client = await idle.connect("device-0000002", V5)
        before = _size(idle.own(client, other))
        await idle.exchange(*idle.streams, mqtt_bytes.subscribe(1, [("t", 1)]))
        await idle.exchange(*idle.streams, mqtt_bytes.publish("u", b"x", qos=1, packet_id=1))
        await turns()
        objects = idle.own(client, other)
        assert len(client.subscriptions) == 1
        assert not NO_SUBSCRIPTIONS, "clients without subscriptions share it"
        assert any(isinstance(one, Delivery) for one in objects)
        assert any(isinstance(one, PublishReceiver) for one in objects)
        assert _size(objects) - before <= USED_BYTES, _table(objects)

    _run(work, "tcp")
