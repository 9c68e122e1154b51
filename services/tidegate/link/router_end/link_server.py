"""The router's end of the link: accepts edges, and serves each while its stream lasts.

Run by ``roles.router``. Owns the streams, and builds the parts; each of them calls only those
before it::

    attached_edges   which edges there are, and the return of their credit
    barriers         everything an edge has published is confirmed, every edge has what it was sent
    router_figures   what this router and other processes count
    request_handler  requests of edges
    edge_frames      frames from edges
    pause_watch      whether this process has stood still for so long that edges have given it up
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from tidegate.link.frame_stream import FrameStream
from tidegate.link.interfaces import RouterService
from tidegate.link.messages import SMALL_BYTES
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.router_end.barriers import Barriers
from tidegate.link.router_end.edge_frames import EdgeFrameHandler
from tidegate.link.router_end.edge_peer import EdgePeer
from tidegate.link.router_end.pause_watch import PauseWatch
from tidegate.link.router_end.request_handler import RequestHandler
from tidegate.link.router_end.router_figures import RouterFigures
from tidegate.link.transport import make_listener
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import NEWEST_VERSION, OLDEST_VERSION
from tidegate.runtime.config.model import LinkConfig
from tidegate.runtime.process.clock import BrokerClock
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S: Final = 10.0
#: How often a pause of this process is looked for while no frames come, in a heartbeat.
_LOOKS: Final = 4


class _Closed(Exception):
    """This end has closed the stream."""


class LinkServer:
    """See the module's docstring. ``start`` when the router is ready, ``stop`` at the end."""

    def __init__(
        self, router: RouterService, name: str, config: LinkConfig, counters: Counters
    ) -> None:
        self._router = router
        self._name = name
        self._config = config
        self._counters = counters
        self._listener = make_listener(config.carrier, self.attach, counters)
        self.stopping = False
        self.tasks = Tasks(counters)
        self.pauses = PauseWatch(config.timeout_s - config.heartbeat_s)
        self._pause_watch: asyncio.Task[None] | None = None
        self.attached = AttachedEdges(config.mailbox_bytes)
        barriers = Barriers(self.attached, config.stall_s, config.timeout_s)
        self.figures = RouterFigures(router, self.attached)
        self._request_handler = RequestHandler(
            router, counters, self.tasks, self.attached, barriers
        )
        self.frame_handler = EdgeFrameHandler(
            router, counters, self.attached, self._request_handler, barriers, self.figures
        )

    def share_time(self, clock: BrokerClock) -> None:
        """Set the clocks of edges to broker time, with every renewal of their leases."""
        self._request_handler.clock = clock

    # Start and stop

    async def start(self) -> str:
        """Accept edges; return the address. Raises OSError."""
        address = await self._listener.start(self._config.listen, self._config.tls)
        await self._listener.set_serving(is_serving=True)
        return address

    async def leave(self, timeout_s: float) -> None:
        """Have the edges detach; return when all have, or after ``timeout_s``."""
        self.stopping = True
        await self._listener.set_serving(is_serving=False)
        for attached in self.attached.by_id.values():
            attached.peer.outbox.operation().leaving.SetInParent()
            attached.peer.outbox.grew(SMALL_BYTES)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while self.attached.by_id and loop.time() < until_s:
            try:
                async with asyncio.timeout_at(until_s):
                    await self.attached.wait_changed()
            except TimeoutError:
                break

    async def stop(self) -> None:
        """Close every stream."""
        self.stopping = True
        self.drop_all()
        await self._listener.stop()
        await self.tasks.stop(*filter(None, [self._pause_watch]))

    def drop_all(self) -> None:
        """Close every stream; edges reconnect, and resend what was not confirmed."""
        for attached in list(self.attached.by_id.values()):
            self._drop(attached)

    def fenced(self) -> None:
        """Close every stream: the router was fenced, and continues as another instance."""
        self.drop_all()
        self.attached.forget_publishes()

    @property
    def edges(self) -> list[EdgePeer]:
        """The edges that are attached."""
        return self.attached.peers

    def _drop(self, attached: AttachedEdge) -> None:
        self._detached(attached)
        if not attached.closing.done():
            attached.closing.set_result(None)

    def _give_up(self, attached: AttachedEdge) -> None:
        log.warning(
            "edge may have lost its sessions, closing its stream",
            extra={"edge": attached.peer.name},
        )
        self._drop(attached)

    # Streams

    async def attach(self, stream: FrameStream[pb.EdgeFrame, pb.RouterFrame]) -> None:
        """Serve one edge while its stream lasts."""
        self._watch_pauses()
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await stream.read()
                if first is None:
                    return
                welcome = self._welcome(first)
                await stream.write(pb.RouterFrame(welcome=welcome))
                if welcome.refusal:
                    return
                # An edge that connects through two addresses keeps one of them: until it sends a
                # frame here, its other connection stays.
                frame = await stream.read()
        except TimeoutError:
            return
        if frame is None or self.stopping:
            return
        hello = first.hello
        peer = EdgePeer(hello.edge_id, hello.name, welcome.version, self._config, self._counters)
        attached = AttachedEdge(peer)
        peer.on_given_up = lambda: self._give_up(attached)
        before = self.attached.by_id.get(peer.edge_id)
        if before is not None:
            self._drop(before)
        self.attached.by_id[peer.edge_id] = attached
        self._router.attach_edge(peer)
        log.info("edge attached", extra={"edge": peer.name})
        reader = asyncio.create_task(self._read(stream, attached, frame))
        writer = asyncio.create_task(
            peer.outbox.send(stream.write, lambda: self.attached.frame_sent(peer))
        )
        watch = asyncio.create_task(self._watch(attached))
        del frame  # it may be large
        try:
            await asyncio.wait(
                {reader, writer, attached.closing}, return_when=asyncio.FIRST_COMPLETED
            )
            if reader.done():
                reader.result()
        finally:
            self._detached(attached)
            for task in (reader, writer, watch):
                task.cancel()
            await asyncio.gather(reader, writer, watch, return_exceptions=True)

    async def _read(
        self,
        stream: FrameStream[pb.EdgeFrame, pb.RouterFrame],
        attached: AttachedEdge,
        first: pb.EdgeFrame,
    ) -> None:
        peer, handle = attached.peer, self.frame_handler.receive

        def receive(frame: pb.EdgeFrame) -> None:
            self._end_after_pause()
            if peer.closed:
                raise _Closed
            peer.frames_received += 1
            handle(attached, frame)

        with contextlib.suppress(_Closed):
            receive(first)
            del first  # it may be large
            await stream.receive(receive)

    # Pauses of this process

    def _watch_pauses(self) -> None:
        """Look for pauses from the first stream on."""
        if self._pause_watch is not None:
            self._end_after_pause()
        elif not self.stopping:
            self.pauses.pause_s()  # nothing lay in a socket before
            self._pause_watch = asyncio.create_task(self._look_for_pauses())

    async def _look_for_pauses(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat_s / _LOOKS)
            self._end_after_pause()

    def _end_after_pause(self) -> None:
        """Close every stream, unread, if its edge may have given this router up.

        What lies in them was published through other routers meanwhile, or is lost and counted by
        the edge (QoS 0): read now, it would be delivered behind what is newer. [MQTT-4.6.0-6]
        """
        pause_s = self.pauses.pause_s()
        if pause_s and self.attached.by_id:
            log.warning(
                "router did not run for a while, closing its streams",
                extra={"pause_s": round(pause_s, 3)},
            )
            self.drop_all()

    def _welcome(self, first: pb.EdgeFrame) -> pb.Welcome:
        welcome = pb.Welcome(
            instance=self._router.instance,
            name=self._name,
            credit_bytes=self._config.credit_bytes,
        )
        hello = first.hello
        if not first.HasField("hello") or not hello.edge_id:
            welcome.refusal = pb.REFUSAL_PROTOCOL
            welcome.text = "the first frame must be Hello with an edge_id"
        elif hello.oldest_version > NEWEST_VERSION or hello.newest_version < OLDEST_VERSION:
            welcome.refusal = pb.REFUSAL_VERSION
            welcome.text = (
                f"no common version of the link: router {OLDEST_VERSION} to {NEWEST_VERSION}, "
                f"edge {hello.oldest_version} to {hello.newest_version}"
            )
        elif self.stopping:
            welcome.refusal = pb.REFUSAL_STOPPING
            welcome.text = "router is shutting down"
        else:
            welcome.version = min(hello.newest_version, NEWEST_VERSION)
        return welcome

    def _detached(self, attached: AttachedEdge) -> None:
        peer = attached.peer
        if peer.closed:
            return
        peer.close()
        if self.attached.by_id.get(peer.edge_id) is attached:
            del self.attached.by_id[peer.edge_id]
        self._router.detach_edge(peer)
        self.frame_handler.take_back_all(peer)
        log.info("edge detached", extra={"edge": peer.name})
        self.attached.notify_changed()
        self.attached.return_all_credit()

    async def _watch(self, attached: AttachedEdge) -> None:
        """Send heartbeats; notice when the edge sends none, or takes no frames."""
        config, peer = self._config, attached.peer
        outbox = peer.outbox
        received, sent = peer.frames_received, outbox.sent_count
        said = sent  # heartbeats included
        silent_s = stuck_s = 0.0
        while True:
            await asyncio.sleep(config.heartbeat_s)
            silent_s = silent_s + config.heartbeat_s if peer.frames_received == received else 0.0
            received = peer.frames_received
            if silent_s >= config.timeout_s:
                log.warning("edge heartbeat timeout", extra={"edge": peer.name})
                self._drop(attached)
                return
            moved = outbox.sent_count != sent
            stuck_s = 0.0 if moved or not outbox.queued_bytes else stuck_s + config.heartbeat_s
            if stuck_s >= config.stall_s and not peer.stalled:
                peer.stalled = True
                self.attached.return_all_credit()
            sent = outbox.sent_count
            if sent <= said and not outbox.queued_bytes:
                outbox.grew(1)
                said = sent + 1
            else:
                said = sent
