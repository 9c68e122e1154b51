"""Listeners that run, with recording handlers: what the listeners' tests start from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from support.recording_handler import Handlers
from tidegate.edge.listeners import Listeners
from tidegate.edge.state import ListenerState, Refusal
from tidegate.runtime.config import ListenerConfig


class Running:
    """Listeners with their handlers."""

    def __init__(self, listeners: Listeners, handlers: Handlers) -> None:
        self.listeners = listeners
        self.handlers = handlers

    @property
    def state(self) -> ListenerState:
        return self.listeners.states[0]

    def refused(self, reason: Refusal) -> int:
        return self.state.counters.refused[reason]

    async def connect(
        self, label: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.listeners.addresses[label or self.state.label][0]
        if "/" in address:
            return await asyncio.open_unix_connection(address)
        host, _, port = address.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))


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
    try:
        yield Running(listeners, handlers)
    finally:
        await listeners.close(0.0)
        assert listeners.open_connections() == 0
