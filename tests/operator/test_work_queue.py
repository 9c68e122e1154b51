"""The queue: each key once at a time, nothing forgotten, failures tried again."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

import pytest

from support.virtual_time import run_virtual
from tidegate_operator.names import BrokerKey
from tidegate_operator.work_queue import FIRST_RETRY_S, MAX_RETRY_S, WorkQueue

A, B = ("iot", "a"), ("iot", "b")


class Worker:
    """Does what it is told, and remembers when."""

    def __init__(self) -> None:
        self.calls: list[tuple[BrokerKey, float]] = []
        self.running: set[BrokerKey] = set()
        self.takes_s = 1.0
        self.requeue_after_s: float | None = None
        self.fails = 0

    async def __call__(self, key: BrokerKey) -> float | None:
        assert key not in self.running
        self.running.add(key)
        try:
            self.calls.append((key, asyncio.get_running_loop().time()))
            await asyncio.sleep(self.takes_s)
            if self.fails:
                self.fails -= 1
                raise RuntimeError("no")
            return self.requeue_after_s
        finally:
            self.running.discard(key)

    def count(self, key: BrokerKey) -> int:
        return sum(one == key for one, _ in self.calls)


def run_script(
    worker: Worker,
    script: Callable[[WorkQueue], Awaitable[None]],
    workers: int = 2,
    expected: tuple[type[Exception], ...] = (),
) -> None:
    async def play() -> None:
        queue = WorkQueue(worker, workers, expected)
        task = asyncio.create_task(queue.run())
        await script(queue)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(play())


def test_a_key_that_waits_is_not_added_again() -> None:
    worker = Worker()

    async def script(queue: WorkQueue) -> None:
        for _ in range(5):
            queue.add(A)
            queue.add(B)
        await asyncio.sleep(10)

    run_script(worker, script)
    assert sorted(key for key, _ in worker.calls) == [A, B]


def test_a_key_is_worked_on_by_one_worker_at_a_time_and_once_more_for_what_came_meanwhile() -> None:
    worker = Worker()

    async def script(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(0.5)
        for _ in range(3):
            queue.add(A)
        await asyncio.sleep(10)

    run_script(worker, script)
    assert [round(time - worker.calls[0][1], 3) for _, time in worker.calls] == [0, 1]


def test_a_key_comes_again_when_it_is_due_or_sooner() -> None:
    worker = Worker()
    worker.requeue_after_s = 60

    async def script(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(100)
        assert worker.count(A) == 2
        queue.add(A)
        await asyncio.sleep(10)
        assert worker.count(A) == 3
        await asyncio.sleep(45)
        assert worker.count(A) == 3

    run_script(worker, script)


def test_something_later_never_delays_something_now() -> None:
    worker = Worker()

    async def script(queue: WorkQueue) -> None:
        queue.add_later(A, 5)
        queue.add_later(A, 1)
        await asyncio.sleep(3)
        assert worker.count(A) == 0
        queue.add(A)
        queue.add_later(A, 1)
        await asyncio.sleep(10)
        assert worker.count(A) == 1

    run_script(worker, script)


def test_failures_are_tried_again_after_longer_and_longer_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker()
    worker.takes_s = 0
    worker.fails = 12

    async def script(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(2000)

    with caplog.at_level(logging.CRITICAL):
        run_script(worker, script)
    times = [time for _, time in worker.calls]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert len(pauses) == 12
    assert FIRST_RETRY_S / 2 <= pauses[0] <= FIRST_RETRY_S
    assert MAX_RETRY_S / 2 <= pauses[-1] <= MAX_RETRY_S


def test_the_first_failure_after_a_success_is_tried_again_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker()
    worker.takes_s = 0
    worker.fails = 6
    worker.requeue_after_s = 1000

    async def script(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(500)
        assert worker.count(A) == 7
        worker.fails = 1
        queue.add(A)
        await asyncio.sleep(FIRST_RETRY_S)
        assert worker.count(A) == 9

    with caplog.at_level(logging.CRITICAL):
        run_script(worker, script)


def test_one_that_fails_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    worker.fails = 1

    async def script(queue: WorkQueue) -> None:
        queue.add(A)
        queue.add(B)
        await asyncio.sleep(20)

    with caplog.at_level(logging.CRITICAL):
        run_script(worker, script, workers=1)
    assert (worker.count(A), worker.count(B)) == (2, 1)


@pytest.mark.parametrize("expected", [(), (RuntimeError,)])
def test_what_is_expected_to_fail_is_said_without_a_traceback(
    expected: tuple[type[Exception], ...], caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    worker.fails = 1

    async def script(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(20)

    run_script(worker, script, expected=expected)
    (record,) = caplog.records
    assert record.levelno == (logging.WARNING if expected else logging.ERROR)
    assert bool(record.exc_info) is not bool(expected)
