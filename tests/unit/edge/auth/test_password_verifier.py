"""What a storm of reconnects and a flood of wrong passwords cost, and whom they keep waiting."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.waiting import wait_for_async
from tidegate.edge.auth import password_verifier
from tidegate.edge.auth.password_verifier import (
    PasswordCheck,
    PasswordVerifier,
    thread_count,
    threads_of_one,
)
from tidegate.edge.auth.passwords import PasswordFile, PasswordHash, Pbkdf2Hash, Sha512Hash
from tidegate.runtime.telemetry.counters import Counters


def _pbkdf2(password: str, iterations: int = 2) -> Pbkdf2Hash:
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), b"salt", iterations)
    return Pbkdf2Hash(b"salt", digest, iterations)


def _sha512(password: str) -> Sha512Hash:
    return Sha512Hash(b"salt", hashlib.sha512(password.encode() + b"salt").digest())


def _verifier(**users: PasswordHash) -> tuple[PasswordVerifier, Counters, PasswordFile]:
    counters = Counters()
    return PasswordVerifier(counters), counters, PasswordFile(users)


class Gate:
    """Hashes that take until the test opens the gate; the right password is ``right``."""

    costly = True
    cost = "gate"

    def __init__(self) -> None:
        self.may_end = threading.Semaphore(0)
        self.begun: list[bytes] = []
        self.takes_s = 0.001

    def verify(self, password: bytes, threads: int = 1) -> bool:
        """Wait for the test."""
        self.begun.append(password)
        assert self.may_end.acquire(timeout=10)
        return password.startswith(b"right")


class Flood:
    """One thread that computes a first hash until ``open``, and clients that wait behind it."""

    def __init__(self, gate: Gate, **bounds: int) -> None:
        self.gate = gate
        self.counters = Counters()
        self.verifier = PasswordVerifier(self.counters, threads=1, **bounds)
        users: Any = dict.fromkeys(("ann", "bob", "eve"), gate)
        self.file = PasswordFile(users)
        self.done: list[str] = []
        self.tasks: dict[str, asyncio.Task[PasswordCheck]] = {}

    async def come(
        self, password: str, user: str = "ann", address: str = "10.0.0.1", timeout_s: float = 60
    ) -> asyncio.Task[PasswordCheck]:
        """Let a client wait."""

        async def verify() -> PasswordCheck:
            return await self.verifier.verify(
                self.file, user, password.encode(), address, timeout_s
            )

        task = self.tasks[password] = asyncio.create_task(verify())
        await asyncio.sleep(0)
        return task

    async def open(self, count: int = 1000) -> list[str]:
        """Let ``count`` hashes be computed; return all that began, the first one left out."""
        self.gate.may_end.release(count)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return [password.decode() for password in self.gate.begun[1:]]


@pytest.fixture
async def flood(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Flood]:
    def timed(gate: Gate, password: bytes, _threads: int) -> tuple[bool, float]:
        return gate.verify(password), gate.takes_s

    monkeypatch.setattr(password_verifier, "_timed", timed)
    found = Flood(Gate())
    await found.come("first", "eve", "10.9.9.9")
    await wait_for_async(lambda: found.gate.begun, 5, "the first hash has begun")
    yield found
    found.gate.may_end.release(10_000)
    found.verifier.close()
    for task in found.tasks.values():
        task.cancel()
    await asyncio.gather(*found.tasks.values(), return_exceptions=True)


class Nice:
    """A hash that notes the priority of the thread that computes it."""

    costly = True
    cost = "nice"

    def __init__(self) -> None:
        self.values: list[int] = []

    def verify(self, password: bytes, threads: int = 1) -> bool:
        """Note it."""
        self.values.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has one priority")
async def test_hashes_leave_the_processor_to_the_event_loop() -> None:
    """Where both want one core, the event loop has ten times what a hash gets."""
    nice = Nice()
    users: Any = {"ann": nice}
    verifier = PasswordVerifier(Counters())
    try:
        await verifier.verify(PasswordFile(users), "ann", b"guess")
    finally:
        verifier.close()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert nice.values == [min(own + 10, 19)]


def test_a_cheap_hash_is_verified_at_once() -> None:
    verifier, counters, file = _verifier(ann=_sha512("a"))
    assert verifier.verify_now(file, "ann", b"a") is PasswordCheck.ACCEPTED
    assert verifier.verify_now(file, "ann", b"b") is PasswordCheck.BAD_PASSWORD
    assert verifier.verify_now(file, "eve", b"a") is PasswordCheck.UNKNOWN_USER
    assert counters.password_hashes == 3


async def test_an_accepted_password_is_hashed_once() -> None:
    verifier, counters, file = _verifier(ann=_pbkdf2("a"))
    assert verifier.verify_now(file, "ann", b"a") is None
    assert await verifier.verify(file, "ann", b"a") is PasswordCheck.ACCEPTED
    assert verifier.verify_now(file, "ann", b"a") is PasswordCheck.ACCEPTED
    assert await verifier.verify(file, "ann", b"a") is PasswordCheck.ACCEPTED
    assert counters.password_hashes == 1
    verifier.close()


async def test_a_refused_password_is_hashed_every_time() -> None:
    verifier, counters, file = _verifier(ann=_pbkdf2("a"))
    for _ in range(2):
        assert await verifier.verify(file, "ann", b"b") is PasswordCheck.BAD_PASSWORD
    assert counters.password_hashes == 2
    verifier.close()


async def test_an_unknown_user_costs_a_hash_like_a_known_one() -> None:
    verifier, counters, file = _verifier(ann=_pbkdf2("a"))
    assert verifier.verify_now(file, "eve", b"a") is None
    assert await verifier.verify(file, "eve", b"a") is PasswordCheck.UNKNOWN_USER
    assert counters.password_hashes == 1
    empty, _, no_users = _verifier()
    assert await empty.verify(no_users, "eve", b"a") is PasswordCheck.UNKNOWN_USER
    empty.close()
    verifier.close()


async def test_the_same_password_at_the_same_time_is_hashed_once() -> None:
    verifier, counters, file = _verifier(ann=_pbkdf2("a", 2000))
    verdicts = await asyncio.gather(*(verifier.verify(file, "ann", b"a") for _ in range(50)))
    assert set(verdicts) == {PasswordCheck.ACCEPTED}
    assert counters.password_hashes == 1
    verifier.close()


async def test_one_client_that_goes_away_does_not_cancel_the_others_hash() -> None:
    verifier, _, file = _verifier(ann=_pbkdf2("a", 20_000))
    first = asyncio.create_task(verifier.verify(file, "ann", b"a"))
    second = asyncio.create_task(verifier.verify(file, "ann", b"a"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is PasswordCheck.ACCEPTED
    verifier.close()


async def test_too_many_waiting_hashes_are_refused_as_busy() -> None:
    counters = Counters()
    file = PasswordFile({"ann": _pbkdf2("a", 50_000)})
    verifier = PasswordVerifier(counters, threads=1, max_pending=1)
    verdicts = await asyncio.gather(
        *(verifier.verify(file, "ann", password) for password in (b"1", b"2", b"3"))
    )
    assert verdicts == [PasswordCheck.BAD_PASSWORD, PasswordCheck.BAD_PASSWORD, PasswordCheck.BUSY]
    assert await verifier.verify(file, "ann", b"a") is PasswordCheck.ACCEPTED
    verifier.close()


async def test_a_changed_hash_makes_the_old_password_bad_and_others_stay_remembered() -> None:
    verifier, counters, file = _verifier(ann=_pbkdf2("a"), bob=_pbkdf2("b"))
    await verifier.verify(file, "ann", b"a")
    await verifier.verify(file, "bob", b"b")
    file = PasswordFile({"ann": _pbkdf2("new"), "bob": _pbkdf2("b")})
    assert verifier.verify_now(file, "bob", b"b") is PasswordCheck.ACCEPTED
    assert await verifier.verify(file, "ann", b"a") is PasswordCheck.BAD_PASSWORD
    assert counters.password_hashes == 3
    file = PasswordFile({"bob": _pbkdf2("b")})
    assert await verifier.verify(file, "ann", b"new") is PasswordCheck.UNKNOWN_USER
    verifier.close()


async def test_a_user_of_two_files_is_remembered_for_each() -> None:
    verifier, counters, one = _verifier(ann=_pbkdf2("a"))
    other = PasswordFile({"ann": _pbkdf2("a", 3)})
    for _ in range(2):
        for file in (one, other):
            assert await verifier.verify(file, "ann", b"a") is PasswordCheck.ACCEPTED
    assert counters.password_hashes == 2
    elsewhere = PasswordFile({"ann": _pbkdf2("b")})
    assert verifier.verify_now(elsewhere, "ann", b"a") is None
    verifier.close()


async def test_what_is_remembered_is_bounded() -> None:
    counters = Counters()
    users: dict[str, PasswordHash] = {name: _pbkdf2(name) for name in "abc"}
    file = PasswordFile(users)
    verifier = PasswordVerifier(counters, max_remembered=2)
    for name in "abc":
        await verifier.verify(file, name, name.encode())
    assert verifier.verify_now(file, "a", b"a") is None
    assert verifier.verify_now(file, "c", b"c") is PasswordCheck.ACCEPTED
    verifier.close()


async def test_nothing_is_remembered_when_that_is_switched_off() -> None:
    file = PasswordFile({"a": _pbkdf2("a")})
    verifier = PasswordVerifier(Counters(), max_remembered=0)
    assert await verifier.verify(file, "a", b"a") is PasswordCheck.ACCEPTED
    assert verifier.verify_now(file, "a", b"a") is None
    verifier.close()


async def test_what_nobody_waits_for_is_not_computed(flood: Flood) -> None:
    gone = [await flood.come(f"wrong{n}") for n in range(50)]
    good = await flood.come("right", "bob")
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert await flood.open() == ["right"]
    assert await good is PasswordCheck.ACCEPTED
    assert flood.counters.password_hashes == 2
    assert flood.verifier.waiting_count == 0


async def test_a_hash_goes_on_while_one_of_those_who_wait_for_it_is_left(flood: Flood) -> None:
    gone = asyncio.create_task(flood.verifier.verify(flood.file, "ann", b"right"))
    left = await flood.come("right")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await flood.open()
    assert await left is PasswordCheck.ACCEPTED


async def test_addresses_take_turns(flood: Flood) -> None:
    for n in range(100):
        await flood.come(f"wrong{n}")
    await flood.come("right", "ann", "10.0.0.2")
    for n in range(100, 200):
        await flood.come(f"wrong{n}")
    assert (await flood.open()).index("right") < 6


async def test_user_names_take_turns_where_the_addresses_are_many(flood: Flood) -> None:
    for n in range(100):
        await flood.come(f"wrong{n}", "ann", f"10.0.0.{n}")
    await flood.come("right", "bob", "10.0.1.1")
    for n in range(100, 200):
        await flood.come(f"wrong{n}", "ann", f"10.0.0.{n}")
    assert (await flood.open()).index("right") < 6


async def test_who_comes_after_a_flood_with_its_user_name_is_served_early(flood: Flood) -> None:
    for n in range(200):
        await flood.come(f"wrong{n}", "ann", f"10.0.0.{n}")
    await flood.come("right", "ann", "10.0.1.1")
    assert (await flood.open()).index("right") < 6


async def test_ipv6_addresses_of_one_network_have_one_turn(flood: Flood) -> None:
    for n in range(100):
        await flood.come(f"wrong{n}", ("ann", "bob", "eve")[n % 3], f"2001:db8::{n:x}")
    await flood.come("right", "ann", "2001:db8:0:1::1")
    for n in range(100, 103):
        await flood.come(f"wrong{n}", "bob", f"2001:db8::{n:x}")
    assert (await flood.open()).index("right") < 6


async def test_who_was_recognised_before_goes_first_until_it_fails(flood: Flood) -> None:
    flood.gate.may_end.release(2)
    assert await (await flood.come("right", "bob", "10.0.0.7")) is PasswordCheck.ACCEPTED
    begun = len(flood.gate.begun)
    await flood.come("first2", "eve", "10.9.9.9")
    await wait_for_async(lambda: len(flood.gate.begun) > begun, 5, "the next hash has begun")
    for n in range(30):
        await flood.come(f"wrong{n}", "ann", f"10.0.0.{n}")
    await flood.come("guess", "bob", "10.0.0.7")
    await flood.come("guess2", "bob", "10.0.0.7")
    for n in range(30, 40):
        await flood.come(f"wrong{n}", "ann", f"10.0.0.{n}")
    order = (await flood.open())[begun:]
    assert order[0] == "guess"  # and the second one has its turn with the others
    assert order.index("guess2") <= 4
    assert flood.verifier._recognised == {}


async def test_what_cannot_have_its_turn_in_time_is_refused_at_once(flood: Flood) -> None:
    flood.verifier._mean_s = 0.1
    tasks = [await flood.come(f"wrong{n}", timeout_s=2.0) for n in range(25)]
    await asyncio.sleep(0)
    refused = [n for n, task in enumerate(tasks) if task.done()]
    assert refused == [20, 21, 22, 23, 24]
    assert tasks[20].result() is PasswordCheck.BUSY
    good = await flood.come("right", "ann", "10.0.0.2", timeout_s=2.0)
    assert not good.done()  # one of the address with the most had to go
    await asyncio.gather(tasks[19])
    assert tasks[19].result() is PasswordCheck.BUSY
    assert (await flood.open()).index("right") < 6


async def test_the_first_measurement_refuses_what_had_been_let_in(
    flood: Flood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood.gate, "takes_s", 0.5)
    tasks = [await flood.come(f"wrong{n}", timeout_s=60) for n in range(130)]
    flood.gate.may_end.release()
    await asyncio.gather(flood.tasks["first"])
    await asyncio.gather(*tasks[121:])
    assert {task.result() for task in tasks[121:]} == {PasswordCheck.BUSY}
    assert sum(task.done() for task in tasks) <= 11


async def test_the_end_of_the_time_is_answered_as_busy(flood: Flood) -> None:
    late = await flood.come("wrong", timeout_s=0.01)
    assert await late is PasswordCheck.BUSY
    assert flood.verifier.waiting_count == 0


async def test_unknown_users_cost_no_hash_while_others_are_computed(flood: Flood) -> None:
    flood.verifier._mean_s = 0.01
    flood.verifier._measured("gate", 0.01)
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    for n in range(100):
        await flood.come(f"x{n}", f"nobody{n}")
    results = await asyncio.gather(*(flood.tasks[f"x{n}"] for n in range(100)))
    assert set(results) == {PasswordCheck.UNKNOWN_USER}
    assert loop.time() - begin_s >= 0.015  # the one that runs, half done, and one's own
    assert flood.counters.password_hashes == 1


async def test_unknown_users_that_wait_are_bounded(flood: Flood) -> None:
    flood.verifier._max_pending = 2
    flood.verifier._measured("gate", 0.01)
    results = [await flood.come(f"x{n}", f"nobody{n}") for n in range(3)]
    assert await results[2] is PasswordCheck.BUSY
    assert await results[0] is PasswordCheck.UNKNOWN_USER


async def test_no_memory_for_a_hash_is_no_wrong_password(caplog: pytest.LogCaptureFixture) -> None:
    class Greedy(Gate):
        def verify(self, password: bytes, threads: int = 1) -> bool:
            raise MemoryError

    verifier = PasswordVerifier(Counters())
    file = PasswordFile({"ann": Greedy()})  # type: ignore[dict-item]  # a fake of its own
    assert await verifier.verify(file, "ann", b"right") is PasswordCheck.BUSY
    assert "no memory for a password hash" in caplog.text
    verifier.close()


async def test_closing_answers_what_waits_and_computes_none_of_it(flood: Flood) -> None:
    waiting = await flood.come("wrong")
    flood.verifier.close()
    assert await waiting is PasswordCheck.BUSY
    await flood.open()
    assert flood.gate.begun == [b"first"]


@pytest.mark.parametrize(
    ("configured", "processors", "threads"),
    [(0, 1, 1), (0, 2, 1), (0, 3, 2), (0, 64, 2), (4, 1, 4)],
)
def test_a_processor_is_left_to_the_event_loop(
    configured: int, processors: int, threads: int
) -> None:
    assert thread_count(configured, processors) == threads


@pytest.mark.parametrize(
    ("at_a_time", "processors", "threads"), [(1, 1, 1), (1, 2, 1), (2, 3, 1), (2, 16, 7), (4, 1, 1)]
)
def test_a_hash_has_as_many_threads_as_there_are_processors_for_it(
    at_a_time: int, processors: int, threads: int
) -> None:
    """The four lanes of argon2id would have four times a thread's part of the one processor."""
    assert threads_of_one(at_a_time, processors) == threads


async def test_a_hash_is_computed_in_so_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password_verifier, "available_processors", lambda: 7)
    given: list[int] = []

    class Hash:
        costly = True
        cost = "costly"

        def verify(self, password: bytes, threads: int = 1) -> bool:
            given.append(threads)
            return True

    verifier = PasswordVerifier(Counters(), threads=3)
    file = PasswordFile({"ann": Hash()})  # type: ignore[dict-item]  # as the verifier sees one
    assert await verifier.verify(file, "ann", b"secret") is PasswordCheck.ACCEPTED
    verifier.reconfigure(threads=1, max_pending=10, max_remembered=10)
    assert await verifier.verify(file, "ann", b"other") is PasswordCheck.ACCEPTED
    verifier.close()
    assert given == [2, 6]
