"""Hostile and broken input on live listeners: it costs its sender, never the neighbours.

``TIDEGATE_MUTATIONS`` sets how many mutated packets are sent (a million for the long form),
``TIDEGATE_SEED`` repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from support import mqtt_bytes
from support.broker import Server, Tidegate
from support.bystanders import undisturbed
from support.mqtt_bytes import V5, V311
from support.mutation import connects, mutate, packets
from support.peers import Peers
from support.raw_client import DEADLINE_S, Pipe, RawClient, frame

MUTATIONS = int(os.environ.get("TIDEGATE_MUTATIONS", "20000"))
#: How long they may take, in each of two parts; as long as they do where their number was chosen.
_MUTATING_S = math.inf if "TIDEGATE_MUTATIONS" in os.environ else 40.0
#: Mutated packets sent on one connection, each followed by a PINGREQ that tells it was survived.
_AT_ONCE = 12
_SENDERS = 8
_GROWTH_BYTES = 64 * 1024 * 1024
_PINGRESP = b"\xd0\x00"


@pytest.fixture
async def peers(broker: Server) -> AsyncIterator[Peers]:
    """Yield the clients of this test."""
    yield Peers(broker, "tcp")
    await RawClient.reset_all()


def _end(transport: asyncio.Transport) -> None:
    """End our side of the stream; the broker may have reset it already."""
    with contextlib.suppress(OSError):
        transport.write_eof()


async def _exchange(server: Server, listener: str, data: bytes, *, end: bool = True) -> bytes:
    """Send bytes (and the end of the stream), and return the answer once the broker has closed."""
    loop = asyncio.get_running_loop()
    address = server.address(listener)
    transport, pipe = await loop.create_connection(Pipe, address.host, address.port)
    try:
        transport.write(data)
        if end:
            _end(transport)
        deadline = time.monotonic() + 3 * DEADLINE_S
        while not pipe.ended:
            try:
                await pipe.wait(deadline)
            except TimeoutError:
                raise AssertionError(f"neither closed nor answered: {data.hex()}") from None
        return bytes(pipe.buffer)
    finally:
        transport.abort()


async def _assert_answers(peers: Peers) -> None:
    """A new client is served."""
    client = await peers.connect("afterwards")
    await client.subscribe(peers.topic("afterwards"))
    await client.publish(peers.topic("afterwards"), b"still here")
    await client.expect("PUBLISH", payload=b"still here")


@pytest.fixture(autouse=True)
def _no_traceback(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in whose time the broker shared by this module logged a traceback."""
    if "broker" not in request.fixturenames:
        yield
        return
    server: Server = request.getfixturevalue("broker")
    before = len(server.stderr())
    yield
    _assert_no_traceback(server.stderr()[before:])


def _assert_no_traceback(log: str) -> None:
    _, found, excerpt = log.partition("Traceback")
    if found:
        pytest.fail(f"the broker logged a traceback:\n{excerpt[:1500]}", pytrace=False)


async def _send_mutations(server: Server, rng: random.Random, count: int, name: str) -> int:
    """Send ``count`` mutated packets, each until it was survived or ended its connection.

    Fewer where the machine is so busy that they take longer than ``_MUTATING_S``.
    """
    waiting: deque[bytes] = deque()
    done = connections = 0
    end_s = time.monotonic() + _MUTATING_S
    while done < count and time.monotonic() < end_s:
        version = rng.choice((V5, V5, V311))
        connections += 1
        if rng.random() < 0.15:
            hello = mutate(rng, rng.choice(connects(name)))
            await _exchange(server, "tcp", hello)
            done += 1
            continue
        corpus = packets(version)
        while len(waiting) < min(_AT_ONCE, count - done):
            waiting.append(mutate(rng, rng.choice(corpus)))
        hello = mqtt_bytes.connect(name, version=version)
        answer = await _exchange(
            server, "tcp", hello + b"".join(one + mqtt_bytes.PINGREQ for one in waiting)
        )
        # A PINGRESP for each one survived; the next one ended the connection or swallowed the rest.
        survived = min(answer.count(_PINGRESP), len(waiting) - 1)
        for _ in range(survived + 1):
            waiting.popleft()
        done += survived + 1
    return connections


