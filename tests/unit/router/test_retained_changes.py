"""Changes of one topic that wait to be stored: which is written, and what follows if it is known.

Inputs: changes with and without an identity. Observed: which of them is the newest, and identities.
What they are for: tests/property/test_retained_once.py.
"""

from __future__ import annotations

import pytest

from tidegate.mqtt.packets import Publish
from tidegate.router.retained_changes import MAX_IDENTITIES, RetainedChange, WaitingChanges


def _change(payload: bytes, identity: str = "", may_repeat: bool = False) -> RetainedChange:
    return RetainedChange(Publish("t", payload, 2, True), "", identity, may_repeat)


def _waiting(*changes: RetainedChange) -> WaitingChanges:
    found = WaitingChanges()
    for one in changes:
        found.add(one)
    return found


def test_the_newest_is_written_with_the_identities_of_all() -> None:
    waiting = _waiting(_change(b"1", "a"), _change(b"2", "b"), _change(b"3", "c"))
    assert waiting.newest.identity == "c"
    assert waiting.identities() == ["c", "b", "a"]


@pytest.mark.parametrize(("count", "left"), [(1, b"2"), (2, b"1"), (3, None)])
def test_what_has_been_stored_before_gives_way_to_the_next_older_one(
    count: int, left: bytes | None
) -> None:
    waiting = _waiting(_change(b"1", "a"), _change(b"2", "b"), _change(b"3", "c"))
    assert waiting.drop_repeated(count) == (left is not None)
    if left is not None:
        assert waiting.newest.message is not None
        assert waiting.newest.message.payload == left


def test_one_without_an_identity_replaces_the_others_and_keeps_their_identities() -> None:
    waiting = _waiting(_change(b"1", "a"), _change(b"2", "b"), _change(b"3"))
    assert waiting.newest == _change(b"3")
    assert waiting.identities() == ["", "b", "a"]


def test_one_without_an_identity_is_known_once_something_has_come_behind_it() -> None:
    """A call that is repeated must not write it over what the first call has written."""
    waiting = _waiting(_change(b"1", "a"), _change(b"2"), _change(b"3", "c"))
    own, base, replaced = waiting.identities()
    assert (own, replaced) == ("c", "a")
    assert base
    assert waiting.identities()[1] == base
    assert not waiting.drop_repeated(2)


def test_what_is_put_back_comes_before_what_has_come_since() -> None:
    newer = _waiting(_change(b"3", "c"))
    newer.add_before(_waiting(_change(b"1"), _change(b"2", "b")))
    own, second, base = newer.identities()
    assert (own, second) == ("c", "b")
    assert newer.identities()[2] == base
    assert newer.drop_repeated(2)
    assert newer.newest == _change(b"1")
    newest = _waiting(_change(b"5"))
    newest.add_before(_waiting(_change(b"4", "d")))
    assert newest.identities() == ["", "d"]


def test_one_without_an_identity_that_is_put_back_is_known_behind_what_has_come_since() -> None:
    newer = _waiting(_change(b"2", "b"))
    newer.add_before(_waiting(_change(b"1")))
    assert newer.identities()[0] == "b"
    assert newer.identities()[1]


def test_it_is_certain_what_a_topic_retains_unless_all_may_have_been_stored_before() -> None:
    repeated = _change(b"1", "a", may_repeat=True)
    assert not _waiting(repeated).is_certain
    assert _waiting(_change(b"0"), repeated).is_certain
    assert _waiting(_change(b"0", "b"), repeated).is_certain


def test_identities_are_bounded() -> None:
    waiting = _waiting(*(_change(b"x", f"{number}") for number in range(MAX_IDENTITIES + 10)))
    assert len(waiting.identities()) == MAX_IDENTITIES
    assert waiting.identities()[0] == f"{MAX_IDENTITIES + 9}"
    waiting.add(_change(b"y"))
    assert len(waiting.identities()) == MAX_IDENTITIES
    newest = _waiting(_change(b"z"))
    newest.add_before(waiting)
    assert len(newest.identities()) == MAX_IDENTITIES
