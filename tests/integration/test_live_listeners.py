"""Listeners that change while clients are connected: opened, closed, moved, set otherwise.

Inputs: a broker of its own for each test, its file rewritten, raw clients on several listeners.
Observed: which connections stay, what the others are sent, what new ones meet, what /status says.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.broker import StartBroker
from support.certificates import Authority, Certificates
from support.live import Live
from support.mqtt_bytes import V5, V311
from support.ports import free_port
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for_async
from tidegate.runtime.reload.file_watch import INTERVAL_S

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

SHUTTING_DOWN = 0x8B
USE_ANOTHER_SERVER = 0x9C


def plain(name: str, port: int = 0, **settings: Any) -> dict[str, Any]:
    return {"name": name, "protocol": "tcp", "address": "127.0.0.1", "port": port, **settings}


@pytest.fixture
def live(start_broker: StartBroker) -> Live:
    """A broker with two plain listeners, "one" and "two"."""
    broker = start_broker(listeners=[plain("one"), plain("two")])
    return Live(broker, broker.settings)


async def client(live: Live, listener: str, name: str, version: int = V5) -> RawClient:
    found = live.address(listener)
    raw = await RawClient.open(f"tcp://{found.host}:{found.port}", version=version)
    await raw.connect(name)
    return raw


async def is_alive(raw: RawClient) -> None:
    await raw.send(mqtt_bytes.PINGREQ)
    await raw.expect("PINGRESP")


async def is_not_listening(host: str, port: int) -> None:
    def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) == errno.ECONNREFUSED

    await wait_for_async(refused, DEADLINE_S, f"port {port} is closed")


async def test_an_added_listener_opens_without_an_effect_on_others(live: Live) -> None:
    first = await client(live, "one", "first")
    live.settings["listeners"].append(plain("three"))
    await live.take()
    third = await client(live, "three", "third")
    await third.subscribe(("t", 0))
    await first.publish("t", b"hello")
    assert (await third.expect("PUBLISH")).payload == b"hello"
    assert live.metric('tidegate_listener_connections{listener="three"}') == 1


async def test_a_removed_listener_closes_and_its_clients_get_disconnect(live: Live) -> None:
    stays = await client(live, "one", "stays")
    removed = await client(live, "two", "removed")
    old = await client(live, "two", "old", V311)
    place = live.address("two")
    live.settings["listeners"].pop()
    await live.take()
    assert (await removed.expect("DISCONNECT")).reason == SHUTTING_DOWN
    await removed.expect_closed()
    await old.expect_closed()
    await is_not_listening(place.host, place.port)
    await is_alive(stays)
    assert list(live.status()["listeners"]) == ["one"]
    assert live.status()["clients"] == 1


async def test_clients_of_a_removed_listener_go_at_the_rate_and_with_the_word_of_a_drain(
    live: Live,
) -> None:
    clients = [await client(live, "two", f"client-{n}") for n in range(4)]
    live.settings["listeners"].pop()
    live.settings["drain"] = {"rate": 10, "reason": "use_another_server"}
    began = asyncio.get_running_loop().time()
    await live.take()
    for one in clients:
        assert (await one.expect("DISCONNECT")).reason == USE_ANOTHER_SERVER
    assert asyncio.get_running_loop().time() - began > 0.25


async def test_clients_of_a_removed_listener_get_their_acknowledgements_first(live: Live) -> None:
    raw = await client(live, "two", "publisher")
    live.settings["listeners"].pop()
    await raw.send(*(mqtt_bytes.publish("t", b"x", qos=1, packet_id=n) for n in range(1, 51)))
    await live.take()
    acknowledged = 0
    while (packet := await raw.receive()).kind == "PUBACK":
        acknowledged += 1
    assert (acknowledged, packet.kind) == (50, "DISCONNECT")


async def test_a_changed_port_is_another_listener(live: Live) -> None:
    moved = await client(live, "two", "moved")
    stays = await client(live, "one", "stays")
    before = live.address("two")
    port = free_port()
    live.listener("two")["port"] = port
    await live.take()
    assert (await moved.expect("DISCONNECT")).reason == SHUTTING_DOWN
    await is_not_listening(before.host, before.port)
    assert live.address("two").port == port
    await client(live, "two", "again")
    await is_alive(stays)


async def test_a_changed_protocol_keeps_the_port(live: Live) -> None:
    place = live.address("two")
    live.listener("two")["port"] = place.port
    await live.take()
    old = await client(live, "two", "old")
    live.listener("two")["protocol"] = "ws"
    await live.take()
    assert (await old.expect("DISCONNECT")).reason == SHUTTING_DOWN
    raw = await RawClient.open(f"ws://{place.host}:{place.port}/mqtt", version=V5)
    await raw.connect("new")
    assert live.address("two") == place


async def test_an_address_that_takes_in_the_old_one_gets_the_port(live: Live) -> None:
    place = live.address("two")
    live.listener("two").update(port=place.port)
    await live.take()
    old = await client(live, "two", "old")
    live.listener("two")["address"] = "0.0.0.0"
    await live.take()
    assert (await old.expect("DISCONNECT")).reason == SHUTTING_DOWN
    raw = await RawClient.open(f"tcp://127.0.0.1:{place.port}", version=V5)
    await raw.connect("new")


async def test_a_new_name_is_all_that_changes(live: Live) -> None:
    place = live.address("two")
    live.listener("two")["port"] = place.port
    await live.take()
    stays = await client(live, "two", "stays")
    live.listener("two")["name"] = "zwei"
    await live.take()
    assert live.address("zwei") == place
    await is_alive(stays)


async def test_a_port_in_use_holds_the_whole_change_until_it_is_free(
    live: Live,
) -> None:
    stays = await client(live, "one", "stays")
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        live.settings["listeners"] = [live.listener("one"), plain("three"), plain("four", port)]
        live.settings["limits"] = {"max_packet_size_bytes": 1000}
        before = live.configuration()["digest"]
        problem = await live.refuse()
        assert problem.startswith(f"listener four: cannot listen on 127.0.0.1 port {port}: ")
        said = live.configuration()
        assert said["digest"] == before
        assert live.metric("tidegate_configuration_problem") == 1
        assert live.metric('tidegate_config_reloads_total{result="failed"}') == 1
        assert list(live.status()["listeners"]) == ["one", "two"]
        unlimited = await client(live, "two", "unlimited")
        assert unlimited.connack is not None
        assert unlimited.connack.get("maximum_packet_size") == 1_048_576
    await live.until(lambda said: not said["problem"], "the port is free, so it is used")
    assert live.metric("tidegate_configuration_problem") == 0
    assert sorted(live.status()["listeners"]) == ["four", "one", "three"]
    limited = await client(live, "four", "limited")
    assert limited.connack is not None
    assert limited.connack.get("maximum_packet_size") == 1000
    await is_alive(stays)


@pytest.mark.parametrize("change", [{"address": "0.0.0.0"}, {"protocol": "ws"}])
async def test_a_listener_whose_port_was_to_be_handed_on_stays_when_nothing_is_taken(
    live: Live, change: dict[str, Any]
) -> None:
    place = live.address("two")
    stays = await client(live, "two", "stays")
    live.listener("two").update(port=place.port, **change)
    with socket.create_server(("127.0.0.1", 0)) as other:
        live.settings["listeners"].append(plain("taken", other.getsockname()[1]))
        assert "listener taken: cannot listen" in await live.refuse()
        await is_alive(stays)
        await client(live, "two", "as before")
        assert live.address("two") == place


async def with_unix_socket(start_broker: StartBroker) -> tuple[Live, Path]:
    """Return a broker that has taken up a Unix socket while it runs, and the socket's path."""
    broker = start_broker(listeners=[plain("one")])
    live = Live(broker, broker.settings)
    path = broker.directory / "extra.sock"
    live.settings["listeners"].append({"name": "unix", "protocol": "unix", "address": str(path)})
    await live.take()
    return live, path


