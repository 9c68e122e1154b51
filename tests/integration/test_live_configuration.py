"""A configuration file that changes under a running process: what is taken, refused, reported.

Inputs: brokers, edges and routers of their own, their files rewritten, truncated, broken, swapped
as a Kubernetes volume is, with and without SIGHUP. Observed: what clients meet, /status, metrics.
Listeners have a file of their own (test_live_listeners).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.certificates import Certificates
from support.cluster import Cluster
from support.live import Live, digest_of
from support.mqtt_bytes import V5
from support.raw_client import RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

TCP = {"name": "tcp", "protocol": "tcp", "address": "127.0.0.1", "port": 0}
DURABLE: list[mqtt_bytes.Property] = [("session_expiry", 3600)]


@pytest.fixture
def live(start_broker: StartBroker) -> Live:
    """A broker with one plain listener."""
    broker = start_broker(listeners=[TCP])
    return Live(broker, broker.settings)


async def client(live: Live, name: str, **options: Any) -> RawClient:
    place = live.address("tcp")
    raw = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await raw.connect(name, **options)
    return raw


async def is_refused(live: Live, reason: int, **options: Any) -> None:
    place = live.address("tcp")
    raw = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await raw.send(mqtt_bytes.connect("refused", version=V5, **options))
    await raw.expect("CONNACK", reason=reason)
    await raw.expect_closed()


def add_user(file: Path, name: str) -> None:
    tidegate = str(Path(sys.executable).with_name("tidegate"))
    file.touch(mode=0o600)
    subprocess.run([tidegate, "passwd", "-b", str(file), name, "secret"], check=True)


# The file


async def test_what_is_in_use_is_told_from_the_start_on(live: Live) -> None:
    assert live.configuration() == {
        "digest": hashlib.sha256(live.file.read_bytes()).hexdigest()[:16],
        "problem": "",
        "restart_needed": [],
        "files": {},
    }


async def test_without_a_file_there_is_no_digest(tmp_path: Path) -> None:
    broker = _Flagged(tmp_path, {}, ["--listener=tcp://127.0.0.1:0", "--admin=127.0.0.1:0"])
    try:
        broker.start()
        live = Live(broker, {})
        assert live.configuration()["digest"] == ""
    finally:
        broker.cleanup()


class _Flagged(Tidegate):
    """A broker without a file."""

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        place = command.index("--config")
        return super()._spawn(
            [*command[:place], *command[place + 2 :], f"--data-dir={self.directory}/data"]
        )


async def test_a_change_is_noticed_without_a_signal(live: Live) -> None:
    live.signals = False
    live.settings["limits"] = {"max_packet_size_bytes": 2000}
    await live.take()
    raw = await client(live, "new")
    assert raw.connack is not None
    assert raw.connack.get("maximum_packet_size") == 2000


async def test_a_file_that_cannot_be_used_changes_nothing_until_it_can(live: Live) -> None:
    good = live.configuration()["digest"]
    problem = await live.refuse("limits: {max_conections: 5}\n")
    assert problem == "limits.max_conections: unknown key; did you mean max_connections? (line 1)"
    assert live.configuration()["digest"] == good
    assert live.metric('tidegate_config_reloads_total{result="failed"}') == 1
    assert "limits.max_conections: unknown key" in live.server.stderr()
    assert "not valid YAML" in await live.refuse("limits: [\n")
    assert "is empty" in await live.refuse("\n")
    live.file.unlink()
    os.kill(live.server.pid, signal.SIGHUP)
    await live.until(lambda said: "cannot be read" in said["problem"], "it is missed")
    raw = await client(live, "still")
    await raw.deliver("t", qos=1)
    live.settings["limits"] = {"max_packet_size_bytes": 3000}
    await live.take()
    assert live.metric("tidegate_configuration_problem") == 0


async def test_what_was_in_use_before_can_be_used_again(live: Live) -> None:
    before = live.file.read_text()
    await live.refuse("nonsense: 1\n")
    await live.take(before)


async def test_a_swapped_volume_is_taken_with_the_files_beside_it(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    """``..data`` is renamed over, as kubelet does it; every file is a symlink through it."""
    volume = tmp_path / "volume"
    volume.mkdir()

    def swap(version: str, files: dict[str, bytes]) -> None:
        directory = volume / f"..2026_{version}"
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_bytes(content)
            link = volume / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        (volume / "..data_tmp").symlink_to(directory.name)
        (volume / "..data_tmp").replace(volume / "..data")

    settings: dict[str, Any] = {
        "listeners": [TCP],
        "auth": {"allow_anonymous": True, "acl_file": "rules"},
        "store": {"data_dir": str(tmp_path / "data")},
        "admin": {"port": 0},
    }
    first = yaml.safe_dump(settings).encode()
    rules = b"topic readwrite a\n"
    swap("1", {"tidegate.yaml": first, "rules": rules})
    broker = _Mounted(tmp_path, settings, [])
    try:
        broker.start()
        live = Live(broker, settings, volume / "tidegate.yaml")
        path = str(volume / "rules")
        assert live.configuration()["digest"] == digest_of(first)
        assert live.configuration()["files"] == {path: {"digest": digest_of(rules), "problem": ""}}
        raw = await client(live, "old")
        assert (await raw.deliver("b", qos=1)).reason == 0x87  # type: ignore[union-attr]
        settings["limits"] = {"max_packet_size_bytes": 4000}
        second, new_rules = yaml.safe_dump(settings).encode(), b"topic readwrite b\n"
        swap("2", {"tidegate.yaml": second, "rules": new_rules})
        await live.until(
            lambda said: (
                said
                == {
                    "digest": digest_of(second),
                    "problem": "",
                    "restart_needed": [],
                    "files": {path: {"digest": digest_of(new_rules), "problem": ""}},
                }
            ),
            "both are in use",
        )
        assert (await raw.deliver("b", qos=1, packet_id=2)).reason != 0x87  # type: ignore[union-attr]
        new = await client(live, "new")
        assert new.connack is not None
        assert new.connack.get("maximum_packet_size") == 4000
    finally:
        broker.cleanup()


class _Mounted(Tidegate):
    """A broker whose file is in a volume of the test's."""

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        file = str(self.directory / "volume" / "tidegate.yaml")
        place = command.index("--config")
        return super()._spawn([*command[: place + 1], file, *command[place + 2 :]])


