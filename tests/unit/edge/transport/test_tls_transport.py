"""TLS of all connections of a listener through the same two buffers, and what it leaves behind.

Inputs: clients on memory buffers, whose bytes arrive in pieces and in turn. Observed: that each
connection gets its own bytes, that the buffers are empty whenever anything else runs, and that
OpenSSL's memory does not wait for a collection.
"""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority
from tidegate.edge.transport.tls import ContextSet, TlsContexts
from tidegate.edge.transport.tls_transport import TlsTransport
from tidegate.runtime.config.model import ListenerConfig


def _nothing() -> None:
    """Do nothing."""


class _Below(asyncio.Transport):
    """The transport below: it takes everything and keeps it until it is taken."""

    def __init__(self, check: Callable[[], None] = _nothing) -> None:
        super().__init__()
        self.written = b""
        self.ends = 0
        self._check = check

    def write(self, data: Any) -> None:
        """Keep it."""
        self._check()
        self.written += data

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data, self.written = self.written, b""
        return data

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def close(self) -> None:
        """Note it."""
        self._check()
        self.ends += 1

    abort = close


class _Above(asyncio.Protocol):
    """The protocol above, which notes what it gets and why the connection ended."""

    def __init__(self, check: Callable[[], None] = _nothing) -> None:
        self.received = b""
        self.has_ended = False
        self.error: Exception | None = None
        self._check = check

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self._check()
        self.received += data

    def eof_received(self) -> bool:
        """Note it."""
        self._check()
        self.has_ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.error = exc


class _Owner:
    """The handshake of the connection: bytes may be handled at once, or never."""

    def __init__(self, check: Callable[[], None] = _nothing, *, may_begin: bool = True) -> None:
        self.may_begin = may_begin
        self.waiting: list[object] = []
        self.held: list[int] = []
        self._check = check

    def tls_established(self, protocol: str | None) -> None:
        """The buffers are free."""
        self._check()

    def hold_unfinished(self, size: int) -> None:
        """Note it."""
        self._check()
        self.held.append(size)

    def begin_work(self, connection: object) -> bool:
        """Let it wait unless it may begin."""
        if not self.may_begin:
            self.waiting.append(connection)
        return self.may_begin

    def end_work(self) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> ContextSet:
    """One certificate."""
    pair = Authority(Path(tmp_path_factory.mktemp("tls"))).server("a.test", file="a")
    certificates = [{"certificate": pair.certificate, "key": pair.key}]
    config = {"name": "secure", "protocol": "tls", "tls": {"certificates": certificates}}
    return TlsContexts(ListenerConfig.model_validate(config)).current


@pytest.mark.parametrize(
    ("data", "fails"),
    [(b"garbage that is no record", True), (b"\x16\x03\x01", False)],
)
def test_a_failed_handshake_leaves_nothing(contexts: ContextSet, data: bytes, fails: bool) -> None:
    """An error has the frames that refer to the connection, which keeps the error."""
    above = _Above()
    gc.disable()
    try:
        tls = TlsTransport(contexts, _Below(), above, _Owner())
        tls.data_received(data)
        objects = weakref.ref(tls._ssl)
        tls.connection_lost(None)
        del tls
        assert objects() is None
    finally:
        gc.enable()
    assert isinstance(above.error, ssl.SSLError) is fails


def test_openssl_has_nothing_of_a_connection_that_sends_nothing(contexts: ContextSet) -> None:
    """It is made with the handshake, in its turn: a connection alone costs little."""
    tls = TlsTransport(contexts, _Below(), _Above(), _Owner())
    assert not hasattr(tls, "_ssl")
    tls.data_received(b"\x16\x03\x01")
    assert isinstance(tls._ssl, ssl.SSLObject)
    tls.connection_lost(None)


