"""Draining: SIGTERM to a broker with clients, and what each of them is sent before the end (G9).

Input: raw clients against ``tidegate serve`` with its embedded store, signals, the admin API.
Output: the packets before the end, their order, what the admin pages say meanwhile, and what is in
the store afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes, processes
from support.broker import STOP_DEADLINE_S, StartBroker, Tidegate
from support.certificates import Certificates
from support.mqtt_bytes import V5, V311
from support.raw_client import DEADLINE_S, RawClient
from support.tools import require
from support.waiting import wait_for, wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DURABLE = [("session_expiry", 3600)]
GOING_AWAY = 1001
SHUTTING_DOWN = 0x8B
ADMINISTRATIVE_ACTION = 0x98
USE_ANOTHER_SERVER = 0x9C


async def _open(broker: Tidegate, version: int = V5, **options: int) -> RawClient:
    address = broker.address("tcp")
    url = f"tcp://{address.host}:{address.port}"
    return await RawClient.open(url, version=version, **options)  # type: ignore[arg-type] # bytes


async def _connected(broker: Tidegate, client_id: str, version: int = V5) -> RawClient:
    client = await _open(broker, version)
    await client.connect(client_id)
    return client


async def _durable(broker: Tidegate, client_id: str, *filters: tuple[str, int]) -> RawClient:
    client = await _open(broker)
    await client.connect(client_id, clean=False, props=DURABLE)
    if filters:
        await client.subscribe(*filters)
    return client


def _page(broker: Tidegate, path: str) -> tuple[int, str]:
    """Status and body of an admin page; (0, "") when there is no answer any more."""
    address = broker.address("admin")
    try:
        with urllib.request.urlopen(f"http://{address.host}:{address.port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _terminate(broker: Tidegate) -> None:
    os.kill(broker.pid, signal.SIGTERM)


async def _ended(broker: Tidegate) -> int:
    process = broker.process
    assert process is not None
    code = await wait_for_async(
        lambda: (process.poll(),) if process.poll() is not None else None,
        STOP_DEADLINE_S,
        "the broker's end",
    )
    assert code is not None
    result = code[0]
    assert result is not None
    return result


@contextmanager
def _stopped(pids: set[int]) -> Iterator[None]:
    """Keep processes from running."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def test_mqtt_5_clients_get_disconnect_and_older_ones_a_closed_socket(
    start_broker: StartBroker,
) -> None:
    broker = start_broker()
    new = await _connected(broker, "new")
    old = await _connected(broker, "old", V311)
    _terminate(broker)
    last = await new.expect_closed(reasons=[SHUTTING_DOWN])
    assert last is not None
    assert await old.expect_closed() is None
    assert await _ended(broker) == 0


@pytest.mark.parametrize("transport", ["ws", "wss", "tls"])
async def test_other_transports_are_closed_in_their_own_way(
    start_broker: StartBroker, certificates: Certificates, transport: str
) -> None:
    broker = start_broker()
    address = broker.address(transport)
    client = await RawClient.open(
        f"{transport}://localhost:{address.port}{address.path}",
        ssl_context=ssl.create_default_context(cafile=certificates.authority.certificate),
    )
    await client.connect("c")
    _terminate(broker)
    await client.expect_closed(reasons=[SHUTTING_DOWN])
    assert client.close_code == (None if transport == "tls" else GOING_AWAY)
    assert await _ended(broker) == 0


async def test_the_reason_code_can_be_use_another_server(start_broker: StartBroker) -> None:
    broker = start_broker(drain={"reason": "use_another_server"})
    client = await _connected(broker, "c")
    _terminate(broker)
    await client.expect_closed(reasons=[USE_ANOTHER_SERVER])
    assert await _ended(broker) == 0


async def test_few_clients_do_not_make_the_end_wait(start_broker: StartBroker) -> None:
    broker = start_broker(drain={"deadline_s": 60, "rate": 500})
    for number in range(10):
        await _connected(broker, f"c{number}")
    started = time.monotonic()
    assert await asyncio.to_thread(broker.stop) == 0
    assert time.monotonic() - started < 5


