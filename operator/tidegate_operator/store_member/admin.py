"""The HTTP server of a member: probes, the report, metrics. Read only, so without a token.

``member`` starts it. GET only, one request a connection: the kubelet, the operator and Prometheus.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Final

from tidegate_operator.store_member.report import Report, metrics

_TIMEOUT_S: Final = 5.0
#: For how long a server may not reply before its container is started again: no less than a long
#: script or a slow disk takes. Sentinel has promoted another one by then.
_SILENCE_S: Final = 120.0
_TEXT: Final = "text/plain; version=0.0.4"


def answer(path: str, found: Report, *, is_alive: bool) -> tuple[int, str, str]:
    """Return status, content type and body of a page."""
    match path:
        case "/livez":
            return (200 if is_alive else 503), _TEXT, "" if is_alive else "Sentinel has ended\n"
        case "/serverz":
            is_silent = found.silent_s > _SILENCE_S
            text = f"the server has not replied for {found.silent_s:.0f} s\n" if is_silent else ""
            return (503 if is_silent else 200), _TEXT, text
        case "/readyz":
            text = f"{found.role}, primary {found.primary or 'unknown'} {found.waits}\n"
            return (200 if found.is_ready else 503), _TEXT, text
        case "/metrics":
            return 200, _TEXT, metrics(found)
        case "/store":
            return 200, "application/json", json.dumps(found.as_dict())
    return 404, _TEXT, "not found\n"


async def serve(
    host: str, port: int, found: Callable[[], Report], is_alive: Callable[[], bool]
) -> asyncio.Server:
    """Start to serve; ``host`` "" for all addresses."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                words = head.decode("latin-1").split()
                path = words[1].partition("?")[0] if words[:1] == ["GET"] else ""
                status, kind, body = answer(path, found(), is_alive=is_alive())
                writer.write(
                    f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nConnection: close\r\n"
                    f"Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()
                )
                await writer.drain()
        writer.close()

    return await asyncio.start_server(respond, host or None, port)
