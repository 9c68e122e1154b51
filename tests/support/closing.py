"""The ends of asyncio's servers and connections: none is lost, none is left over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

#: SO_LINGER for a close with RST.
_RESET: Final = struct.pack("ii", 1, 0)
#: How many turns of the loop an accepted socket takes until it has its transport.
_TURNS = 5


async def close_server(server: asyncio.Server) -> None:
    """Accept nobody any more, then close the server.

    A server that is closed while it is just accepting a connection leaves its socket open, with
    nobody to look after it.
    """
    loop = asyncio.get_running_loop()
    for sock in server.sockets:
        loop.remove_reader(sock.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    server.close()


def reset(transport: asyncio.WriteTransport) -> None:
    """Close with a TCP reset, at any moment of the connection's life.

    A TLS transport has no socket any more from the loss of its connection until its protocol is
    told of it.
    """
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
