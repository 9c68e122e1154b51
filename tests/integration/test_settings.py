"""What each setting does to a running broker: limits, mount points, switches, files that change.

Input: brokers with one setting changed, raw clients. Output: the packets they get, the counters.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V311, Property
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DURABLE: list[Property] = [("session_expiry", 3600)]


async def _client(broker: Tidegate, name: str, version: int = V5, **options: Any) -> RawClient:
    address = broker.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)
    await client.connect(name, **options)
    return client


def _fetch(broker: Tidegate, path: str) -> tuple[int, str]:
    address = broker.address("admin")
    try:
        with urllib.request.urlopen(
            f"http://{address.host}:{address.port}{path}", timeout=DEADLINE_S
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _metric(broker: Tidegate, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", _fetch(broker, "/metrics")[1], re.MULTILINE)
    assert found is not None, name
    return float(found[1])


# Limits


async def test_publishing_above_the_rate_is_slowed_down_and_nothing_is_lost(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(limits={"max_publish_rate": 50})
    reader = await _client(broker, "reader")
    await reader.subscribe(("rate", 0))
    writer = await _client(broker, "writer")
    began = asyncio.get_running_loop().time()
    for number in range(4):  # the bucket holds 50: the first burst empties it
        await writer.send(
            *(mqtt_bytes.publish("rate", b"%d" % (number * 25 + n)) for n in range(25))
        )
        await writer.expect_nothing()
    got = [(await reader.expect("PUBLISH")).payload for _ in range(100)]
    assert got == [b"%d" % number for number in range(100)]
    assert asyncio.get_running_loop().time() - began > 0.4


async def test_the_byte_rate_slows_down_too(start_broker: StartBroker) -> None:
    broker = start_broker(
        limits={"max_publish_bytes_rate": 20_000, "max_packet_size_bytes": 10_000}
    )
    writer = await _client(broker, "writer")
    began = asyncio.get_running_loop().time()
    for _ in range(5):
        await writer.publish("rate", bytes(8_000))
        await writer.expect_nothing()
    assert asyncio.get_running_loop().time() - began > 0.3


async def test_subscriptions_above_the_limit_are_refused_one_by_one(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(limits={"max_subscriptions": 2})
    client = await _client(broker, "client")
    assert (await client.subscribe(("a", 1), ("b", 1), ("c", 1))).codes == [1, 1, 0x97]
    assert (await client.subscribe(("b", 2))).codes == [2]
    await client.unsubscribe("a")
    assert (await client.subscribe(("c", 1))).codes == [1]


async def test_the_connection_that_is_one_too_many_is_told_so(start_broker: StartBroker) -> None:
    broker = start_broker(limits={"max_connections": 1})
    first = await _client(broker, "first")
    address = broker.address("tcp")
    for version, code in ((V5, 0x97), (V311, 3)):
        second = await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)
        await second.send(mqtt_bytes.connect("second", version=version))
        await second.expect("CONNACK", reason=code)
        await second.expect_closed()
    await first.disconnect()
    await _client(broker, "second")


async def test_topics_with_too_many_levels_are_refused(start_broker: StartBroker) -> None:
    broker = start_broker(limits={"max_topic_levels": 3})
    client = await _client(broker, "client")
    assert (await client.subscribe(("a/b/c", 0), ("a/b/c/d", 0))).codes == [0, 0x8F]
    await client.publish("a/b/c/d")
    await client.expect_closed(reasons=[0x90])


async def test_messages_live_no_longer_than_the_cap(start_broker: StartBroker) -> None:
    broker = start_broker(limits={"max_message_expiry_s": 60})
    client = await _client(broker, "client")
    await client.subscribe(("t", 0))
    for asked, got in ((None, 60), (3600, 60), (5, 5)):
        await client.publish("t", props=[] if asked is None else [("message_expiry", asked)])
        assert (await client.expect("PUBLISH")).get("message_expiry") == got


async def test_a_retained_payload_above_the_limit_is_delivered_and_not_kept(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(limits={"max_retained_payload_bytes": 10}, features={"sys_interval_s": 0})
    client = await _client(broker, "client")
    await client.subscribe(("big", 0))
    await client.publish("big", bytes(11), retain=True)
    await client.expect("PUBLISH")
    assert _metric(broker, 'tidegate_messages_dropped_total{reason="retained_too_large"}') == 1
    # published = delivered + queued + dropped: the copy that is not kept is one of its own.
    assert _metric(broker, "tidegate_messages_published_total") == 2
    late = await _client(broker, "late")
    await late.subscribe(("big", 0))
    await late.expect_nothing()


async def test_no_more_than_the_window_is_under_way_and_the_queue_is_bounded(
    start_broker: StartBroker,
) -> None:
    """G6: beyond window and queue, messages are dropped, oldest or newest, and counted."""
    for policy, kept in (
        ("drop_newest", range(9)),
        ("drop_oldest", (0, 1, 2, 3, 14, 15, 16, 17, 18)),
    ):
        broker = start_broker(
            limits={"max_in_flight": 4, "max_queued_messages": 5, "queue_full_policy": policy}
        )
        reader = await _client(broker, "reader")
        await reader.subscribe(("q", 1))
        writer = await _client(broker, "writer")
        for number in range(19):
            await writer.deliver("q", b"%d" % number, qos=1, packet_id=number + 1)
        got = [await reader.expect("PUBLISH") for _ in range(4)]
        await reader.expect_nothing()
        for packet in got:
            await reader.acknowledge(packet)
        rest = [await reader.expect("PUBLISH") for _ in range(4)]
        for packet in rest:
            await reader.acknowledge(packet)
        last = await reader.expect("PUBLISH")
        await reader.acknowledge(last)
        assert [int(p.payload) for p in (*got, *rest, last)] == list(kept)
        await reader.expect_nothing()
        assert _metric(broker, 'tidegate_messages_dropped_total{reason="queue_full"}') == 10


# Mount points and switches


async def test_a_mount_point_is_a_world_of_its_own(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    broker = start_broker(
        listeners=[
            {"name": "tcp", "port": 0},
            {"name": "tenant", "port": 0, "mount_point": "acme/"},
        ]
    )

    async def tenant(name: str, **options: Any) -> RawClient:
        address = broker.address("tenant")
        client = await RawClient.open(f"tcp://{address.host}:{address.port}")
        await client.connect(name, **options)
        return client

    outside = await _client(broker, "outside")
    await outside.subscribe(("#", 1))
    inside = await tenant("inside", clean=False, props=DURABLE)
    await inside.subscribe(("#", 1), ("$share/g/+/x", 1))
    writer = await tenant("writer", will=mqtt_bytes.Will("last", b"will"))
    await writer.publish("door", b"0", retain=True)
    await writer.deliver("door/x", b"1", qos=1)
    assert (await outside.expect("PUBLISH")).topic == "acme/door"
    received = await outside.expect("PUBLISH")
    assert received.topic == "acme/door/x"
    await outside.acknowledge(received)
    topics = []
    for _ in range(3):
        packet = await inside.expect("PUBLISH")
        await inside.acknowledge(packet)
        topics.append(packet.topic)
    assert sorted(str(topic) for topic in topics) == ["door", "door/x", "door/x"]
    late = await tenant("late")
    await late.subscribe(("door", 0))
    assert (await late.expect("PUBLISH", retain=True)).topic == "door"
    await outside.publish("acme", b"the mount point's parent is not under it")
    await outside.expect("PUBLISH")
    await inside.expect_nothing()
    writer.close()
    assert (await inside.expect("PUBLISH")).topic == "last"


async def test_qos_0_messages_are_queued_for_absent_sessions_when_asked_for(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(features={"queue_qos0": True})
    sleeper = await _client(broker, "sleeper", clean=False, props=DURABLE)
    await sleeper.subscribe(("t", 0))
    await sleeper.disconnect()
    writer = await _client(broker, "writer")
    await writer.publish("t", b"kept")
    await writer.expect_nothing()
    sleeper = await _client(broker, "sleeper", clean=False, props=DURABLE)
    assert (await sleeper.expect("PUBLISH")).payload == b"kept"
    await writer.publish("t", b"live")
    assert (await sleeper.expect("PUBLISH")).payload == b"live"
    await sleeper.expect_nothing()


# $SYS and the admin port


async def test_sys_topics_say_what_mosquittos_say(start_broker: StartBroker) -> None:
    broker = start_broker(features={"sys_interval_s": 0.2})
    client = await _client(broker, "client")
    await client.subscribe(("$SYS/#", 0))
    found: dict[str, bytes] = {}
    async with asyncio.timeout(DEADLINE_S):
        while found.get("$SYS/broker/clients/connected") != b"1":
            packet = await client.expect("PUBLISH")
            found[str(packet.topic)] = packet.payload
    for name in (
        *("version", "uptime", "clients/total", "subscriptions/count", "messages/received"),
        *("load/messages/received/1min", "retained messages/count", "bytes/sent"),
    ):
        assert f"$SYS/broker/{name}" in found
    assert found["$SYS/broker/version"].startswith(b"tidegate version ")


async def test_health_is_honest_about_the_store(start_broker: StartBroker, tmp_path: Path) -> None:
    broker = start_broker(
        store={"data_dir": str(tmp_path), "operation_timeout_s": 0.3, "edge_lease_s": 1.0}
    )
    assert _fetch(broker, "/livez")[0] == 200
    assert _fetch(broker, "/readyz")[0] == 200
    children = broker.descendants()
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: _fetch(broker, "/readyz")[0] == 503, DEADLINE_S, "not ready")
        assert "store" in _fetch(broker, "/readyz")[1]
        assert _fetch(broker, "/livez")[0] == 200
    finally:
        for pid in children:
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: _fetch(broker, "/readyz")[0] == 200, DEADLINE_S, "ready again")


# Files that change


async def test_sighup_and_changes_bring_new_users_and_rules(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    """Both files, without a restart; a broken one changes nothing."""
    users, rules = tmp_path / "users", tmp_path / "rules"
    tidegate = str(Path(sys.executable).with_name("tidegate"))

    def add(name: str) -> None:
        subprocess.run([tidegate, "passwd", "-b", str(users), name, "secret"], check=True)

    users.touch(mode=0o600)
    add("ann")
    rules.write_text("user ann\ntopic readwrite a\n")
    broker = start_broker(
        auth={
            "password_file": str(users),
            "acl_file": str(rules),
            "reload_interval_s": 3600,
        }
    )

    async def log_in(name: str) -> RawClient:
        return await _client(broker, name, username=name, password=b"secret")

    ann = await log_in("ann")
    await ann.subscribe(("#", 1))
    assert (await ann.deliver("b", qos=1)).reason == 0x87  # type: ignore[union-attr]
    add("bob")
    rules.write_text("user ann\ntopic readwrite b\nuser bob\ntopic readwrite b\n")
    os.kill(broker.pid, signal.SIGHUP)
    wait_for(
        lambda: _metric(broker, 'tidegate_config_reloads_total{result="ok"}') >= 2,
        DEADLINE_S,
        "both files are read",
    )
    bob = await log_in("bob")
    await bob.deliver("b", b"from bob", qos=1)
    received = await ann.expect("PUBLISH")
    assert received.payload == b"from bob"
    await ann.acknowledge(received)
    assert (await ann.deliver("a", qos=1)).reason == 0x87  # type: ignore[union-attr]
    rules.write_text("nonsense\n")
    os.kill(broker.pid, signal.SIGHUP)
    wait_for(
        lambda: _metric(broker, 'tidegate_config_reloads_total{result="failed"}') >= 1,
        DEADLINE_S,
        "the broken file is seen",
    )
    await bob.deliver("b", b"still", qos=1)
    assert (await ann.expect("PUBLISH")).payload == b"still"


# Variables


async def test_variables_override_the_file_also_in_the_processes_of_a_supervisor(
    start_broker: StartBroker,
) -> None:
    """The supervisor's children have their own admin addresses and names in their files."""
    environment = os.environ | {
        "TIDEGATE_CLUSTER__EDGES": "2",
        "TIDEGATE_LIMITS__MAX_KEEP_ALIVE_S": "33",
        "TIDEGATE_ADMIN__PORT": "0",
        "TIDEGATE_NAME": "named",
    }
    listener = {"name": "tcp", "protocol": "tcp", "address": "127.0.0.1", "port": 0}
    broker = start_broker(
        environment=environment, listeners=[listener], limits={"max_keep_alive_s": 44}
    )
    client = await _client(broker, "c")
    assert client.connack is not None
    assert client.connack.get("server_keep_alive") == 33
    status, text = _fetch(broker, "/status")
    assert status == 200
    assert '"named' in text
