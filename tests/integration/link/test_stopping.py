"""A listener of the link that stops at the moment at which somebody connects.

Inputs: connections to its socket, turns of the event loop between them and its end. Observed: the
other ends. What is not closed by anybody is a ResourceWarning, which fails a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from pathlib import Path

import pytest

from support.virtual_time import turns
from tidegate.link.http2.server import Listener
from tidegate.runtime.config.model import LinkTlsConfig
from tidegate.runtime.telemetry.counters import Counters


@pytest.mark.parametrize("turns_between", range(6))
async def test_who_is_accepted_while_it_stops_is_closed(tmp_path: Path, turns_between: int) -> None:
    listener = Listener({}, Counters())
    address = await listener.start(f"unix:{tmp_path / 'link'}", LinkTlsConfig())
    await turns()  # it waits for connections
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.removeprefix("unix:"))
        await turns(turns_between)
        await listener.stop()
        gc.collect()
        client.setblocking(False)
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                while await asyncio.get_running_loop().sock_recv(client, 4096):
                    pass
