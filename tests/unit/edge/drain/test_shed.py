"""Shedding clients of an edge: which, how fast, what they are sent; time is virtual.

Input: a real edge with fake channels and a fake router, a ``Shedder``. Output: whose connection
closes when, what they were sent before, and what is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V5, V311
from support.virtual_time import run_virtual
from tidegate.edge.drain.drain import Drainer
from tidegate.edge.drain.paced_disconnector import FLUSH_S, TICK_S
from tidegate.edge.drain.shed import Shedder
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.config.model import DrainConfig

USE_ANOTHER_SERVER = 0x9C


class Shed:
    """A lone edge with what sheds its clients."""

    def __init__(self, alone: LoneEdge, **settings: Any) -> None:
        self.alone = alone
        self.drainer = Drainer(alone.edge, DrainConfig(**settings), self._stop_accepting)
        self.shedder = Shedder(alone.edge, self.drainer)

    async def _stop_accepting(self) -> None:
        """There are no sockets."""

    async def run(self, count: int) -> float:
        """Shed, and return how long it took."""
        began_s = self.alone.edge.context.time_s()
        assert self.shedder.start(count) is not None
        while self.shedder.remaining:
            await asyncio.sleep(TICK_S / 4)
        return self.alone.edge.context.time_s() - began_s


def _scenario(play: Callable[[LoneEdge], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def scenario() -> None:
        async with LoneEdge(**settings) as alone:
            await play(alone)

    run_virtual(scenario())


async def _connect(alone: LoneEdge, count: int, version: int = V5) -> list[EdgeClient]:
    return [await alone.connect(f"c{number:04}", version) for number in range(count)]


def test_as_many_go_as_were_asked_for_at_the_rate_of_a_drain() -> None:
    async def play(alone: LoneEdge) -> None:
        clients = await _connect(alone, 100)
        shed = Shed(alone, rate=10)
        assert await shed.run(30) == pytest.approx(3, abs=0.2)
        gone = [client for client in clients if client.channel.is_closed]
        assert len(gone) == 30
        assert len(alone.edge.clients) == 70
        for client in gone:
            assert [packet.reason for packet in client.received()] == [USE_ANOTHER_SERVER]
        assert alone.counters.closed["shed"] == 30
        assert alone.counters.closed["use_another_server"] == 0

    _scenario(play)


def test_clients_are_chosen_at_random() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 200)
        names = sorted(alone.edge.clients)
        await Shed(alone, rate=100_000).run(100)
        left = sorted(alone.edge.clients)
        assert left not in (names[:100], names[100:])

    _scenario(play)


def test_older_clients_see_only_the_end() -> None:
    async def play(alone: LoneEdge) -> None:
        (client,) = await _connect(alone, 1, V311)
        await Shed(alone).run(1)
        assert client.kinds() == []
        assert client.channel.is_closed
        assert alone.counters.closed["shed"] == 1

    _scenario(play)


def test_there_are_no_more_to_shed_than_there_are() -> None:
    async def play(alone: LoneEdge) -> None:
        shed = Shed(alone)
        assert shed.shedder.start(5) == 0
        await _connect(alone, 3)
        assert shed.shedder.start(5) == 3
        assert shed.shedder.remaining == 3

    _scenario(play)


def test_acknowledgements_come_before_disconnect_and_nothing_new_is_read() -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c")
        alone.router.answers_late = True
        client.send(client.publish(1, qos=1), client.publish(2, qos=2))
        running = asyncio.create_task(Shed(alone).run(1))
        await asyncio.sleep(FLUSH_S / 2)
        assert client.channel.is_paused
        assert client.kinds() == []
        alone.router.answer()
        await running
        assert client.kinds() == ["PUBACK", "PUBREC", "DISCONNECT"]

    _scenario(play)


def test_what_cannot_be_answered_is_not_waited_for_long() -> None:
    async def play(alone: LoneEdge) -> None:
        alone.router.answers_late = True
        (client,) = await _connect(alone, 1)
        client.send(client.publish(1, qos=1))
        assert await Shed(alone).run(1) == pytest.approx(FLUSH_S, abs=0.1)

    _scenario(play)


def test_a_second_call_replaces_what_is_left_of_the_first() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 100)
        shed = Shed(alone, rate=10)
        shed.shedder.start(50)
        await asyncio.sleep(2.01)
        gone = 100 - len(alone.edge.clients)
        assert gone == pytest.approx(20, abs=2)
        assert shed.shedder.start(10) == 10
        await shed.run(0)
        assert len(alone.edge.clients) == 100 - gone
        await shed.run(5)
        assert len(alone.edge.clients) == 100 - gone - 5

    _scenario(play)


def test_selected_clients_are_not_chosen_again() -> None:
    async def play(alone: LoneEdge) -> None:
        alone.router.answers_late = True
        slow, _ = await _connect(alone, 2)
        slow.send(slow.publish(1, qos=1))
        shed = Shed(alone)
        shed.shedder.start(2)
        await asyncio.sleep(FLUSH_S / 2)
        assert shed.shedder.remaining == 1
        assert shed.shedder.start(2) == 0
        assert shed.shedder.remaining == 1

    _scenario(play)


def test_clients_that_go_by_themselves_are_not_replaced() -> None:
    async def play(alone: LoneEdge) -> None:
        clients = await _connect(alone, 10)
        shed = Shed(alone, rate=1)
        shed.shedder.start(10)
        await asyncio.sleep(1.5)
        for client in clients:
            client.client.shut_down(ReasonCode.SERVER_SHUTTING_DOWN)
        await asyncio.sleep(2 * TICK_S)
        assert shed.shedder.remaining == 0

    _scenario(play)


def test_a_draining_edge_refuses_to_shed_and_a_drain_ends_shedding() -> None:
    async def play(alone: LoneEdge) -> None:
        alone.router.answers_late = True
        clients = await _connect(alone, 10)
        clients[0].send(clients[0].publish(1, qos=1))
        shed = Shed(alone, rate=1000)
        shed.shedder.start(10)
        await asyncio.sleep(3 * TICK_S)
        assert len(alone.edge.clients) == 1
        shed.drainer.start("test")
        assert shed.shedder.start(1) is None
        await shed.drainer.wait()
        assert shed.shedder.remaining == 0
        assert alone.counters.closed["shed"] == 9
        assert alone.counters.closed["server_shutting_down"] == 1

    _scenario(play)


def test_a_client_that_was_shed_may_come_back() -> None:
    async def play(alone: LoneEdge) -> None:
        await alone.connect("c")
        await Shed(alone).run(1)
        again = await alone.connect("c")
        assert not again.channel.is_closed

    _scenario(play)
