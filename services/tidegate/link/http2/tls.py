"""TLS contexts of the link: mutual, HTTP/2 by ALPN, with the files as they are now."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

from tidegate.runtime.config.model import LinkTlsConfig
from tidegate.runtime.config.referenced_files import read_authorities

log = logging.getLogger(__name__)

ALPN: Final = "h2"


def client_context(tls: LinkTlsConfig) -> ssl.SSLContext | None:
    """Read the files, and return the context of one connection; None: without TLS.

    Raises OSError.
    """
    if tls.ca is None:
        return None
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


class ServerTls:
    """The context of a listener, made again when a file has changed."""

    def __init__(self, tls: LinkTlsConfig) -> None:
        """Read the files. Raises OSError."""
        assert tls.ca is not None
        assert tls.key is not None
        assert tls.certificate is not None
        self._tls = tls
        self._files: tuple[Path, ...] = (tls.key, tls.certificate, tls.ca)
        self._seen = self._stamps()
        self._context = self._read()

    def _stamps(self) -> list[tuple[int, int]]:
        found = [path.stat() for path in self._files]
        return [(status.st_mtime_ns, status.st_ino) for status in found]

    def _read(self) -> ssl.SSLContext:
        return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._tls)

    def context(self) -> ssl.SSLContext:
        """Return the context of the next connection."""
        try:
            stamps = self._stamps()
            if stamps != self._seen:
                self._context = self._read()
                self._seen = stamps
        except OSError as error:
            log.warning(
                "link certificates not read, keeping the previous ones",
                extra={"reason": str(error)},
            )
        return self._context


def _load(context: ssl.SSLContext, tls: LinkTlsConfig) -> ssl.SSLContext:
    assert tls.ca is not None
    assert tls.certificate is not None
    read_authorities(tls.ca)
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols([ALPN])
    context.verify_mode = ssl.CERT_REQUIRED
    return context
