"""Answers about many clients, made in pieces between which other work gets its turn.

Used by the pages of edges and routers, whose event loops serve clients meanwhile. Owns how much is
one piece; knows nothing of what is looked at. That no page takes a longer one is tried in
``test_pieces.py`` of edges and of routers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

from tidegate.runtime.admin.http import Response

T = TypeVar("T")

#: Items that are described and encoded in a piece: about a millisecond.
DESCRIBED: Final = 100
#: Items that are only compared in a piece: about as much.
COMPARED: Final = 1_000
#: Topic filters that are matched in a piece.
MATCHED: Final = 400
_JSON: Final = "application/json"


class Encoded(bytes):
    """A value that is JSON already."""


class Turns:
    """Counts small pieces together, so that many of them in a row are no large one."""

    def __init__(self) -> None:
        self._left = MATCHED

    async def spent(self, count: int) -> None:
        """Note that so many items have been looked at; other work gets its turn now and then."""
        self._left -= count
        if self._left <= 0:
            self._left = MATCHED
            await asyncio.sleep(0)


async def pieces(items: Sequence[T], size: int) -> AsyncGenerator[Sequence[T]]:
    """Yield all items, ``size`` at a time; other work gets its turn before each time."""
    for start in range(0, len(items), size):
        await asyncio.sleep(0)
        yield items[start : start + size]


async def first_of(
    items: Sequence[T],
    count: int,
    chosen: Callable[[Sequence[T]], Sequence[T]],
    key: Callable[[T], str] | None = None,
) -> list[T]:
    """Return the first ``count`` items in the order of ``key``, of those that are ``chosen``.

    ``chosen`` gets a piece, and returns what is wanted of it. Without ``key`` items are compared.
    """
    first: list[Any] = []
    async for part in pieces(items, COMPARED):
        first = sorted([*first, *chosen(part)], key=key)[:count]
    return first


async def chosen_of(items: Sequence[T], is_chosen: Callable[[T], bool], turns: Turns) -> list[T]:
    """Return the items that are chosen, such as filters that match, in their order.

    ``turns`` are those of the whole answer.
    """
    found: list[T] = []
    for start in range(0, len(items), MATCHED):
        part = items[start : start + MATCHED]
        found += filter(is_chosen, part)
        await turns.spent(len(part))
    return found


async def encoded(items: Sequence[T], describe: Callable[[T], Any]) -> Encoded:
    """Return the JSON array of what ``describe`` makes of the items; None is left out."""
    values: list[bytes] = []
    async for part in pieces(items, DESCRIBED):
        described = [value for item in part if (value := describe(item)) is not None]
        if described:
            values.append(_json(described)[1:-1])
    return Encoded(b"[%b]" % b",".join(values))


async def object_of(members: Mapping[str, Any]) -> Response:
    """Return an object as a response; lists are encoded in pieces, what is Encoded is taken."""
    parts = []
    for name, value in members.items():
        found = await encoded(value, lambda item: item) if isinstance(value, list) else value
        parts.append(
            b"%b:%b" % (_json(name), found if isinstance(found, Encoded) else _json(found))
        )
    return Response(HTTPStatus.OK, _JSON, b"{%b}\n" % b",".join(parts))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
