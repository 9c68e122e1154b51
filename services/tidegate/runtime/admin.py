"""The admin HTTP server: GET /livez, /readyz and /metrics, and one plain sentence for the rest.

Small on purpose: HTTP/1.1, one request per connection, bounded in size, time and number. Built by
the composition root, which hands in what to answer; knows nothing of MQTT.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from tidegate.runtime.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 8192
_MAX_CONNECTIONS: Final = 64
_TEXT: Final = "text/plain; charset=utf-8"

Answer = tuple[HTTPStatus, str, bytes]


def _sentence(status: HTTPStatus, text: str) -> Answer:
    return status, _TEXT, f"{text}\n".encode()


class AdminServer:
    """Serves on ``host``:``port`` from ``start`` to ``stop``.

    ``ready`` returns whether the process can serve clients, and the reasons in plain text;
    ``metrics`` the body of /metrics; ``live`` (optional) whether the process should be kept. A
    request may take ``timeout_s``; above 64 connections at once the newest is dropped.
    """

    __slots__ = (
        "_connections",
        "_host",
        "_live",
        "_metrics",
        "_port",
        "_ready",
        "_server",
        "_timeout_s",
    )

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ready: Callable[[], tuple[bool, str]],
        metrics: Callable[[], bytes],
        live: Callable[[], tuple[bool, str]] | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._host = host
        self._port = port
        self._ready = ready
        self._metrics = metrics
        self._live = live
        self._timeout_s = timeout_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        host = None if self._host == "*" else self._host
        self._server = await asyncio.start_server(
            self._accepted, host, self._port, limit=_MAX_HEAD_BYTES
        )

    async def stop(self) -> None:
        """Stop listening and drop what is under way."""
        if self._server is not None:
            self._server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    @property
    def port(self) -> int:
        """The port that is served (the one the system chose, if 0 was asked for)."""
        if self._server is None or not self._server.sockets:
            return self._port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> str:
        """``ADDRESS:PORT``, with brackets around an IPv6 address."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._serve(reader, writer)
        except (TimeoutError, OSError):
            pass
        finally:
            self._connections.discard(task)
            # Whoever has not read the answer by now does not want it.
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            answer = _sentence(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too large."
            )
        else:
            method, answer = self._answer(head)
        status, content_type, body = answer
        allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
        writer.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\n"
            f"{allow}Connection: close\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _answer(self, head: bytes) -> tuple[str, Answer]:
        """Return the method and the answer to a request's head."""
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
            return "", _sentence(HTTPStatus.BAD_REQUEST, "This is not an HTTP/1.1 request.")
        method, target, _ = words
        if method not in {"GET", "HEAD"}:
            return method, _sentence(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is served here.")
        try:
            return method, self._page(target.partition("?")[0])
        except Exception:
            log.exception("an admin page failed", extra={"path": target})
            return method, _sentence(
                HTTPStatus.INTERNAL_SERVER_ERROR, "The page failed; the log says why."
            )

    def _page(self, path: str) -> Answer:
        if path == "/livez":
            return _verdict(self._live() if self._live is not None else (True, "alive"))
        if path == "/readyz":
            return _verdict(self._ready())
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE, self._metrics()
        return _sentence(
            HTTPStatus.NOT_FOUND, "There is nothing here; try /livez, /readyz or /metrics."
        )


def _verdict(verdict: tuple[bool, str]) -> Answer:
    good, text = verdict
    return _sentence(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, text)
