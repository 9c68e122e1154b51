"""What operators see of the store, on every kind of server: lists in pages, sessions, queues.

Inputs: sessions, queues and retained messages that ``RedisStore`` has stored. Observed: what
``store.inspection`` returns of them. Behind sentinels: test_store_sentinel.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.store_groups import AnyStore
from tidegate.core.session_key import session_key
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will
from tidegate.runtime.config.model import StoreConfig
from tidegate.store.api import Append, AttachReply, AttachRequest, DetachRequest
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.inspection.cursor import BadCursor
from tidegate.store.inspection.retained import RetainedInspection
from tidegate.store.inspection.sessions import SessionInspection
from tidegate.store.inspection.values import SessionQuery
from tidegate.store.records import encode_queued, encode_retained, encode_will
from tidegate.store.redis_store import RedisStore

NOW = 1_700_000_000_000
NEVER = 0xFFFFFFFF
#: More than a page, and more in a partition than a set keeps in one piece.
MANY = 300


@pytest.fixture
async def access(server: AnyStore, store: RedisStore) -> AsyncIterator[StoreAccess]:
    access = await StoreAccess.connect(server.url, StoreConfig())
    yield access
    await access.close()


async def attach(
    store: RedisStore, key: str, *, user: str = "", expiry_s: int = 100
) -> AttachReply:
    return await store.attach(AttachRequest(key, "e1", False, expiry_s, NOW, user=user))


async def make_offline(store: RedisStore, key: str, user: str = "", sent_seq: int = 0) -> int:
    """Make a durable session without a connection; its incarnation."""
    attached = await attach(store, key, user=user)
    await store.detach(DetachRequest(key, attached.epoch, NOW, False, sent_seq=sent_seq))
    return attached.incarnation


def record(payload: bytes = b"v", qos: int = 1, group: str = "") -> bytes:
    return encode_queued(Publish("t/1", payload, qos=qos), qos, False, group=group)


async def keys_of(access: StoreAccess, query: SessionQuery, limit: int) -> list[str]:
    """The keys of all pages."""
    sessions, found, after = SessionInspection(access), [], None
    while True:
        page = await sessions.page(query, after, limit)
        assert len(page.items) <= limit
        found += [item.key for item in page.items]
        after = page.after
        if after is None:
            return found


async def test_pages_have_each_session_once_and_search_by_what_is_given(
    store: RedisStore, access: StoreAccess
) -> None:
    names = [f"dev-{number}" for number in range(MANY)]
    await asyncio.gather(*(make_offline(store, name, user=f"u{len(name)}") for name in names))
    await attach(store, "online", user="u7")
    mounted = session_key("tenant/", "dev-1")
    await make_offline(store, mounted)
    everything = [*names, "online", mounted]
    assert sorted(await keys_of(access, SessionQuery(), 7)) == sorted(everything)
    for query, expected in (
        (SessionQuery(prefix="dev-29"), [n for n in names if n.startswith("dev-29")]),
        (SessionQuery(prefix="dev-1", mount_point="tenant/"), [mounted]),
        (SessionQuery(is_connected=True), ["online"]),
        (SessionQuery(user="u7", is_connected=False), [n for n in names if len(n) == 7]),
        (SessionQuery(prefix="nobody"), []),
    ):
        assert sorted(await keys_of(access, query, 1000)) == sorted(expected), query
    with pytest.raises(BadCursor):
        await SessionInspection(access).page(SessionQuery(), "1.x.", 10)


async def test_many_sessions_of_one_partition_come_in_pages(
    store: RedisStore, access: StoreAccess
) -> None:
    of_one = [f"c{n}" for n in range(20_000) if not access.keys.number(f"c{n}".encode())][:MANY]
    await asyncio.gather(*(make_offline(store, name) for name in of_one))
    assert sorted(await keys_of(access, SessionQuery(), 50)) == sorted(of_one)


async def test_a_session_is_described_with_its_queue_and_will(
    store: RedisStore, access: StoreAccess
) -> None:
    sessions = SessionInspection(access)
    will = encode_will(Will("gone", b"bye", 1, False, will_delay_interval=60), "c", None)
    request = AttachRequest("c", "e1", False, 100, NOW, will=will, will_delay_s=60, user="ann")
    attached = await store.attach(request)
    options = SubscriptionOptions(qos=1, no_local=True)
    await store.subscribe("c", attached.epoch, [("a/+", options), ("b", options), ("c", options)])
    await store.append(
        [Append("c", attached.incarnation, record(bytes(1), group="g/t/#")) for _ in range(3)]
    )
    connected = await sessions.describe("c")
    assert connected is not None
    assert (connected.edge_id, connected.ends_at_ms, connected.sent_seq) == ("e1", 0, None)
    await store.detach(DetachRequest("c", attached.epoch, NOW, True, sent_seq=2))
    state = await sessions.describe("c")
    assert state is not None
    assert (state.edge_id, state.user, state.expiry_s) == ("", "ann", 100)
    assert state.ends_at_ms == NOW + 100_000
    assert (state.queued, state.last_seq, state.sent_seq, state.subscriptions) == (3, 3, 2, 3)
    assert state.queue_bytes > 0
    (armed,) = state.wills
    assert (armed.record.will.topic, armed.due_at_ms) == ("gone", NOW + 60_000)
    first, second = await sessions.queue("c", state.incarnation, 0, 2)
    assert (first.seq, second.seq, first.group) == (1, 2, "g/t/#")
    assert first.publish is not None
    assert (first.publish.topic, first.publish.payload) == ("t/1", b"\0")
    assert await sessions.unacknowledged("c", state.incarnation, "g/t/#") == (3, False)
    assert await sessions.unacknowledged("c", state.incarnation, "g/u") == (0, False)
    page = await sessions.subscriptions_of("c", None, 2)
    assert [item.topic_filter for item in page.items] == ["a/+", "b"]
    assert page.items[0].options == options
    rest = await sessions.subscriptions_of("c", page.after, 2)
    assert ([item.topic_filter for item in rest.items], rest.after) == (["c"], None)
    found = await sessions.subscribers("a/+", None, 10)
    assert [(item.key, item.edge_id) for item in found.items] == [("c", "")]
    assert await sessions.describe("nobody") is None


async def test_queued_messages_have_a_time_and_those_of_earlier_versions_none(
    server: AnyStore, store: RedisStore, access: StoreAccess
) -> None:
    sessions = SessionInspection(access)
    attached = await attach(store, "c")
    append = Append("c", attached.incarnation, record())

    async def oldest_s() -> int | None:
        state = await sessions.describe("c")
        assert state is not None
        return state.oldest_s

    assert await oldest_s() is None
    key = access.keys.queue(b"c", attached.incarnation)
    await access.command(access.keys.prefix(b"c"), b"XADD", key, b"1-*", b"m", append.record)
    await store.append([append, append], NOW + 1_999)
    await store.append([append], NOW + 60_000)
    found = await sessions.queue("c", attached.incarnation, 0, 10)
    times = [None, NOW // 1000 + 1, NOW // 1000 + 1, NOW // 1000 + 60]
    assert [entry.queued_s for entry in found] == times
    assert await oldest_s() is None
    assert await store.complete("c", attached.epoch, [1])
    assert await oldest_s() == NOW // 1000 + 1
    # Brokers read them as before.
    entries = await store.fetch("c", attached.incarnation, 0, 10, 1_000_000)
    assert entries == [(seq, append.record) for seq in (2, 3, 4)]


async def test_clearing_a_queue_keeps_qos_2_that_may_have_been_sent(
    store: RedisStore, access: StoreAccess
) -> None:
    sessions = SessionInspection(access)
    attached = await attach(store, "c")
    appends = [Append("c", attached.incarnation, record(qos=qos)) for qos in (1, 2, 1, 2, 2)]
    await store.append(appends)
    await store.detach(DetachRequest("c", attached.epoch, NOW, False, sent_seq=2))
    state = await sessions.describe("c")
    assert state is not None
    await store.append([Append("c", attached.incarnation, record(b"later"))])
    assert await sessions.clear_queue(state) == 4
    left = await sessions.queue("c", state.incarnation, 0, 10)
    # What was sent before, and what has come since it was looked at.
    assert [entry.seq for entry in left] == [2, 6]
    await attach(store, "c")
    assert await sessions.clear_queue(state) is None, "another connection has it"


async def test_retained_messages_are_listed_counted_by_level_and_read(
    store: RedisStore, access: StoreAccess
) -> None:
    retained = RetainedInspection(access)
    topics = [f"plant/{hall}/temp" for hall in range(40)] + ["plant", "other/a*b", "$SYS/x"]
    for topic in topics:
        publish = Publish(topic, b"12", qos=1, retain=True)
        await store.set_retained(topic, encode_retained(publish, NOW), 0)
    large = Publish("plant/large", b"x" * 1_500_000, retain=True)
    await store.set_retained("plant/large", encode_retained(large, NOW), 0)

    async def listed(topic_filter: str) -> list[str]:
        found, after = [], None
        while True:
            page = await retained.page(topic_filter, after, 7)
            found += [item.topic for item in page.items]
            after = page.after
            if after is None:
                return sorted(found)

    halls = sorted(topics[:40])
    assert await listed("plant/+/temp") == halls
    assert await listed("plant/#") == sorted(["plant", "plant/large", *halls])
    assert await listed("other/a*b") == ["other/a*b"]
    assert await listed("#") == sorted(["plant/large", *topics[:-1]]), "without $SYS"
    (item,) = (await retained.page("plant/large", None, 10)).items
    assert item.payload_bytes == 1_500_000
    (item,) = (await retained.page("plant/7/temp", None, 10)).items
    assert item.record is not None
    assert (item.record.publish.payload, item.payload_bytes, item.record.received_at_ms) == (
        *(b"12", 2),
        NOW,
    )
    until_s = asyncio.get_running_loop().time() + 30
    levels, complete = await retained.levels("", until_s)
    assert complete
    assert [(one.name, one.topics, one.has_message) for one in levels] == [
        ("$SYS", 1, False),
        ("other", 1, False),
        ("plant", 42, True),
    ]
    levels, _ = await retained.levels("plant", until_s)
    assert len(levels) == 41
    assert (levels[-1].name, levels[-1].bytes > 1_500_000) == ("large", True)
    value = await retained.value("plant/7/temp")
    assert value is not None
    assert value.publish.payload == b"12"
    assert await retained.value("plant/8") is None
    assert await retained.exist(["plant/8", "plant"]) == ["plant"]
