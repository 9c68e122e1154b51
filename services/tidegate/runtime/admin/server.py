"""The admin server: health and metrics for everyone, the admin API for operators.

Built by the composition root, which hands in what the pages call (``admin.control``);
``admin.http`` speaks HTTP. Knows nothing of MQTT.

/livez, /readyz and /metrics are open. The rest needs the token of ``admin.token_file``; without
such a file it is served on loopback addresses only, and not to web pages, whose requests a browser
on this machine would send here.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from tidegate.core.session_key import session_key
from tidegate.runtime.admin.control import (
    AmbiguousClient,
    Control,
    Json,
    MaybeAwaitable,
    Readiness,
    resolved,
)
from tidegate.runtime.admin.http import (
    UNIX,
    HttpError,
    HttpServer,
    Request,
    Response,
    is_loopback,
    is_number,
    json_response,
    text_response,
)
from tidegate.runtime.admin.pieces import object_of
from tidegate.runtime.config.referenced_files import read_token
from tidegate.runtime.telemetry.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

_DEFAULT_LIMIT: Final = 100
#: Clients on one page.
MAX_LIMIT: Final = 1000


class AdminServer:
    """Serves on ``host``:``port`` from ``start`` to ``stop``.

    ``ready`` returns whether the process can serve clients, and the reasons in plain text;
    ``metrics`` the body of /metrics; ``live`` (optional) whether the process should be kept. The
    token file is read at every request that needs it, so that it can be replaced.
    """

    __slots__ = ("_control", "_http", "_live", "_metrics", "_ready", "_token_file")

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
        self._http = HttpServer(host, port, self._response, timeout_s)
        self._ready = ready
        self._metrics = metrics
        self._live = live
        self._control = control
        self._token_file = token_file

    async def start(self) -> None:
        """Listen. Raises OSError when the address or the token is not available."""
        if self._token_file is not None:
            read_token(self._token_file)
        await self._http.start()

    async def stop(self) -> None:
        """Stop listening and drop the requests in progress."""
        await self._http.stop()

    @property
    def port(self) -> int:
        """The port in use (chosen by the system, if 0 was requested)."""
        return self._http.port

    @property
    def address(self) -> str:
        """``ADDRESS:PORT``, with brackets around an IPv6 address; or ``unix:PATH``."""
        return self._http.address

    @property
    def url(self) -> str:
        """The address as the ready line has it."""
        address = self.address
        return address if address.startswith(UNIX) else f"http://{address}"

    # Pages

    async def _response(self, request: Request) -> Response:
        try:
            return await self._page(request)
        except HttpError:
            raise
        except Exception:
            log.exception("admin request failed", extra={"path": request.path})
            return text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error; see the log.")

    async def _page(self, request: Request) -> Response:
        path, control = request.path, self._control
        if control is not None and path in control.handlers:
            self._authorize(request)
            return await control.handlers[path](request)
        if request.unread_bytes:
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This page takes no request body.")
        if path == "/livez":
            request.check_method("GET")
            return _health(self._live() if self._live is not None else (True, "alive"))
        if path == "/readyz":
            request.check_method("GET")
            return _health(await resolved(self._ready()))
        if path == "/metrics":
            request.check_method("GET")
            return Response(HTTPStatus.OK, CONTENT_TYPE, await resolved(self._metrics()))
        if control is not None:
            if path == "/status":
                return await self._status(request, control)
            if path in control.pages:
                request.check_method("GET")
                self._authorize(request)
                return json_response(HTTPStatus.OK, await resolved(control.pages[path]()))
            if path == "/drain" and control.drain is not None:
                return await self._drain(request, control)
            if path == "/shed" and control.shed is not None:
                return await self._shed(request, control)
            if path == "/clients" and control.clients is not None:
                return await self._clients(request, control)
            if path.startswith("/clients/") and control.client is not None:
                return await self._client(request, control, path.removeprefix("/clients/"))
            if path.startswith("/sessions/") and control.end_session is not None:
                return await self._session(request, control, path.removeprefix("/sessions/"))
        raise HttpError(HTTPStatus.NOT_FOUND, f"Not found. Pages: {', '.join(self._pages())}.")

    def _pages(self) -> list[str]:
        pages = ["/livez", "/readyz", "/metrics"]
        control = self._control
        if control is not None:
            pages += ["/status", *control.pages]
            pages += ["/drain"] if control.drain is not None else []
            pages += ["/shed"] if control.shed is not None else []
            pages += ["/clients"] if control.clients is not None else []
            pages += ["/sessions/ID"] if control.end_session is not None else []
            pages += sorted((*control.pages, *control.handlers))
        return pages

    async def _status(self, request: Request, control: Control) -> Response:
        request.check_method("GET")
        self._authorize(request)
        ready, reason = await resolved(self._ready())
        facts = await resolved(control.status())
        return json_response(HTTPStatus.OK, {**facts, "ready": ready, "reason": reason})

    async def _drain(self, request: Request, control: Control) -> Response:
        request.check_method("GET", "POST", "DELETE")
        self._authorize(request)
        assert control.drain is not None
        assert control.progress is not None
        if request.method == "POST":
            progress = await resolved(control.drain("admin API"))
            return json_response(HTTPStatus.ACCEPTED, progress)
        if request.method == "DELETE":
            raise HttpError(
                HTTPStatus.CONFLICT, "Draining cannot be cancelled; restart this process."
            )
        return json_response(HTTPStatus.OK, await resolved(control.progress()))

    async def _shed(self, request: Request, control: Control) -> Response:
        request.check_method("GET", "POST")
        self._authorize(request)
        assert control.shed is not None
        assert control.shedding is not None
        if request.method != "POST":
            return json_response(HTTPStatus.OK, {"shedding": await resolved(control.shedding())})
        count = request.query.get("connections", "")
        if not is_number(count):
            raise HttpError(
                HTTPStatus.BAD_REQUEST,
                "connections must be a number, as in /shed?connections=N (0 cancels).",
            )
        shedding = await resolved(control.shed(int(count)))
        if shedding is None:
            raise HttpError(
                HTTPStatus.CONFLICT, "This process is draining: all its clients are disconnected."
            )
        return json_response(HTTPStatus.ACCEPTED, {"shedding": shedding})

    async def _clients(self, request: Request, control: Control) -> Response:
        request.check_method("GET")
        self._authorize(request)
        assert control.clients is not None
        limit = request.query.get("limit", str(_DEFAULT_LIMIT))
        if not (is_number(limit) and 1 <= int(limit) <= MAX_LIMIT):
            raise HttpError(
                HTTPStatus.BAD_REQUEST, f"limit must be a number from 1 to {MAX_LIMIT}."
            )
        clients = await resolved(control.clients(int(limit) + 1, request.query.get("after", "")))
        more = len(clients) > int(limit)
        page = clients[: int(limit)]
        last = session_key(page[-1]["mount_point"], page[-1]["client_id"]) if more else None
        return await object_of({"clients": page, "next": last})

    async def _client(self, request: Request, control: Control, client_id: str) -> Response:
        request.check_method("GET", "DELETE")
        self._authorize(request)
        assert control.client is not None
        mount_point = request.query.get("mount_point")
        answer: Json | None
        try:
            if request.method == "DELETE":
                assert control.disconnect is not None
                was_connected = await resolved(control.disconnect(client_id, mount_point))
                answer = {"disconnected": client_id} if was_connected else None
            else:
                answer = await resolved(control.client(client_id, mount_point))
        except AmbiguousClient:
            raise HttpError(
                HTTPStatus.CONFLICT,
                "Clients of several mount points have this client identifier: name one, as in "
                "/clients/ID?mount_point=NAME.",
            ) from None
        if answer is None:
            raise HttpError(
                HTTPStatus.NOT_FOUND, "No client with this client identifier is connected here."
            )
        return await object_of(answer)

    async def _session(self, request: Request, control: Control, client_id: str) -> Response:
        request.check_method("DELETE")
        self._authorize(request)
        assert control.end_session is not None
        mount_point = request.query.get("mount_point", "")
        ended = await resolved(control.end_session(client_id, mount_point))
        if ended is None:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "No router or store is available.")
        if not ended:
            raise HttpError(
                HTTPStatus.NOT_FOUND, "No session has this client identifier and mount point."
            )
        return json_response(HTTPStatus.OK, {"ended": client_id})

    # Permission

    def _authorize(self, request: Request) -> None:
        """Raise HttpError unless the request may use the admin API."""
        if self._token_file is None:
            if not is_loopback(self._http.host):
                raise HttpError(
                    HTTPStatus.FORBIDDEN,
                    "admin.token_file is required, because the admin server is not on a loopback "
                    "address.",
                )
            if request.is_from_web_page:
                raise HttpError(
                    HTTPStatus.FORBIDDEN, "Requests from web pages require admin.token_file."
                )
        else:
            self._check_token(request, self._token_file)
        if request.method not in {"GET", "HEAD"}:
            log.info("admin request", extra={"method": request.method, "path": request.path})

    def _check_token(self, request: Request, path: Path) -> None:
        try:
            token = read_token(path)
        except OSError:
            log.exception("admin token unreadable")
            raise HttpError(
                HTTPStatus.SERVICE_UNAVAILABLE, "The token file cannot be read; see the log."
            ) from None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), token)
        if scheme.lower() != "bearer" or not same:
            raise HttpError(
                HTTPStatus.UNAUTHORIZED,
                "The token of admin.token_file is required (Authorization: Bearer TOKEN).",
                "WWW-Authenticate: Bearer",
            )


def _health(readiness: Readiness) -> Response:
    good, text = readiness
    return text_response(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, text)
