"""uvicorn in the event loop of the process: listens, serves, stops. Used by ``roles.console``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from tidegate.runtime.config.addresses import ANY
from tidegate.runtime.config.console import ConsoleConfig

#: Requests under way at the stop get so long.
GRACE_S: Final = 2
#: Connections at once: those above get 503.
MAX_CONNECTIONS: Final = 512
BACKLOG: Final = 1024


class _Server(uvicorn.Server):
    """Leaves the signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ConsoleServer:
    """See the module's docstring."""

    def __init__(self, app: FastAPI, config: ConsoleConfig) -> None:
        self._config = config
        #: Certificate and key; none: plain HTTP.
        self.files = tuple(
            file for file in (config.tls_certificate, config.tls_key) if file is not None
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=GRACE_S,
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=65_536,
                ssl_certfile=config.tls_certificate,
                ssl_keyfile=config.tls_key,
            )
        )
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self.url = ""
        self.port = 0

    def reload_certificate(self) -> None:
        """Read certificate and key again, for new connections. Raises OSError."""
        certificate, key = self.files
        # On its own first: a certificate without its key would leave the context with neither.
        new = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        new.load_cert_chain(certificate, key, _no_password)
        config = self._server.config
        if config.loaded and config.ssl is not None:
            config.ssl.load_cert_chain(certificate, key, _no_password)

    async def start(self) -> None:
        """Listen; ``url`` and ``port`` are known afterwards.

        Raises OSError, also for an unusable certificate.
        """
        if self.files:
            self.reload_certificate()
        host, port = self._config.address, self._config.port
        try:
            self._socket = listening(host, port)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"console {host}:{port}") from None
        self.port = self._socket.getsockname()[1]
        scheme = "https" if self._config.tls_certificate is not None else "http"
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{shown}:{self.port}"
        self._task = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        """Stop listening, finish the requests under way."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. ``*``: on all addresses, IPv4 and, where there is it, IPv6."""
    if host != ANY:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if not socket.has_dualstack_ipv6():
        return socket.create_server(("", port), backlog=BACKLOG)
    return socket.create_server(
        ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
    )


def _no_password() -> str:
    raise OSError("the private key is encrypted, which is not supported")
