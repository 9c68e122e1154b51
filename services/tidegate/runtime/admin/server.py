"""The admin HTTP server: health and metrics for everybody, clients and draining for operators.

Small on purpose: HTTP/1.1, one request per connection, bounded in size, time and number. Built by
the composition root, which hands in what to answer (``Control``); knows nothing of MQTT.

/livez, /readyz and /metrics are open. The rest needs the token of ``admin.token_file``; without
such a file it is served on loopback addresses only, and not to web pages, whose requests a browser
on this machine would carry here.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote

from tidegate.runtime.config.referenced_files import read_token
from tidegate.runtime.telemetry.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 8192
#: Bodies are read and ignored: nothing here takes one.
_MAX_BODY_BYTES: Final = 4096
_MAX_CONNECTIONS: Final = 64
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
#: What the address of a Unix socket begins with.
UNIX: Final = "unix:"

Json = dict[str, Any]
T = TypeVar("T")
#: An answer that is there, or one that has to be waited for (others are asked).
MaybeAwaitable: TypeAlias = T | Awaitable[T]
Readiness: TypeAlias = tuple[bool, str]


@dataclass(slots=True, frozen=True)
class Control:
    """What operators may see and do; what a process does not have is None, and not found.

    ``drain`` begins (or goes on) and returns what ``progress`` returns. ``clients`` takes how many
    are wanted and the client identifier that they come after. ``disconnect`` says whether the
    client was there. ``shed`` lets so many clients go and returns how many it will be, None while
    the process drains; ``shedding`` how many are still to go.
    """

    status: Callable[[], MaybeAwaitable[Json]]
    drain: Callable[[str], MaybeAwaitable[Json]] | None = None
    progress: Callable[[], MaybeAwaitable[Json]] | None = None
    clients: Callable[[int, str], MaybeAwaitable[list[Json]]] | None = None
    client: Callable[[str], MaybeAwaitable[Json | None]] | None = None
    disconnect: Callable[[str], MaybeAwaitable[bool]] | None = None
    shed: Callable[[int], MaybeAwaitable[int | None]] | None = None
    shedding: Callable[[], MaybeAwaitable[int]] | None = None


@dataclass(slots=True, frozen=True)
class _Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(slots=True, frozen=True)
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[str, ...] = ()


class _Refused(Exception):
    """A request ends with this answer."""

    def __init__(self, status: HTTPStatus, text: str, *headers: str) -> None:
        super().__init__(text)
        self.answer = _sentence(status, text, *headers)


def _sentence(status: HTTPStatus, text: str, *headers: str) -> _Answer:
    return _Answer(status, _TEXT, f"{text}\n".encode(), headers)


def _json(status: HTTPStatus, value: Json) -> _Answer:
    return _Answer(status, _JSON, json.dumps(value, ensure_ascii=False).encode() + b"\n")


async def _now(value: MaybeAwaitable[T]) -> T:
    return await value if isinstance(value, Awaitable) else value


def _verdict(verdict: Readiness) -> _Answer:
    good, text = verdict
    return _sentence(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, text)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.startswith(UNIX):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AdminServer:
    """Serves on ``host``:``port`` from ``start`` to ``stop``.

    ``ready`` returns whether the process can serve clients, and the reasons in plain text;
    ``metrics`` the body of /metrics; ``live`` (optional) whether the process should be kept. A
    request may take ``timeout_s``; above 64 connections at once the newest is dropped. The token
    file is read at every request that needs it, so that it can be replaced.
    """

    __slots__ = (
        "_connections",
        "_control",
        "_host",
        "_live",
        "_metrics",
        "_port",
        "_ready",
        "_server",
        "_timeout_s",
        "_token_file",
    )

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ready: Callable[[], MaybeAwaitable[Readiness]],
        metrics: Callable[[], MaybeAwaitable[bytes]],
        live: Callable[[], Readiness] | None = None,
        control: Control | None = None,
        token_file: Path | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._host = host
        self._port = port
        self._ready = ready
        self._metrics = metrics
        self._live = live
        self._control = control
        self._token_file = token_file
        self._timeout_s = timeout_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError when the address or the token cannot be had."""
        if self._token_file is not None:
            read_token(self._token_file)
        if self._host.startswith(UNIX):
            self._server = await asyncio.start_unix_server(
                self._accepted, self._host.removeprefix(UNIX), limit=_MAX_HEAD_BYTES
            )
            return
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
        if self._host.startswith(UNIX) or self._server is None or not self._server.sockets:
            return self._port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> str:
        """``ADDRESS:PORT``, with brackets around an IPv6 address; or ``unix:PATH``."""
        host = self._host
        if host.startswith(UNIX):
            return host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as the ready line has it."""
        address = self.address
        return address if address.startswith(UNIX) else f"http://{address}"

    # Connections

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
        except asyncio.CancelledError:
            # By ``stop`` alone. Some versions of asyncio log a task that ends as cancelled here as
            # an error, with a traceback.
            pass
        finally:
            self._connections.discard(task)
            # Whoever has not read the answer by now does not want it.
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            request = await _read_request(reader)
            method = request.method
            answer = await self._answer(request)
        except asyncio.IncompleteReadError:
            return
        except _Refused as refused:
            answer = refused.answer
        writer.write(
            "\r\n".join(
                (
                    f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
                    f"Content-Type: {answer.content_type}",
                    f"Content-Length: {len(answer.body)}",
                    "Cache-Control: no-store",
                    *answer.headers,
                    "Connection: close\r\n\r\n",
                )
            ).encode()
        )
        if method != "HEAD":
            writer.write(answer.body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    # Pages

    async def _answer(self, request: _Request) -> _Answer:
        try:
            return await self._page(request)
        except _Refused as refused:
            return refused.answer
        except Exception:
            log.exception("an admin page failed", extra={"path": request.path})
            return _sentence(HTTPStatus.INTERNAL_SERVER_ERROR, "The page failed; the log says why.")

    async def _page(self, request: _Request) -> _Answer:
        path = request.path
        if path == "/livez":
            _allow(request, "GET")
            return _verdict(self._live() if self._live is not None else (True, "alive"))
        if path == "/readyz":
            _allow(request, "GET")
            return _verdict(await _now(self._ready()))
        if path == "/metrics":
            _allow(request, "GET")
            return _Answer(HTTPStatus.OK, CONTENT_TYPE, await _now(self._metrics()))
        control = self._control
        if control is not None:
            if path == "/status":
                return await self._status(request, control)
            if path == "/drain" and control.drain is not None:
                return await self._drain(request, control)
            if path == "/shed" and control.shed is not None:
                return await self._shed(request, control)
            if path == "/clients" and control.clients is not None:
                return await self._clients(request, control)
            if path.startswith("/clients/") and control.client is not None:
                return await self._client(request, control, path.removeprefix("/clients/"))
        raise _Refused(HTTPStatus.NOT_FOUND, f"There is nothing here; try {self._pages()}.")

    def _pages(self) -> str:
        pages = ["/livez", "/readyz", "/metrics"]
        control = self._control
        if control is not None:
            pages.append("/status")
            pages += ["/drain"] if control.drain is not None else []
            pages += ["/shed"] if control.shed is not None else []
            pages += ["/clients"] if control.clients is not None else []
        return f"{', '.join(pages[:-1])} or {pages[-1]}"

    async def _status(self, request: _Request, control: Control) -> _Answer:
        _allow(request, "GET")
        self._authorize(request)
        ready, reason = await _now(self._ready())
        facts = await _now(control.status())
        return _json(HTTPStatus.OK, {**facts, "ready": ready, "reason": reason})

    async def _drain(self, request: _Request, control: Control) -> _Answer:
        _allow(request, "GET", "POST", "DELETE")
        self._authorize(request)
        assert control.drain is not None
        assert control.progress is not None
        if request.method == "POST":
            return _json(HTTPStatus.ACCEPTED, await _now(control.drain("admin API")))
        if request.method == "DELETE":
            raise _Refused(
                HTTPStatus.CONFLICT,
                "Draining cannot be taken back; end this process and start it again.",
            )
        return _json(HTTPStatus.OK, await _now(control.progress()))

    async def _shed(self, request: _Request, control: Control) -> _Answer:
        _allow(request, "GET", "POST")
        self._authorize(request)
        assert control.shed is not None
        assert control.shedding is not None
        if request.method != "POST":
            return _json(HTTPStatus.OK, {"shedding": await _now(control.shedding())})
        count = request.query.get("connections", "")
        if not _is_number(count):
            raise _Refused(
                HTTPStatus.BAD_REQUEST, "Say how many: /shed?connections=N (0: no more of them)."
            )
        shedding = await _now(control.shed(int(count)))
        if shedding is None:
            raise _Refused(HTTPStatus.CONFLICT, "This process drains: all its clients go.")
        return _json(HTTPStatus.ACCEPTED, {"shedding": shedding})

    async def _clients(self, request: _Request, control: Control) -> _Answer:
        _allow(request, "GET")
        self._authorize(request)
        assert control.clients is not None
        limit = request.query.get("limit", str(_DEFAULT_LIMIT))
        if not (_is_number(limit) and 1 <= int(limit) <= MAX_LIMIT):
            raise _Refused(HTTPStatus.BAD_REQUEST, f"limit is a number from 1 to {MAX_LIMIT}.")
        clients = await _now(control.clients(int(limit) + 1, request.query.get("after", "")))
        more = len(clients) > int(limit)
        shown = clients[: int(limit)]
        return _json(
            HTTPStatus.OK,
            {"clients": shown, "next": shown[-1]["client_id"] if more else None},
        )

    async def _client(self, request: _Request, control: Control, client_id: str) -> _Answer:
        _allow(request, "GET", "DELETE")
        self._authorize(request)
        assert control.client is not None
        found: Json | None
        if request.method == "DELETE":
            assert control.disconnect is not None
            was_there = await _now(control.disconnect(client_id))
            found = {"disconnected": client_id} if was_there else None
        else:
            found = await _now(control.client(client_id))
        if found is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "No such client is connected here.")
        return _json(HTTPStatus.OK, found)

    # Permission

    def _authorize(self, request: _Request) -> None:
        """Raise _Refused unless the request may see and do what operators may."""
        if self._token_file is None:
            if not is_loopback(self._host):
                raise _Refused(
                    HTTPStatus.FORBIDDEN,
                    "This needs admin.token_file, because the admin port is not on a loopback "
                    "address.",
                )
            if _comes_from_a_page(request):
                raise _Refused(HTTPStatus.FORBIDDEN, "Web pages may not ask this.")
        else:
            self._check_token(request, self._token_file)
        if request.method not in {"GET", "HEAD"}:
            log.info("admin request", extra={"method": request.method, "path": request.path})

    def _check_token(self, request: _Request, path: Path) -> None:
        try:
            token = read_token(path)
        except OSError:
            log.exception("the admin token cannot be read")
            raise _Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "The token file cannot be read; the log says why."
            ) from None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), token)
        if scheme.lower() != "bearer" or not same:
            raise _Refused(
                HTTPStatus.UNAUTHORIZED,
                "This needs the token of admin.token_file (Authorization: Bearer TOKEN).",
                "WWW-Authenticate: Bearer",
            )


def _allow(request: _Request, *methods: str) -> None:
    """Raise _Refused for other methods; HEAD goes with GET."""
    if request.method in methods or (request.method == "HEAD" and "GET" in methods):
        return
    names = ", ".join(["GET", "HEAD", *(name for name in methods if name != "GET")])
    raise _Refused(
        HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path} takes {names}.", f"Allow: {names}"
    )


def _is_number(text: str) -> bool:
    return len(text) < 10 and text.isascii() and text.isdigit()


def _comes_from_a_page(request: _Request) -> bool:
    """Whether a browser sends this for a web page: its origin is named, or the host is a name."""
    if "origin" in request.headers:
        return True
    host = request.headers.get("host", "")
    if not host:
        return False
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name != "localhost"
    return False


async def _read_request(reader: asyncio.StreamReader) -> _Request:
    """Read a request and the body that it should not have. Raises _Refused, IncompleteReadError."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too large."
        ) from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise _Refused(HTTPStatus.BAD_REQUEST, "This is not an HTTP/1.1 request.")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    await _skip_body(reader, headers)
    target, _, query = words[1].partition("?")
    try:
        path = unquote(target, errors="strict")
        pairs = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
    except ValueError:
        raise _Refused(HTTPStatus.BAD_REQUEST, "The path is not UTF-8.") from None
    return _Request(words[0], path, pairs, headers)


async def _skip_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> None:
    if "transfer-encoding" in headers:
        raise _Refused(HTTPStatus.LENGTH_REQUIRED, "A body needs a Content-Length.")
    length = headers.get("content-length", "0")
    if not _is_number(length):
        raise _Refused(HTTPStatus.BAD_REQUEST, "Content-Length is not a number.")
    if int(length) > _MAX_BODY_BYTES:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Nothing here takes a body.")
    await reader.readexactly(int(length))
