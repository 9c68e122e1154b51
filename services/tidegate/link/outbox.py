"""What waits to be sent over one stream, as frames that fill while the one before is being sent.

Both ends have one for each stream. A part that adds an operation to ``frame`` calls ``grew``; one
task runs ``send``. No timer while idle, batches under load, frames of bounded size. Never reads a
frame.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

F = TypeVar("F")

#: A frame that has grown to this size is closed, and the next one begins.
FRAME_BYTES: Final = 1_048_576
#: A frame of this size is sent without waiting for more operations.
FULL_BYTES: Final = 65_536
#: Least time from one frame to the next, unless it is full. A frame costs as much as a hundred
#: messages in it, so a busy stream waits this long for more; an idle one sends at once.
GATHER_S: Final = 0.003


class Outbox(Generic[F]):
    """See the module's docstring. ``queued_bytes`` is what has been added and not yet sent.

    ``window_bytes`` bounds what has been sent and not confirmed (0: the peer confirms nothing).
    gRPC has bounds too, but it takes megabytes before a write waits.
    """

    __slots__ = (
        "_confirmed",
        "_full",
        "_gather_s",
        "_loop",
        "_make",
        "_room",
        "_sending",
        "_size",
        "_unconfirmed",
        "_unconfirmed_bytes",
        "_wake",
        "_window_bytes",
        "frame",
        "queued_bytes",
        "sent_count",
    )

    def __init__(
        self, make: Callable[[], F], window_bytes: int = 0, gather_s: float = GATHER_S
    ) -> None:
        self._make = make
        self._gather_s = gather_s
        self._window_bytes = window_bytes
        self._unconfirmed: deque[int] = deque()
        self._unconfirmed_bytes = 0
        self._confirmed = 0
        self._room: asyncio.Future[None] | None = None
        #: The frame to add to. Never keep it: it changes.
        self.frame: F = make()
        self._size = 0
        self._full: deque[tuple[F, int]] = deque()
        self._sending: F | None = None
        self.queued_bytes = 0
        #: Frames that gRPC has accepted, in all.
        self.sent_count = 0
        self._wake: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    def grew(self, size_bytes: int) -> None:
        """About so many bytes have been added to ``frame``."""
        self.queued_bytes += size_bytes
        self._size += size_bytes
        if self._size >= FRAME_BYTES:
            self._close()
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def confirm(self, count: int) -> None:
        """The peer has handled so many frames in all."""
        sizes = self._unconfirmed
        while self._confirmed < count and sizes:
            self._confirmed += 1
            self._unconfirmed_bytes -= sizes.popleft()
        room = self._room
        if room is not None and not room.done() and self._unconfirmed_bytes < self._window_bytes:
            room.set_result(None)

    def unsent(self) -> list[F]:
        """The frames that gRPC has not accepted, in order."""
        first = [] if self._sending is None else [self._sending]
        return [*first, *(frame for frame, _ in self._full), self.frame]

    def _close(self) -> None:
        self._full.append((self.frame, self._size))
        self.frame = self._make()
        self._size = 0

    async def send(self, write: Callable[[F], Awaitable[object]], sent: Callable[[], None]) -> None:
        """Write frames with ``write``, one after the other, without end; call ``sent`` after each.

        Ends with whatever ``write`` raises.
        """
        sent_s = 0.0
        while True:
            while not self._size and not self._full:
                self._wake = self._loop.create_future()
                await self._wake
            if not self._full and self._size < FULL_BYTES:
                left_s = sent_s + self._gather_s - self._loop.time()
                if left_s > 0:
                    await asyncio.sleep(left_s)
            if not self._full:
                self._close()
            frame, size = self._full.popleft()
            self._sending = frame
            if self._window_bytes:
                while self._unconfirmed_bytes >= self._window_bytes:
                    self._room = self._loop.create_future()
                    await self._room
                self._unconfirmed.append(size)
                self._unconfirmed_bytes += size
            sent_s = self._loop.time()
            await write(frame)
            self._sending = None
            self.queued_bytes -= size
            self.sent_count += 1
            sent()
