"""Finds out what is spoken at an address where connecting has failed for no clear reason.

Called by ``servers`` after such a failure, to say what the URL should be. Sends one PING in plain
text, then a TLS hello; trusts nothing, and uses nothing of what it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

from tidegate.store.client.failures import Spoken

#: How long each of the two attempts may take.
PROBE_S: Final = 1.0
#: How long an alert that follows the handshake may take.
_ALERT_S: Final = 0.3
_MAX_BYTES: Final = 64


async def spoken_at(host: str, port: int) -> Spoken:
    """Return what the server at this address speaks."""
    start = await _first_bytes(host, port)
    if start.startswith((b"+", b"-")):
        return Spoken.REDIS
    if start.startswith(b"HTTP/"):
        return Spoken.HTTP
    if (tls := await _shakes_hands(host, port)) is not None:
        return tls
    return Spoken.OTHER if start and not start.startswith(b"\x15\x03") else Spoken.NOTHING


async def _first_bytes(host: str, port: int) -> bytes:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"PING\r\n\r\n")
                return await reader.read(_MAX_BYTES)
            finally:
                writer.transport.abort()
    return b""


async def _shakes_hands(host: str, port: int) -> Spoken | None:
    """Whether the server speaks TLS, whatever its certificate, and requires one of clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        # An alert is TLS as well.
        return Spoken.TLS if "ALERT" in (error.reason or "").upper() else None
    except (OSError, TimeoutError):
        return None
    try:
        # With TLS 1.3 the alert comes after the client's part of the handshake.
        async with asyncio.timeout(_ALERT_S):
            await reader.read(1)
    except ssl.SSLError as error:
        required = "CERTIFICATE" in (error.reason or "").upper()
        return Spoken.TLS_WITH_CERTIFICATE if required else Spoken.TLS
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    return Spoken.TLS
