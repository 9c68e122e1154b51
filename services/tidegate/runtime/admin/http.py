"""A small HTTP/1.1 server: one request per connection, bounded in size, time and number.

Used by ``admin.server``, which answers the requests. A connection takes a place that it loses to a
newer one while it has not sent its whole request, or does not read its response. Knows no page and
no permission. Tested in test_server.py and test_admin_places.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote

log = logging.getLogger(__name__)

#: Connections that wait to be accepted: a probe that finds no place there is sent again by the
#: kernel after a second, too late for the kubelet.
_BACKLOG: Final = 1024
_MAX_HEAD_BYTES: Final = 8192
#: Bodies up to this are read at once; larger ones by pages that take them (``Request.body``).
_MAX_BODY_BYTES: Final = 4096
MAX_CONNECTIONS: Final = 64
#: Attempts to get the same free port for all addresses of a host.
PORT_ATTEMPTS: Final = 16
#: Shortest time between two log lines about dropped connections.
_LOG_INTERVAL_S: Final = 60.0
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
#: What the address of a Unix socket begins with.
UNIX: Final = "unix:"


@dataclass(slots=True, frozen=True)
class Request:
    """A request; header names are lower-case, path and query are decoded."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    #: The body, when it is small.
    content: bytes = b""
    #: Bytes of a larger one, and where it comes from.
    unread_bytes: int = 0
    reader: asyncio.StreamReader | None = field(default=None, repr=False, compare=False)

    async def body(self, most_bytes: int) -> bytes:
        """Read the body. Raises HttpError when it is larger."""
        if max(self.unread_bytes, len(self.content)) > most_bytes:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request body must not have more than {most_bytes:,} bytes.",
            )
        if self.reader is None:
            return self.content
        return await self.reader.readexactly(self.unread_bytes)

    def check_method(self, *methods: str) -> None:
        """Raise HttpError for other methods; HEAD goes with GET."""
        if self.method in methods or (self.method == "HEAD" and "GET" in methods):
            return
        names = ", ".join(["GET", "HEAD", *(name for name in methods if name != "GET")])
        raise HttpError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{self.path} supports the methods {names}.",
            f"Allow: {names}",
        )

    @property
    def is_from_web_page(self) -> bool:
        """Whether a browser sends it for a web page: it has an origin, or the host is a name."""
        if "origin" in self.headers:
            return True
        host = self.headers.get("host", "")
        if not host:
            return False
        name = (
            host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        )
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name != "localhost"
        return False


@dataclass(slots=True, frozen=True)
class Response:
    """A response; ``headers`` are whole lines.

    ``stream``: what follows the body, until it ends or the peer does not read it for the timeout.
    """

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[str, ...] = ()
    stream: AsyncGenerator[bytes] | None = None


class HttpError(Exception):
    """A request is answered with this response."""

    def __init__(self, status: HTTPStatus, text: str, *headers: str) -> None:
        super().__init__(text)
        self.response = text_response(status, text, *headers)


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def text_response(status: HTTPStatus, text: str, *headers: str) -> Response:
    """Return a line of plain text."""
    return Response(status, _TEXT, f"{text}\n".encode(), headers)


def json_response(status: HTTPStatus, value: dict[str, Any]) -> Response:
    """Return an object as JSON."""
    return Response(status, _JSON, json.dumps(value, ensure_ascii=False).encode() + b"\n")


def is_number(text: str) -> bool:
    """Whether a text is a whole number that is not absurdly long."""
    return len(text) < 10 and text.isascii() and text.isdigit()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.startswith(UNIX):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Stage(IntEnum):
    """What a connection waits for, in the order in which places are taken away."""

    REQUEST = 0
    RESPONSE_READ = 1
    HANDLER = 2