async def test_flags_still_lie_over_the_file(start_broker: StartBroker) -> None:
    broker = start_broker(
        "--no-allow-anonymous", "--log-level=warning", listeners=[TCP], auth={}, log={}
    )
    live = Live(broker, broker.settings)
    live.settings["auth"] = {"allow_anonymous": True}
    live.settings["log"] = {"level": "debug"}
    await live.take()
    await is_refused(live, 0x87)
    assert " DEBUG " not in broker.stderr()


async def test_keys_that_need_a_restart_are_named_and_the_rest_is_taken(live: Live) -> None:
    before = live.settings.copy()
    live.settings |= {
        "name": "other",
        "admin": {"port": 1, "address": "127.0.0.1"},
        "limits": {"max_packet_size_bytes": 5000},
        "store": live.settings["store"] | {"operation_timeout_s": 3},
    }
    await live.take()
    assert live.configuration()["restart_needed"] == [
        "admin.port",
        "name",
        "store.operation_timeout_s",
    ]
    assert live.metric("tidegate_configuration_restart_needed") == 3
    raw = await client(live, "new")
    assert raw.connack is not None
    assert raw.connack.get("maximum_packet_size") == 5000
    live.settings = before
    await live.take()
    assert live.configuration()["restart_needed"] == []


async def test_the_log_changes_its_level_and_its_form(live: Live) -> None:
    def times_told(what: str) -> int:
        return live.server.stderr().count(what)

    text, in_json = "configuration applied file=", '"message": "configuration applied"'
    live.settings["log"] = {"level": "error"}
    await live.take()
    assert times_told(text) == 0
    live.settings["log"] = {"level": "info", "format": "json"}
    await live.take()
    assert (times_told(text), times_told(in_json)) == (0, 1)
    live.settings["limits"] = {"max_subscriptions": 7}
    await live.take()
    assert times_told(in_json) == 2