class _Connection:
    """Both ends of a connection, whose bytes move when they are moved."""

    def __init__(
        self,
        contexts: ContextSet,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        before: _Connection | None = None,
    ) -> None:
        """``before``: whose session is resumed."""
        self._buffers = contexts.buffers
        self.below = _Below(self.check)
        self.above = _Above(self.check)
        self.tls = TlsTransport(contexts, self.below, self.above, _Owner(self.check))
        session = None
        if before is None:
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
            client.minimum_version = client.maximum_version = version
        else:
            client, session = before.client.context, before.client.session
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client: ssl.SSLObject = client.wrap_bio(
            self.incoming, self.outgoing, server_hostname="a.test", session=session
        )
        self.is_open = False
        self.received = b""

    def check(self) -> None:
        """Nothing of this connection may be left for the next one."""
        assert not self._buffers.incoming.pending
        assert not self._buffers.outgoing.pending

    def turn(self) -> bytes:
        """Let the client act on what the server sent; return what it sends."""
        self.incoming.write(self.below.take())
        try:
            if not self.is_open:
                self.client.do_handshake()
                self.is_open = True
            while part := self.client.read(100_000):
                self.received += part
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def open(self) -> _Connection:
        """Finish the handshake."""
        while not self.is_open:
            self.tls.data_received(self.turn())
        self.tls.data_received(self.turn())
        return self

    def send(self, data: bytes) -> bytes:
        """Encrypt at the client."""
        self.client.write(data)
        return self.outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_many_connections_do_not_mix(
    contexts: ContextSet, version: ssl.TLSVersion, seed: int
) -> None:
    """Handshakes and records of ten connections, cut anywhere, arrive in any order."""
    chance = random.Random(seed)
    connections = [_Connection(contexts, version) for _ in range(10)]
    sent = {each: chance.randbytes(chance.randrange(1, 60_000)) for each in connections}
    on_the_way = {each: each.turn() for each in connections}
    begun: set[_Connection] = set()
    while on_the_way:
        each = chance.choice(list(on_the_way))
        size = chance.choice([1, 5, 300, 5_000, 50_000])
        data, on_the_way[each] = on_the_way[each][:size], on_the_way[each][size:]
        each.tls.data_received(data)
        each.check()
        on_the_way[each] += each.turn()
        if each.is_open and each not in begun:
            begun.add(each)
            # In the same piece as the end of the handshake, perhaps.
            for start in range(0, len(sent[each]), 16_000):
                on_the_way[each] += each.send(sent[each][start : start + 16_000])
        if not on_the_way[each]:
            del on_the_way[each]
    for each in connections:
        assert each.above.received == sent[each]
    for each in connections:
        each.tls.write(sent[each])
    for each in connections:
        each.turn()
        assert each.received == sent[each]


def test_what_is_behind_an_error_or_an_end_is_for_nobody(contexts: ContextSet) -> None:
    other = _Connection(contexts).open()
    broken = _Connection(contexts).open()
    broken.tls.data_received(broken.send(b"before") + b"\x17\x03\x03\x00\x20" + bytes(100))
    assert broken.above.received == b"before"
    assert broken.below.ends == 1
    with pytest.raises(ssl.SSLError, match="alert"):
        broken.turn()
    ended = _Connection(contexts).open()
    last = ended.send(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        ended.client.unwrap()
    ended.tls.data_received(last + ended.outgoing.read() + b"and more")
    assert (ended.above.received, ended.above.has_ended) == (b"last", True)
    refused = _Connection(contexts)
    refused.tls.data_received(b"no TLS" * 100)
    for each in (other, broken, ended, refused):
        each.check()
    other.tls.data_received(other.send(b"mine"))
    assert other.above.received == b"mine"


def test_one_read_for_one_record(contexts: ContextSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one costs more than the first: it raises."""
    connection = _Connection(contexts).open()
    data = connection.send(b"\xc0\x00")
    reads = []
    read = ssl.SSLObject.read

    def counted(connection: ssl.SSLObject, *arguments: Any) -> Any:
        reads.append(arguments)
        return read(connection, *arguments)

    monkeypatch.setattr(ssl.SSLObject, "read", counted)
    connection.tls.data_received(data)
    assert connection.above.received == b"\xc0\x00"
    assert len(reads) == 1


def test_a_session_is_resumed_with_the_one_ticket(contexts: ContextSet) -> None:
    first = _Connection(contexts).open()
    assert not first.client.session_reused
    second = _Connection(contexts, before=first).open()
    assert second.client.session_reused
    assert contexts.default.num_tickets == 1