class _Connection:
    """A connection that has a place."""

    __slots__ = ("address", "stage", "task", "writer")

    def __init__(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        peer = writer.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        self.stage = _Stage.REQUEST
        self.task = task
        self.writer = writer


class HttpServer:
    """Serves on ``host``:``port`` (or ``unix:PATH``) from ``start`` to ``stop``.

    A request has ``timeout_s`` from accept to be complete, and its response as long again. There
    are MAX_CONNECTIONS places; when all are taken, the oldest connection without a whole request is
    dropped, of the address that has most of them (else the oldest whose response is not read).
    ``handler`` may raise HttpError, and nothing else.
    """

    __slots__ = (
        "_connections",
        "_handler",
        "_log_at_s",
        "_server",
        "_timeout_s",
        "dropped_count",
        "host",
        "requested_port",
    )

    def __init__(self, host: str, port: int, handler: Handler, timeout_s: float) -> None:
        self.host = host
        self.requested_port = port
        self._handler = handler
        self._timeout_s = timeout_s
        self._server: asyncio.Server | None = None
        #: In the order of accept.
        self._connections: dict[_Connection, None] = {}
        #: Connections that were dropped because all places were taken.
        self.dropped_count = 0
        self._log_at_s = 0.0

    async def start(self) -> None:
        """Listen. Raises OSError when the address is not available."""
        if self.host.startswith(UNIX):
            self._server = await asyncio.start_unix_server(
                self._accepted, self.host.removeprefix(UNIX), limit=_MAX_HEAD_BYTES
            )
            return
        self._server = await self._listen_on_one_port()

    async def _listen_on_one_port(self) -> asyncio.Server:
        """Listen at every address of the host; the system chooses a port for each of them."""
        for _ in range(PORT_ATTEMPTS):
            server = await self._listen(self.requested_port)
            ports = [sock.getsockname()[1] for sock in server.sockets]
            if len(set(ports)) <= 1:
                return server
            server.close()
            try:
                return await self._listen(ports[0])
            except OSError as error:
                # In use at another address, or taken meanwhile: it chooses another one.
                if error.errno != errno.EADDRINUSE:
                    raise
                problem = error
        raise problem

    async def _listen(self, port: int) -> asyncio.Server:
        host = None if self.host == "*" else self.host
        return await asyncio.start_server(
            self._accepted, host, port, limit=_MAX_HEAD_BYTES, backlog=_BACKLOG
        )

    async def stop(self) -> None:
        """Stop listening and drop the requests in progress."""
        if self._server is not None:
            self._server.close()
            tasks = [connection.task for connection in self._connections]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    @property
    def port(self) -> int:
        """The port in use (chosen by the system, if 0 was requested)."""
        if self.host.startswith(UNIX) or self._server is None or not self._server.sockets:
            return self.requested_port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> str:
        """``ADDRESS:PORT``, with brackets around an IPv6 address; or ``unix:PATH``."""
        host = self.host
        if host.startswith(UNIX):
            return host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def connection_count(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
            writer.transport.abort()
            return
        connection = _Connection(writer, task)
        self._connections[connection] = None
        try:
            await self._serve(reader, connection)
        except (TimeoutError, OSError):
            pass
        except asyncio.CancelledError:
            # By ``stop`` alone. Some versions of asyncio log a task that ends as cancelled here as
            # an error, with a traceback.
            pass
        finally:
            self._connections.pop(connection, None)
            # A peer that has not read the response by now does not want it.
            writer.transport.abort()

    def _make_room(self) -> bool:
        """Drop a connection that its peer keeps waiting; False if there is none."""
        waiting = [one for one in self._connections if one.stage is not _Stage.HANDLER]
        self.dropped_count += 1
        self._log_drop()
        if not waiting:
            return False
        counts = Counter(one.address for one in waiting)
        # The first of those that are equal: the oldest.
        dropped = min(waiting, key=lambda one: (-counts[one.address], one.stage))
        del self._connections[dropped]
        # What it awaits ends with an error of the connection.
        dropped.writer.transport.abort()
        return True

    def _log_drop(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s < self._log_at_s:
            return
        self._log_at_s = now_s + _LOG_INTERVAL_S
        log.warning(
            "admin server: too many connections, unfinished ones dropped",
            extra={"limit": MAX_CONNECTIONS, "dropped": self.dropped_count},
        )

    async def _serve(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        method = ""
        try:
            async with asyncio.timeout(self._timeout_s):
                request = await _read_request(reader)
        except asyncio.IncompleteReadError:
            return
        except HttpError as error:
            response = error.response
        else:
            method = request.method
            connection.stage = _Stage.HANDLER
        async with asyncio.timeout(self._timeout_s):
            if connection.stage is _Stage.HANDLER:
                try:
                    response = await self._handler(request)
                except HttpError as error:
                    response = error.response
                except asyncio.IncompleteReadError:
                    return  # the peer has closed in the middle of its body
            if response.stream is None:
                connection.stage = _Stage.RESPONSE_READ
                await _write_response(connection.writer, response, method != "HEAD")
        if response.stream is not None:
            await self._write_stream(connection.writer, response, response.stream)

    async def _write_stream(
        self, writer: asyncio.StreamWriter, response: Response, stream: AsyncGenerator[bytes]
    ) -> None:
        """Write a response that goes on; each part is read by the peer before the next one."""
        async with contextlib.aclosing(stream):
            writer.write(_head(response) + response.body)
            async for part in stream:
                writer.write(part)
                async with asyncio.timeout(self._timeout_s):
                    await writer.drain()
                if writer.is_closing():
                    return
        writer.close()
        async with asyncio.timeout(self._timeout_s):
            await writer.wait_closed()


def _head(response: Response) -> bytes:
    length = () if response.stream is not None else (f"Content-Length: {len(response.body)}",)
    return "\r\n".join(
        (
            f"HTTP/1.1 {response.status.value} {response.status.phrase}",
            f"Content-Type: {response.content_type}",
            *length,
            "Cache-Control: no-store",
            *response.headers,
            "Connection: close\r\n\r\n",
        )
    ).encode()


async def _write_response(
    writer: asyncio.StreamWriter, response: Response, with_body: bool
) -> None:
    """Write a response; return when the peer's system has all of it."""
    writer.write(_head(response))
    if with_body:
        writer.write(response.body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    """Read a request, with its body if that is small. Raises HttpError, IncompleteReadError."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise HttpError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request header is too large."
        ) from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise HttpError(HTTPStatus.BAD_REQUEST, "This is not an HTTP/1.1 request.")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    length = _body_length(headers)
    content = await reader.readexactly(length) if length <= _MAX_BODY_BYTES else b""
    target, _, query = words[1].partition("?")
    try:
        path = unquote(target, errors="strict")
        pairs = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "The path is not UTF-8.") from None
    if length > _MAX_BODY_BYTES:
        return Request(words[0], path, pairs, headers, b"", length, reader)
    return Request(words[0], path, pairs, headers, content)


def _body_length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "A request body requires Content-Length.")
    length = headers.get("content-length", "0")
    if not is_number(length):
        raise HttpError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number.")
    return int(length)
