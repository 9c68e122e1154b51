"""When the memory of a store server is looked at, and what calls say of it."""

from __future__ import annotations

import pytest

from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.client.memory import (
    FULL,
    LOOK_BYTES,
    LOOK_S,
    NOT_FULL,
    SCARCE,
    MemoryWatch,
)


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
    watch.looked(1)
    watch.looked(1)
    assert counters.store_full == 1
    assert watch.word(0, LOOK_S / 2) == FULL
    assert watch.word(0, LOOK_S) == 111
    watch.looked(0)
    assert counters.store_full == 0
    assert watch.word(0, LOOK_S * 1.5) == NOT_FULL


def test_a_server_with_half_of_its_reserve_is_counted_once_and_calls_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, counters = _watch()
    watch.word(0, 0.0)
    watch.looked(2)
    assert counters.store_full == 1
    assert [record.message for record in caplog.records] == [
        "store full, refusing messages until memory is free",
        "store full, refusing new subscriptions and large wills until memory is free",
    ]
    assert watch.word(0, LOOK_S / 2) == SCARCE
    assert watch.word(0, LOOK_S) == 111
    watch.looked(1)
    assert watch.word(0, LOOK_S * 1.5) == FULL
    assert counters.store_full == 1
    watch.looked(0)
    assert counters.store_full == 0


def test_without_a_reserve_it_is_never_looked_at() -> None:
    watch, _ = _watch(0)
    assert [watch.word(LOOK_BYTES, time) for time in (0.0, 10.0, 20.0)] == [NOT_FULL] * 3


def test_a_server_that_is_no_longer_used_is_not_counted() -> None:
    watch, counters = _watch()
    watch.looked(1)
    watch.retire()
    watch.retire()
    assert counters.store_full == 0
