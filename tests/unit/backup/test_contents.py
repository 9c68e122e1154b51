"""Items of a backup: read as they were written, and refused in any other form."""

from __future__ import annotations

import pytest

from tidegate.backup.contents import (
    Abandoned,
    Bans,
    Claims,
    Client,
    Counter,
    Item,
    Queued,
    Retained,
    read,
)
from tidegate.backup.values import DamagedValue, Value, decode_all, encode

ITEMS: list[Item] = [
    Client(b"c", [b"e", b"5"], [b"a/b", b"o"], [], b"\x00\x03", [b"1", b"2"], [b"7"], [], [], 9),
    Queued(b"c", [b"1-4", b"record"], [b"p|1|0", b"5"]),
    Abandoned(b"c:4", b"3 1", 1, [b"1-4", b"record"]),
    Retained([b"t", b"record", b""]),
    Claims(b"g/a", b"k2", [b"i", b"5:c"]),
    Counter(77),
    Bans([b"id", b"{}"]),
]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: type(item).__name__)
def test_an_item_is_read_as_it_was_written(item: Item) -> None:
    (value,) = decode_all(encode(item.value()))
    assert read(value) == item


@pytest.mark.parametrize(
    "value",
    [
        7,
        b"x",
        [],
        [b"x"],
        [99, 1],
        [6],
        [6, b"1"],
        [6, 1, 1],
        [4, [b"t", b"r"]],
        [2, b"c", [1, 2], []],
        [7, [b"id"]],
    ],
)
def test_a_value_of_another_form_is_refused(value: Value) -> None:
    with pytest.raises(DamagedValue):
        read(value)