# Limits and features


async def test_limits_count_for_connected_clients_packet_by_packet(live: Live) -> None:
    raw = await client(live, "connected")
    assert (await raw.subscribe(("a", 0), ("b", 0))).codes == [0, 0]
    live.settings["limits"] = {"max_subscriptions": 2, "max_topic_levels": 2}
    await live.take()
    assert (await raw.subscribe(("c", 0))).codes == [0x97]
    await raw.publish("a/b/c")
    await raw.expect_closed(reasons=[0x90])


async def test_connected_clients_keep_what_they_were_told(live: Live) -> None:
    raw = await client(live, "connected")
    live.settings["limits"] = {"max_packet_size_bytes": 200, "receive_maximum": 1}
    await live.take()
    await raw.send(*(mqtt_bytes.publish("t", bytes(1000), qos=2, packet_id=n) for n in range(1, 6)))
    for _ in range(5):
        await raw.expect("PUBREC")
    new = await client(live, "new")
    assert new.connack is not None
    assert new.connack.get("maximum_packet_size") == 200
    assert new.connack.get("receive_maximum") == 1


async def test_a_rate_counts_for_connected_clients(live: Live) -> None:
    raw = await client(live, "connected")
    live.settings["limits"] = {"max_publish_rate": 20}
    await live.take()
    began = asyncio.get_running_loop().time()
    for number in range(40):
        await raw.deliver("t", qos=1, packet_id=number + 1)
    assert asyncio.get_running_loop().time() - began > 0.5


async def test_a_client_whose_rate_is_taken_away_is_read_again(live: Live) -> None:
    live.settings["limits"] = {"max_publish_rate": 0.01}
    await live.take()
    raw = await client(live, "throttled")
    await raw.deliver("t", qos=1)
    await raw.send(mqtt_bytes.PINGREQ)
    live.settings["limits"] = {}
    await live.take()
    await raw.expect("PINGRESP")
    await raw.deliver("t", qos=1, packet_id=2)


async def test_no_more_connections_than_the_limit_says_now(live: Live) -> None:
    raw = await client(live, "first")
    live.settings["limits"] = {"max_connections": 1}
    await live.take()
    await is_refused(live, 0x97)
    await raw.send(mqtt_bytes.PINGREQ)
    await raw.expect("PINGRESP")


async def test_an_address_has_no_more_connections_than_the_limit_says_now(live: Live) -> None:
    raw = await client(live, "first")
    live.settings["limits"] = {"max_connections_per_address": 1}
    await live.take()
    place = live.address("tcp")
    second = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await second.expect_closed()
    await raw.send(mqtt_bytes.PINGREQ)
    await raw.expect("PINGRESP")


@pytest.mark.parametrize(
    ("policy", "left"), [("drop_newest", [b"0", b"1"]), ("drop_oldest", [b"3", b"4"])]
)
async def test_queues_of_the_store_go_by_the_limits_as_they_are(
    live: Live, policy: str, left: list[bytes]
) -> None:
    away = await client(live, "away", clean=False, props=DURABLE)
    await away.subscribe(("q", 1))
    await away.disconnect()
    live.settings["limits"] = {"max_queued_messages": 2, "queue_full_policy": policy}
    await live.take()
    writer = await client(live, "writer")
    for number in range(5):
        await writer.deliver("q", b"%d" % number, qos=1, packet_id=number + 1)
    away = await client(live, "away", clean=False, props=DURABLE)
    got = [(await away.expect("PUBLISH")).payload for _ in range(2)]
    assert got == left


