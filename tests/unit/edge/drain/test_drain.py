"""Draining an edge: how fast, in which order, and until when; time is virtual.

Input: a real edge with fake channels and a fake router, a ``Drainer``. Output: when each client's
connection closes, what it was sent before, and what ``progress`` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V5, V311, Will
from support.virtual_time import run_virtual, turns
from tidegate.edge.drain.drain import Drainer
from tidegate.edge.drain.paced_disconnector import FLUSH_S, TICK_S
from tidegate.runtime.config.model import DrainConfig

SHUTTING_DOWN = 0x8B


class Drain:
    """A drain of a lone edge, and when each of its clients went."""

    def __init__(self, alone: LoneEdge, **settings: Any) -> None:
        self.alone = alone
        self.stopped_accepting_s: float | None = None
        self.drainer = Drainer(alone.edge, DrainConfig(**settings), self._stop_accepting)
        self.started_s = 0.0
        self.gone_s: dict[str, float] = {}

    async def _stop_accepting(self) -> None:
        self.stopped_accepting_s = self._since_start()

    def _since_start(self) -> float:
        return self.alone.edge.context.time_s() - self.started_s

    async def run(self) -> float:
        """Drain to the end; return how long that took."""
        self.started_s = self.alone.edge.context.time_s()
        before = set(self.alone.edge.clients)
        self.drainer.start("test")
        watching = asyncio.create_task(self.drainer.wait())
        while not watching.done():
            await asyncio.wait([watching], timeout=TICK_S / 4)
            for name in before - set(self.alone.edge.clients) - set(self.gone_s):
                self.gone_s[name] = self._since_start()
        return self._since_start()


def _scenario(play: Callable[[LoneEdge], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def scenario() -> None:
        async with LoneEdge(**settings) as alone:
            await play(alone)

    run_virtual(scenario())


async def _connect(alone: LoneEdge, count: int) -> list[EdgeClient]:
    return [await alone.connect(f"c{number:04}") for number in range(count)]


def test_the_rate_is_even_and_clients_are_disconnected_in_order_of_connecting() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 1000)
        drain = Drain(alone, rate=100)
        took_s = await drain.run()
        assert took_s == pytest.approx(10, abs=0.1)
        times = [drain.gone_s[name] for name in sorted(drain.gone_s)]
        assert times == sorted(times)
        for second in range(10):
            gone = sum(second <= when < second + 1 for when in times)
            assert gone == pytest.approx(100, abs=5)
        assert alone.counters.closed["server_shutting_down"] == 1000

    _scenario(play)


def test_a_refused_client_whose_session_is_on_its_way_is_waited_for() -> None:
    async def play(alone: LoneEdge) -> None:
        alone.router.reachable.clear()
        client = alone.accept()
        client.send(mqtt_bytes.connect("late", will=Will("state", b"offline")))
        await turns()
        drain = Drain(alone)
        running = asyncio.create_task(drain.run())
        await asyncio.sleep(3)
        assert not running.done()
        assert [packet.kind for packet in client.received()] == ["CONNACK"]
        alone.router.reachable.set()
        assert await running == pytest.approx(3, abs=0.2)
        assert [request.publish_will for request in alone.router.detached] == [False]

    _scenario(play)


def test_a_low_rate_is_kept_too() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 3)
        drain = Drain(alone, rate=0.5)
        assert await drain.run() == pytest.approx(4, abs=0.1)
        assert sorted(drain.gone_s.values()) == pytest.approx([0, 2, 4], abs=0.1)

    _scenario(play)


def test_ten_clients_are_gone_at_once() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 10)
        assert await Drain(alone).run() <= 2 * TICK_S

    _scenario(play)


def test_without_clients_nothing_is_waited_for() -> None:
    async def play(alone: LoneEdge) -> None:
        drain = Drain(alone)
        assert await drain.run() <= TICK_S
        assert drain.drainer.progress().is_done

    _scenario(play)


def test_the_deadline_makes_it_faster_than_the_rate_and_still_even() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 1000)
        drain = Drain(alone, rate=1, deadline_s=12)
        assert await drain.run() <= 12
        times = sorted(drain.gone_s.values())
        assert len(times) == 1000
        assert times[500] == pytest.approx(times[-1] / 2, rel=0.1)

    _scenario(play)


def test_clients_are_served_until_the_delay_is_over() -> None:
    async def play(alone: LoneEdge) -> None:
        (first,) = await _connect(alone, 1)
        drain = Drain(alone, delay_s=5)
        running = asyncio.create_task(drain.run())
        await asyncio.sleep(4.9)
        assert drain.drainer.is_draining
        assert drain.stopped_accepting_s is None
        late = await alone.connect("late")
        for client in (first, late):
            client.send(client.publish(1, qos=1))
            assert client.kinds() == ["PUBACK"]
        await running
        assert drain.stopped_accepting_s == pytest.approx(5, abs=TICK_S)
        assert drain.gone_s["c0000"] == pytest.approx(5, abs=TICK_S)
        assert late.kinds() == ["DISCONNECT"]

    _scenario(play)


@pytest.mark.parametrize(
    ("reason", "version", "code"),
    [
        ("server_shutting_down", V5, 0x8B),
        ("use_another_server", V5, 0x9C),
        ("use_another_server", V311, None),
    ],
)
def test_each_client_gets_the_reason_code(reason: str, version: int, code: int | None) -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c", version)
        await Drain(alone, reason=reason).run()
        assert [packet.reason for packet in client.received()] == ([code] if code else [])
        assert client.channel.is_closed

    _scenario(play)


def test_a_connection_that_has_not_been_accepted_is_refused() -> None:
    async def play(alone: LoneEdge) -> None:
        silent = alone.accept()
        alone.router.reachable.clear()
        asking = alone.accept()
        asking.send(mqtt_bytes.connect("asking"))
        old = alone.accept(V311)
        old.send(mqtt_bytes.connect("old", version=V311))
        await turns()
        await Drain(alone).run()
        assert silent.kinds() == []
        assert [packet.reason for packet in asking.received()] == [0x88]
        assert [packet.reason for packet in old.received()] == [3]
        assert all(one.channel.is_closed for one in (silent, asking, old))
        # A handshake that ends only now has come too late.
        late = alone.accept()
        late.send(mqtt_bytes.connect("late"))
        assert [packet.reason for packet in late.received()] == [0x88]
        assert alone.counters.refused["server_unavailable"] == 3
        alone.router.reachable.set()
        await turns()
        assert len(alone.router.detached) == 2  # sessions that began behind our back, and end

    _scenario(play)


# Acknowledgements


def test_acknowledgements_come_before_disconnect_and_nothing_new_is_read() -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c")
        alone.router.answers_late = True
        client.send(client.publish(1, qos=1), client.publish(2, qos=2))
        running = asyncio.create_task(Drain(alone).run())
        await asyncio.sleep(FLUSH_S / 2)
        assert client.channel.is_paused
        assert client.kinds() == []
        alone.router.answer()
        await running
        assert client.kinds() == ["PUBACK", "PUBREC", "DISCONNECT"]

    _scenario(play)


def test_packets_that_wait_for_their_turn_are_answered_first() -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c", V311)
        alone.router.answers_late = True
        client.send(*(client.publish(number, qos=1) for number in range(1, 4)))
        running = asyncio.create_task(Drain(alone).run())
        for _ in range(3):
            await asyncio.sleep(FLUSH_S / 10)
            alone.router.answer()
        await running
        assert client.kinds() == ["PUBACK"] * 3
        assert client.channel.is_closed
        assert len(alone.router.published) == 3

    _scenario(play, limits={"receive_maximum": 2})


def test_a_pubcomp_that_the_store_must_confirm_is_waited_for() -> None:
    async def play(alone: LoneEdge) -> None:
        alone.router.incarnation = 1
        client = await alone.connect("c", clean=False, props=[("session_expiry", 60)])
        client.send(client.publish(1, qos=2))
        assert client.kinds() == ["PUBREC"]
        alone.router.reachable.clear()
        client.send(mqtt_bytes.acknowledge("PUBREL", 1))
        await turns()
        running = asyncio.create_task(Drain(alone).run())
        await asyncio.sleep(FLUSH_S / 2)
        assert not client.channel.is_closed
        alone.router.reachable.set()
        await running
        assert client.kinds() == ["PUBCOMP", "DISCONNECT"]

    _scenario(play)


def test_what_cannot_be_answered_is_not_waited_for_long() -> None:
    async def play(alone: LoneEdge) -> None:
        alone.router.answers_late = True
        for client in await _connect(alone, 20):
            client.send(client.publish(1, qos=1))
        drain = Drain(alone, rate=100)
        assert await drain.run() == pytest.approx(FLUSH_S + 0.2, abs=0.1)

    _scenario(play)


def test_a_held_client_loses_what_had_not_been_taken_and_it_is_counted() -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c")
        alone.edge.pause_publishing()
        client.send(client.publish(1), client.publish(2, qos=1))
        await Drain(alone).run()
        assert client.kinds() == ["DISCONNECT"]
        assert alone.counters.dropped["disconnected"] == 1
        assert alone.counters.unaccounted() == 0

    _scenario(play)


# The end


def test_the_ends_of_the_sessions_are_waited_for() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 1)
        alone.router.reachable.clear()
        drain = Drain(alone)
        running = asyncio.create_task(drain.run())
        await asyncio.sleep(3)
        assert not alone.edge.clients
        assert not drain.drainer.progress().is_done
        alone.router.reachable.set()
        await running
        assert alone.router.detached

    _scenario(play)


def test_at_the_deadline_all_clients_are_disconnected() -> None:
    async def play(alone: LoneEdge) -> None:
        clients = await _connect(alone, 3)
        drain = Drain(alone, delay_s=600, deadline_s=2)
        assert await drain.run() == pytest.approx(2, abs=0.1)
        assert drain.stopped_accepting_s is not None
        assert all(client.kinds() == ["DISCONNECT"] for client in clients)

    _scenario(play)


def test_it_says_how_far_it_has_come() -> None:
    async def play(alone: LoneEdge) -> None:
        await _connect(alone, 10)
        drain = Drain(alone, rate=1)
        assert not drain.drainer.is_draining
        assert not drain.drainer.progress().is_draining
        assert alone.counters.draining == 0
        running = asyncio.create_task(drain.run())
        await asyncio.sleep(5.5)
        drain.drainer.start("again")
        progress = drain.drainer.progress()
        assert (progress.is_draining, progress.is_done) == (True, False)
        assert progress.reason == "test"
        assert progress.since_s > 0
        assert (progress.clients_at_start, progress.clients_left) == (10, 4)
        assert drain.drainer.not_ready_reason() == "draining: 4 clients left"
        assert alone.counters.draining == 1
        await running
        assert drain.drainer.progress().is_done
        assert drain.drainer.not_ready_reason() == "drained: waiting for termination"

    _scenario(play)
