"""SIGTERM and SIGINT during a backup or a restore: what was begun is put away, then it fails."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, Final, TypeVar

from tidegate.backup.failure import BackupFailed, Reason

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

Result = TypeVar("Result")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn a signal into ``BackupFailed``, wherever it arrives."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        raise BackupFailed(
            Reason.INTERRUPTED,
            "interrupted by a signal: a backup that was begun is not kept, a restore that was "
            "begun is finished by running it again",
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine, which a signal cancels. Raises KeyboardInterrupt then."""
    return asyncio.run(_until_signal(work))


async def _until_signal(work: Coroutine[Any, Any, Result]) -> Result:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    for number in _SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.default_int_handler)
