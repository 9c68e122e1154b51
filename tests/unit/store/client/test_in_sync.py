"""Which replicas confirm a write: replies of ROLE in, the number that WAIT asks for out."""

from __future__ import annotations

from typing import Any

from tidegate.store.client.in_sync import InSync, name

_NEAR = (b"10.0.0.1", b"6379")
_FAR = (b"10.0.0.2", b"6379")


def role(position: int, **offsets: int) -> list[Any]:
    """What a master says; ``near`` and ``far`` have confirmed up to there."""
    found = {"near": _NEAR, "far": _FAR}
    replicas = [[*found[key], b"%d" % offset] for key, offset in offsets.items()]
    return [b"master", position, replicas]


def test_all_that_a_master_has_confirm() -> None:
    replicas = InSync(1)
    assert replicas.wanted == 1
    assert replicas.looked(role(100, near=100, far=90))
    assert replicas.wanted == 2
    assert not replicas.looked(role(200, near=200, far=190))
    assert sorted(replicas.names()) == ["10.0.0.1:6379", "10.0.0.2:6379"]


def test_one_that_is_disconnected_is_not_waited_for() -> None:
    replicas = InSync(1)
    replicas.looked(role(100, near=100, far=100))
    assert replicas.looked(role(100, near=100))
    assert replicas.wanted == 1


def test_there_are_never_fewer_than_the_minimum() -> None:
    replicas = InSync(2)
    replicas.looked(role(100, near=100, far=100))
    replicas.fell_short()
    replicas.looked(role(200, near=100))
    assert replicas.wanted == 2


def test_one_that_lacks_what_fell_short_is_left_out_until_it_keeps_up() -> None:
    replicas = InSync(1)
    replicas.looked(role(100, near=100, far=100))
    replicas.fell_short()
    replicas.looked(role(200, near=200, far=100))
    assert replicas.leave_out() == [_FAR]
    assert replicas.wanted == 1
    replicas.looked(role(300, near=300, far=199))
    assert replicas.wanted == 1, "it lacks what there was at the look before"
    replicas.looked(role(400, near=400, far=300))
    assert replicas.wanted == 2


def test_one_that_receives_ever_new_writes_late_is_not_left_out() -> None:
    """What was written since it fell short does not count against it."""
    replicas = InSync(1)
    replicas.looked(role(100, near=100, far=100))
    replicas.fell_short()
    replicas.looked(role(200, near=200, far=100))
    replicas.looked(role(900, near=900, far=200))
    assert replicas.leave_out() == []


def test_an_earlier_shortfall_does_not_count() -> None:
    replicas = InSync(1)
    replicas.looked(role(100, near=100, far=100))
    replicas.fell_short()
    replicas.looked(role(200, near=200, far=200))
    replicas.fell_short()
    assert replicas.leave_out() == []
    replicas.looked(role(300, near=300, far=250))
    assert replicas.leave_out() == [_FAR]


def test_one_that_has_just_connected_counts_when_it_has_caught_up() -> None:
    replicas = InSync(1)
    replicas.looked(role(1000, near=1000))
    replicas.looked(role(2000, near=2000, far=500))
    assert replicas.wanted == 1
    replicas.looked(role(3000, near=3000, far=2000))
    assert replicas.wanted == 2


def test_another_connection_may_be_another_master() -> None:
    replicas = InSync(1)
    replicas.looked(role(5000, near=5000, far=5000))
    replicas.forget()
    assert replicas.wanted == 1
    replicas.looked(role(100, far=100))
    assert replicas.names() == [name(_FAR)]


def test_a_server_that_has_become_a_replica_says_nothing() -> None:
    replicas = InSync(1)
    replicas.looked(role(100, near=100, far=100))
    assert not replicas.looked([b"slave", b"10.0.0.3", 6379, b"connected", 100])
    assert replicas.wanted == 2
