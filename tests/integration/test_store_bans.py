"""Bans in the store: added, listed, deleted, and that readers learn of each change.

Inputs: calls of ``BanStore`` as the console makes them. Observed: what it lists, and the version.
"""

from __future__ import annotations

import pytest

from tidegate.bans.ban import Ban, BanKind
from tidegate.store import ban_store
from tidegate.store.ban_store import BanStore, TooManyBans
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000.0


def _ban(number: int, until: float | None = None) -> Ban:
    return Ban.make(BanKind.CLIENT, f"c{number}", until=until, at=NOW - number, by="ann")


@pytest.fixture
def bans(store: RedisStore) -> BanStore:
    """What a process has that routes nothing."""
    return BanStore(store._partitions)


async def test_bans_are_listed_newest_first_until_they_end(bans: BanStore) -> None:
    added = [_ban(number, NOW + 10 * number + 5) for number in range(5)]
    for ban in reversed(added):
        await bans.add(ban)
    page, after = await bans.list(NOW, limit=3)
    assert page == added[:3]
    assert await bans.list(NOW, after, 3) == (added[3:], "")
    assert await bans.list(NOW + 25) == (added[3:], "")
    await bans.delete_ended(NOW + 25)
    assert sorted(await bans.stored()) == sorted(ban.encode() for ban in added[3:])


async def test_every_change_is_a_new_version(store: RedisStore, bans: BanStore) -> None:
    versions = [await store.bans_version()]
    for change in (
        bans.add(_ban(1)),
        bans.add(Ban.make(BanKind.CLIENT, "c1", reason="again")),
        store.add_ban(_ban(2)),
        bans.delete(_ban(1).id),
    ):
        await change
        versions.append(await store.bans_version())
    assert len(set(versions)) == 5
    assert await bans.delete(_ban(1).id) is False
    assert await store.bans_version() == versions[-1]
    assert await store.stored_bans() == [_ban(2).encode()]


async def test_there_are_never_more_than_every_edge_can_have(
    bans: BanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ban_store, "MAX_BANS", 2)
    await bans.add(_ban(1))
    await bans.add(_ban(2))
    with pytest.raises(TooManyBans):
        await bans.add(_ban(3))
    await bans.add(_ban(2))
