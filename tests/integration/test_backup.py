"""Backups of real stores of every kind, restored into empty ones.

Inputs: calls of ``RedisStore``, as brokers make them, before the backup and while it reads.
Observed: what a broker finds in the restored store, and its keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.backups import put_back, take
from support.store_groups import AnyStore, start_store
from tidegate.backup import contents
from tidegate.backup.commands import CLOSED_AFTER_MS, SEQ_SKIP, SETTLE_MS
from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.file_format import Reader
from tidegate.bans.ban import Ban, BanKind
from tidegate.core.standing import Standing
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import (
    Append,
    AppendOutcome,
    AttachReply,
    AttachRequest,
    Claim,
    DetachRequest,
    RetainedCharge,
)
from tidegate.store.backup_access import READ_BYTES, BackupAccess
from tidegate.store.ban_store import BanStore
from tidegate.store.client.failures import StoreRefused
from tidegate.store.records import encode_queued, encode_retained, encode_will
from tidegate.store.redis_store import RedisStore

NOW = int(time.time() * 1000)
HOUR_MS = 3_600_000
FILTERS = [
    ("a/+", SubscriptionOptions(2)),
    ("b", SubscriptionOptions(1, subscription_identifier=7)),
]
SHARED = [("$share/g/s", SubscriptionOptions(2))]


def message(payload: bytes, expires_at_ms: int = 0, group: str = "") -> bytes:
    return encode_queued(Publish("a/b", payload, 1), 1, False, (), expires_at_ms, group)


def will(text: bytes) -> bytes:
    return encode_will(Will("w", text, 1, False), "c", None)


async def connect(server: AnyStore, partitions: int = 64) -> RedisStore:
    config = StoreConfig(url=server.url, partitions=partitions)
    return await RedisStore.connect(url=server.url, limits=LimitsConfig(), store=config)


async def attach(store: RedisStore, client: str = "c", **options: Any) -> AttachReply:
    values = {"clean_start": False, "session_expiry_s": 7200, "now_ms": NOW, "user": "u"}
    return await store.attach(AttachRequest(client, "e1", **{**values, **options}))


async def leave(store: RedisStore, client: str, epoch: int, sent: int = 0) -> None:
    await store.detach(DetachRequest(client, epoch, NOW, False, None, sent))


async def queued(store: RedisStore, client: str, incarnation: int) -> list[tuple[int, bytes]]:
    return await store.fetch(client, incarnation, 0, 10_000, 100_000_000)


async def restored(server: AnyStore, file: Path, partitions: int = 64) -> RedisStore:
    """The store after a backup, an empty server, and a restore."""
    await take(server.url, file)
    server.command("FLUSHALL")
    await put_back(server.url, file, partitions=partitions)
    return await connect(server, partitions)


@pytest.fixture(scope="module", params=["valkey", "redis-limited", "valkey-cluster"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyStore]:
    """One server, one that lets in a user with few rights, a cluster."""
    running = start_store(request.param, tmp_path_factory.mktemp("s"))
    yield running
    running.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "one.tgbackup"


@pytest.mark.parametrize("partitions", [64, 5])
async def test_a_session_comes_back_whole(
    store: RedisStore, server: AnyStore, file: Path, partitions: int
) -> None:
    attached = await attach(store)
    epoch, incarnation = attached.epoch, attached.incarnation
    await store.subscribe("c", epoch, FILTERS, "g1")
    records = [message(b"1"), message(b"2", NOW + HOUR_MS), message(b"3"), message(b"4")]
    identities = ["", "", "p|1|0", "p|2|0"]
    await store.append(
        [Append("c", incarnation, *one) for one in zip(records, identities, strict=True)]
    )
    await store.complete("c", epoch, [1])
    await store.release("c", epoch, [3])
    for value in (3, 255, 1):  # its seven bits wrap
        await store.receipt("c", epoch, 9, value)
    await leave(store, "c", epoch, 3)
    other = await restored(server, file, partitions)
    try:
        again = await attach(other)
        assert again.session_present
        assert (again.incarnation, again.sent_seq, again.sent_uncertain) == (incarnation, 3, False)
        assert dict(again.subscriptions) == dict(FILTERS)
        assert {one[:2] for one in again.replays} == {(name, "g1") for name, _ in FILTERS}
        assert (again.released, again.receipts[9]) == ([3], 1)
        assert again.receipt_wraps[9] == 1
        # Exchanges of its client have new names: the history is another one.
        assert again.receipt_wraps[0] > epoch
        assert again.epoch > epoch
        assert await queued(other, "c", incarnation) == list(enumerate(records[1:], 2))
        assert again.last_seq == 4 + SEQ_SKIP
        assert await other.user_sessions("u") == 1
        # The identities of what is queued are known.
        repeated = await other.append([Append("c", incarnation, records[2], "p|1|0")])
        assert repeated.outcomes == [AppendOutcome.DUPLICATE]
    finally:
        await other.close()


async def test_what_expires_in_a_queue_is_deleted_in_time(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    attached = await attach(store)
    records = [message(b"%d" % n, NOW + n * HOUR_MS) for n in (1, 2, 3)]
    await store.append([Append("c", attached.incarnation, record) for record in records])
    await leave(store, "c", attached.epoch)
    other = await restored(server, file)
    try:
        while await other.expire_queued(NOW + 2 * HOUR_MS + 2000, 100):
            pass
        assert await queued(other, "c", attached.incarnation) == [(3, records[2])]
    finally:
        await other.close()


async def test_retained_messages_come_back_with_their_expiry_and_their_quota(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    lasting = encode_retained(Publish("t/1", b"x", 1), NOW)
    expiring = encode_retained(Publish("t/2", b"y", 1, expires_at_ms=NOW + HOUR_MS), NOW)
    await store.set_retained("t/1", lasting, 0, RetainedCharge("c", None, None, None, None))
    await store.set_retained("t/2", expiring, NOW + HOUR_MS)
    before = await store.retained_use("c")
    other = await restored(server, file)
    try:
        assert await other.get_retained(["t/1", "t/2"]) == [lasting, expiring]
        assert await other.retained_use("c") == before
        assert await other.expired_retained(NOW + HOUR_MS - 1000, 10) == []
        assert await other.expired_retained(NOW + HOUR_MS + 1000, 10) == ["t/2"]
    finally:
        await other.close()


async def test_bans_come_back_with_their_end(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    bans = [
        Ban.make(BanKind.CLIENT, f"c{number}", mount_point="m/", until=NOW / 1000 + 3600, by="ann")
        for number in range(700)
    ]
    bans += [Ban.make(BanKind.USER, "ü"), Ban.make(BanKind.ADDRESS, "10.0.0.0/8", reason="flood")]
    for ban in bans:
        await store.add_ban(ban)
    other = await restored(server, file)
    try:
        assert sorted(await other.stored_bans()) == sorted(ban.encode() for ban in bans)
        assert await other.bans_version()
        await other.delete_ended_bans(NOW / 1000 + 3601)
        assert len(await other.stored_bans()) == 2
    finally:
        await other.close()
    # An older version restores what has no bans.
    server.command("FLUSHALL")
    await (await connect(server)).close()
    await take(server.url, file)
    with file.open("rb") as stream:
        items = [contents.read(value) for value in Reader(stream, file.stem).values()]
    assert items
    assert not any(isinstance(item, contents.Bans) for item in items)


async def test_bans_alone_are_data_that_a_restore_does_not_overwrite(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    await attach(store)
    await take(server.url, file)
    server.command("FLUSHALL")
    access = await BackupAccess.connect(server.url, StoreConfig(url=server.url))
    try:
        await BanStore(access.partitions).add(Ban.make(BanKind.USER, "eve"))
        with pytest.raises(BackupFailed, match="does not mix or overwrite"):
            await put_back(server.url, file)
        assert len(await BanStore(access.partitions).stored()) == 1
    finally:
        await access.close()


async def test_connections_that_were_open_are_lost_and_count_as_closed_after_five_minutes(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    live = await attach(store, will=will(b"durable"), will_delay_s=60)
    plain = await attach(store, "plain", session_expiry_s=0, will=will(b"plain"))
    other = await restored(server, file)
    try:
        standings = await other.verify([("c", live.epoch), ("plain", plain.epoch)])
        assert standings == [Standing.LOST] * 2
        closed = int(time.time() * 1000) + CLOSED_AFTER_MS
        assert (await other.sweep_due(closed - 60_000, 100)).wills == []
        found = await other.sweep_due(closed + 1000, 100)
        assert [one.will_id.split(":")[1] for one in found.wills] == ["plain"]
        found = await other.sweep_due(closed + 61_000, 100)
        assert [one.record for one in found.wills if one.record == will(b"durable")]
        assert found.ended == []
        found = await other.sweep_due(closed + 7_201_000, 100)
        assert [one.client_id for one in found.ended] == ["c"]
    finally:
        await other.close()


async def test_a_client_that_returns_in_time_has_its_session_and_no_will(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    live = await attach(store, will=will(b"gone"))
    await store.append([Append("c", live.incarnation, message(b"1"))])
    other = await restored(server, file)
    try:
        again = await attach(other, now_ms=int(time.time() * 1000))
        assert (again.session_present, again.wills, again.sent_uncertain) == (True, [], True)
        assert (await other.sweep_due(NOW + 2 * CLOSED_AFTER_MS, 100)).wills == []
    finally:
        await other.close()


async def test_offline_sessions_end_when_they_would_have(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    short = await attach(store, "short", session_expiry_s=1, now_ms=NOW - 60_000)
    await store.detach(DetachRequest("short", short.epoch, NOW - 60_000, False, None, 0))
    long = await attach(store, "long", session_expiry_s=600)
    await leave(store, "long", long.epoch)
    other = await restored(server, file)
    try:
        assert not (await attach(other, "short", now_ms=NOW)).session_present
        assert (await other.sweep_due(NOW + 599_000, 100)).ended == []
        assert [one.client_id for one in (await other.sweep_due(NOW + 601_000, 100)).ended] == [
            "long"
        ]
    finally:
        await other.close()


async def test_shared_subscriptions_come_back_with_claims_and_abandoned_queues(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    live = await attach(store)
    await store.subscribe("c", live.epoch, SHARED)
    records = [message(b"%d" % n, group="g/s") for n in (1, 2, 3)]
    await store.append([Append("c", live.incarnation, record) for record in records])
    await leave(store, "c", live.epoch)
    (member,) = (await store.sweep_due(NOW + 2000, 10)).offline_members
    number = await store.abandon_entries(member, [2], NOW + 2000, 0)
    assert number is not None
    claims = [Claim("g/s", "i|1", ("d", 5))]
    await store.claim(claims)
    other = await restored(server, file)
    try:
        assert await queued(other, "c", live.incarnation) == [(1, records[0]), (3, records[2])]
        assert await other.fetch_abandoned("c", number, 0, 10, 1000) == [(2, records[1])]
        assert await other.claim([Claim("g/s", "i|1", ("e", 6))]) == [("d", 5)]
        found = await other.sweep_due(int(time.time() * 1000) + 2 * SETTLE_MS, 1000)
        assert [one.client_id for one in found.abandoned_queues] == ["c"]
        assert [one.client_id for one in found.offline_members] == ["c"]
    finally:
        await other.close()


async def test_long_queues_are_read_in_parts_up_to_where_they_went(
    store: RedisStore, server: AnyStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await attach(store)
    records = [message(b"%d" % n + b"x" * (READ_BYTES // 4)) for n in range(100)]
    await store.append([Append("c", live.incarnation, record) for record in records])
    read_on, added = BackupAccess.read_queue, message(b"later")

    async def read_queue(self: BackupAccess, prefix: bytes, queue: bytes, after: int) -> list[Any]:
        # Meanwhile the client acknowledges, and more comes.
        await store.complete("c", live.epoch, [100])
        await store.append([Append("c", live.incarnation, added)])
        return await read_on(self, prefix, queue, after)

    monkeypatch.setattr(BackupAccess, "read_queue", read_queue)
    summary = await take(server.url, file)
    server.command("FLUSHALL")
    await put_back(server.url, file)
    other = await connect(server)
    try:
        assert await queued(other, "c", live.incarnation) == list(enumerate(records[:99], 1))
        assert summary.totals.queued_messages == 99
    finally:
        await other.close()


async def test_a_session_that_ends_while_its_queue_is_read_is_read_again(
    store: RedisStore, server: AnyStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await attach(store)
    await store.subscribe("c", live.epoch, FILTERS)
    records = [message(b"%d" % n + b"x" * (READ_BYTES // 4)) for n in range(100)]
    await store.append([Append("c", live.incarnation, record) for record in records])
    read_on = BackupAccess.read_queue
    again: list[AttachReply] = []

    async def read_queue(self: BackupAccess, prefix: bytes, queue: bytes, after: int) -> list[Any]:
        if not again:
            again.append(await attach(store, clean_start=True))
        return await read_on(self, prefix, queue, after)

    monkeypatch.setattr(BackupAccess, "read_queue", read_queue)
    summary = await take(server.url, file)
    server.command("FLUSHALL")
    await put_back(server.url, file)
    other = await connect(server)
    try:
        assert (summary.totals.sessions, summary.totals.queued_messages) == (1, 0)
        found = await attach(other)
        assert (found.incarnation, found.subscriptions) == (again[0].incarnation, [])
        assert found.queued_count == 0
        assert await other.user_sessions("u") == 1
    finally:
        await other.close()


async def test_a_message_that_moves_to_another_member_meanwhile_is_not_missed(
    store: RedisStore, server: AnyStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The receiver's partition is read before the giver's.
    keys = BackupAccess("unix:///none", StoreConfig()).keys
    by_partition = sorted((f"m{n}" for n in range(50)), key=lambda name: keys.number(name.encode()))
    receiver, giver = by_partition[0], by_partition[-1]
    connections = {}
    for name in (receiver, giver):
        connections[name] = await attach(store, name)
        await store.subscribe(name, connections[name].epoch, SHARED)
    record = message(b"moves", group="g/s")
    taken, given = connections[receiver], connections[giver]
    await store.append([Append(giver, given.incarnation, record)])
    read_client = BackupAccess.read_client
    moves: list[bytes] = []

    async def move() -> None:
        moved = Append(receiver, taken.incarnation, record, "lost|1", claimed=True)
        unshared = Append(receiver, taken.incarnation, message(b"later"))
        await store.append([moved, unshared])
        await store.complete(giver, given.epoch, [1])

    async def moving(self: BackupAccess, prefix: bytes, client: bytes) -> list[Any]:
        if client == giver.encode() and not moves:
            moves.append(client)
            await move()
        return await read_client(self, prefix, client)

    monkeypatch.setattr(BackupAccess, "read_client", moving)
    await take(server.url, file)
    assert moves
    server.command("FLUSHALL")
    await put_back(server.url, file)
    other = await connect(server)
    try:
        assert await queued(other, giver, given.incarnation) == []
        assert await queued(other, receiver, taken.incarnation) == [(1, record)]
        # Whoever moves it once more does not queue it twice.
        again = await other.append(
            [Append(receiver, taken.incarnation, record, "lost|1", claimed=True)]
        )
        assert again.outcomes == [AppendOutcome.DUPLICATE]
    finally:
        await other.close()


# What a restore refuses, and what it leaves


async def refused(url: str, file: Path) -> Reason:
    with pytest.raises(BackupFailed) as failed:
        await put_back(url, file)
    return failed.value.reason


async def test_a_store_with_data_is_refused_and_left_as_it_is(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    await attach(store)
    await take(server.url, file)
    before = server.key_names()
    assert await refused(server.url, file) is Reason.STORE_NOT_EMPTY
    assert server.key_names() == before
    # Whatever has deleted the key of the format has not emptied the store.
    server.command("DEL", "tg:{g}:format")
    assert await refused(server.url, file) is Reason.STORE_NOT_EMPTY


async def test_a_store_on_which_a_broker_runs_is_refused(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    await attach(store)
    await take(server.url, file)
    server.command("FLUSHALL")
    await store.hold(NOW, HOUR_MS)
    assert await refused(server.url, file) is Reason.STORE_IN_USE


async def test_a_broker_that_writes_during_the_restore_keeps_it_from_being_finished(
    store: RedisStore, server: AnyStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attach(store)
    await take(server.url, file)
    server.command("FLUSHALL")
    write = BackupAccess.run_all

    async def and_a_broker(self: BackupAccess, commands: Any) -> None:
        await store.hold(NOW, HOUR_MS)
        await write(self, commands)

    monkeypatch.setattr(BackupAccess, "run_all", and_a_broker)
    assert await refused(server.url, file) is Reason.STORE_IN_USE
    with pytest.raises(StoreRefused, match="not finished"):
        await connect(server)


class Interrupted(Exception):
    """The end of a restore's process."""


