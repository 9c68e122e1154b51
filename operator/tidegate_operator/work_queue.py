"""Work queue of brokers to reconcile: a key is queued once, and processed by one worker.

A key that is added while it waits is not added again; one that is added while it is processed is
processed once more. Failures are retried with exponential back-off. Owned by ``handlers``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from tidegate_operator.names import BrokerKey

log = logging.getLogger(__name__)

#: Processes a key; returns after how many seconds it is due again, None for never.
Work = Callable[[BrokerKey], Awaitable[float | None]]

FIRST_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 120.0


class WorkQueue:
    """See the module's docstring. ``run`` until cancelled.

    ``expected``: exceptions that are logged without a traceback.
    """

    def __init__(
        self,
        work: Work,
        workers: int = 8,
        expected: tuple[type[Exception], ...] = (),
        field: str = "broker",
    ) -> None:
        """``field``: what keys name, in the log."""
        self._work = work
        self._field = field
        self._expected = expected
        self._workers = workers
        self._waiting: deque[BrokerKey] = deque()
        self._busy: set[BrokerKey] = set()
        self._requeued: set[BrokerKey] = set()
        self._timers: dict[BrokerKey, asyncio.TimerHandle] = {}
        self._failures: dict[BrokerKey, int] = {}
        self._available = asyncio.Event()

    def add(self, key: BrokerKey) -> None:
        """Queue a key to be processed as soon as possible."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._busy:
            self._requeued.add(key)
        elif key not in self._waiting:
            self._waiting.append(key)
            self._available.set()

    def load(self) -> tuple[int, int]:
        """Return how many keys are waiting, and how many are being processed."""
        return len(self._waiting), len(self._busy)

    def add_later(self, key: BrokerKey, delay_s: float) -> None:
        """Queue a key after a delay, unless it is queued earlier for another reason."""
        if key in self._waiting or key in self._requeued or key in self._timers:
            return
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(delay_s, self.add, key)

    async def run(self) -> None:
        """Process keys until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._worker())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _worker(self) -> None:
        while True:
            while not self._waiting:
                self._available.clear()
                await self._available.wait()
            key = self._waiting.popleft()
            self._busy.add(key)
            try:
                await self._process(key)
            finally:
                self._busy.discard(key)
            if key in self._requeued:
                self._requeued.discard(key)
                self.add(key)

    async def _process(self, key: BrokerKey) -> None:
        try:
            requeue_after_s = await self._work(key)
        except Exception as error:
            # The outermost handler: failures are retried, and do not affect other keys.
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            retry_s = min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 10), MAX_RETRY_S)
            retry_s *= random.uniform(0.5, 1.0)  # noqa: S311  # jitter
            extra = {"namespace": key[0], self._field: key[1], "retry_s": round(retry_s, 1)}
            if isinstance(error, self._expected):
                log.warning("reconcile failed, retrying", extra=extra | {"reason": str(error)})
            else:
                log.exception("reconcile raised an unexpected error, retrying", extra=extra)
            self._busy.discard(key)
            self.add_later(key, retry_s)
            return
        self._failures.pop(key, None)
        if requeue_after_s is not None:
            # Jitter spreads brokers that were created together.
            self._busy.discard(key)
            self.add_later(key, requeue_after_s * random.uniform(0.9, 1.0))  # noqa: S311
