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
        tls = TlsTransport(contexts, _Below(), above, lambda _: None, lambda _: None)
        objects = weakref.ref(tls._ssl)
        if data:
            tls.data_received(data)
        tls.connection_lost(None)
        del tls
        assert objects() is None
    finally:
        gc.enable()
    assert isinstance(above.error, ssl.SSLError) is fails
