"""When bytes of connections without CONNACK are handled: how much at once, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from tidegate.edge.transport.unfinished_work import SHARE, TURN_S, UnfinishedWork


class Clock:
    """Seconds that pass when somebody works."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Costly:
    """A connection whose bytes take time to handle."""

    def __init__(self, name: str, clock: Clock, done: list[str], cost_s: float) -> None:
        self._name, self._clock, self._done, self._cost_s = name, clock, done, cost_s

    def resume_work(self) -> None:
        self._done.append(self._name)
        self._clock.now_s += self._cost_s


class Bed:
    """Work with a clock of its own, and what was done in each turn of the event loop."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.work = UnfinishedWork(self.clock)
        self.done: list[str] = []

    def wait(self, name: str, cost_s: float = TURN_S / 4) -> None:
        self.work.wait(Costly(name, self.clock, self.done, cost_s), name[0])

    async def turn(self) -> list[str]:
        """What one turn does."""
        self.done.clear()
        await asyncio.sleep(0)
        return list(self.done)


def test_what_costs_little_is_handled_at_once() -> None:
    bed = Bed()
    for _ in range(1000):
        bed.clock.now_s += 0.000_3
        assert bed.work.begin()
        bed.clock.now_s += 0.000_1
        bed.work.end()
    assert bed.work.waited == 0


def test_no_more_than_the_time_of_a_turn_is_spent_at_once() -> None:
    """The first-come connections of one turn must not take what the turn may last."""
    bed = Bed()
    began = 0
    while bed.work.begin():
        began += 1
        bed.clock.now_s += TURN_S / 4
        bed.work.end()
    assert began == 4
    bed.clock.now_s += TURN_S / 8 / SHARE
    assert bed.work.begin()


async def test_a_turn_handles_what_its_time_allows_and_the_next_goes_on() -> None:
    bed = Bed()
    for number in range(10):
        bed.wait(f"a{number}")
    assert await bed.turn() == ["a0", "a1", "a2", "a3"]
    assert await bed.turn() == ["a4", "a5", "a6", "a7"]
    assert await bed.turn() == ["a8", "a9"]
    assert await bed.turn() == []
    assert len(bed.work) == 0
    assert bed.work.waited == 10


async def test_each_turn_handles_one_at_least() -> None:
    bed = Bed()
    bed.wait("a0", TURN_S * 10)
    bed.wait("a1", TURN_S * 10)
    assert await bed.turn() == ["a0"]
    assert await bed.turn() == ["a1"]


async def test_addresses_take_turns() -> None:
    """One connection of b is before all of a's but the first, however many those are."""
    bed = Bed()
    for number in range(6):
        bed.wait(f"a{number}")
    bed.wait("b0")
    bed.wait("c0")
    assert await bed.turn() == ["a0", "b0", "c0", "a1"]


async def test_nothing_goes_before_what_waits() -> None:
    bed = Bed()
    bed.wait("a0")
    bed.clock.now_s += 10
    assert not bed.work.begin()
    await bed.turn()
    bed.clock.now_s += 10
    assert bed.work.begin()


async def test_what_belongs_to_a_piece_of_work_is_handled_with_it() -> None:
    """A CONNECT comes in the last bytes of a TLS handshake, at once or in its turn."""
    bed = Bed()
    assert bed.work.begin()
    assert bed.work.begin()
    bed.clock.now_s += 2 * TURN_S
    bed.work.end()
    assert bed.work.begin()
    bed.work.end()
    bed.work.end()
    assert not bed.work.begin()

    began: list[bool] = []

    class Nested:
        def resume_work(self) -> None:
            began.append(bed.work.begin())
            bed.work.end()

    bed.work.wait(Nested(), "a")
    bed.wait("b0")
    await bed.turn()
    assert began == [True]


async def test_a_connection_that_raises_stops_no_other() -> None:
    bed = Bed()
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: raised.append(context))

    class Broken:
        def resume_work(self) -> None:
            raise RuntimeError

    bed.work.wait(Broken(), "a")
    bed.wait("b0")
    await bed.turn()
    assert await bed.turn() == ["b0"]
    assert len(raised) == 1


@pytest.mark.parametrize("idle_s", [1.0, 3600.0])
def test_idle_time_is_not_saved_up(idle_s: float) -> None:
    bed = Bed()
    bed.clock.now_s += idle_s
    assert bed.work.begin()
    bed.clock.now_s += 2 * TURN_S
    bed.work.end()
    assert not bed.work.begin()