async def test_readiness_fails_before_the_first_client_goes(start_broker: StartBroker) -> None:
    broker = start_broker(drain={"delay_s": 1.5})
    client = await _connected(broker, "c")
    assert _page(broker, "/readyz")[0] == 200
    _terminate(broker)
    await wait_for_async(lambda: _page(broker, "/readyz")[0] == 503, DEADLINE_S, "not ready")
    assert _page(broker, "/readyz")[1].startswith("draining: 1 client left")
    assert _page(broker, "/livez")[0] == 200
    # Clients that the load balancer still sends are served meanwhile.
    late = await _connected(broker, "late")
    await client.expect_nothing()
    await late.expect_nothing()
    await client.expect_closed(reasons=[SHUTTING_DOWN])
    await late.expect_closed(reasons=[SHUTTING_DOWN])
    assert await _ended(broker) == 0


async def test_what_was_read_is_acknowledged_before_disconnect(start_broker: StartBroker) -> None:
    """The store hangs when the signal comes, and answers a moment later."""
    broker = start_broker()
    sleeper = await _durable(broker, "sleeper", ("t", 2))
    await sleeper.disconnect()
    writer = await _connected(broker, "writer")
    with _stopped(broker.descendants()):
        for number in range(1, 21):
            qos = 1 + number % 2
            await writer.publish("t", b"%d" % number, qos=qos, packet_id=number)
        await writer.expect_nothing()  # so the broker has read them all
        _terminate(broker)
        await wait_for_async(
            lambda: _page(broker, "/readyz")[1].startswith("draining"), DEADLINE_S, "draining"
        )
    for number in range(1, 21):
        kind = "PUBREC" if number % 2 else "PUBACK"
        await writer.expect(kind, packet_id=number, reason=0)
    await writer.expect_closed(reasons=[SHUTTING_DOWN])
    assert await _ended(broker) == 0
    broker.start()
    again = await _durable(broker, "sleeper")
    got: list[bytes] = []
    while len(got) < 20:
        packet = await again.receive()
        if packet.kind == "PUBLISH":
            got.append(packet.payload)
            answer = "PUBACK" if packet.qos == 1 else "PUBREC"
            await again.send(mqtt_bytes.acknowledge(answer, packet.packet_id))
    assert got == [b"%d" % number for number in range(1, 21)]


async def test_a_store_that_hangs_does_not_keep_the_clients(start_broker: StartBroker) -> None:
    """Acknowledgements that cannot be had are waited for, but not for ever."""
    broker = start_broker(drain={"deadline_s": 3}, shutdown_timeout_s=1)
    sleeper = await _durable(broker, "sleeper", ("t", 1))
    writer = await _connected(broker, "writer")
    with _stopped(broker.descendants()):
        await writer.publish("t", qos=1)
        await writer.expect_nothing()
        _terminate(broker)
        await writer.expect_closed(reasons=[SHUTTING_DOWN])
        await sleeper.expect_closed(reasons=[SHUTTING_DOWN])
        assert await _ended(broker) == 1, "the ends of the sessions are not in the store"