async def test_large_payloads_are_not_retained_from_the_change_on(live: Live) -> None:
    live.settings["limits"] = {"max_retained_payload_bytes": 10}
    await live.take()
    writer = await client(live, "writer")
    await writer.deliver("small", bytes(10), qos=1, retain=True)
    await writer.deliver("large", bytes(11), qos=1, retain=True, packet_id=2)
    await writer.subscribe(("#", 0))
    assert (await writer.expect("PUBLISH")).topic == "small"
    await writer.expect_nothing()


async def test_features_are_switched_off_and_system_topics_on(start_broker: StartBroker) -> None:
    broker = start_broker(listeners=[TCP], features={"sys_interval_s": 0})
    live = Live(broker, broker.settings)
    raw = await client(live, "connected")
    await raw.subscribe(("$SYS/broker/uptime", 0))
    live.settings["features"] = {"sys_interval_s": 0.2, "retain": False}
    await live.take()
    assert (await raw.expect("PUBLISH")).topic == "$SYS/broker/uptime"
    new = await client(live, "new")
    assert new.connack is not None
    assert new.connack.get("retain_available") == 0


# Users and rules


async def test_password_and_rule_files_come_change_and_go(live: Live, tmp_path: Path) -> None:
    first, second, rules = tmp_path / "first", tmp_path / "second", tmp_path / "rules"
    add_user(first, "ann")
    add_user(second, "bob")
    rules.write_text("user bob\ntopic readwrite b\n")
    old = await client(live, "old")
    live.settings["auth"] = {"password_file": str(first)}
    await live.take()
    assert live.configuration()["files"] == {
        str(first): {"digest": digest_of(first.read_bytes()), "problem": ""}
    }
    await is_refused(live, 0x87)
    await client(live, "ann", username="ann", password=b"secret")
    await old.deliver("b", qos=1)
    live.settings["auth"] = {
        "password_file": str(second),
        "acl_file": str(rules),
        "password_threads": 1,
    }
    await live.take()
    assert set(live.configuration()["files"]) == {str(second), str(rules)}
    await is_refused(live, 0x86, username="ann", password=b"secret")
    bob = await client(live, "bob", username="bob", password=b"secret")
    assert (await bob.deliver("a", qos=1)).reason == 0x87  # type: ignore[union-attr]
    assert (await old.deliver("b", qos=1, packet_id=2)).reason == 0x87  # type: ignore[union-attr]
    add_user(second, "eve")
    content = second.read_bytes()
    await live.until(
        lambda said: said["files"][str(second)]["digest"] == digest_of(content),
        "the file of the new path is watched",
    )
    await client(live, "eve", username="eve", password=b"secret")
    live.settings["auth"] = {"allow_anonymous": True}
    await live.take()
    assert live.configuration()["files"] == {}
    await client(live, "anybody")
    assert (await old.deliver("b", qos=1, packet_id=3)).reason != 0x87  # type: ignore[union-attr]


async def test_a_will_that_is_not_permitted_any_more_is_not_published(
    live: Live, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read will/#\ntopic readwrite will/b\n")
    reader = await client(live, "reader")
    await reader.subscribe(("will/#", 0))
    leaving = [
        await client(live, name, will=mqtt_bytes.Will(f"will/{name}")) for name in ("a", "b")
    ]
    live.settings["auth"] = {"allow_anonymous": True, "acl_file": str(rules)}
    await live.take()
    for one in leaving:
        await one.send(mqtt_bytes.disconnect(0x04))
        await one.expect_closed()
    assert (await reader.expect("PUBLISH")).topic == "will/b"
    await reader.expect_nothing()


async def test_a_user_that_is_gone_is_disconnected(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "users"
    anonymous = await client(live, "anonymous", username="ann")
    for name in ("ann", "bob", "eve"):
        add_user(file, name)
    live.settings["auth"] = {"password_file": str(file), "allow_anonymous": True}
    await live.take()
    ann, bob, eve = [
        await client(live, name, username=name, password=b"secret")
        for name in ("ann", "bob", "eve")
    ]
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith("ann:")))
    os.kill(live.server.pid, signal.SIGHUP)
    await ann.expect("DISCONNECT", reason=0x87)
    await ann.expect_closed()
    await is_refused(live, 0x86, username="ann", password=b"secret")
    other = tmp_path / "other"
    add_user(other, "bob")
    live.settings["auth"]["password_file"] = str(other)
    await live.take()
    await eve.expect("DISCONNECT", reason=0x87)
    # Who was let in without the file is none of its users.
    for one in (anonymous, bob):
        await one.expect_nothing()


