"""Whose connections end when the sum is too large, and that the sum is right."""

from __future__ import annotations

from tidegate.edge.transport.unfinished_bytes import UnfinishedBytes


class Held:
    """A connection that notes its end."""

    def __init__(self) -> None:
        self.is_ended = False

    def end_unfinished(self) -> None:
        self.is_ended = True


def test_those_that_hold_most_end_until_a_quarter_is_free() -> None:
    unfinished = UnfinishedBytes(1000)
    holders = [Held() for _ in range(5)]
    for holder, size in zip(holders, (100, 500, 300, 50, 50), strict=True):
        unfinished.hold(holder, size)
    assert unfinished.total == 1000
    unfinished.hold(holders[4], 51)
    assert [holder.is_ended for holder in holders] == [False, True, False, False, False]
    assert unfinished.total == 501


def test_the_newest_ends_if_it_holds_most() -> None:
    unfinished = UnfinishedBytes(1000)
    small, large = Held(), Held()
    unfinished.hold(small, 100)
    unfinished.hold(large, 2000)
    assert large.is_ended
    assert not small.is_ended
    assert unfinished.total == 100


def test_what_is_held_is_not_added_up_over_time() -> None:
    unfinished = UnfinishedBytes(1000)
    holder = Held()
    for size in range(1, 1001):
        unfinished.hold(holder, size)
    assert not holder.is_ended
    unfinished.release(holder)
    unfinished.release(holder)
    assert unfinished.total == 0
