"""One address of a router: connects, sends Hello, exchanges frames, and reconnects.

Run by ``router_membership``, one task for each address that discovery finds, which it calls when a
connection begins and ends (``StreamOwner``). Frames go to ``router_frames``; nothing here reads the
operations in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Final, Protocol

from tidegate.link.frame_stream import FrameStream, StreamFailed
from tidegate.link.transport import open_stream
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import NEWEST_VERSION, OLDEST_VERSION

if TYPE_CHECKING:
    from tidegate.link.edge_end.router_frames import RouterFrameHandler
    from tidegate.link.edge_end.router_peer import RouterPeer
    from tidegate.link.edge_end.router_table import RouterTable
    from tidegate.link.outbox import Outbox
    from tidegate.runtime.config.model import LinkConfig
    from tidegate.runtime.telemetry.counters import Counters

    _Stream = FrameStream[pb.RouterFrame, pb.EdgeFrame]

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.05
#: Short, because a router that starts waits for the edges before it routes anything.
LONGEST_PAUSE_S: Final = 1.0
#: How long an address is not used while its router is connected through another one.
STANDBY_S: Final = 30.0


class LinkFailed(Exception):
    """A connection to a router ended, or did not begin; the message says why."""


class AlreadyConnected(Exception):
    """The router at this address is connected through another one already."""

    def __init__(self, peer: RouterPeer) -> None:
        super().__init__(peer.address)
        self.peer = peer


class StreamOwner(Protocol):
    """What a stream asks of, and reports to, the part that runs it."""

    edge_id: str
    name: str
    config: LinkConfig
    counters: Counters
    routers: RouterTable

    def connected(self, address: str, welcome: pb.Welcome) -> RouterPeer:
        """A router has answered Hello: return what to exchange frames for."""

    def disconnected(self, peer: RouterPeer) -> None:
        """That connection has ended."""


class RouterStream:
    """See the module's docstring."""

    __slots__ = ("_frame_handler", "_owner", "_reported", "address", "peer")

    def __init__(self, owner: StreamOwner, frame_handler: RouterFrameHandler, address: str) -> None:
        self._owner = owner
        self._frame_handler = frame_handler
        self.address = address
        #: The router at this address, while connected.
        self.peer: RouterPeer | None = None
        self._reported = False

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            began_s = asyncio.get_running_loop().time()
            other = None
            try:
                await self._connect()
            except AlreadyConnected as error:
                other = error.peer
            except (LinkFailed, StreamFailed, OSError) as error:
                self._report(error)
            except Exception:
                # A fault here, or in what an operation has called: try the next connection.
                log.exception("router connection failed", extra={"address": self.address})
                self._owner.counters.internal_errors += 1
            if other is not None:
                await self._stand_by(other)
            if asyncio.get_running_loop().time() - began_s > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _stand_by(self, other: RouterPeer) -> None:
        """Wait while the router is connected through another address, for a bounded time."""
        log.debug("router connected through another address", extra={"address": self.address})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STANDBY_S):
                await self._owner.routers.wait_disconnected(other)

    def _report(self, error: Exception) -> None:
        if not self._reported:
            log.warning(
                "router unreachable, retrying",
                extra={"address": self.address, "reason": str(error)},
            )
        self._reported = True

    async def _connect(self) -> None:
        async with open_stream(self.address, self._owner.config) as stream:
            welcome = await self._handshake(stream)
            await self._exchange_frames(stream, welcome)

    async def _handshake(self, stream: _Stream) -> pb.Welcome:
        hello = pb.Hello(
            oldest_version=OLDEST_VERSION,
            newest_version=NEWEST_VERSION,
            edge_id=self._owner.edge_id,
            name=self._owner.name,
        )
        try:
            async with asyncio.timeout(self._owner.config.timeout_s):
                await stream.write(pb.EdgeFrame(hello=hello))
                frame = await stream.read()
        except TimeoutError:
            raise LinkFailed("no answer to Hello") from None
        if frame is None or not frame.HasField("welcome"):
            raise LinkFailed("router closed the connection")
        welcome = frame.welcome
        if welcome.refusal:
            raise LinkFailed(f"router refused the edge: {welcome.text}")
        return welcome

    async def _exchange_frames(self, stream: _Stream, welcome: pb.Welcome) -> None:
        owner = self._owner
        other = owner.routers.find_connected(welcome.name, welcome.instance)
        if other is not None:
            # Only Hello has been sent, so the router keeps the other connection.
            raise AlreadyConnected(other)
        peer = owner.connected(self.address, welcome)
        outbox = peer.outbox
        assert outbox is not None
        self.peer = peer
        self._reported = False
        writer = asyncio.create_task(outbox.send(stream.write, _nothing))
        reader = asyncio.create_task(self._read(stream, peer, outbox))
        heartbeat = asyncio.create_task(self._heartbeat(peer))
        tasks = [writer, reader, heartbeat]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self.peer = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if peer.outbox is outbox:
                owner.disconnected(peer)

    async def _read(self, stream: _Stream, peer: RouterPeer, outbox: Outbox[pb.EdgeFrame]) -> None:
        handle = self._frame_handler.receive

        def receive(frame: pb.RouterFrame) -> None:
            if peer.outbox is not outbox:
                raise LinkFailed("replaced by a newer connection")
            peer.frames_received += 1
            handle(peer, frame)

        await stream.receive(receive)
        raise LinkFailed("router closed the connection")

    async def _heartbeat(self, peer: RouterPeer) -> None:
        """Send a frame when there was none to send; raise when the router sends none."""
        config = self._owner.config
        outbox = peer.outbox
        assert outbox is not None
        received, said, silent_s = peer.frames_received, outbox.sent_count, 0.0
        while True:
            await asyncio.sleep(config.heartbeat_s)
            # Counted in own heartbeats: a pause of this process is not one of the router.
            silent_s = silent_s + config.heartbeat_s if peer.frames_received == received else 0.0
            received = peer.frames_received
            if silent_s >= config.timeout_s:
                raise LinkFailed("heartbeat timeout")
            sent = outbox.sent_count
            if sent <= said and not outbox.queued_bytes:
                outbox.grew(1)
                said = sent + 1  # the heartbeat itself does not count
            else:
                said = sent


def _nothing() -> None:
    pass
