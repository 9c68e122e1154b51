"""Listeners that run, with recording handlers: what the listeners' tests start from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from support.recording_handler import Handlers, RecordingHandler
from support.virtual_time import turns
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.listener import Listener
from tidegate.edge.transport.listeners import Listeners
from tidegate.edge.transport.stream_channel import StreamChannel
from tidegate.runtime.config.model import ListenerConfig


class Running:
    """Listeners with their handlers."""

    def __init__(self, listeners: Listeners, handlers: Handlers) -> None:
        self.listeners = listeners
        self.handlers = handlers
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def state(self) -> Listener:
        return self.listeners.all_listeners[0]

    def refused(self, reason: Refusal) -> int:
        return self.state.counters.refused[reason]

    def open_connections(self) -> int:
        """How many sockets are open, handshakes included."""
        return self.listeners.connections_of().total()

    async def connect(
        self, label: str | None = None, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.listeners.addresses[label or self.state.label][0]
        if "/" in address:
            return self._keep(*await asyncio.open_unix_connection(address))
        host, _, port = address.rpartition(":")
        return await self.open(host.strip("[]"), int(port), **options)

    async def open(
        self, host: str, port: int, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to an address; whatever is still open at the end is closed."""
        return self._keep(*await asyncio.open_connection(host, port, **options))

    def _keep(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._writers.append(writer)
        return reader, writer

    async def drop_clients(self) -> None:
        """End the clients' side of every connection."""
        for writer in self._writers:
            writer.transport.abort()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def unsent_bytes(handler: RecordingHandler) -> int:
    """How much was written and not taken by the kernel yet."""
    channel = handler.channel
    assert isinstance(channel, StreamChannel)
    return channel.transport.get_write_buffer_size()


@contextlib.asynccontextmanager
async def running(
    *configs: dict[str, Any], echo: bool = True, **options: Any
) -> AsyncIterator[Running]:
    handlers = Handlers(echo=echo)
    listeners = Listeners(
        [ListenerConfig(**{"port": 0, **config}) for config in configs],
        lambda _config: handlers,
        sweep_interval_s=0.02,
        **options,
    )
    await listeners.start()
    server = Running(listeners, handlers)
    try:
        yield server
    finally:
        # A server of asyncio that is closed loses the sockets that it is just accepting.
        await turns()
        await listeners.close(0.0)
        await server.drop_clients()
        assert server.open_connections() == 0
