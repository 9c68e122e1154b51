"""Signals and deadlines. Real signals are sent to this process; the exit is a recorder."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from tidegate.runtime.process.shutdown import Shutdown


async def _until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await condition.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_for_the_end(number: signal.Signals) -> None:
    with Shutdown(30) as shutdown:
        assert not shutdown.requested
        assert shutdown.remaining_s() == 30
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            assert await shutdown.wait() == number.name
        assert shutdown.requested
        assert 0 < shutdown.remaining_s() <= 30


async def test_a_second_signal_ends_the_process_at_once() -> None:
    exited = asyncio.Event()
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        exited.set()

    with Shutdown(30, exit_process=leave) as shutdown:
        os.kill(os.getpid(), signal.SIGTERM)
        await shutdown.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await _until(exited)
    assert codes == [130]


async def test_the_deadline_ends_the_process_even_if_the_loop_is_blocked() -> None:
    exited = threading.Event()
    with Shutdown(0.01, exit_process=lambda code: exited.set()) as shutdown:
        shutdown.request("test")
        assert exited.wait(5)  # blocks the loop on purpose
        assert shutdown.remaining_s() == 0


async def test_leaving_in_time_disarms_the_deadline() -> None:
    codes: list[int] = []
    with Shutdown(0.05, exit_process=codes.append) as shutdown:
        shutdown.request("first")
        shutdown.request("second")
        assert shutdown.reason == "first"
        timer = shutdown._timer
    assert timer is not None
    timer.join(5)
    assert codes == []


async def test_hangups_are_passed_on_and_do_not_end_anything() -> None:
    called = asyncio.Event()
    with Shutdown(30) as shutdown:
        shutdown.on_hangup(called.set)
        os.kill(os.getpid(), signal.SIGHUP)
        await _until(called)
        assert not shutdown.requested


async def test_letting_clients_go_has_its_own_time_which_ends_with_the_last_one() -> None:
    with Shutdown(30, grace_s=600) as shutdown:
        assert shutdown.remaining_s() == 630
        shutdown.request("test")
        assert 30 < shutdown.remaining_s() <= 630
        shutdown.end_grace()
        assert 0 < shutdown.remaining_s() <= 30
        timer = shutdown._timer
        shutdown.end_grace()
        assert shutdown._timer is timer


async def test_the_deadline_counts_from_the_end_of_the_grace() -> None:
    exited = threading.Event()
    with Shutdown(0.01, grace_s=600, exit_process=lambda code: exited.set()) as shutdown:
        shutdown.request("test")
        assert not exited.is_set()
        shutdown.end_grace()
        assert exited.wait(5)
