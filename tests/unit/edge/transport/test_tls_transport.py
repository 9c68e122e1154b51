"""What ends below TLS is free at once: OpenSSL's memory does not wait for a collection."""

from __future__ import annotations

import asyncio
import gc
import ssl
import weakref
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority
from tidegate.edge.transport.tls import ContextSet, TlsContexts
from tidegate.edge.transport.tls_transport import TlsTransport
from tidegate.runtime.config.model import ListenerConfig


class _Below(asyncio.Transport):
    """The transport below: it takes everything and keeps nothing."""

    def write(self, data: Any) -> None:
        """Drop it."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def close(self) -> None:
        """Nothing is open."""

    abort = close


class _Above(asyncio.Protocol):
    """The protocol above, which notes why the connection ended."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.error = exc


class _Owner:
    """The handshake of the connection: bytes may be handled at once, or never."""

    def __init__(self, *, may_begin: bool = True) -> None:
        self.may_begin = may_begin
        self.waiting: list[object] = []
        self.held: list[int] = []

    def tls_established(self, protocol: str | None) -> None:
        """Nothing."""

    def hold_unfinished(self, size: int) -> None:
        """Note it."""
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
    [(b"garbage that is no record", True), (b"\x16\x03\x01", False), (b"", False)],
)
def test_a_failed_handshake_leaves_nothing(contexts: ContextSet, data: bytes, fails: bool) -> None:
    """An error has the frames that refer to the connection, which keeps the error."""
    above = _Above()
    gc.disable()
    try:
        tls = TlsTransport(contexts, _Below(), above, _Owner())
        objects = weakref.ref(tls._ssl)
        if data:
            tls.data_received(data)
        tls.connection_lost(None)
        del tls
        assert objects() is None
    finally:
        gc.enable()
    assert isinstance(above.error, ssl.SSLError) is fails
