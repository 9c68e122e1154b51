"""Live samples: what is published on topics that match a filter, bounded in rate and bytes.

Owns the samples under way. A sample is noted as replays of retained messages are, so that messages
are only looked at while there is one; what exceeds its bounds is skipped and counted, never kept.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.admin.http import HttpError
from tidegate.runtime.admin.pieces import pieces

if TYPE_CHECKING:
    from tidegate.edge.edge import Edge

#: Samples of one edge.
MOST_SAMPLES: Final = 16
#: Messages of a sample in a second.
MOST_PER_S: Final = 1_000
#: Bytes of payloads of a sample in a second.
MOST_BYTES_PER_S: Final = 1_048_576
#: Bytes that are kept of each payload, and of its properties.
PAYLOAD_BYTES: Final = 4_096
#: A sample ends after so long.
LONGEST_S: Final = 3_600.0
#: How often it says how much was skipped.
STATUS_S: Final = 1.0
#: Messages that are encoded in a piece: up to 6 KiB each.
_AT_ONCE: Final = 50
#: How long messages are gathered.
_GATHER_S: Final = 0.05


class _Noted:
    """A message of a sample: its beginning, so that nothing large is kept."""

    __slots__ = ("at_ms", "payload", "payload_bytes", "properties", "qos", "retain", "topic")

    def __init__(self, message: Publish, at_ms: int) -> None:
        self.at_ms = at_ms
        self.topic = message.topic
        self.qos = message.qos
        self.retain = message.retain
        self.payload = bytes(message.payload[:PAYLOAD_BYTES])
        self.payload_bytes = len(message.payload)
        properties = message.properties
        self.properties = properties if len(properties) <= PAYLOAD_BYTES else b""

    def line(self) -> bytes:
        """Return it as a line of JSON."""
        value = {
            "at_ms": self.at_ms,
            "topic": self.topic,
            "qos": self.qos,
            "retain": self.retain,
            "payload_base64": base64.b64encode(self.payload).decode(),
            "payload_size_bytes": self.payload_bytes,
            "properties_base64": base64.b64encode(self.properties).decode(),
        }
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"


class Sample:
    """One sample; see the module's docstring. ``begin``, then ``lines``, which ends it."""

    #: It is no connection; see ``registry.Observer``.
    connection: Final = ("", 0)

    def __init__(self, edge: Edge, topic_filter: str, rate: int) -> None:
        self._edge = edge
        self.filters = {topic_filter: SubscriptionOptions()}
        self._rate = rate
        self._messages_left = rate
        self._bytes_left = MOST_BYTES_PER_S
        self._waiting: list[_Noted] = []
        self._more = asyncio.Event()
        self.seen = 0
        self.skipped = 0

    def note(self, message: Publish) -> bool:
        """Take a message if there is room; it is never taken from its receivers."""
        self.seen += 1
        size = min(len(message.payload), PAYLOAD_BYTES) + len(message.topic)
        if self._messages_left <= 0 or self._bytes_left < size:
            self.skipped += 1
            return False
        self._messages_left -= 1
        self._bytes_left -= size
        self._waiting.append(_Noted(message, self._edge.context.now_ms()))
        self._more.set()
        return False

    def begin(self) -> None:
        """Note messages from now on, also of clients at other edges."""
        self._edge.registry.observers.begin(self)

    def end(self) -> None:
        """Note nothing any more."""
        self._edge.registry.observers.end(self)

    async def lines(self) -> AsyncGenerator[bytes]:
        """Return messages as lines of JSON, and how many there were; end with the last one."""
        time = asyncio.get_running_loop().time
        until_s, second_s = time() + LONGEST_S, time() + STATUS_S
        try:
            yield self._status()
            while time() < until_s:
                await self._gather(second_s - time())
                waiting, self._waiting = self._waiting, []
                async for part in pieces(waiting, _AT_ONCE):
                    yield b"".join([noted.line() for noted in part])
                if time() >= second_s:
                    second_s = time() + STATUS_S
                    self._messages_left, self._bytes_left = self._rate, MOST_BYTES_PER_S
                    yield self._status()
        finally:
            self.end()

    async def _gather(self, most_s: float) -> None:
        """Return when there is something, a little later, or after a time."""
        self._more.clear()
        if not self._waiting and most_s > 0:
            try:
                async with asyncio.timeout(most_s):
                    await self._more.wait()
            except TimeoutError:
                return
        await asyncio.sleep(_GATHER_S)

    def _status(self) -> bytes:
        return json.dumps({"seen": self.seen, "skipped": self.skipped}).encode() + b"\n"


class Samples:
    """Begins samples, as many as are allowed."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._running: set[Sample] = set()

    def begin(self, topic_filter: str, rate: int) -> AsyncGenerator[bytes]:
        """Begin a sample; it ends when the lines are closed. Raises HttpError."""
        if len(self._running) >= MOST_SAMPLES:
            raise HttpError(
                HTTPStatus.TOO_MANY_REQUESTS, f"{MOST_SAMPLES} samples are running at this edge."
            )
        sample = Sample(self._edge, topic_filter, rate)
        self._running.add(sample)
        sample.begin()
        return self._lines(sample)

    async def _lines(self, sample: Sample) -> AsyncGenerator[bytes]:
        try:
            async for part in sample.lines():
                yield part
        finally:
            self._running.discard(sample)
            sample.end()