async def test_a_unix_socket_whose_change_is_not_taken_keeps_its_file(
    start_broker: StartBroker,
) -> None:
    live, path = await with_unix_socket(start_broker)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        live.settings["listeners"] = [
            plain("one"),
            {"name": "unix", "protocol": "unix", "address": str(path), "max_qos": 0},
            plain("taken", port),
        ]
        await live.refuse()
        raw = await RawClient.open(f"unix:{path}", version=V5)
        await raw.connect("local")
        assert raw.connack is not None
        assert raw.connack.get("maximum_qos") is None


async def test_nothing_counts_of_a_change_that_a_file_in_the_way_of_a_socket_stops(
    start_broker: StartBroker,
) -> None:
    live, path = await with_unix_socket(start_broker)
    port = free_port()
    path.unlink()
    path.write_text("somebody's")
    live.listener("unix")["unix_mode"] = 0o600
    live.settings["listeners"].append(plain("three", port))
    anonymous = live.settings["auth"]
    live.settings["auth"] = {**anonymous, "allow_anonymous": False}
    problem = await live.refuse()
    assert problem == f"listener unix: cannot listen on {path}: a file that is not a socket exists"
    assert path.read_text() == "somebody's"
    assert list(live.status()["listeners"]) == ["one", "unix"]
    await is_not_listening("127.0.0.1", port)
    await client(live, "one", "anonymous still")
    live.settings["auth"] = anonymous
    path.unlink()  # what the change needs is free again
    await live.take()
    await client(live, "three", "third")
    await RawClient.open(f"unix:{path}", version=V5)


