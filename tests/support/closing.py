"""The end of a server of asyncio that loses no connection."""

from __future__ import annotations

import asyncio

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
