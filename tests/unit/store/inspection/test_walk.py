"""A page of a list looks at no more of the store than it needs, however much is in it.

Input: partitions as the walk reads them, made up. Observed: how many reads a page takes, and how
many names they look at.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidegate.store.inspection.walk import MOST_LOOKED_AT, SCAN_COUNT, Found, walk

PARTITIONS = 64
PREFIXES = [b"%d:" % number for number in range(PARTITIONS)]


class Store:
    """So many names in each partition; ``reads`` are the places that were read."""

    def __init__(self, names: int, is_wanted: Callable[[int], bool] = lambda _: True) -> None:
        self._names = names
        self._is_wanted = is_wanted
        self.reads: list[tuple[bytes, int]] = []

    async def read(self, prefix: bytes, scan: int) -> Found[str]:
        """Return the names of one place."""
        self.reads.append((prefix, scan))
        numbers = range(scan, min(scan + SCAN_COUNT, self._names))
        items = [
            (b"%06d" % number, f"{prefix.decode()}{number}")
            for number in numbers
            if self._is_wanted(number)
        ]
        end = scan + SCAN_COUNT
        return Found(end if end < self._names else 0, len(numbers), items)


async def test_a_page_takes_one_read_of_its_size_whatever_is_behind_it() -> None:
    store = Store(10_000)
    part = await walk(PREFIXES, None, SCAN_COUNT, store.read)
    assert len(part.items) == SCAN_COUNT
    assert store.reads == [(PREFIXES[0], 0)]
    # So does one in the middle, where the one before has ended.
    store.reads.clear()
    part = await walk(PREFIXES, part.after, SCAN_COUNT, store.read)
    assert part.items[0] == f"0:{SCAN_COUNT}"
    assert store.reads == [(PREFIXES[0], SCAN_COUNT)]


async def test_pages_have_everything_once() -> None:
    store = Store(250)
    found: list[str] = []
    after: str | None = None
    while True:
        part = await walk(PREFIXES, after, 77, store.read)
        found += part.items
        after = part.after
        if after is None:
            break
    assert sorted(found) == sorted(
        f"{prefix.decode()}{number}" for prefix in PREFIXES for number in range(250)
    )


@pytest.mark.parametrize("names", [10_000, 300, 3])
async def test_a_search_that_finds_nothing_ends_with_a_page(names: int) -> None:
    store = Store(names, lambda _: False)
    part = await walk(PREFIXES, None, SCAN_COUNT, store.read)
    assert part.items == []
    assert len(store.reads) * min(names, SCAN_COUNT) <= MOST_LOOKED_AT + 16 * SCAN_COUNT
    assert (part.after is None) == (names * PARTITIONS <= MOST_LOOKED_AT)


@pytest.mark.parametrize("names", [1_000, 300, 100, 3])
async def test_a_search_reads_hardly_anything_twice(names: int) -> None:
    store = Store(names, lambda _: False)
    after: str | None = None
    while True:
        part = await walk(PREFIXES, after, SCAN_COUNT, store.read)
        after = part.after
        if after is None:
            break
    needed = PARTITIONS * -(-names // SCAN_COUNT)
    assert len(store.reads) <= needed + 1
    assert len(set(store.reads)) == needed