async def test_a_socket_file_that_is_gone_is_made_again_by_the_next_change(
    start_broker: StartBroker,
) -> None:
    """Who is connected notices nothing."""
    live, path = await with_unix_socket(start_broker)
    stays = await RawClient.open(f"unix:{path}", version=V5)
    await stays.connect("stays")
    changes: list[dict[str, Any]] = [{"unix_mode": 0o600}, {"accept_rate": 1000}, {"max_qos": 1}]
    for number, change in enumerate(changes):
        path.unlink()
        live.listener("unix").update(change)
        await live.take()
        assert path.stat().st_mode & 0o777 == 0o600
        raw = await RawClient.open(f"unix:{path}", version=V5)
        await raw.connect(f"new-{number}")
    assert raw.connack is not None
    assert raw.connack.get("maximum_qos") == 1
    await is_alive(stays)
    live.settings["listeners"].pop()
    await live.take()
    assert not path.exists()


async def test_a_removed_listener_leaves_a_file_that_is_not_its_own(
    start_broker: StartBroker,
) -> None:
    live, path = await with_unix_socket(start_broker)
    path.unlink()
    path.write_text("somebody's")
    live.settings["listeners"].pop()
    await live.take()
    assert path.read_text() == "somebody's"


async def test_a_listener_that_cannot_have_its_port_alone_goes_on_and_has_it_when_it_is_free(
    live: Live,
) -> None:
    stays = await client(live, "two", "stays")
    place = live.address("two")
    live.listener("two").update(port=place.port, address="*")

    def times_opened_again() -> int:
        return live.server.stderr().count("listener reopened")

    with socket.create_server(("127.0.0.2", place.port)):
        assert "listener two: cannot listen" in await live.refuse()
        assert live.address("two") == place
        await client(live, "two", "as before")
        # Tried seldom: everybody who connects at such a moment is refused.
        assert times_opened_again() == 1
        began = asyncio.get_running_loop().time()
        await wait_for_async(lambda: times_opened_again() > 1, DEADLINE_S, "it is tried again")
        assert asyncio.get_running_loop().time() - began > 1.5 * INTERVAL_S
    await live.take()
    assert (await stays.expect("DISCONNECT")).reason == SHUTTING_DOWN
    found = live.status()["listeners"]["two"]
    assert f"0.0.0.0:{place.port}" in found


async def test_a_draining_broker_takes_no_changes(live: Live) -> None:
    import urllib.request

    place = live.server.address("admin")
    request = urllib.request.Request(f"http://{place.host}:{place.port}/drain", method="POST")
    with urllib.request.urlopen(request, timeout=DEADLINE_S):
        pass
    live.settings["listeners"].append(plain("three"))
    assert "is draining" in await live.refuse()
    assert list(live.status()["listeners"]) == ["one", "two"]


