"""A TCP proxy for one pair of processes that can be cut, go silent, or be slow.

It forwards bytes and knows no protocol. The upstream address is asked for at every connection, so a
process behind it may come back on another port.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from support.closing import close_server, reset

_HIGH_WATER_BYTES: Final = 262_144

#: Host and port, or None while there is nobody to connect to.
Upstream = Callable[[], tuple[str, int] | None]


class Mode(StrEnum):
    """What the proxy does with bytes and connections."""

    PASS = "pass"
    CUT = "cut"  # every connection is reset, new ones at once
    BLACKHOLE = "blackhole"  # connections stay and are accepted, nothing moves in them


class End(asyncio.Protocol):
    """One side of a forwarded connection."""

    def __init__(self, proxy: FaultingProxy) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self.waiting = bytearray()
        self._full = False  # the other side's buffer
        self._due = 0.0
        self._delayed: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport
        assert self.transport is not None
        self.transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proxy.ends.add(self)
        self.steer()

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        # Never before what came earlier: not when the delay has become shorter, nor when a timer is
        # late, for a loop looks at its sockets before it looks at its timers.
        if self._delayed or self.proxy.delay_s:
            self._delayed.append(data)
            self._due = max(self._due, loop.time() + self.proxy.delay_s)
            loop.call_at(self._due, self._pass_next)
        else:
            self._pass_on(data)

    def _pass_next(self) -> None:
        """Pass on what came first: there is a timer for each, and these have no order."""
        self._pass_on(self._delayed.popleft())

    def _pass_on(self, data: bytes) -> None:
        other = self.other
        if other is None or other.transport is None:
            self.waiting += data
            if len(self.waiting) > _HIGH_WATER_BYTES:
                self.steer()
        elif not other.transport.is_closing():
            self.proxy.forwarded_bytes += len(data)
            other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other._full = True
            self.other.steer()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other._full = False
            self.other.steer()

    def steer(self) -> None:
        """Read, or do not: the mode and the room on the other side say."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        held = self._full or self.proxy.mode is not Mode.PASS
        if held or len(self.waiting) > _HIGH_WATER_BYTES:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def join(self, other: End) -> None:
        """Begin to forward between both."""
        self.other, other.other = other, self
        assert other.transport is not None
        if self.waiting:
            other.transport.write(bytes(self.waiting))
            self.waiting.clear()
        self.steer()
        other.steer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.proxy.ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            if exc is None:
                self.other.transport.close()
            else:
                self.other.reset()

    def reset(self) -> None:
        """Close with RST, so that the peer notices at once."""
        if self.transport is not None and not self.transport.is_closing():
            reset(self.transport)


class FaultingProxy:
    """One listener on loopback in front of ``upstream``."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self.mode = Mode.PASS
        self.delay_s = 0.0
        self.ends: set[End] = set()
        self.forwarded_bytes = 0
        self.address = ""

    async def start(self) -> None:
        """Listen on a port that the system chooses; ``address`` is host:port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accepted, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        """Listen no more and reset everything; return when all of it is gone."""
        if self._server is not None:
            await close_server(self._server)
        self._switch(Mode.CUT)
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        while self.ends:
            for end in list(self.ends):
                end.reset()
            await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()

    def cut(self) -> None:
        """Reset all connections, and each new one as soon as it is accepted."""
        self._switch(Mode.CUT)
        for end in list(self.ends):
            end.reset()

    def blackhole(self) -> None:
        """Keep connections and accept new ones, and let nothing through."""
        self._switch(Mode.BLACKHOLE)

    def heal(self) -> None:
        """Forward again; what waited in a black hole goes on, as after a short partition."""
        self._switch(Mode.PASS)

    def _switch(self, mode: Mode) -> None:
        self.mode = mode
        self._moved.set()
        self._moved = asyncio.Event()
        for end in list(self.ends):
            end.steer()

    def _accepted(self) -> End:
        end = End(self)
        task = asyncio.ensure_future(self._connect(end))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return end

    async def _connect(self, near: End) -> None:
        await asyncio.sleep(0)  # connection_made comes first
        while self.mode is Mode.BLACKHOLE:
            await self._moved.wait()
        place = self._upstream()
        if self.mode is Mode.CUT or place is None:
            near.reset()
            return
        loop = asyncio.get_running_loop()
        try:
            _, far = await loop.create_connection(lambda: End(self), *place)
        except OSError:
            near.reset()
            return
        if near.transport is None or near.transport.is_closing():
            far.reset()
            return
        near.join(far)
