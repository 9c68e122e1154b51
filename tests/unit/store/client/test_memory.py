"""When the memory of a store server is looked at, and what calls say of it."""

from __future__ import annotations

from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.client.memory import FULL, LOOK_BYTES, LOOK_S, NOT_FULL, MemoryWatch


def _watch(percent: int = 10) -> tuple[MemoryWatch, Counters]:
    counters = Counters()
    return MemoryWatch("s", percent, counters), counters


def test_it_is_looked_at_first_then_after_a_time_or_a_number_of_bytes() -> None:
    watch, _ = _watch()
    assert watch.word(0, 5.0) == 100
    assert watch.word(LOOK_BYTES // 2, 5.0) == NOT_FULL
    assert watch.word(LOOK_BYTES // 2, 5.0) == 100
    assert watch.word(LOOK_BYTES - 1, 5.0 + LOOK_S / 2) == NOT_FULL
    assert watch.word(0, 5.0 + LOOK_S) == 100


def test_while_full_calls_say_so_and_more_must_be_free_to_end_it() -> None:
    watch, counters = _watch()
    watch.word(0, 0.0)
    watch.looked(True)
    watch.looked(True)
    assert counters.store_full == 1
    assert watch.word(0, LOOK_S / 2) == FULL
    assert watch.word(0, LOOK_S) == 111
    watch.looked(False)
    assert counters.store_full == 0
    assert watch.word(0, LOOK_S * 1.5) == NOT_FULL


def test_without_a_reserve_it_is_never_looked_at() -> None:
    watch, _ = _watch(0)
    assert [watch.word(LOOK_BYTES, time) for time in (0.0, 10.0, 20.0)] == [NOT_FULL] * 3


def test_a_server_that_is_no_longer_used_is_not_counted() -> None:
    watch, counters = _watch()
    watch.looked(True)
    watch.retire()
    watch.retire()
    assert counters.store_full == 0
