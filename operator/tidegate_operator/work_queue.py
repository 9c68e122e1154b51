"""Keys that wait to be reconciled: each at most once, each by one worker at a time, some later.

A key that is added while it waits is not added again; one that is added while it is worked on is
worked on once more afterwards. What fails is tried again, after longer and longer pauses.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

#: Namespace and name.
Key = tuple[str, str]
#: Works on a key; returns after how many seconds it is due again, None for never.
Work = Callable[[Key], Awaitable[float | None]]

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 120.0


class WorkQueue:
    """See the module's docstring. ``run`` until cancelled.

    ``expected`` are failures that say all there is to say: they are logged without a traceback.
    """

    def __init__(
        self, work: Work, workers: int = 8, expected: tuple[type[Exception], ...] = ()
    ) -> None:
        self._work = work
        self._expected = expected
        self._workers = workers
        self._waiting: deque[Key] = deque()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._there = asyncio.Event()

    def add(self, key: Key) -> None:
        """Have a key worked on as soon as possible."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.append(key)
            self._there.set()

    def load(self) -> tuple[int, int]:
        """Return how many keys wait to be worked on now, and how many are worked on."""
        return len(self._waiting), len(self._busy)

    def add_later(self, key: Key, delay_s: float) -> None:
        """Have a key worked on after a while, unless it is sooner for another reason."""
        if key in self._waiting or key in self._again or key in self._timers:
            return
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(delay_s, self.add, key)

    async def run(self) -> None:
        """Work; the owner cancels it."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._serve())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _serve(self) -> None:
        while True:
            while not self._waiting:
                self._there.clear()
                await self._there.wait()
            key = self._waiting.popleft()
            self._busy.add(key)
            try:
                await self._serve_one(key)
            finally:
                self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _serve_one(self, key: Key) -> None:
        try:
            again_s = await self._work(key)
        except Exception as error:
            # The rim: whatever fails is tried again, and others are not held up by it.
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause_s = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE_S)
            pause_s *= random.uniform(0.5, 1.0)  # noqa: S311  # jitter
            extra = {"namespace": key[0], "broker": key[1], "pause_s": round(pause_s, 1)}
            if isinstance(error, self._expected):
                log.warning("cannot reconcile, will retry", extra=extra | {"reason": str(error)})
            else:
                log.exception("reconciling failed, will retry", extra=extra)
            self._busy.discard(key)
            self.add_later(key, pause_s)
            return
        self._failures.pop(key, None)
        if again_s is not None:
            # Spread, so that brokers that came together do not stay together.
            self._busy.discard(key)
            self.add_later(key, again_s * random.uniform(0.9, 1.0))  # noqa: S311