async def test_the_deadline_is_kept_with_a_client_that_reads_nothing(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(
        drain={"deadline_s": 2, "rate": 0.1}, limits={"max_queued_bytes": 1_000_000}
    )
    slow = await _open(broker, receive_buffer_bytes=4096)
    await slow.connect("slow")
    await slow.subscribe(("flood", 1))
    slow.pause()
    writer = await _connected(broker, "writer")
    for number in range(1, 41):
        await writer.publish("flood", bytes(100_000), qos=1, packet_id=number)
        await writer.expect("PUBACK")
    others = [await _connected(broker, f"c{number}") for number in range(5)]
    started = time.monotonic()
    _terminate(broker)
    for client in [writer, *others]:
        await client.expect_closed(reasons=[SHUTTING_DOWN])
    assert time.monotonic() - started < 2 + DEADLINE_S / 2
    assert await _ended(broker) == 0
    # The drain, then the listeners' own bound for what does not get rid of its last bytes.
    assert time.monotonic() - started < 2 + 5 + DEADLINE_S / 2


async def test_a_second_signal_ends_it_at_once(start_broker: StartBroker) -> None:
    broker = start_broker(drain={"delay_s": 600, "deadline_s": 1200})
    client = await _connected(broker, "c")
    _terminate(broker)
    await wait_for_async(lambda: _page(broker, "/readyz")[0] == 503, DEADLINE_S, "not ready")
    _terminate(broker)
    assert await _ended(broker) == 128 + signal.SIGTERM
    assert await client.receive_or_end() is None


async def test_a_connect_on_its_way_is_refused_with_a_reason(start_broker: StartBroker) -> None:
    """Its socket was open before the listeners closed; the session never begins."""
    broker = start_broker(drain={"rate": 1, "deadline_s": 30})
    for number in range(3):
        await _connected(broker, f"c{number}")
    with _stopped(broker.descendants()):
        client = await _open(broker)
        await client.send(mqtt_bytes.connect("late"))
        received = 'tidegate_packets_received_total{type="connect"} 4.0'
        await wait_for_async(
            lambda: received in _page(broker, "/metrics")[1], DEADLINE_S, "the CONNECT is read"
        )
        _terminate(broker)
        await client.expect_refused(reasons=[0x88])


async def test_the_will_of_a_client_that_is_sent_away_is_published(
    start_broker: StartBroker,
) -> None:
    """[MQTT-3.1.2-8]: no DISCONNECT came from the client; a delay gives it time to come back."""
    broker = start_broker()
    watcher = await _durable(broker, "watcher", ("will/#", 1))
    prompt = await _open(broker)
    await prompt.connect("prompt", will=mqtt_bytes.Will("will/prompt", b"gone", qos=1))
    patient = await _open(broker)
    await patient.connect(
        "patient",
        clean=False,
        props=DURABLE,
        will=mqtt_bytes.Will("will/patient", b"gone", qos=1, props=[("will_delay", 3600)]),
    )
    _terminate(broker)
    assert await _ended(broker) == 0
    await watcher.receive_or_end()
    broker.start()
    patient = await _durable(broker, "patient")
    watcher = await _durable(broker, "watcher")
    topics = []
    packet = await watcher.expect("PUBLISH")
    topics.append(packet.topic)
    await watcher.acknowledge(packet)
    await watcher.expect_nothing()
    assert topics == ["will/prompt"]


# Under load


async def _write_until_disconnect(
    client: RawClient, name: str, reason: int = SHUTTING_DOWN
) -> list[bytes]:
    """Publish with QoS 1 as fast as it is acknowledged; return what was, at DISCONNECT."""
    acknowledged: list[bytes] = []
    sent = 0
    open_numbers: dict[int, bytes] = {}
    while True:
        while len(open_numbers) < 20:
            sent += 1
            payload = f"{name} {sent}".encode()
            open_numbers[sent] = payload
            await client.publish("load", payload, qos=1, packet_id=sent)
        packet = await client.receive()
        if packet.kind == "DISCONNECT":
            assert packet.reason == reason
            assert await client.receive_or_end() is None, "a packet came after DISCONNECT"
            return acknowledged
        assert packet.kind == "PUBACK"
        acknowledged.append(open_numbers.pop(packet.packet_id))


async def test_a_drain_under_load_loses_nothing_and_leaves_nothing_unanswered(
    start_broker: StartBroker,
) -> None:
    """What was read was queued and acknowledged, what was not acknowledged was never read."""
    broker = start_broker(drain={"rate": 20}, limits={"max_queued_messages": 1_000_000})
    sleeper = await _durable(broker, "sleeper", ("load", 1))
    await sleeper.disconnect()
    writers = [await _connected(broker, f"w{number}") for number in range(10)]
    writing = [
        asyncio.create_task(_write_until_disconnect(writer, f"w{number}"))
        for number, writer in enumerate(writers)
    ]
    received = re.compile(r'tidegate_packets_received_total\{type="publish"\} (\S+)')

    def is_busy() -> bool:
        found = received.search(_page(broker, "/metrics")[1])
        return found is not None and float(found[1]) > 1000

    await asyncio.to_thread(wait_for, is_busy, DEADLINE_S, "a load")
    _terminate(broker)
    acknowledged = await asyncio.gather(*writing)
    assert await _ended(broker) == 0
    broker.start()
    again = await _durable(broker, "sleeper")
    got: list[bytes] = []
    while len(got) < sum(map(len, acknowledged)):
        packet = await again.expect("PUBLISH")
        got.append(packet.payload)
        await again.acknowledge(packet)
    await again.expect_nothing()
    for number, theirs in enumerate(acknowledged):
        assert theirs == [one for one in got if one.startswith(b"w%d " % number)]


async def test_shedding_under_load_loses_nothing_and_leaves_nothing_unanswered(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(drain={"rate": 20}, limits={"max_queued_messages": 1_000_000})
    sleeper = await _durable(broker, "sleeper", ("load", 1))
    await sleeper.disconnect()
    writers = [await _connected(broker, f"w{number}") for number in range(10)]
    writing = [
        asyncio.create_task(_write_until_disconnect(writer, f"w{number}", USE_ANOTHER_SERVER))
        for number, writer in enumerate(writers)
    ]
    received = re.compile(r'tidegate_packets_received_total\{type="publish"\} (\S+)')

    def is_busy() -> bool:
        found = received.search(_page(broker, "/metrics")[1])
        return found is not None and float(found[1]) > 1000

    await asyncio.to_thread(wait_for, is_busy, DEADLINE_S, "a load")
    assert (await asyncio.to_thread(_ask, broker, "POST", "/shed?connections=10"))[0] == 202
    acknowledged = await asyncio.gather(*writing)
    again = await _durable(broker, "sleeper")
    got: list[bytes] = []
    while len(got) < sum(map(len, acknowledged)):
        packet = await again.expect("PUBLISH")
        got.append(packet.payload)
        await again.acknowledge(packet)
    await again.expect_nothing()
    for number, theirs in enumerate(acknowledged):
        assert theirs == [one for one in got if one.startswith(b"w%d " % number)]


async def test_clients_go_no_faster_than_the_rate(start_broker: StartBroker) -> None:
    broker = start_broker(drain={"rate": 20})
    clients = [await _connected(broker, f"c{number}") for number in range(40)]
    started = time.monotonic()
    _terminate(broker)
    for client in clients:
        await client.expect_closed(reasons=[SHUTTING_DOWN])
    assert time.monotonic() - started > 1.8
    assert await _ended(broker) == 0


async def test_mosquitto_sub_understands_why_it_has_to_go(start_broker: StartBroker) -> None:
    broker = start_broker()
    address = broker.address("tcp")
    output = broker.directory / "sub.txt"
    options = ["-V", "5", "-d", "-t", "x", "-i", "sub", "-h", address.host, "-p", str(address.port)]
    with output.open("wb") as stdout:
        command = ["stdbuf", "-oL", require("mosquitto_sub"), *options]
        process = processes.start(command, stdout=stdout, stderr=stdout)
    try:
        await wait_for_async(
            lambda: "received SUBACK" in output.read_text(), DEADLINE_S, "its subscription"
        )
        assert await asyncio.to_thread(broker.stop) == 0
        said = f"Received DISCONNECT ({SHUTTING_DOWN})"
        await wait_for_async(lambda: said in output.read_text(), DEADLINE_S, said)
    finally:
        process.kill()
        process.wait()


# The admin API


def _ask(broker: Tidegate, method: str, path: str, token: str = "") -> tuple[int, dict[str, Any]]:
    address = broker.address("admin")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(
        f"http://{address.host}:{address.port}{path}", method=method, headers=headers
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {"text": error.read().decode()}


async def test_the_admin_api_drains_and_the_process_waits_for_its_end(
    start_broker: StartBroker,
) -> None:
    broker = start_broker()
    client = await _connected(broker, "c")
    status, progress = await asyncio.to_thread(_ask, broker, "POST", "/drain")
    assert status == 202
    assert progress["draining"]
    await client.expect_closed(reasons=[SHUTTING_DOWN])
    await wait_for_async(lambda: _ask(broker, "GET", "/drain")[1]["done"], DEADLINE_S, "drained")
    assert _page(broker, "/readyz") == (503, "drained: waiting for termination\n")
    assert "tidegate_draining 1.0" in _page(broker, "/metrics")[1]
    with pytest.raises(OSError):
        await _open(broker)
    assert await asyncio.to_thread(broker.stop) == 0


async def test_the_admin_api_sheds_some_clients_and_the_broker_goes_on(
    start_broker: StartBroker,
) -> None:
    broker = start_broker()
    clients = [await _connected(broker, f"c{number}") for number in range(10)]
    old = await _connected(broker, "old", V311)
    status, answer = await asyncio.to_thread(_ask, broker, "POST", "/shed?connections=4")
    assert (status, answer) == (202, {"shedding": 4})
    shed = 'tidegate_connections_closed_total{reason="shed"} 4.0'
    await wait_for_async(lambda: shed in _page(broker, "/metrics")[1], DEADLINE_S, "four are gone")
    assert _page(broker, "/readyz")[0] == 200
    assert _ask(broker, "GET", "/shed")[1] == {"shedding": 0}
    listed = (await asyncio.to_thread(_ask, broker, "GET", "/clients"))[1]["clients"]
    left = {row["client_id"] for row in listed}
    assert len(left) == 7
    for number, client in enumerate(clients):
        if f"c{number}" not in left:
            await client.expect_closed(reasons=[USE_ANOTHER_SERVER])
            await _connected(broker, f"c{number}")
    if "old" not in left:
        assert await old.expect_closed() is None
    assert _ask(broker, "POST", "/shed?connections=many")[0] == 400
    assert _ask(broker, "POST", "/drain")[0] == 202
    assert _ask(broker, "POST", "/shed?connections=1")[0] == 409


async def test_the_admin_api_shows_clients_and_disconnects_one(start_broker: StartBroker) -> None:
    broker = start_broker()
    client = await _durable(broker, "a/b", ("x/#", 1), ("$share/g/y", 2))
    other = await _connected(broker, "other", V311)
    status, listed = await asyncio.to_thread(_ask, broker, "GET", "/clients")
    assert status == 200
    assert listed["next"] is None
    shown = {row["client_id"]: row for row in listed["clients"]}
    assert sorted(shown) == ["a/b", "other"]
    assert shown["a/b"]["durable"]
    assert shown["a/b"]["subscriptions"] == 2
    assert shown["other"]["version"] == "3.1.1"
    assert shown["other"]["address"].startswith("127.0.0.1:")
    one = (await asyncio.to_thread(_ask, broker, "GET", "/clients/a%2Fb"))[1]
    filters = [(each["filter"], each["qos"]) for each in one["filters"]]
    assert filters == [("$share/g/y", 2), ("x/#", 1)]
    assert (await asyncio.to_thread(_ask, broker, "DELETE", "/clients/a%2Fb"))[0] == 200
    await client.expect_closed(reasons=[ADMINISTRATIVE_ACTION])
    await other.expect_nothing()
    assert (await asyncio.to_thread(_ask, broker, "DELETE", "/clients/a%2Fb"))[0] == 404
    status, facts = await asyncio.to_thread(_ask, broker, "GET", "/status")
    assert facts["clients"] == 1
    assert facts["ready"]
    assert facts["role"] == "serve"
    assert facts["drain"]["draining"] is False
    assert facts["holding"] is False
    assert "tidegate_publishing_held 0.0" in _page(broker, "/metrics")[1]


async def test_a_token_is_needed_where_one_is_set(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(secrets.token_hex())
    broker = start_broker(admin={"port": 0, "token_file": str(token_file)})
    assert _page(broker, "/readyz")[0] == 200
    assert _ask(broker, "POST", "/drain")[0] == 401
    assert _ask(broker, "GET", "/status", token_file.read_text())[0] == 200
