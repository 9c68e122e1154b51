"""What the longest piece of a coroutine does between two turns of the event loop.

Counted, not timed: bytecode instructions, and bytes of JSON, which C encodes. Neither depends on
the machine or its load.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from counted import instructions

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Longest:
    """The most of all pieces, each for itself."""

    instructions: int
    json_bytes: int


async def longest_piece(make: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, Longest]:
    """Run what ``make`` returns twice; return the last result and the most that was counted."""
    counts: list[int] = []
    await _Pieces(make(), lambda piece: counts.append(instructions(piece)))
    sizes: list[int] = []
    result = await _Pieces(make(), lambda piece: sizes.append(_json_bytes(piece)))
    return result, Longest(max(counts), max(sizes))


class _Pieces:
    """A coroutine whose pieces are run by ``run``."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], run: Callable[[Callable[[], None]], None]
    ) -> None:
        self._coroutine = coroutine
        self._run = run
        self._awaited: Any = None
        self._result: list[Any] = []

    def __await__(self) -> Generator[Any, Any, Any]:
        while True:
            self._run(self._piece)
            if self._result:
                return self._result[0]
            yield self._awaited

    def _piece(self) -> None:
        try:
            self._awaited = self._coroutine.send(None)
        except StopIteration as stop:
            self._result.append(stop.value)


def _json_bytes(work: Callable[[], None]) -> int:
    """Return the length of all that ``json.dumps`` returns during a call of ``work``."""
    size = 0
    code = json.dumps.__code__

    def profile(frame: FrameType, event: str, result: Any) -> None:
        nonlocal size
        if event == "return" and frame.f_code is code and result is not None:
            size += len(result)

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return size
