"""Futures of what is made of the result of others: what a coroutine costs a task for.

Called where an operation is made so often that a task for each would be dear (CONNECT, and the end
of a connection). Owns nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def then(source: asyncio.Future[S], make: Callable[[S], T]) -> asyncio.Future[T]:
    """Return a future of what ``make`` returns for the result of another one.

    It fails as that one does, or ``make``. When it is cancelled, ``make`` is not called; the other
    one goes on.
    """
    made: asyncio.Future[T] = source.get_loop().create_future()

    def ended(source: asyncio.Future[S]) -> None:
        if made.done():
            return
        if source.cancelled():
            made.cancel()
            return
        try:
            result = make(source.result())
        except Exception as error:  # for who waits
            made.set_exception(error)
        else:
            made.set_result(result)

    source.add_done_callback(ended)
    return made


def pass_on(waiting: asyncio.Future[T], ended: asyncio.Future[T]) -> None:
    """Give the outcome of one future to who waits for another one."""
    if waiting.done():
        if not ended.cancelled():
            ended.exception()  # of no interest to anybody any more
    elif ended.cancelled():
        waiting.cancel()
    elif (error := ended.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(ended.result())
