"""What every request passes before the routes: Host check, size limit, headers of the answer.

Added by ``app``. The Host check keeps a page of another site, whose name was made to resolve to the
console's address (DNS rebinding), from being a page of the console.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidegate.console.errors import Reason, answer

#: Largest body: a payload of the default maximum packet size, as base64 in JSON, and some.
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
#: Names that only this machine resolves to itself.
_LOCAL: Final = frozenset({"localhost"})

#: The page's MQTT client connects to any broker: ws: and wss:.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; manifest-src 'self'; worker-src 'self'; connect-src 'self' ws: wss:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """See the module's docstring."""

    def __init__(self, app: ASGIApp, allowed_hosts: Callable[[], Sequence[str]]) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        limit = _Limit(receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                limit.answered = True
                found = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    found.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    found.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, limit.receive, send_with_headers)
        except _TooLarge:
            if not limit.answered:
                await _too_large()(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        # Probes come from the kubelet and from monitoring, under any name.
        is_probe = scope["path"] in {"/livez", "/healthz", "/readyz", "/metrics"}
        if not is_probe and not is_allowed(headers.get("host", ""), self._allowed_hosts()):
            return answer(
                HTTPStatus.BAD_REQUEST,
                Reason.WRONG_HOST,
                "this name is not in console.allowed_hosts; IP addresses and localhost need not be",
            )
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            return _too_large()
        return None


class _TooLarge(Exception):
    """A body without a length was longer than allowed."""


class _Limit:
    """Counts the bytes of a body as they come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0
        self.answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > MAX_BODY_BYTES:
            raise _TooLarge
        return message


def _too_large() -> Response:
    return answer(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        Reason.TOO_LARGE,
        f"the body is larger than {MAX_BODY_BYTES} bytes",
    )


def is_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Whether a Host header names an IP address, localhost or an allowed name."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = name.lower().rstrip(".")
    if name in _LOCAL:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return any(_matches(name, pattern.lower()) for pattern in allowed)
    return True


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return bool(name) and name == pattern
