"""Paths whose parts may have a slash in them, as client identifiers and topics do.

Added by ``app``. Servers decode a path before it is routed, so that `a%2Fb` were two parts. Here
each part is decoded by itself, and what would divide it is encoded again: routes get it by
``whole``.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.console.errors import invalid


class WholeSegments:
    """See the module's docstring."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_api = scope["type"] == "http" and scope["path"].startswith("/api/")
        raw: bytes | None = scope.get("raw_path")
        if is_api and raw is not None and b"%2f" in raw.lower():
            parts = raw.partition(b"?")[0].decode("latin-1").split("/")
            scope = {**scope, "path": "/".join(quote(unquote(part), safe="") for part in parts)}
        elif is_api and "%" in scope["path"]:
            scope = {**scope, "path": scope["path"].replace("%", "%25")}
        await self._app(scope, receive, send)


def whole(part: str) -> str:
    """Return a part of a path as it was meant. Raises ApiError."""
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise invalid("the path is not UTF-8") from None