@pytest.mark.timeout(max(120, MUTATIONS // 100))
@pytest.mark.statement("MQTT-4.13.1-1", "MQTT311-4.8.0-1")
async def test_mutated_packets_disturb_nobody(broker: Server, peers: Peers) -> None:
    seed = int(os.environ.get("TIDEGATE_SEED", "0")) or random.randrange(1, 1 << 32)
    # The first tenth warms caches and allocators up; growth counts from there.
    async with undisturbed(peers) as bystanders:
        for share in (MUTATIONS // 10, MUTATIONS - MUTATIONS // 10):
            before = broker.memory_bytes()
            await asyncio.gather(
                *(
                    _send_mutations(
                        broker, random.Random(f"{seed}/{share}/{n}"), share // _SENDERS, f"mut{n}"
                    )
                    for n in range(_SENDERS)
                )
            )
    grown = broker.memory_bytes() - before
    assert grown < _GROWTH_BYTES, f"seed {seed}: grew by {grown >> 20} MiB"
    assert bystanders.delivered > 20, f"seed {seed}"
    await _assert_answers(peers)


@pytest.mark.parametrize("listener", ["tcp", "ws", "tls", "wss", "auto"])
async def test_random_bytes_close_the_connection(
    broker: Server, peers: Peers, listener: str
) -> None:
    if not broker.has(listener):
        pytest.skip(f"{broker.product} has no {listener} listener here")
    rng = random.Random(1)
    async with undisturbed(peers):
        for size in (1, 2, 5, 100, 5000, 70_000):
            for first in (b"", b"\x16\x03\x01", b"\x10", b"GET ", b"PROXY ", b"\r\n"):
                await _exchange(broker, listener, first + rng.randbytes(size))
    await _assert_answers(peers)


HTTP = {
    "no upgrade": b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n",
    "another method": b"POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "no such path": b"GET /nothing/here HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "short key": b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AA==\r\n\r\n",
    "old version": b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "HTTP/1.0": b"GET /mqtt HTTP/1.0\r\n\r\n",
    "bad request line": b"GET\r\n\r\n",
    "header without colon": b"GET /mqtt HTTP/1.1\r\nnonsense\r\n\r\n",
    "endless header": b"GET /mqtt HTTP/1.1\r\nX: " + b"x" * 200_000,
    "endless headers": b"GET /mqtt HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
    "endless path": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("request_name", HTTP)
async def test_bad_http_request_is_answered_or_closed(
    broker: Server, peers: Peers, request_name: str
) -> None:
    answer = await _exchange(broker, "ws", HTTP[request_name], end=False)
    assert b" 101 " not in answer.partition(b"\r\n")[0]
    if broker.product == "tidegate" and answer:
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:100]
    await _assert_answers(peers)


async def test_random_websocket_frames_close_the_connection(broker: Server, peers: Peers) -> None:
    rng = random.Random(2)
    good = frame(mqtt_bytes.connect("ws-fuzz", version=V311))
    async with undisturbed(peers):
        for _ in range(150):
            client = await peers.open(V311, transport="ws")
            data = bytearray(good + frame(mqtt_bytes.PINGREQ) + frame(rng.randbytes(20), opcode=9))
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            await client.pipe.write(bytes(data) + rng.randbytes(rng.randint(0, 40)))
            assert client.pipe.transport is not None
            _end(client.pipe.transport)
            deadline = time.monotonic() + DEADLINE_S
            while not client.pipe.ended:
                await client.pipe.wait(deadline)
            client.reset()
    await _assert_answers(peers)


ABSURD = [
    b"\x10\xff\xff\xff\xff\x7f",
    b"\x10\xff\xff\xff\x7f",
    b"\x10\x80\x80\x80\x80\x00",
    b"\x30\xff\xff\xff\x7f\x00\x01t",
    b"\x82\xff\xff\x7f\x00\x01",
    b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x00\xff\xff\xff\xff\x7f",
    b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\xff\xff\xff\x7f",
    b"\xff" * 50,
    b"\x00" * 50,
]


@pytest.mark.parametrize("raw", ABSURD, ids=lambda raw: raw.hex()[:24])
@pytest.mark.parametrize("connected", [False, True])
async def test_absurd_lengths_end_the_connection(
    broker: Server, peers: Peers, raw: bytes, connected: bool
) -> None:
    before = broker.memory_bytes()
    hello = mqtt_bytes.connect(peers.client_id()) if connected else b""
    await _exchange(broker, "tcp", hello + raw)
    assert broker.memory_bytes() - before < _GROWTH_BYTES
    await _assert_answers(peers)


async def test_oversize_client_identifier_is_refused_or_served(
    broker: Server, peers: Peers
) -> None:
    client = await peers.open()
    await client.send(mqtt_bytes.connect("x" * 65_535))
    answer = await client.expect("CONNACK")
    assert answer.reason in {0, 0x85}
    if not answer.reason:
        await client.expect_nothing()


async def test_silent_connections_are_closed_after_the_connect_timeout(
    start_broker: Callable[..., Tidegate],
) -> None:
    server = start_broker(limits={"connect_timeout_s": 1.0})
    peers = Peers(server, "tcp")
    half = mqtt_bytes.connect("half-open")[:7]
    beginnings = {
        "tcp": [b"", half],
        "ws": [b"", b"GET /mqtt HTTP/1.1\r\n"],
        "auto": [b"", half, b"G"],
    }
    began_s = asyncio.get_running_loop().time()
    try:
        async with undisturbed(peers):
            await asyncio.gather(
                *(
                    _exchange(server, listener, begun, end=False)
                    for listener, all_begun in beginnings.items()
                    for begun in all_begun
                    for _ in range(20)
                )
            )
            # Every stage keeps to it, not only the last one (their own bounds are 10 s).
            assert asyncio.get_running_loop().time() - began_s < 8
            upgraded = [await peers.open(transport="ws") for _ in range(5)]
            for client in upgraded:
                assert await client.receive_or_end() is None
        await _assert_answers(peers)
        _assert_no_traceback(server.stderr())
    finally:
        for client in peers.clients:
            client.reset()


async def test_half_open_connections_leave_nothing_behind(broker: Server, peers: Peers) -> None:
    async with undisturbed(peers):
        for _ in range(5):
            clients = [await peers.open(V311) for _ in range(50)]
            for number, client in enumerate(clients):
                await client.send(
                    mqtt_bytes.connect(f"reset{number}", version=V311)
                    + mqtt_bytes.subscribe(1, ["a"], version=V311)
                )
                client.reset()
    await _assert_answers(peers)


async def test_senders_of_single_bytes_are_served(broker: Server, peers: Peers) -> None:
    topic = peers.topic("slowly")
    watcher = await peers.subscriber((topic, 1))

    async def send_slowly(number: int) -> None:
        client = await peers.open(V311)
        stream = mqtt_bytes.connect(peers.client_id(f"slow{number}"), version=V311)
        stream += mqtt_bytes.publish(topic, b"%d" % number, qos=1, packet_id=1, version=V311)
        for index in range(len(stream)):
            await client.send(stream[index : index + 1])
            await asyncio.sleep(0)
        await client.expect("CONNACK", reason=0)
        await client.expect("PUBACK", packet_id=1)

    count = 20
    async with undisturbed(peers):
        await asyncio.gather(*(send_slowly(number) for number in range(count)))
    found: set[int] = set()
    for _ in range(count):
        received = await watcher.expect("PUBLISH")
        found.add(int(received.payload))
        await watcher.acknowledge(received)
    assert found == set(range(count))


@pytest.mark.parametrize("listener", ["tcp", "ws"])
async def test_packets_over_the_limit_are_refused_without_reading_them(
    broker: Server, peers: Peers, listener: str
) -> None:
    before = broker.memory_bytes()
    async with undisturbed(peers):
        for _ in range(3):
            client = await peers.open(transport=listener)
            await client.connect(peers.client_id("large"))
            await client.send(b"\x30" + mqtt_bytes.varint(200_000_000) + b"\0\1t")
            for _ in range(64):
                await client.send(b"x" * 65_536)
                if client.pipe.ended:
                    break
            deadline = time.monotonic() + DEADLINE_S
            while not client.pipe.ended:
                await client.pipe.wait(deadline)
    assert broker.memory_bytes() - before < _GROWTH_BYTES


@pytest.mark.parametrize("at_once", [10_000, 500, 1])
async def test_client_with_ten_thousand_subscriptions_is_served(
    broker: Server, peers: Peers, at_once: int
) -> None:
    count = 10_000
    names = [peers.topic(f"many/{number}/+") for number in range(count)]
    client = await peers.connect("many")
    publisher = await peers.connect("publisher")
    async with undisturbed(peers):
        expected = []
        for start in range(0, count, at_once):
            packet_id = start // at_once % 65_535 + 1
            part = [(name, 1) for name in names[start : start + at_once]]
            await client.send(mqtt_bytes.subscribe(packet_id, part))
            expected.append((packet_id, len(part)))
            if len(expected) >= 200:
                await _expect_subacks(client, expected)
        await _expect_subacks(client, expected)
        for number in (0, 1, count // 2, count - 1):
            topic = names[number].replace("+", "x")
            await publisher.deliver(topic, b"%d" % number)
            received = await client.expect("PUBLISH", topic=topic)
            await client.acknowledge(received)
        await client.send(mqtt_bytes.unsubscribe(9, names[: count // 2]))
        answer = await client.expect("UNSUBACK", packet_id=9)
        assert answer.codes == [0] * (count // 2)
        await publisher.deliver(names[0].replace("+", "x"))
        await client.expect_nothing()
        await client.disconnect()
    await _assert_answers(peers)


async def _expect_subacks(client: RawClient, expected: list[tuple[int, int]]) -> None:
    for packet_id, length in expected:
        answer = await client.expect("SUBACK", packet_id=packet_id)
        assert answer.codes == [1] * length
    expected.clear()


async def test_flood_of_connections_is_served_in_the_end(broker: Server, peers: Peers) -> None:
    async with undisturbed(peers):
        clients = await asyncio.gather(
            *(peers.connect(f"flood{number}", V311) for number in range(300))
        )
        for client in clients:
            await client.send(mqtt_bytes.PINGREQ)
        for client in clients:
            await client.expect("PINGRESP")