async def test_a_restore_that_was_interrupted_keeps_brokers_away_until_it_is_run_again(
    store: RedisStore, server: AnyStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(300):
        live = await attach(store, f"c{n}", will=will(b"w"))
        await store.subscribe(f"c{n}", live.epoch, FILTERS)
        await store.append([Append(f"c{n}", live.incarnation, message(b"m", NOW + HOUR_MS))])
    await take(server.url, file)
    server.command("FLUSHALL")
    await put_back(server.url, file)
    whole = server.key_names()
    server.command("FLUSHALL")
    write, calls = BackupAccess.run_all, []

    async def three(self: BackupAccess, commands: Any) -> None:
        calls.append(commands)
        if len(calls) == 3:
            raise Interrupted
        await write(self, commands)

    with monkeypatch.context() as patched:
        patched.setattr(BackupAccess, "run_all", three)
        with pytest.raises(Interrupted):
            await put_back(server.url, file)
    with pytest.raises(StoreRefused, match="restore of backup one into this store is not finished"):
        await connect(server)
    other = file.with_name("other.tgbackup")
    with pytest.raises(BackupFailed, match="not finished") as failed:
        await take(server.url, other)
    assert failed.value.reason is Reason.STORE_REFUSED
    await put_back(server.url, file)
    assert server.key_names() == whole
    store = await connect(server)
    try:
        assert await store.user_sessions("u") == 300
        found = await attach(store, "c7")
        assert (found.session_present, found.queued_count) == (True, 1)
    finally:
        await store.close()


async def test_another_backup_is_not_mixed_into_an_interrupted_restore(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    await attach(store)
    await take(server.url, file)
    server.command("FLUSHALL")
    server.command("SET", "tg:{g}:format", "restoring two 00ff")
    assert await refused(server.url, file) is Reason.RESTORE_UNFINISHED


async def test_a_restore_that_is_run_twice_does_no_harm_until_a_broker_has_run(
    store: RedisStore, server: AnyStore, file: Path
) -> None:
    await attach(store)
    await take(server.url, file)
    server.command("FLUSHALL")
    await put_back(server.url, file)
    await put_back(server.url, file)
    await store.hold(NOW, 0)
    assert await refused(server.url, file) is Reason.STORE_NOT_EMPTY


async def test_a_store_without_data_is_not_backed_up(server: AnyStore, file: Path) -> None:
    server.command("FLUSHALL")
    with pytest.raises(BackupFailed) as failed:
        await take(server.url, file)
    assert failed.value.reason is Reason.STORE_REFUSED
