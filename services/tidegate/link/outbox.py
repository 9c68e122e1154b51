"""What waits to be sent over one stream, as frames that fill while the one before is being sent.

Both ends have one for each stream. A part that adds an operation, or a record (``records``), calls
``grew``; one task runs ``send``. How long a frame waits for more is ``gathering``'s rule: not at
all on a stream that is not busy. Frames have a bounded size. Never reads one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from tidegate.link.gathering import Gathering


class Frame(Protocol):
    """What an outbox needs of a frame."""

    @property
    def operations(self) -> Any:
        """Its operations, in order: protobuf's container of EdgeOperation or RouterOperation."""


F = TypeVar("F", bound=Frame)

#: A frame that has grown to this size is closed, and the next one begins.
FRAME_BYTES: Final = 1_048_576
#: A frame of this size is sent without waiting for more operations.
FULL_BYTES: Final = 65_536
#: Least time from one frame of a busy stream to the next, unless it is full or urgent: a frame
#: costs as much as ten messages in it.
GATHER_S: Final = 0.003


class Outbox(Generic[F]):
    """See the module's docstring. ``queued_bytes`` is what has been added and not yet sent.

    ``window_bytes`` bounds what has been sent and not confirmed (0: the peer confirms nothing).
    gRPC has bounds too, but it takes megabytes before a write waits. ``clock`` is not the time of
    the event loop, because uvloop's is a whole number of milliseconds.
    """

    __slots__ = (
        "_clock",
        "_confirmed",
        "_full",
        "_gathered",
        "_gathering",
        "_is_urgent",
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
        "records",
        "sent_count",
    )

    def __init__(
        self,
        make: Callable[[], F],
        window_bytes: int = 0,
        gather_s: float = GATHER_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._make = make
        self._clock = clock
        self._gathering = Gathering(gather_s)
        #: Something in ``frame`` is not to wait for more.
        self._is_urgent = False
        #: Done: the wait for more operations is over.
        self._gathered: asyncio.Future[None] | None = None
        self._window_bytes = window_bytes
        self._unconfirmed: deque[int] = deque()
        self._unconfirmed_bytes = 0
        self._confirmed = 0
        self._room: asyncio.Future[None] | None = None
        #: The frame to add to; ``operation`` adds an operation. Never keep it: it changes.
        self.frame: F = make()
        #: Records behind the operations of ``frame``: only to append to.
        self.records: list[bytes] = []
        self._size = 0
        self._full: deque[tuple[F, int]] = deque()
        self._sending: F | None = None
        self.queued_bytes = 0
        #: Frames that gRPC has accepted, in all.
        self.sent_count = 0
        self._wake: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    def operation(self) -> Any:
        """Add an operation to the frame, behind the records until now, and return it."""
        if self.records:
            self._add_records()
        return self.frame.operations.add()

    def _add_records(self) -> None:
        self.frame.operations.add().records = b"".join(self.records)
        self.records.clear()

    def grew(self, size_bytes: int) -> None:
        """About so many bytes have been added to ``frame`` or ``records``."""
        self.queued_bytes += size_bytes
        self._size += size_bytes
        if self._size >= FULL_BYTES:
            self._end_gathering()
            if self._size >= FRAME_BYTES:
                self._close()
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def hurry(self) -> None:
        """Send what has been added without waiting for more: a client waits for the answer."""
        self._is_urgent = True
        self._end_gathering()

    def _end_gathering(self) -> None:
        if self._gathered is not None and not self._gathered.done():
            self._gathered.set_result(None)

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
        if self.records:
            self._add_records()
        first = [] if self._sending is None else [self._sending]
        return [*first, *(frame for frame, _ in self._full), self.frame]

    def _close(self) -> None:
        if self.records:
            self._add_records()
        self._full.append((self.frame, self._size))
        self.frame = self._make()
        self._size = 0
        self._is_urgent = False

    async def send(self, write: Callable[[F], Awaitable[object]], sent: Callable[[], None]) -> None:
        """Write frames with ``write``, one after the other, without end; call ``sent`` after each.

        Ends with whatever ``write`` raises.
        """
        loop, clock, gathering = self._loop, self._clock, self._gathering
        while True:
            while not self._size and not self._full:
                self._wake = loop.create_future()
                await self._wake
            wait_s = gathering.wait_s(clock())
            if wait_s and not self._full and self._size < FULL_BYTES and not self._is_urgent:
                await self._gather(wait_s)
            if not self._full:
                self._close()
            frame, size = self._full.popleft()
            self._sending = frame
            if self._window_bytes:
                while self._unconfirmed_bytes >= self._window_bytes:
                    self._room = loop.create_future()
                    await self._room
                self._unconfirmed.append(size)
                self._unconfirmed_bytes += size
            gathering.sent(clock())
            await write(frame)
            self._sending = None
            self.queued_bytes -= size
            self.sent_count += 1
            sent()

    async def _gather(self, wait_s: float) -> None:
        """Wait for more operations, until there are enough or one is urgent."""
        gathered = self._gathered = self._loop.create_future()
        timer = self._loop.call_later(wait_s, self._end_gathering)
        try:
            await gathered
        finally:
            timer.cancel()
            self._gathered = None
