"""Connections without CONNACK that have to wait for their turn: nothing is lost, nobody overtakes.

Here no bytes of such a connection are ever handled at once (``all_wait``), so what the other files
of this directory test by the quick way goes the other one.
"""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from support.certificates import Authority
from support.recording_handler import until
from support.running_listeners import Running, running
from tidegate.edge.transport import connect_outcomes
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.unfinished_work import UnfinishedWork

REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONNECT = b"\x10\x03abc"
#: A masked frame (with a mask of zeros) that carries CONNECT.
FRAME = b"\x82\x85\x00\x00\x00\x00" + CONNECT
PROXY = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
KINDS = ("tcp", "tls", "ws", "wss", "auto", "auto by TLS", "tcp behind a proxy")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.server("localhost", file="server")
    return made


@pytest.fixture
def all_wait(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let everything wait; while the list has True in it, no turn comes."""
    stopped: list[bool] = []
    begin, turn = UnfinishedWork.begin, UnfinishedWork._turn

    def waiting_begin(work: UnfinishedWork, source: object = None) -> bool:
        return bool(work._depth) and begin(work)

    def stopped_turn(work: UnfinishedWork) -> None:
        if not stopped:
            turn(work)

    monkeypatch.setattr(UnfinishedWork, "begin", waiting_begin)
    monkeypatch.setattr(UnfinishedWork, "_turn", stopped_turn)
    return stopped


def config_of(kind: str, authority: Authority) -> dict[str, Any]:
    directory = authority.directory
    pair = {"certificate": directory / "server.pem", "key": directory / "server.key"}
    config: dict[str, Any] = {"protocol": kind.partition(" ")[0]}
    if config["protocol"] in {"tls", "wss", "auto"}:
        config["tls"] = {"certificates": [pair]}
    if kind.endswith("proxy"):
        config |= {"proxy_protocol": "required", "trusted_proxies": ["127.0.0.0/8"]}
    return config


async def exchange(server: Running, kind: str, authority: Authority) -> None:
    """Connect, send CONNECT, and have it back."""
    options: dict[str, Any] = {}
    if kind in {"tls", "wss", "auto by TLS"}:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        options = {"ssl": context, "server_hostname": "localhost"}
    reader, writer = await server.connect(**options)
    sent = CONNECT
    if kind in {"ws", "wss"}:
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        sent = FRAME
    if kind.endswith("proxy"):
        writer.write(PROXY)
        await until(lambda: server.handlers)  # from here on its address is known
    writer.write(sent)
    assert (await reader.readexactly(len(CONNECT)))[-3:] in {b"abc", CONNECT[:3]}


@pytest.mark.usefixtures("all_wait")
@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_connection_gets_its_turn(authority: Authority, kind: str) -> None:
    async with running(config_of(kind, authority)) as server:
        await exchange(server, kind, authority)
        await until(lambda: server.handlers[0].data == CONNECT)
        assert server.listeners.waited > 0
        assert not server.listeners.refused()


async def test_what_is_connected_goes_on_while_others_wait(all_wait: list[bool]) -> None:
    """The point of it all: a client's packets do not wait for those of connections without one."""
    async with running({"protocol": "tcp"}) as server:
        reader, writer = await server.connect()
        writer.write(CONNECT)
        assert await reader.readexactly(len(CONNECT)) == CONNECT
        all_wait.append(True)
        others = [(await server.connect())[1] for _ in range(3)]
        for other in others:
            other.write(CONNECT)
        await until(lambda: server.listeners.waiting == 3)
        for _ in range(3):
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"
        assert [handler.data for handler in server.handlers[1:]] == [b""] * 3


async def test_what_waits_counts_as_unfinished(all_wait: list[bool]) -> None:
    """Memory of those that wait is bounded with that of all that have no CONNACK."""
    all_wait.append(True)
    async with running({"protocol": "tcp"}, {"protocol": "ws", "name": "ws"}) as server:
        server.listeners.limit_unfinished_bytes(100)
        for label in (None, "ws"):
            reader, writer = await server.connect(label)
            writer.write(bytes(101))
            with pytest.raises((ConnectionError, EOFError)):
                await reader.readexactly(1)
        assert set(server.listeners.refused()) == {
            (server.state.label, Refusal.UNFINISHED_BYTES),
            ("ws", Refusal.UNFINISHED_BYTES),
        }


async def test_what_was_sent_before_the_end_is_handled_before_it(all_wait: list[bool]) -> None:
    """A client may send CONNECT, PUBLISH and DISCONNECT, and close at once."""
    all_wait.append(True)
    async with running({"protocol": "tcp"}, echo=False) as server:
        _, writer = await server.connect()
        writer.write(CONNECT + b"\x30\x03abc" + b"\xe0\x00")
        writer.write_eof()
        await until(lambda: server.listeners.waiting == 1)
        all_wait.clear()
        server.listeners._total.work._turn()
        await until(lambda: server.handlers[0].lost)
        assert server.handlers[0].data == CONNECT + b"\x30\x03abc" + b"\xe0\x00"
        assert server.handlers[0].lost == ["peer_closed"]


@pytest.fixture
def one_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """One failure is a flood."""
    monkeypatch.setattr(connect_outcomes, "LEAST_FAILURES", 1)


def mostly_fail(server: Running, address: str = "127.0.0.1") -> bool:
    return server.listeners._total.work.outcomes.mostly_fail(address)


@pytest.mark.usefixtures("one_is_enough")
@pytest.mark.parametrize(
    ("kind", "sent"), [("ws", b"\x00"), ("ws", b""), ("tls", b"garbage"), ("auto", b"\x00")]
)
async def test_a_handshake_that_fails_counts(authority: Authority, kind: str, sent: bytes) -> None:
    """Whatever breaks it, and also when the peer leaves."""
    async with running(config_of(kind, authority)) as server:
        _, writer = await server.connect()
        await until(server.open_connections)
        assert not mostly_fail(server)
        if sent:
            writer.write(sent)
        else:
            writer.close()
        await until(lambda: mostly_fail(server))


@pytest.mark.usefixtures("one_is_enough")
@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_gets_its_turn_while_most_come_to_nothing(
    authority: Authority, kind: str
) -> None:
    """Pauses between turns lose nothing; those that are accepted end them."""
    async with running(config_of(kind, authority)) as server:
        address = "203.0.113.7" if kind.endswith("proxy") else "127.0.0.1"
        server.state.refuse(Refusal.ABANDONED, address=address)
        assert mostly_fail(server, address)
        await exchange(server, kind, authority)
        assert server.listeners.waited > 0
        server.handlers[0].channel.accepted()
        server.handlers[0].channel.accepted()
        assert not mostly_fail(server, address)
        server.handlers[0].channel.failed()
        server.handlers[0].channel.failed()
        assert not mostly_fail(server, address)
        server.handlers[0].channel.failed()
        server.handlers[0].channel.failed()
        assert mostly_fail(server, address)
