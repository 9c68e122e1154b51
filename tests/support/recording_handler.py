"""A `Handler` for the listeners' tests: echoes or swallows, and remembers what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidegate.edge.channel import Channel


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition, turn of the loop by turn of the loop, and fail at the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class RecordingHandler:
    """What a channel told it. With ``echo`` every chunk is written back as one packet."""

    def __init__(self, channel: Channel, *, echo: bool = True) -> None:
        self.channel = channel
        self.echo = echo
        self.data = b""
        self.chunks: list[bytes] = []
        self.write_pauses: list[bool] = []
        self.lost: list[str] = []

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data
        self.chunks.append(data)
        if self.echo:
            self.channel.write([data])

    def pause_writing(self) -> None:
        self.write_pauses.append(True)

    def resume_writing(self) -> None:
        self.write_pauses.append(False)

    def connection_lost(self, reason: str) -> None:
        self.lost.append(reason)


class Handlers(list[RecordingHandler]):
    """A `HandlerFactory` that keeps what it made."""

    def __init__(self, *, echo: bool = True) -> None:
        super().__init__()
        self.echo = echo
        #: Called with each new handler, in its constructor's stead.
        self.on_made: Callable[[RecordingHandler], None] | None = None

    def __call__(self, channel: Channel, accepted_s: float) -> RecordingHandler:
        handler = RecordingHandler(channel, echo=self.echo)
        self.append(handler)
        if self.on_made is not None:
            self.on_made(handler)
        return handler