async def test_a_change_while_clients_of_a_removed_listener_are_still_going(live: Live) -> None:
    """The listener comes back, on the same port, before its old clients have gone."""
    place = live.address("two")
    live.listener("two")["port"] = place.port
    live.settings["drain"] = {"rate": 1}
    await live.take()
    old = [await client(live, "two", f"old-{n}") for n in range(3)]
    accepted = live.metric('tidegate_listener_accepted_total{listener="two"}')
    two = live.settings["listeners"].pop()
    await live.take()
    live.settings["listeners"].append(two)
    await live.take()
    new = await client(live, "two", "new")
    assert live.metric('tidegate_listener_accepted_total{listener="two"}') == accepted + 1
    for one in old:
        assert (await one.expect("DISCONNECT")).reason == SHUTTING_DOWN
    await is_alive(new)


async def test_settings_of_a_listener_count_for_new_connections(live: Live) -> None:
    old = await client(live, "two", "old")
    live.listener("two").update(max_qos=0, max_connections=2, mount_point="m/")
    await live.take()
    new = await client(live, "two", "new")
    assert new.connack is not None
    assert new.connack.get("maximum_qos") == 0
    third = await RawClient.open(f"tcp://127.0.0.1:{live.address('two').port}")
    await third.expect_closed()
    await new.publish("t", b"mounted")
    assert (await old.subscribe(("m/#", 2))).codes == [2]
    await new.publish("t", b"mounted")
    assert (await old.expect("PUBLISH")).topic == "m/t"


async def test_anonymous_clients_are_refused_from_the_change_on(live: Live) -> None:
    old = await client(live, "two", "old")
    live.listener("two")["allow_anonymous"] = False
    await live.take()
    place = live.address("two")
    raw = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await raw.send(mqtt_bytes.connect("new", version=V5))
    await raw.expect("CONNACK", reason=0x87)
    await is_alive(old)
    await client(live, "one", "elsewhere")


async def test_an_accept_rate_comes_and_goes_on_the_same_socket(live: Live) -> None:
    stays = await client(live, "two", "stays")
    for settings in ({"accept_rate": 1000, "accept_burst": 10}, {"accept_rate": 0}):
        live.listener("two").update(settings)
        await live.take()
        await client(live, "two", f"new-{settings['accept_rate']}")
    await is_alive(stays)


async def test_a_proxy_header_is_wanted_from_the_change_on(live: Live) -> None:
    stays = await client(live, "two", "stays")
    live.listener("two").update(proxy_protocol="required", trusted_proxies=["127.0.0.1/32"])
    await live.take()
    place = live.address("two")
    raw = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    await raw.send(
        b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 1883\r\n" + mqtt_bytes.connect("behind", version=V5)
    )
    await raw.expect("CONNACK", reason=0)
    await is_alive(stays)


async def test_paths_and_origins_change_in_place(start_broker: StartBroker) -> None:
    broker = start_broker(
        listeners=[{"name": "ws", "protocol": "ws", "address": "127.0.0.1", "port": 0}]
    )
    live = Live(broker, broker.settings)
    place = live.address("ws")
    stays = await RawClient.open(f"ws://{place.host}:{place.port}/mqtt", version=V5)
    await stays.connect("stays")
    live.listener("ws").update(paths=["/other"], allowed_origins=["https://a.test"])
    await live.take()
    await is_alive(stays)
    with pytest.raises((AssertionError, ConnectionError)):
        await RawClient.open(f"ws://{place.host}:{place.port}/mqtt", version=V5)
    new = await RawClient.open(f"ws://{place.host}:{place.port}/other", version=V5)
    await new.connect("new")


async def test_a_unix_socket_is_kept_and_removed(start_broker: StartBroker) -> None:
    live, path = await with_unix_socket(start_broker)
    raw = await RawClient.open(f"unix:{path}", version=V5)
    await raw.connect("local")
    live.listener("unix")["unix_mode"] = 0o600
    await live.take()
    assert path.stat().st_mode & 0o777 == 0o600
    await is_alive(raw)
    live.settings["listeners"].pop()
    await live.take()
    assert (await raw.expect("DISCONNECT")).reason == SHUTTING_DOWN
    assert not path.exists()


# TLS


@contextlib.asynccontextmanager
async def tls_connection(
    port: int, context: ssl.SSLContext
) -> Any:  # an async iterator of reader, writer
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def serial_of(writer: asyncio.StreamWriter) -> str:
    found = writer.get_extra_info("ssl_object").getpeercert()
    serial: str = found["serialNumber"]
    return serial