async def test_a_file_that_is_not_there_yet_is_waited_for(live: Live, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    live.settings["auth"] = {"allow_anonymous": True, "acl_file": str(rules)}
    live.settings["listeners"].append(TCP | {"name": "more"})
    problem = await live.refuse()
    assert problem == f"acl_file {rules}: cannot be read: No such file or directory"
    assert list(live.status()["listeners"]) == ["tcp"]
    rules.write_text("topic readwrite a\n")
    await live.until(lambda said: not said["problem"], "the file is there, so it is used")
    assert list(live.status()["listeners"]) == ["tcp", "more"]


async def test_rules_that_cannot_be_used_are_named_with_their_file(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite a\n")
    good = digest_of(rules.read_bytes())
    broker = start_broker(listeners=[TCP], auth={"allow_anonymous": True, "acl_file": str(rules)})
    live = Live(broker, broker.settings)
    rules.write_text("nonsense\n")
    said = await live.until(
        lambda said: said["files"][str(rules)]["problem"], "the broken rules are seen"
    )
    assert said["files"][str(rules)] == {
        "digest": good,
        "problem": f"acl_file {rules}: line 1: expected topic, pattern or user, got 'nonsense'",
    }
    assert said["problem"] == ""
    rules.unlink()
    await live.until(
        lambda said: said["files"][str(rules)]["problem"] == f"{rules} is missing", "it is missed"
    )
    rules.write_text("topic readwrite b\n")
    await live.until(
        lambda said: (
            said["files"][str(rules)]
            == {"digest": digest_of(b"topic readwrite b\n"), "problem": ""}
        ),
        "the new rules are in use",
    )


async def test_the_token_file_is_told_of_too(start_broker: StartBroker, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    broker = start_broker(listeners=[TCP], admin={"port": 0, "token_file": str(token)})

    def said(secret: str) -> dict[str, Any]:
        import json
        import urllib.request

        place = broker.address("admin")
        request = urllib.request.Request(f"http://{place.host}:{place.port}/status")
        request.add_header("Authorization", f"Bearer {secret}")
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)["configuration"]["files"]
            return found

    assert said("one") == {str(token): {"digest": digest_of(b"one"), "problem": ""}}
    token.write_text("two")
    from support.waiting import wait_for_async

    await wait_for_async(
        lambda: said("two") == {str(token): {"digest": digest_of(b"two"), "problem": ""}},
        10,
        "the new token's digest is told",
    )


# Edges and routers


@pytest.fixture
async def cluster(certificates: Certificates) -> AsyncIterator[Cluster]:
    """An edge and a router, joined with mutual TLS."""
    authority = certificates.authority
    pairs = {
        "router": authority.server("tidegate-router", file="router"),
        "edge": authority.client("edge", file="edge"),
    }
    with tempfile.TemporaryDirectory(prefix="tgc-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name).resolve(), edges=1, routers=1)
        for node in cluster.nodes:
            node.settings["link"]["tls"] = {
                "certificate": str(pairs[node.role].certificate),
                "key": str(pairs[node.role].key),
                "ca": str(authority.certificate),
            }
        try:
            await cluster.start()
            yield cluster
        finally:
            await cluster.stop()


async def test_edge_and_router_take_their_files_up(cluster: Cluster) -> None:
    (edge,), (router,) = cluster.edges, cluster.routers
    at_edge, at_router = Live(edge, edge.settings), Live(router, router.settings)
    place = at_edge.address("tcp")
    raw = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await raw.connect("connected", clean=False, props=DURABLE)
    await raw.subscribe(("q", 1))
    await raw.disconnect()
    for live in (at_edge, at_router):
        assert live.configuration()["files"] == _files_of_link(live)
        live.settings["limits"] = {"max_queued_messages": 2, "max_packet_size_bytes": 7000}
        live.settings["log"] = {"level": "debug"}
    at_router.settings["store"]["operation_timeout_s"] = 4
    at_router.settings["link"]["routers"] = ["127.0.0.1:1"]
    at_edge.settings["link"]["discovery_interval_s"] = 3
    at_edge.settings["store"]["operation_timeout_s"] = 4
    await at_edge.take()
    await at_router.take()
    assert at_edge.configuration()["restart_needed"] == ["link.discovery_interval_s"]
    assert at_router.configuration()["restart_needed"] == ["store.operation_timeout_s"]
    writer = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await writer.connect("writer")
    assert writer.connack is not None
    assert writer.connack.get("maximum_packet_size") == 7000
    for number in range(4):
        await writer.deliver("q", b"%d" % number, qos=1, packet_id=number + 1)
    back = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await back.connect("connected", clean=False, props=DURABLE)
    received = [await back.expect("PUBLISH") for _ in range(2)]
    assert [one.payload for one in received] == [b"0", b"1"]
    for one in received:
        await back.acknowledge(one)
    await back.expect_nothing()


async def test_new_certificates_of_the_link_are_told_of(
    cluster: Cluster, certificates: Certificates
) -> None:
    (edge,), (router,) = cluster.edges, cluster.routers
    certificates.authority.server("tidegate-router", file="router")
    certificates.authority.client("edge", file="edge")
    for node in (edge, router):
        live = Live(node, node.settings)
        await live.until(lambda said: said["files"] == _files_of_link(live), "the new pair")  # noqa: B023
    (Path(edge.settings["link"]["tls"]["key"])).write_text("no key")
    at_edge = Live(edge, edge.settings)
    said = await at_edge.until(lambda said: any(_problems_of(said)), "the bad key is told of")
    assert said["problem"] == ""


def _files_of_link(live: Live) -> dict[str, Any]:
    return {
        path: {"digest": digest_of(Path(path).read_bytes()), "problem": ""}
        for path in live.settings["link"]["tls"].values()
    }


def _problems_of(said: dict[str, Any]) -> list[str]:
    return [one["problem"] for one in said["files"].values()]


async def test_a_supervisor_hands_the_change_to_its_processes(start_broker: StartBroker) -> None:
    broker = start_broker(listeners=[TCP], cluster={"edges": 2, "routers": 2})
    live = Live(broker, broker.settings)
    place = broker.address("tcp")
    old = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await old.connect("old")
    live.settings["limits"] = {"max_packet_size_bytes": 6000}
    live.settings["listeners"].append(TCP | {"name": "more"})
    live.settings["cluster"] = {"edges": 3, "routers": 2}
    live.settings["store"]["operation_timeout_s"] = 5
    await live.take()
    assert live.configuration()["restart_needed"] == ["cluster.edges", "store.operation_timeout_s"]
    processes = live.status()["processes"]
    assert [one["configuration"]["restart_needed"] for one in processes.values()] == [[]] * 4
    assert [one["restarts"] for one in processes.values()] == [0] * 4
    (more,) = {processes[name]["listeners"]["more"][0] for name in ("edge-1", "edge-2")}
    for number in range(4):
        raw = await RawClient.open(f"tcp://{more}", version=V5)
        await raw.connect(f"new-{number}")
        assert raw.connack is not None
        assert raw.connack.get("maximum_packet_size") == 6000
    await old.send(mqtt_bytes.PINGREQ)
    await old.expect("PINGRESP")
    live.settings["auth"] = {"password_file": "none"}
    problem = await live.refuse()
    assert problem.startswith("auth.password_file: ")
    assert "cannot be read" in problem
    raw = await RawClient.open(f"tcp://{more}", version=V5)
    await raw.connect("still")
