"""The turns of passwords that wait: addresses, user names, the newest."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tidegate.edge.auth.password_queue import PasswordQueue, source_of


@dataclass(eq=False)
class One:
    source: str
    username: str = "ann"


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("/run/mqtt.sock", "/run/mqtt.sock"),
        ("a:b", "a:b"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, source: str) -> None:
    assert source_of(address) == source


def test_each_order_has_a_third() -> None:
    queue: PasswordQueue[One] = PasswordQueue()
    flood = [One("a") for _ in range(6)]
    other = One("b", "bob")
    newest = One("a")
    for one in (*flood, other, newest):
        queue.add(one)
    assert [queue.pop() for _ in range(4)] == [flood[0], flood[1], newest, other]
    assert len(queue) == 4


def test_what_is_taken_out_is_in_no_order_any_more() -> None:
    queue: PasswordQueue[One] = PasswordQueue()
    one = One("a")
    queue.add(one)
    assert queue.remove(one)
    assert not queue.remove(one)
    assert queue.pop() is None
    assert queue._by_source == {}
    assert queue._by_username == {}


def test_how_many_are_ahead_is_bounded_by_the_turns() -> None:
    queue: PasswordQueue[One] = PasswordQueue()
    for _ in range(50):
        queue.add(One("a"))
    assert queue.ahead_of("a", "ann") == 50
    assert queue.ahead_of("b", "ann") == 3
    assert queue.ahead_of("a", "bob") == 3


def test_the_address_with_the_most_is_refused_first() -> None:
    queue: PasswordQueue[One] = PasswordQueue()
    assert queue.to_refuse("a") is None
    flood = [One("a") for _ in range(3)]
    for one in (*flood, One("b")):
        queue.add(one)
    assert queue.to_refuse("b") is flood[-1]
    assert queue.to_refuse("a") is None
    assert queue.to_refuse("c") is flood[-1]


def test_of_single_ones_the_oldest_of_the_commonest_user_name_is_refused_first() -> None:
    queue: PasswordQueue[One] = PasswordQueue()
    ones = [One("a", "bob"), One("b"), One("c")]
    for one in ones:
        queue.add(one)
    assert queue.to_refuse("d") is ones[1]