async def test_certificates_are_exchanged_under_a_connection_that_stays(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    """By new bytes in the same files, and by other files that the configuration names."""
    authority = Authority(tmp_path / "authority")
    pair = authority.server("localhost", file="first")
    other = authority.server("localhost", file="second")
    tls = {"certificates": [{"certificate": str(pair.certificate), "key": str(pair.key)}]}
    broker = start_broker(listeners=[plain("tls", tls=tls) | {"protocol": "tls"}])
    live = Live(broker, broker.settings)
    live.signals = False
    context = ssl.create_default_context(cafile=str(authority.certificate))
    place = live.address("tls")
    serials = []
    async with tls_connection(place.port, context) as (reader, writer):
        writer.write(mqtt_bytes.connect("stays", version=V311))
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        serials.append(serial_of(writer))
        authority.server("localhost", file="first")
        await live.until(
            lambda said: all(
                said["files"][str(path)] == {"digest": digest(path), "problem": ""}
                for path in (pair.certificate, pair.key)
            ),
            "the new certificate is in use",
        )
        async with tls_connection(place.port, context) as (_, second):
            serials.append(serial_of(second))
        live.listener("tls")["tls"] = {
            "certificates": [{"certificate": str(other.certificate), "key": str(other.key)}],
            "minimum_version": "1.3",
        }
        await live.take()
        async with tls_connection(place.port, context) as (_, third):
            serials.append(serial_of(third))
        assert set(live.configuration()["files"]) == {str(other.certificate), str(other.key)}
        writer.write(mqtt_bytes.PINGREQ)
        assert await reader.readexactly(2) == b"\xd0\x00"
    assert len(set(serials)) == 3


def digest(path: Path) -> str:
    from support.live import digest_of

    return digest_of(path.read_bytes())


async def test_a_bad_certificate_on_disk_is_named_and_the_good_one_stays(
    start_broker: StartBroker, tmp_path: Path, certificates: Certificates
) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.server("localhost")
    tls = {"certificates": [{"certificate": str(pair.certificate), "key": str(pair.key)}]}
    broker = start_broker(listeners=[plain("tls", tls=tls) | {"protocol": "tls"}])
    live = Live(broker, broker.settings)
    before = live.configuration()["files"]
    good = pair.key.read_bytes()
    pair.key.write_text("no key")
    said = await live.until(
        lambda said: said["files"][str(pair.key)]["problem"], "the bad key is seen"
    )
    assert said["files"][str(pair.key)]["digest"] == before[str(pair.key)]["digest"]
    assert said["files"][str(pair.certificate)] == before[str(pair.certificate)]
    assert said["problem"] == ""
    assert live.metric("tidegate_configuration_files_problem") == 1
    context = ssl.create_default_context(cafile=str(authority.certificate))
    async with tls_connection(live.address("tls").port, context):
        pass
    pair.key.write_bytes(good)
    await live.until(lambda said: said["files"] == before, "the good key is seen")
    live.listener("tls")["tls"]["certificates"][0]["key"] = str(certificates.client.key)
    assert "listener tls: cannot use" in await live.refuse()


async def test_other_listeners_carry_on_under_load(live: Live) -> None:
    """Numbered messages at QoS 1 through one listener while others come and go."""
    reader = await client(live, "one", "reader")
    await reader.subscribe(("load", 0))
    writer = await client(live, "one", "writer")
    stop = asyncio.Event()
    sent = 0

    async def publish() -> None:
        nonlocal sent
        while not stop.is_set():
            sent += 1
            await writer.deliver("load", b"%d" % sent, qos=1, packet_id=sent % 60_000 + 1)

    publishing = asyncio.create_task(publish())
    try:
        for step in range(3):
            live.settings["listeners"] = [live.listener("one"), plain(f"extra-{step}")]
            live.settings["limits"] = {"max_subscriptions": 100 + step}
            await live.take()
            await client(live, f"extra-{step}", f"guest-{step}")
    finally:
        stop.set()
        await publishing
    got = [(await reader.expect("PUBLISH")).payload for _ in range(sent)]
    assert got == [b"%d" % number for number in range(1, sent + 1)]
