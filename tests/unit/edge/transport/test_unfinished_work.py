"""When bytes of connections without CONNACK are handled: how much at once, and in which order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from tidegate.edge.transport.connect_outcomes import LEAST_FAILURES
from tidegate.edge.transport.unfinished_work import (
    LEAST_PAUSE_S,
    LONG_TURN_S,
    LONGEST_PAUSE_S,
    PACED_CONNECTIONS,
    PACED_SHARE,
    SHARE,
    TURN_S,
    UnfinishedWork,
)


class Clock:
    """Seconds that pass when somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0

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
        #: Whether clients are to be sent something, as often as it is looked at.
        self.has_unsent = False
        self.work = UnfinishedWork(self.clock, lambda: self.has_unsent)
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


async def test_what_clients_are_to_be_sent_goes_out_before() -> None:
    """Transports send at the end of a turn: its replies must not wait for a handshake."""
    bed = Bed()
    bed.wait("a0")
    bed.has_unsent = True
    assert await bed.turn() == []
    bed.has_unsent = False
    assert await bed.turn() == ["a0"]


async def test_what_waits_has_every_second_turn_where_each_sends() -> None:
    """Clients that send all the time keep nobody from connecting."""
    bed = Bed()
    bed.has_unsent = True
    bed.wait("a0", TURN_S)
    bed.wait("a1", TURN_S)
    assert [await bed.turn() for _ in range(4)] == [[], ["a0"], [], ["a1"]]


@pytest.mark.parametrize(
    ("others_s", "time_s"), [(TURN_S, TURN_S), (4 * TURN_S, 2 * TURN_S), (1.0, LONG_TURN_S)]
)
async def test_long_turns_have_longer_parts_of_it(others_s: float, time_s: float) -> None:
    """A busy edge accepts clients as well: half as long as the rest takes, up to a bound."""
    bed = Bed()
    cost_s = TURN_S * 0.3
    for number in range(40):
        bed.wait(f"a{number}", cost_s)
    await bed.turn()
    bed.clock.now_s += others_s
    assert len(await bed.turn()) == math.ceil(time_s / cost_s)


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


class PacedBed(Bed):
    """A bed where most connections of "a" come to nothing; its event loop does what it is told.

    Whoever handles a connection keeps the loop busy ``then_s`` longer: a connection is closed, and
    the next one opened.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.busy_s = 0.0
        self.work = UnfinishedWork(self.clock, lambda: self.has_unsent, lambda: self.busy_s)
        #: What is to be called, and when.
        self.due: list[tuple[float, Callable[[], None]]] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)
        for _ in range(2 * LEAST_FAILURES):
            self.work.outcomes.add_failure()
            self.work.outcomes.add_of("a", is_accepted=False)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append((self.clock.now_s, callback))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s >= LEAST_PAUSE_S, "the event loop's timers are no finer than that"
        self.due.append((self.clock.now_s + delay_s, callback))

    def flood(self, count: int, source: str = "a") -> None:
        for number in range(count):
            self.wait(f"{source}{number}", 0.0)

    def next_turn(self, then_s: float = 0.0) -> tuple[float, list[str]]:
        """Run what is due until something is handled; when that was, and what."""
        self.done.clear()
        while not self.done:
            self.due.sort(key=lambda due: due[0])
            when_s, callback = self.due.pop(0)
            self.clock.now_s = max(when_s, self.clock.now_s)
            callback()
        began_s = self.clock.now_s
        self.clock.now_s += then_s
        self.busy_s += then_s
        return began_s, list(self.done)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> PacedBed:
    return PacedBed(monkeypatch)


def test_nothing_of_that_address_is_handled_at_once(paced: PacedBed) -> None:
    assert not paced.work.begin("a")
    assert paced.work.begin("b")
    paced.work.end()
    for _ in range(LEAST_FAILURES):
        paced.work.outcomes.add_of("a", is_accepted=True)
    assert paced.work.begin("a")


@pytest.mark.parametrize("then_s", [0.0005, 0.001, 0.0015])
def test_the_event_loop_is_idle_as_long_as_it_is_busy(paced: PacedBed, then_s: float) -> None:
    """What a turn causes when it is over counts, and so does what clients cost meanwhile."""
    paced.flood(400)
    began_s, done = paced.next_turn(then_s)
    assert len(done) == PACED_CONNECTIONS
    for _ in range(50):
        paced.next_turn(then_s)
    passed_s = paced.clock.now_s - began_s
    assert paced.busy_s <= passed_s * PACED_SHARE + LEAST_PAUSE_S
    assert paced.busy_s >= passed_s * PACED_SHARE / 2
    assert paced.work.pauses >= 50


def test_a_first_one_does_not_wait_for_a_pause(paced: PacedBed) -> None:
    paced.clock.now_s += 1.0
    paced.flood(1)
    assert paced.next_turn()[0] == paced.clock.now_s
    assert paced.work.pauses == 0


def test_one_after_the_other_has_pauses_as_well(paced: PacedBed) -> None:
    """A queue that is empty after each turn must not be a way around them."""
    began_s = paced.clock.now_s
    for _ in range(100):
        paced.flood(1)
        paced.next_turn(0.0002)
    assert paced.busy_s <= (paced.clock.now_s - began_s) * PACED_SHARE


def test_clients_that_keep_the_event_loop_busy_put_a_turn_off_for_a_bounded_time(
    paced: PacedBed,
) -> None:
    """A busy edge accepts clients, too."""
    paced.flood(400)
    began_s, _ = paced.next_turn(0.0)
    for number in range(1, 10):
        paced.busy_s += 1.0
        when_s, done = paced.next_turn(0.0)
        assert len(done) == PACED_CONNECTIONS
        assert when_s - began_s <= number * (LONGEST_PAUSE_S + LEAST_PAUSE_S)


def test_another_address_waits_for_no_pause(paced: PacedBed) -> None:
    """A good client does not wait for the flood, nor longer for its turn than without one."""
    paced.flood(400)
    paced.next_turn()
    assert paced.work.begin("b")
    paced.work.end()
    paced.flood(40, "b")
    began_s, done = paced.next_turn()
    assert done == [f"b{number}" for number in range(40)]
    assert began_s == paced.clock.now_s
    assert len(paced.work) == 400 - PACED_CONNECTIONS


def test_failing_addresses_take_turns(paced: PacedBed) -> None:
    for _ in range(LEAST_FAILURES):
        paced.work.outcomes.add_of("c", is_accepted=False)
    paced.flood(400)
    paced.flood(1, "c")
    assert "c0" in paced.next_turn()[1]


def test_what_costs_much_ends_a_turn(paced: PacedBed) -> None:
    for number in range(3):
        paced.wait(f"a{number}", TURN_S)
    assert paced.next_turn()[1] == ["a0"]


def test_what_belongs_to_it_is_handled_with_it(paced: PacedBed) -> None:
    """A CONNECT comes in the last bytes of a TLS handshake, in a paced turn as well."""
    began: list[bool] = []

    class Nested:
        def resume_work(self) -> None:
            began.append(paced.work.begin("a"))
            paced.work.end()
            paced.done.append("nested")

    paced.work.wait(Nested(), "a")
    paced.next_turn()
    assert began == [True]
    assert not paced.work.begin("a")
