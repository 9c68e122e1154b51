"""The walk over all partitions that every list takes, page by page.

Owns the bounds: names in one operation, names that one page looks at. Called by ``sessions`` and
``retained``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tidegate.store.inspection.cursor import Cursor
from tidegate.store.inspection.values import Part

T = TypeVar("T")

#: Names that one operation looks at: a session that is listed costs the server some 10 to 20 us.
SCAN_COUNT: Final = 100
#: Names that are looked at for one page; then it ends, however few have matched.
MOST_LOOKED_AT: Final = 25_000
#: Partitions that are read at the same time while each has no more than one operation looks at.
_WIDEST: Final = 16
#: What one operation of a scan counts for in the size of a call: two of them make a call.
SCAN_SIZE: Final = 524_288


@dataclass(slots=True)
class Found(Generic[T]):
    """What one operation has found: the server's next cursor, names looked at, names with items."""

    scan: int
    looked_at: int
    items: list[tuple[bytes, T]]


#: Reads at a place of the scan of a partition: its prefix, the cursor.
ReadPage = Callable[[bytes, int], Awaitable[Found[T]]]


async def walk(
    prefixes: Sequence[bytes], after: str | None, limit: int, read: ReadPage[T]
) -> Part[T]:
    """Return up to ``limit`` items behind a cursor. Raises BadCursor, StoreUnavailable.

    Partitions are read one after the other; several at once while they hold little: the server
    looks at little more than what the page has moved on by.
    """
    at: Cursor | None = Cursor.decode(after, len(prefixes))
    items: list[T] = []
    looked_at, width = 0, 1
    while at is not None and len(items) < limit and looked_at < MOST_LOOKED_AT:
        places = [
            at if number == at.partition else Cursor(number)
            for number in range(at.partition, min(at.partition + width, len(prefixes)))
        ]
        pages = await asyncio.gather(
            *(read(prefixes[place.partition], place.scan) for place in places)
        )
        looked_at += sum(page.looked_at for page in pages)
        at = _take(places, pages, items, limit, len(prefixes))
        # What is read behind a partition that has more is read again.
        fits = not places[0].scan and at is not None and not at.scan
        width = min(2 * width, _WIDEST) if fits else 1
    return Part(items, None if at is None else at.encode())


def _take(
    places: Sequence[Cursor], pages: Sequence[Found[T]], items: list[T], limit: int, count: int
) -> Cursor | None:
    """Add what fits of pages, in their order; where to go on, None at the end of everything.

    What comes behind a partition that has more is left: it is read again.
    """
    for place, page in zip(places, pages, strict=True):
        found = sorted(
            (item for item in page.items if not place.last or item[0] > place.last),
            key=lambda item: item[0],
        )
        last = place.last
        for name, item in found:
            if len(items) == limit:
                return Cursor(place.partition, place.scan, last)
            items.append(item)
            last = name
        if page.scan:
            return Cursor(place.partition, page.scan)
    following = places[-1].partition + 1
    return Cursor(following) if following < count else None
