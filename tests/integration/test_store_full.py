"""A store whose memory is full but for the reserve: messages are refused, the rest goes on.

Inputs: calls of ``RedisStore`` and clients of ``tidegate serve``, with a server whose ``maxmemory``
is lowered to less than the reserve above what it uses. Observed: replies and acknowledgements, what
is stored, counters.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V31, V311
from support.raw_client import DEADLINE_S, RawClient
from support.store_groups import KINDS, AnyStore, start_store
from support.store_server import StoreServer, TcpServer
from support.waiting import wait_for_async
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    Append,
    AppendOutcome,
    AttachReply,
    AttachRequest,
    DetachRequest,
    RetainRefusal,
    StoreUnavailable,
)
from tidegate.store.client import memory
from tidegate.store.redis_store import RedisStore

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

NOW = 1_700_000_000_000
DURABLE = [("session_expiry", 300)]
#: Half of ``maxmemory`` is kept in these tests.
RESERVE_PERCENT = 50


def _servers(server: AnyStore) -> list[StoreServer | TcpServer]:
    return list(getattr(server, "masters", [server]))


def _fill(server: AnyStore, percent: int = 180) -> None:
    """Leave less than the reserve free, and enough for what is to go on.

    ``percent`` of what is used is the maximum: with 120, less than half of the reserve is free.
    """
    for one in _servers(server):
        text = one.command("INFO", "memory")
        used = int(text["used_memory"]) if isinstance(text, dict) else _used(text)
        one.command("CONFIG", "SET", "maxmemory", used * percent // 100)


def _used(text: object) -> int:
    found = re.search(r"used_memory:(\d+)", text.decode() if isinstance(text, bytes) else str(text))
    assert found is not None
    return int(found[1])


def _empty(server: AnyStore) -> None:
    for one in _servers(server):
        one.command("CONFIG", "SET", "maxmemory", 0)


# The store


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStore]:
    running = start_store(request.param, tmp_path)
    yield running
    running.stop()


@pytest.fixture
async def store(server: AnyStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisStore]:
    monkeypatch.setattr(memory, "LOOK_S", 0.0)
    store = await RedisStore.connect(
        url=server.url,
        limits=LimitsConfig(),
        store=StoreConfig(memory_reserve_percent=RESERVE_PERCENT),
        counters=Counters(),
    )
    yield store
    await store.close()


async def _attach(
    store: RedisStore, client_id: str = "c", will: bytes | None = None
) -> AttachReply:
    return await store.attach(AttachRequest(client_id, "e1", False, 100, NOW, will))


async def test_messages_are_refused_and_the_rest_goes_on(
    store: RedisStore, server: AnyStore
) -> None:
    mine = await _attach(store)
    await store.append([Append("c", mine.incarnation, b"1"), Append("c", mine.incarnation, b"2")])
    await store.set_retained("t", b"kept", 0)
    _fill(server)
    appended = await store.append([Append("c", mine.incarnation, b"3"), Append("d", 1, b"x")])
    assert appended.outcomes == [AppendOutcome.STORE_FULL, AppendOutcome.NO_SESSION]
    for topic in ("t", "new"):
        refused = await store.set_retained(topic, b"longer", 0)
        assert refused is RetainRefusal.STORE_FULL
        # It has not been stored: not a repetition when it comes again.
        for _ in range(2):
            refused = await store.set_retained(topic, b"longer", 0, None, ["identity", "older"])
            assert refused is RetainRefusal.STORE_FULL
    assert await store.get_retained(["t", "new"]) == [b"kept", None]
    # What is replaced makes room for itself.
    assert await store.set_retained("t", b"next", 0) is None
    assert await store.get_retained(["t"]) == [b"next"]
    # Connections, subscriptions, acknowledgements, deletions.
    other = await _attach(store, "other", will=b"w")
    await store.subscribe("other", other.epoch, [("t", SubscriptionOptions(qos=1))])
    assert await store.receipt("other", other.epoch, 7, 1)
    assert (await store.detach(DetachRequest("other", other.epoch, NOW, False))).fenced is False
    assert await store.complete("c", mine.epoch, [1])
    assert await store.set_retained("t", None, 0) is None
    assert await store.get_retained(["t"]) == [None]
    assert (await _attach(store)).queued_count == 1
    _empty(server)
    assert (await store.append([Append("c", mine.incarnation, b"4")])).outcomes == [3]
    assert await store.set_retained("new", b"more", 0) is None


async def test_what_clients_subscribe_to_leaves_half_of_the_reserve(
    store: RedisStore, server: AnyStore
) -> None:
    """CONNECT, acknowledgements and what is subscribed already go on."""
    mine = await _attach(store)
    known = [("known", SubscriptionOptions(qos=1))]
    await store.subscribe("c", mine.epoch, known)
    _fill(server, 120)
    with pytest.raises(StoreUnavailable, match="reserve"):
        await store.subscribe("c", mine.epoch, [*known, ("new", SubscriptionOptions(qos=1))])
    with pytest.raises(StoreUnavailable, match="reserve"):
        await _attach(store, "other", will=bytes(2000))
    assert await store.subscribe("c", mine.epoch, [("known", SubscriptionOptions(qos=2))])
    again = await _attach(store)
    assert list(again.subscriptions) == [("known", SubscriptionOptions(qos=2))]
    other = await _attach(store, "other", will=b"w")
    assert other.incarnation
    assert await store.unsubscribe("c", again.epoch, ["known"])
    _fill(server)
    assert await store.subscribe("c", again.epoch, [("new", SubscriptionOptions(qos=1))])


async def test_a_message_that_is_queued_already_is_no_more_than_a_duplicate(
    store: RedisStore, server: AnyStore
) -> None:
    mine = await _attach(store)
    await store.append([Append("c", mine.incarnation, b"m", "identity")])
    _fill(server)
    again = [Append("c", mine.incarnation, b"m", "identity")]
    other = [Append("c", mine.incarnation, b"m", "another")]
    assert (await store.append(again)).outcomes == [AppendOutcome.DUPLICATE]
    assert (await store.append(other)).outcomes == [AppendOutcome.STORE_FULL]
    _empty(server)
    assert (await store.append(other)).outcomes == [2]


async def test_a_full_server_is_counted(store: RedisStore, server: AnyStore) -> None:
    counters: Counters = store._counters
    await store.set_retained("t", b"x", 0)
    assert counters.store_full == 0
    _fill(server)
    await store.set_retained("t", b"x", 0)
    assert counters.store_full == 1
    await store.set_retained("t", b"x", 0)
    assert counters.store_full == 1
    _empty(server)
    await store.set_retained("t", b"x", 0)
    assert counters.store_full == 0


# The broker


@pytest.fixture(params=["valkey", "redis"])
def single(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStore]:
    running = start_store(request.param, tmp_path)
    yield running
    running.stop()


@pytest.fixture
def broker(single: AnyStore, start_broker: StartBroker) -> Tidegate:
    """A broker whose sessions and subscribers are there before its store is full."""
    return start_broker(
        store={"url": single.url, "memory_reserve_percent": RESERVE_PERCENT},
        features={"sys_interval_s": 0},
        # However many a quick machine publishes until the next look at the server's memory.
        limits={"max_queued_messages": 1_000_000},
    )


async def _open(broker: Tidegate, version: int = V5) -> RawClient:
    address = broker.address("tcp")
    return await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)


def _metric(broker: Tidegate, name: str) -> float:
    address = broker.addresses["admin"]
    url = f"http://{address.host}:{address.port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as reply:
        text: str = reply.read().decode()
    found = re.search(f"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def _until_refused(publisher: RawClient, topic: str, **options: Any) -> int:
    """Publish until it is refused; return how many were accepted before."""
    accepted = 0
    while True:
        packet = await publisher.deliver(topic, b"accepted", packet_id=1 + accepted, **options)
        assert packet is not None
        if packet.reason >= 0x80:
            assert packet.reason == 0x97
            return accepted
        accepted += 1


async def _durable(broker: Tidegate, client_id: str, *filters: str) -> RawClient:
    client = await _open(broker)
    await client.connect(client_id, clean=False, props=DURABLE)
    if filters:
        await client.subscribe(*((name, 1) for name in filters))
    return client


async def test_publishers_get_0x97_and_others_connect(broker: Tidegate, single: AnyStore) -> None:
    sleeper = await _durable(broker, "sleeper", "queue")
    await sleeper.disconnect()
    publisher = await _open(broker)
    await publisher.connect("publisher")
    _fill(single)
    accepted = await _until_refused(publisher, "queue")
    for qos, retain in ((1, True), (2, True), (2, False)):
        packet = await publisher.deliver("queue", b"refused", packet_id=9, qos=qos, retain=retain)
        assert packet is not None
        assert packet.reason == 0x97
    # QoS 0 and messages that nothing in the store is for go on.
    live = await _open(broker)
    await live.connect("live")
    await live.subscribe(("live", 1))
    packet = await publisher.deliver("live", b"now", packet_id=9)
    assert packet is not None
    assert packet.reason == 0
    received = await live.expect("PUBLISH", payload=b"now")
    await live.acknowledge(received)
    sleeper = await _durable(broker, "sleeper")
    for _ in range(accepted):
        received = await sleeper.expect("PUBLISH", payload=b"accepted")
        await sleeper.acknowledge(received)
    await sleeper.expect_nothing()
    assert _metric(broker, "tidegate_store_full") == 1
    # Two of them had a copy for the session, and one to be retained.
    assert _metric(broker, 'tidegate_messages_dropped_total{reason="store_full"}') == 6
    assert "store full" in broker.stderr()


@pytest.mark.parametrize("version", [V31, V311])
@pytest.mark.parametrize("qos", [1, 2])
async def test_before_mqtt_5_the_connection_is_closed(
    broker: Tidegate, single: AnyStore, version: int, qos: int
) -> None:
    await (await _durable(broker, "sleeper", "queue")).disconnect()
    publisher = await _open(broker)
    await publisher.connect("publisher")
    _fill(single)
    await _until_refused(publisher, "queue")
    older = await _open(broker, version)
    await older.connect("older", clean=False)
    await older.publish("queue", b"refused", qos=qos, packet_id=1)
    await older.expect_closed()
    assert _metric(broker, 'tidegate_connections_closed_total{reason="quota_exceeded"}') == 1
    # The same message again, when there is room: once.
    _empty(single)

    def has_room() -> bool:
        return _metric(broker, "tidegate_store_full") == 0

    await wait_for_async(has_room, DEADLINE_S, "the store has room again")
    older = await _open(broker, version)
    await older.connect("older", clean=False)
    await older.deliver("queue", b"refused", qos=qos, packet_id=1)


async def test_the_identifier_of_a_refused_qos_2_message_is_free(
    broker: Tidegate, single: AnyStore
) -> None:
    await (await _durable(broker, "sleeper", "queue")).disconnect()
    live = await _open(broker)
    await live.connect("live")
    await live.subscribe(("queue", 1))
    publisher = await _durable(broker, "publisher")
    _fill(single)
    accepted = await _until_refused(publisher, "queue", qos=2)
    refused_id = accepted + 1
    for _ in range(accepted + 1):
        received = await live.expect("PUBLISH", payload=b"accepted")
        await live.acknowledge(received)
    _empty(single)
    # Another message with the identifier is another message, for who got the refused one, too.
    while True:
        packet = await publisher.deliver("queue", b"other", qos=2, packet_id=refused_id)
        assert packet is not None
        received = await live.expect("PUBLISH", payload=b"other")
        await live.acknowledge(received)
        if packet.reason == 0:
            break
    await live.expect_nothing()
    sleeper = await _durable(broker, "sleeper")
    for payload in (*[b"accepted"] * accepted, b"other"):
        received = await sleeper.expect("PUBLISH", payload=payload)
        await sleeper.acknowledge(received)


async def test_a_member_in_memory_gets_what_a_full_store_refuses(
    broker: Tidegate, single: AnyStore
) -> None:
    await (await _durable(broker, "sleeper", "queue", "$share/g/work")).disconnect()
    worker = await _open(broker)
    await worker.connect("worker")
    await worker.subscribe(("$share/g/work", 1))
    publisher = await _open(broker)
    await publisher.connect("publisher")
    _fill(single)
    await _until_refused(publisher, "queue")
    for number in range(4):
        packet = await publisher.deliver("work", b"%d" % number, packet_id=1 + number)
        assert packet is not None
        assert packet.reason == 0
        received = await worker.expect("PUBLISH", payload=b"%d" % number)
        await worker.acknowledge(received)


async def test_a_will_that_is_refused_is_counted_and_gone(
    broker: Tidegate, single: AnyStore
) -> None:
    await (await _durable(broker, "sleeper", "queue")).disconnect()
    publisher = await _open(broker)
    await publisher.connect("publisher")
    _fill(single)
    await _until_refused(publisher, "queue")
    before = _metric(broker, 'tidegate_messages_dropped_total{reason="store_full"}')
    doomed = await _open(broker)
    await doomed.connect("doomed", will=mqtt_bytes.Will("queue", b"gone", qos=1))
    doomed.reset()

    def dropped() -> bool:
        name = 'tidegate_messages_dropped_total{reason="store_full"}'
        return _metric(broker, name) == before + 1

    await wait_for_async(dropped, DEADLINE_S, "the will is counted")
    assert single.command("KEYS", "*:wills") == []


async def test_the_embedded_server_has_a_maximum(start_broker: StartBroker) -> None:
    broker = start_broker(store={"max_memory_bytes": 8_000_000})
    publisher = await _open(broker)
    await publisher.connect("publisher")
    for number in range(100):
        packet = await publisher.deliver(f"t/{number}", bytes(100_000), retain=True)
        assert packet is not None
        if packet.reason >= 0x80:
            break
    assert packet is not None
    assert packet.reason == 0x97
    await (await _durable(broker, "newcomer", "t")).disconnect()
    # Who has filled it makes room again.
    packet = await publisher.deliver("t/0", b"", retain=True)
    assert packet is not None
    assert packet.reason < 0x80
