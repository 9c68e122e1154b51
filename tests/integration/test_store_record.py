"""The record in the store: what is kept of each client and of all, and how it is read.

Inputs: events for one and for many clients, small limits. Observed: pages, cursors, lifetimes.
"""

from __future__ import annotations

from typing import Any

import pytest

from support.store_groups import AnyStore
from tidegate.record.events import Event, Kind
from tidegate.runtime.config.model import RecordConfig
from tidegate.store.record_store import RecordStore
from tidegate.store.redis_store import RedisStore


def _names(server: AnyStore) -> list[Any]:
    names: Any = server.command("KEYS", "tg:*}:ev:*")
    return list(names)


CLIENTS = ("ann", "bob", "a/\0c", "ü")


def _event(key: str, number: int, kind: Kind = Kind.SUBSCRIBED) -> tuple[str, bytes]:
    event = Event(at=float(number), kind=kind, client=key.rpartition("\0")[2], topic=f"t/{number}")
    return key, event.encode()


@pytest.fixture
def record(store: RedisStore) -> RecordStore:
    """What a process has that reads the record."""
    return RecordStore(store._partitions)


async def test_the_newest_events_are_kept_of_each_client_and_of_all(
    store: RedisStore, record: RecordStore, server: AnyStore
) -> None:
    config = RecordConfig(max_events_per_client=3, max_events=10, ttl_s=100)
    for first in range(0, 20, 4):
        batch = [_event(CLIENTS[n % 4], n) for n in range(first, first + 4)]
        await store.record([*batch, _event("", 100 + first)], config)
    for place, key in enumerate(CLIENTS):
        page = await record.client_events(key)
        assert [event.at for event in page.items] == [16 + place, 12 + place, 8 + place]
        assert page.next is None
    whole = await record.events()
    assert [event.at for event in whole.items] == [116, 112, 19, 18, 17, 16, 15, 14, 13, 12]
    if server.command("EXISTS", "tg:{g}:events") == 1:  # one server has everything
        for name in [*_names(server), "tg:{g}:events"]:
            ttl_s: Any = server.command("TTL", name)
            assert 0 < ttl_s <= 100


async def test_pages_go_on_where_the_last_one_ended(store: RedisStore, record: RecordStore) -> None:
    config = RecordConfig()
    kinds = (Kind.SUBSCRIBED, Kind.CONNECTED)
    await store.record([_event(CLIENTS[n % 4], n, kinds[n % 2]) for n in range(30)], config)
    read: list[float] = []
    after = ""
    while True:
        page = await record.events(after, 7)
        read += [event.at for event in page.items]
        if page.next is None:
            break
        after = page.next
    assert read == list(range(29, -1, -1))
    wanted = await record.events(limit=3, kinds=[Kind.CONNECTED], client="bob")
    assert [event.at for event in wanted.items] == [29, 25, 21]
    assert wanted.next is not None
    more = await record.events(wanted.next, kinds=[Kind.CONNECTED], client="bob")
    assert [event.at for event in more.items] == [17, 13, 9, 5, 1]
    one = await record.client_events("bob", limit=2)
    assert one.next is not None
    rest = await record.client_events("bob", one.next, 2)
    assert [event.at for event in rest.items] == [21, 17]
    assert rest.next is not None
    last = await record.client_events("bob", rest.next)
    assert ([event.at for event in last.items], last.next) == ([13, 9, 5, 1], None)


async def test_a_client_with_few_events_takes_little(store: RedisStore, server: AnyStore) -> None:
    await store.record([_event("ann", 1)], RecordConfig())
    if not store._partitions.sharded:  # otherwise another server may have the key
        (name,) = _names(server)
        taken: Any = server.command("MEMORY", "USAGE", name)
        assert taken < 500


async def test_who_follows_gets_what_comes_later(store: RedisStore, record: RecordStore) -> None:
    config = RecordConfig()
    place = (await record.newer("")).next
    assert place is not None
    await store.record([_event("ann", 1), _event("bob", 2), _event("ann", 3)], config)
    first = await record.newer(place, 2)
    assert [event.at for event in first.items] == [1, 2]
    assert first.next is not None
    second = await record.newer(first.next, 2)
    assert [event.at for event in second.items] == [3]
    assert second.next is not None
    third = await record.newer(second.next)
    assert (third.items, third.next) == ([], second.next)
    assert (await record.newer("")).next == second.next


@pytest.mark.parametrize("after", ["x", "1", "1-x", "-1-1", "1-1)"])
async def test_a_wrong_place_is_refused(record: RecordStore, after: str) -> None:
    with pytest.raises(ValueError, match="no identifier"):
        await record.events(after)
    with pytest.raises(ValueError, match="no identifier"):
        await record.newer(after)
    with pytest.raises(ValueError, match="no identifier"):
        await record.client_events("ann", after)
