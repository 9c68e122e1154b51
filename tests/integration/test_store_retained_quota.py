"""Quotas of retained messages: what the store counts, and what it refuses.

Inputs: calls of ``RedisStore`` by owners with and without a charge. Observed: its replies, the
sums, and what is stored.
"""

from __future__ import annotations

import random
from dataclasses import astuple

import pytest

from support.store_groups import AnyStore
from tidegate.store.api import RetainedBefore, RetainedCharge, RetainRefusal
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
REFUSED = RetainRefusal.RETAINED_QUOTA


def _charge(owner: str, *left: int | None) -> RetainedCharge:
    messages, size, all_messages, all_size = (*left, *[None] * 4)[:4]
    return RetainedCharge(owner, messages, size, all_messages, all_size)


async def _sums(store: RedisStore, owner: str) -> tuple[int, ...]:
    return astuple(await store.retained_use(owner))


async def test_sums_are_those_of_what_is_stored(store: RedisStore, server: AnyStore) -> None:
    """Whoever replaces, removes or lets expire what of whom."""
    chance = random.Random(1)
    kept: dict[str, tuple[str, int]] = {}
    owners = ["ann", "bob", "a/\0c", "ü"]
    for number in range(400):
        topic = f"t/{chance.randrange(20)}"
        what = chance.choice(["counts", "counts", "counts", "plain", "removed", "expired"])
        record = bytes(chance.randrange(1, 50))
        owner = chance.choice(owners)
        if what == "removed":
            await store.set_retained(topic, None, 0)
        elif what == "plain":
            await store.set_retained(topic, record, 0)
        else:
            expiry = NOW + number if what == "expired" else 0
            assert await store.set_retained(topic, record, expiry, _charge(owner)) is None
        if what == "counts":
            kept[topic] = (owner, len(topic) + len(record))
            continue
        kept.pop(topic, None)
        if what == "expired":
            assert await store.expired_retained(NOW + number, 10) == [topic]
    whole = (len(kept), sum(size for _, size in kept.values()))
    assert kept
    for owner in owners:
        sizes = [size for one, size in kept.values() if one == owner]
        assert await _sums(store, owner) == (len(sizes), sum(sizes), *whole)
    for topic in kept:
        await store.set_retained(topic, None, 0)
    assert server.command("KEYS", "*retained-*") == []


@pytest.mark.parametrize(
    ("left", "fits"),
    [
        ((1, 5, 1, 5), True),
        ((None, None, None, None), True),
        ((0, None, None, None), False),
        ((None, 4, None, None), False),
        ((None, None, 0, None), False),
        ((None, None, None, 4), False),
        ((-3, -3, -3, -3), False),
    ],
)
async def test_what_exceeds_any_of_them_is_refused(
    store: RedisStore, left: tuple[int | None, ...], fits: bool
) -> None:
    charge = _charge("ann", *left)
    assert await store.set_retained("t", b"1234", 0, charge) is (None if fits else REFUSED)
    assert astuple(charge.added) == (1, 5, 1, 5)
    assert await _sums(store, "ann") == ((1, 5, 1, 5) if fits else (0, 0, 0, 0))
    assert await store.get_retained(["t"]) == [b"1234" if fits else None]


async def test_what_comes_again_counts_once(store: RedisStore) -> None:
    names = ["identity"]
    for _ in range(2):  # refused, so not stored
        assert await store.set_retained("t", b"1234", 0, _charge("ann", 0), names) is REFUSED
    assert await store.set_retained("t", b"1234", 0, _charge("ann"), names) is None
    assert await _sums(store, "ann") == (1, 5, 1, 5)
    assert await store.set_retained("t", b"5", 0, _charge("bob")) is None
    again = _charge("ann")
    assert await store.set_retained("t", b"1234", 0, again, names) == RetainedBefore(1)
    assert astuple(again.added) == (0, 0, 0, 0)
    assert await _sums(store, "ann") == (0, 0, 1, 2)
    # With an identity, and without an owner.
    assert await store.set_retained("t", b"6", 0, None, ["other"]) is None
    assert await _sums(store, "bob") == (0, 0, 0, 0)


async def test_what_is_replaced_makes_room(store: RedisStore) -> None:
    await store.set_retained("t", b"1234", 0, _charge("ann"))
    # Not larger: also where nothing is left, because a limit was lowered.
    charge = _charge("ann", -5, -5, -5, -5)
    assert await store.set_retained("t", b"4321", 0, charge) is None
    assert astuple(charge.added) == (0, 0, 0, 0)
    assert await store.set_retained("t", b"12345", 0, _charge("ann", 0, 0)) is REFUSED
    # Of another client: it is one more for this one, and none for all of them.
    charge = _charge("bob", 1, 5, 0, 0)
    assert await store.set_retained("t", b"abcd", 0, charge) is None
    assert (charge.previous_owner, charge.previous_bytes) == ("ann", 5)
    assert await _sums(store, "ann") == (0, 0, 1, 5)
    assert await _sums(store, "bob") == (1, 5, 1, 5)
