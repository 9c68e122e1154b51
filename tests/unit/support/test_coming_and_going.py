"""Clients of the load that come and go, and are told to stop just then.

Inputs: a fake subscriber whose attempt to connect takes as long as the test says. Observed:
whether the attempt is finished.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from support.load import come_and_go
from support.virtual_time import in_virtual_time, turns


class _Subscriber:
    """Is connected, and connects again once ``answered`` is set."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.answered = asyncio.Event()
        self.has_begun = False
        self.was_cancelled = False

    async def connect(self) -> bool:
        self.has_begun = True
        try:
            await self.answered.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return True


class _Over(random.Random):
    """Always takes the session over."""

    def choice(self, _ways: Any) -> Any:
        return "over"


@in_virtual_time
async def test_a_client_that_is_told_to_stop_while_it_connects_takes_the_answer() -> None:
    subscriber: Any = _Subscriber()
    task = asyncio.create_task(come_and_go(subscriber, _Over(), stay_s=(0, 0)))
    await turns()
    assert subscriber.has_begun
    task.cancel()
    await turns()
    assert not task.done()
    subscriber.answered.set()
    await turns()
    assert task.cancelled()
    assert not subscriber.was_cancelled


@in_virtual_time
async def test_a_client_that_is_told_to_stop_twice_waits_no_longer() -> None:
    subscriber: Any = _Subscriber()
    task = asyncio.create_task(come_and_go(subscriber, _Over(), stay_s=(0, 0)))
    await turns()
    assert subscriber.has_begun
    task.cancel()
    await turns()
    task.cancel()
    await turns()
    assert task.cancelled()
    assert subscriber.was_cancelled
