"""Thousands of idle connections from one process, which come back at once when they are lost.

Each is a few hundred bytes of state: CONNECT is encoded once per client, and of the answers only
CONNACK is looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from support import mqtt_bytes
from support.mqtt_bytes import V5

_RETRY_S: Final = 0.2
_CONNACK_S: Final = 10.0
#: Connections that are being opened at the same time, as many as a kernel's queue takes well.
_OPENING: Final = 500


class IdleClient(asyncio.Protocol):
    """One client identifier that wants to be connected."""

    __slots__ = ("connect", "crowd", "number", "online", "transport")

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.number = number
        self.online = False
        self.transport: asyncio.Transport | None = None
        self.connect = mqtt_bytes.connect(
            f"{crowd.name}-{number}",
            version=V5,
            clean=False,
            props=[("session_expiry", 600)],
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport
        assert self.transport is not None
        self.transport.write(self.connect)

    def data_received(self, data: bytes) -> None:
        if self.online:
            self.crowd.heard[data[0] >> 4] += 1
            return
        packet = mqtt_bytes.decode(data[: 2 + data[1]], V5)
        assert packet.kind == "CONNACK", packet
        if packet.reason:
            self.crowd.refused[packet.reason] += 1
            self.close()
            return
        self.online = True
        self.crowd.present += packet.session_present
        self.crowd.online += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self.online:
            self.online = False
            self.crowd.online -= 1
            self.crowd.lost += 1
            self.crowd.wants(self.number)
        else:
            self.crowd.wants(self.number, _RETRY_S)
        self.transport = None

    def close(self) -> None:
        """Drop the connection."""
        if self.transport is not None:
            self.transport.abort()


class Crowd:
    """Keeps ``count`` clients connected; ``choose`` says where the one of that number goes now."""

    def __init__(self, name: str, count: int, choose: Callable[[int], tuple[str, int]]) -> None:
        self.name = name
        self.count = count
        self.online = 0
        self.lost = 0
        self.present = 0
        self.refused: Counter[int] = Counter()
        self.heard: Counter[int] = Counter()
        self._choose = choose
        self._clients: list[IdleClient] = []
        self._gate = asyncio.Semaphore(_OPENING)
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._ended = False

    async def start(self, deadline_s: float) -> float:
        """Connect everybody; the seconds that it took."""
        self._clients = [IdleClient(self, number) for number in range(self.count)]
        started = time.monotonic()
        for number in range(self.count):
            self.wants(number)
        return await self.all_online(started, deadline_s)

    async def all_online(self, since: float, deadline_s: float) -> float:
        """Wait until everybody is; the seconds since ``since``."""
        while self.online < self.count:
            passed = time.monotonic() - since
            assert passed < deadline_s, (
                f"{self.online} of {self.count} online after {passed:.0f} s,"
                f" refused: {dict(self.refused)}"
            )
            await asyncio.sleep(0.01)
        return time.monotonic() - since

    def wants(self, number: int, pause_s: float = 0.0) -> None:
        """Begin to connect the client of that number, unless it is over."""
        if not self._ended:
            self._opening[number] = asyncio.ensure_future(self._open(number, pause_s))

    async def _open(self, number: int, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        client = self._clients[number]
        loop = asyncio.get_running_loop()
        while True:
            async with self._gate:
                try:
                    async with asyncio.timeout(_CONNACK_S):
                        await loop.create_connection(lambda: client, *self._choose(number))
                    break
                except (OSError, TimeoutError):
                    pass
            await asyncio.sleep(_RETRY_S)
        del self._opening[number]

    async def stop(self) -> None:
        """Drop everybody."""
        self._ended = True
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for client in self._clients:
            client.close()
        await asyncio.sleep(0)
