"""Receipts of a durable session; what publishes do with them is in test_publish.py."""

from __future__ import annotations

from tidegate.edge.client.receipts import Receipts


def test_an_exchange_keeps_its_name_until_its_end_is_stored() -> None:
    receipts = Receipts(7, b"", {})
    assert receipts.exchange(3) == "7|3|0"
    assert receipts.begin(3) == 1
    assert receipts.exchange(3) == "7|3|0"
    ended = receipts.ended_value(3)
    assert receipts.exchange(3) == "7|3|0", "it is not stored yet"
    receipts.end(3, ended)
    assert receipts.exchange(3) == "7|3|1"
    assert receipts.exchange(4) == "7|4|0", "identifiers are counted one by one"


def test_what_was_stored_is_taken_up() -> None:
    receipts = Receipts(7, bytes((0, 0b101, 0b100)), {})
    assert receipts.open_exchanges() == {1}
    assert receipts.exchange(1) == "7|1|2"
    assert receipts.begin(2) == 0b101


def test_a_count_that_runs_over_names_no_exchange_twice() -> None:
    receipts = Receipts(7, b"", {})
    names = set()
    for _ in range(300):
        names.add(receipts.exchange(1))
        receipts.begin(1)
        receipts.end(1, receipts.ended_value(1))
    assert len(names) == 300


def test_a_store_that_went_back_counts_in_another_state() -> None:
    assert Receipts(7, b"", {0: 2}).exchange(1) != Receipts(7, b"", {}).exchange(1)
