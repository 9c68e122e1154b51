"""An ended connection is free at once: nothing of it waits for the garbage collector.

Which one-line fault would this find? Any reference between the parts of a client that is left when
it ends, in any of the ways a connection ends, and any cache that still has it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V5, V311
from support.virtual_time import turns
from tidegate.core.window import DurableFeed, MemoryQueue, Window
from tidegate.edge.client.client import Client
from tidegate.edge.client.delivery import Delivery, Outgoing
from tidegate.edge.client.packet_queue import PacketQueue
from tidegate.edge.client.publish import PublishReceiver
from tidegate.edge.client.retained_replay import RetainedReplay
from tidegate.mqtt.connection import ServerConnection
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish

_OF_A_CONNECTION = (
    Client,
    PacketQueue,
    ServerConnection,
    PublishReceiver,
    Delivery,
    Window,
    MemoryQueue,
    DurableFeed,
    Outgoing,
    Publish,
    RetainedReplay,
)

End = Callable[[LoneEdge, EdgeClient], None]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Nothing is collected during a test; what was there before it is not looked at."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def _left() -> list[str]:
    """The names of the types of all objects of connections that are there."""
    return sorted(type(one).__name__ for one in gc.get_objects() if type(one) in _OF_A_CONNECTION)


def _forget(alone: LoneEdge) -> None:
    """Have the fake router forget what it has written down."""
    for written in (alone.router.attached, alone.router.detached, alone.router.published):
        written.clear()


def _lost(_alone: LoneEdge, client: EdgeClient) -> None:
    client.lose("reset")


def _disconnect(_alone: LoneEdge, client: EdgeClient) -> None:
    client.send(mqtt_bytes.disconnect())
    client.lose("local_close")


def _kicked(alone: LoneEdge, client: EdgeClient) -> None:
    alone.edge.kick("c", 0, ReasonCode.SESSION_TAKEN_OVER)
    client.lose("local_close")


def _silent(_alone: LoneEdge, client: EdgeClient) -> None:
    client.client.keep_alive_ended()
    client.lose("local_close")


def _reserved_type(_alone: LoneEdge, client: EdgeClient) -> None:
    client.send(b"\x00\x00")
    client.lose("local_close")


def _bad_text(_alone: LoneEdge, client: EdgeClient) -> None:
    client.send(b"\x30\x06\x00\x02\xff\xfe\x00x")  # the exception has another one behind it
    client.lose("local_close")


def _not_allowed(_alone: LoneEdge, client: EdgeClient) -> None:
    client.send(mqtt_bytes.connect("c", version=client.version))
    client.lose("local_close")


def _server_stops(_alone: LoneEdge, client: EdgeClient) -> None:
    client.client.shut_down(ReasonCode.SERVER_SHUTTING_DOWN)
    client.lose("local_close")


_ENDS = [
    _lost,
    _disconnect,
    _kicked,
    _silent,
    _reserved_type,
    _bad_text,
    _not_allowed,
    _server_stops,
]


@pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5.0"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("end", _ENDS)
async def test_an_ended_client_is_free_with_all_that_waited_for_it(
    end: End, qos: int, version: int
) -> None:
    async with LoneEdge(limits={"max_in_flight": 2}) as alone:
        before = _left()
        client = await alone.connect("c", version)
        client.send(mqtt_bytes.subscribe(1, [("t/+", qos)], version=version))
        client.send(client.publish(1, qos))
        await turns()
        client.client.pause_writing()
        for number in range(5):
            alone.edge.deliver(Publish(f"t/{number % 2}", b"x" * 1000, qos), "publisher")
        assert "Window" in _left()
        end(alone, client)
        assert client.client.is_closed
        del client
        await turns()
        _forget(alone)
        assert _left() == before
        assert alone.counters.unaccounted() == 0


async def test_a_durable_session_leaves_nothing_that_was_pushed_or_is_being_read() -> None:
    async with LoneEdge() as alone:
        before = _left()
        alone.router.incarnation = 1
        client = await alone.connect("c", clean=False)
        client.send(mqtt_bytes.subscribe(1, [("t", 1)]))
        await turns()
        alone.router.reachable.clear()
        for seq in (2, 3, 4):  # the first one is missing: the queue is read, these are kept
            alone.edge.push("c", 1, seq, Publish("t", b"x", 1))
            await turns()
        assert "Publish" in _left()
        client.lose()
        del client
        await turns()
        assert "Publish" not in _left(), "while the store does not answer"
        alone.router.reachable.set()
        await turns()
        _forget(alone)
        assert _left() == before


async def test_what_the_router_answers_late_finds_nothing_and_leaves_nothing() -> None:
    async with LoneEdge() as alone:
        before = _left()
        alone.router.answers_late = True
        client = await alone.connect("c")
        client.send(*[client.publish(number, 1) for number in (1, 2, 3)])
        client.send(mqtt_bytes.subscribe(9, [("t", 1)]))
        await turns()
        client.lose()
        await turns()
        del client
        alone.router.answer()
        await turns()
        _forget(alone)
        assert _left() == before


@pytest.mark.parametrize("is_durable", [False, True])
async def test_a_subscribe_that_is_under_way_leaves_nothing(is_durable: bool) -> None:
    async with LoneEdge() as alone:
        before = _left()
        alone.router.incarnation = int(is_durable)
        client = await alone.connect("c", clean=not is_durable)
        alone.router.readable.clear()
        client.send(mqtt_bytes.subscribe(1, [("t/#", 1), ("$share/g/t", 1)]))
        await turns()
        client.lose()
        del client
        alone.router.readable.set()
        await turns()
        _forget(alone)
        assert _left() == before


async def test_a_connection_that_was_refused_or_never_connected_leaves_nothing() -> None:
    async with LoneEdge(auth={"allow_anonymous": False}) as alone:
        before = _left()
        for data in (mqtt_bytes.connect("c"), b"", b"\x10", b"GET / HTTP/1.1\r\n"):
            client = alone.accept()
            if data:
                client.send(data)
            await turns()
            client.lose()
            del client
        await turns()
        assert _left() == before
