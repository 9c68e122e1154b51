"""Key names: which partition, which hash tag."""

from __future__ import annotations

from tidegate.store.keys import Keyspace


def test_a_name_always_has_the_same_partition() -> None:
    keys = Keyspace(64)
    # A layout that changes loses everybody's session: these values may never change.
    assert keys.prefix(b"client") == b"tg:{p21}:"
    assert keys.prefix("ä/b".encode()) == b"tg:{p17}:"
    assert keys.queue(b"client", 12) == b"tg:{p21}:q:client:12"
    assert keys.format == "2:64"


def test_names_spread_over_all_partitions() -> None:
    keys = Keyspace(16)
    assert {keys.prefix(b"c%d" % number) for number in range(1000)} == set(keys.prefixes)
    assert len(set(keys.prefixes)) == 16


def test_one_partition_is_enough() -> None:
    assert Keyspace(1).prefix(b"anything") == b"tg:{p00}:"
