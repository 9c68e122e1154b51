"""The shutdown of a process: signals set an event, and a deadline ends what takes longer.

The composition root installs one ``Shutdown``, waits for it, and stops its parts in order. The
first SIGTERM or SIGINT requests the shutdown; a second one, or the deadline, exits immediately.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

log = logging.getLogger(__name__)

EXIT_DEADLINE: Final = 1
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Turns signals into an event. Use as a context manager inside the running loop.

    ``grace_s`` is what draining may take, from the first request until ``end_grace``;
    ``timeout_s`` what everything after it may take. Past both, ``exit_process`` is called from a
    thread of its own, so that a blocked event loop cannot keep the process alive.
    """

    __slots__ = (
        "_clock",
        "_deadline_s",
        "_event",
        "_exit",
        "_grace_s",
        "_hangup",
        "_installed",
        "_loop",
        "_timer",
        "reason",
        "timeout_s",
    )

    def __init__(
        self,
        timeout_s: float,
        *,
        grace_s: float = 0.0,
        exit_process: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeout_s = timeout_s
        self.reason = ""
        self._grace_s = grace_s
        self._event = asyncio.Event()
        self._exit = exit_process
        self._clock = clock
        self._deadline_s: float | None = None
        self._timer: threading.Timer | None = None
        self._hangup: list[Callable[[], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._installed: list[signal.Signals] = []

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._on_signal, number)
            self._installed.append(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            for number in self._installed:
                self._loop.remove_signal_handler(number)
        self._installed.clear()

    def set_times(self, timeout_s: float, grace_s: float) -> None:
        """Change the times; after a request it changes nothing."""
        if not self._event.is_set():
            self.timeout_s = timeout_s
            self._grace_s = grace_s

    def on_hangup(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` (in the event loop) at every SIGHUP."""
        self._hangup.append(callback)

    def request(self, reason: str) -> None:
        """Request the shutdown, as a first signal does; a later request changes nothing."""
        if self._event.is_set():
            return
        self.reason = reason
        self._arm(self._grace_s + self.timeout_s)
        self._event.set()

    def end_grace(self) -> None:
        """Note that draining is done: what is left of its time is not needed."""
        if self._timer is not None and self._grace_s:
            self._grace_s = 0.0
            self._timer.cancel()
            self._arm(self.timeout_s)

    def _arm(self, timeout_s: float) -> None:
        self._deadline_s = self._clock() + timeout_s
        self._timer = threading.Timer(timeout_s, self._out_of_time)
        self._timer.daemon = True
        self._timer.start()

    @property
    def requested(self) -> bool:
        """Whether the shutdown has been requested."""
        return self._event.is_set()

    async def wait(self) -> str:
        """Wait until the shutdown is requested; return the reason."""
        await self._event.wait()
        return self.reason

    def remaining_s(self) -> float:
        """Seconds until the deadline (never negative); the whole time before a request."""
        if self._deadline_s is None:
            return self._grace_s + self.timeout_s
        return max(0.0, self._deadline_s - self._clock())

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            log.info("SIGHUP received, checking files for changes")
            for callback in self._hangup:
                callback()
        elif self._event.is_set():
            log.warning(
                "second signal received, exiting immediately", extra={"signal": number.name}
            )
            self._exit(128 + number)
        else:
            log.info(
                "shutting down", extra={"signal": number.name, "deadline_s": self.remaining_s()}
            )
            self.request(number.name)

    def _out_of_time(self) -> None:
        log.error("shutdown deadline exceeded, exiting immediately")
        self._exit(EXIT_DEADLINE)
