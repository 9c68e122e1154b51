"""Routers that join, leave, fail and return, and the order of publishes meanwhile (G4).

Owns the streams (one for each address that discovery finds), the state of every ``RouterPeer``, and
is the only part that changes ``router_table``. ``router_stream`` reports when a connection begins
and ends; a router announces itself that it leaves. A topic moves to another router only when
everything published before is confirmed, or when the router that had it has been fenced in the
store: ``docs/adr/0008-the-link.md`` has the reason. Which publish goes where meanwhile is decided
in ``publish_dispatch``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from tidegate.link.edge_end.discovery import resolve
from tidegate.link.edge_end.publish_dispatch import PublishDispatcher
from tidegate.link.edge_end.requests import RETRY_S
from tidegate.link.edge_end.router_frames import RouterFrameHandler
from tidegate.link.edge_end.router_peer import LinkLost, RouterPeer, State
from tidegate.link.edge_end.router_stream import RouterStream
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.edge_end.snapshot import Snapshot
from tidegate.link.edge_end.verification import Verification
from tidegate.link.interfaces import EdgeLink
from tidegate.link.outbox import Outbox
from tidegate.link.v1 import link_pb2 as pb
from tidegate.runtime.config.model import LinkConfig
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

#: How often addresses are resolved while no router is connected: all clients wait.
NO_ROUTER_INTERVAL_S: Final = 1.0
#: For so long a router whose connection was lost may return as the same instance.
RECONNECT_GRACE_S: Final = 1.0
#: How often a router that joins is asked whether all edges have attached to it.
EDGES_PAUSE_S: Final = 0.02
LONGEST_EDGES_PAUSE_S: Final = 0.5


class RouterMembership:
    """See the module's docstring. ``edge`` must be set before the first connection."""

    __slots__ = (
        "_discover_now",
        "_frame_handler",
        "_publish_dispatcher",
        "_snapshot",
        "_tasks",
        "_verification",
        "config",
        "counters",
        "edge",
        "edge_id",
        "name",
        "routers",
        "streams",
    )

    edge: EdgeLink

    def __init__(
        self,
        edge_id: str,
        name: str,
        config: LinkConfig,
        counters: Counters,
        *,
        tasks: Tasks,
        routers: RouterTable,
        snapshot: Snapshot,
        publish_dispatcher: PublishDispatcher,
        frame_handler: RouterFrameHandler,
        verification: Verification,
    ) -> None:
        self.edge_id = edge_id
        self.name = name
        self.config = config
        self.counters = counters
        self._tasks = tasks
        self.routers = routers
        self._snapshot = snapshot
        self._publish_dispatcher = publish_dispatcher
        self._frame_handler = frame_handler
        self._verification = verification
        #: By address, with the task that runs it.
        self.streams: dict[str, tuple[RouterStream, asyncio.Task[None]]] = {}
        #: Set: resolve addresses now.
        self._discover_now = asyncio.Event()
        frame_handler.on("leaving", self._on_leaving)

    # Addresses

    def start(self) -> None:
        """Begin to search for routers."""
        self._tasks.spawn(self._discover())

    def discover_now(self) -> None:
        """Resolve the addresses of routers now."""
        self._discover_now.set()

    async def _discover(self) -> None:
        streams = self.streams
        while True:
            found, complete = await resolve(self.config.routers)
            for address in found - streams.keys():
                stream = RouterStream(self, self._frame_handler, address)
                streams[address] = (stream, asyncio.create_task(stream.run()))
            for address in streams.keys() - found:
                # Names that were not resolved may still be valid; keep streams that are in use.
                if complete and streams[address][0].peer is None:
                    streams.pop(address)[1].cancel()
            interval_s = self.config.discovery_interval_s
            if not self.routers.connected():
                interval_s = min(interval_s, NO_ROUTER_INTERVAL_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._discover_now.wait()
            self._discover_now.clear()

    def _forget_stream(self, peer: RouterPeer) -> None:
        """Close the connection to a router that leaves: it waits for that before it ends."""
        self.routers.disconnect(peer)
        for address, (stream, task) in list(self.streams.items()):
            if stream.peer is peer:
                task.cancel()
                del self.streams[address]

    # Joining

    def connected(self, address: str, welcome: pb.Welcome) -> RouterPeer:
        """Begin a connection: send the router the snapshot of this edge."""
        routers = self.routers
        peer = routers.members.get(welcome.name) or routers.find_connected(welcome.name)
        if peer is None:
            peer = RouterPeer(welcome.name, address)
        elif peer.attached:
            # An earlier instance of it: it has ended, only its stream has not been closed yet.
            self.disconnected(peer)
        is_new_instance = peer.instance != welcome.instance
        peer.address = address
        peer.instance = welcome.instance
        peer.unfenced_instances.add(welcome.instance)
        peer.version = welcome.version
        peer.credit_bytes = welcome.credit_bytes
        peer.outbox = Outbox(pb.EdgeFrame, gather_s=self.config.gather_s)
        peer.frames_taken = peer.unreported_bytes = 0
        routers.connect(peer)
        self._snapshot.send_all(peer.outbox)
        self._tasks.spawn(self._join(peer, peer.outbox, is_new_instance))
        return peer

    async def _join(
        self, peer: RouterPeer, outbox: Outbox[pb.EdgeFrame], is_new_instance: bool
    ) -> None:
        """Prepare a router for its first publish. Returns early when the connection is lost."""
        routers = self.routers
        try:
            await peer.sync()
            # From here on the router refuses what is superseded; what was before, this finds.
            is_verified = await self._verification.verify()
            await self._fence_instances(peer, peer)
            if is_new_instance:
                if routers.is_member(peer) and routers.serving(peer):
                    # It joins like a new router: the others have its topics until then.
                    self._remove(peer)
                await self._wait_for_edges(peer)
        except LinkLost:
            return
        if peer.outbox is not outbox or peer.state is State.LEAVING:
            return
        log.info("attached to router", extra={"router": peer.name, "address": peer.address})
        if not routers.is_member(peer):
            others = list(routers.members.values())
            routers.add(peer)
            peer.gate = None
            if others:
                peer.gate = asyncio.Event()
                self._tasks.spawn(self._open_gate(peer.gate, others))
        if peer.gate is not None and not peer.gate.is_set():
            peer.state = State.GATED
            routers.notify_changed()
            await peer.gate.wait()
        if peer.outbox is not outbox or peer.state is State.LEAVING:
            # The connection was lost meanwhile: the next one finds it a member, and opens it.
            return
        peer.state = State.OPEN if is_verified else State.UNVERIFIED
        if not is_verified:
            self._tasks.spawn(self._open_when_verified(peer, outbox))
        self._send_waiting(peer)
        self._publish_dispatcher.reroute()
        self._publish_dispatcher.resume()
        self.edge.pushes_lost()

    def _send_waiting(self, peer: RouterPeer) -> None:
        """Send what has waited for a change of the router's state."""
        dropped = peer.send_waiting()
        self.counters.published += dropped
        self.counters.dropped["superseded"] += dropped
        self.routers.notify_changed()

    async def _open_when_verified(self, peer: RouterPeer, outbox: Outbox[pb.EdgeFrame]) -> None:
        """Hold back what needs the store until the store has said who is superseded."""
        await self._verification.verified()
        if peer.outbox is outbox and peer.state is State.UNVERIFIED:
            peer.state = State.OPEN
            self._send_waiting(peer)
            self._publish_dispatcher.resume()

    async def _wait_for_edges(self, peer: RouterPeer) -> None:
        """Wait until the edges attached to other routers are attached to this router too.

        Until then it does not know the interest of their clients, and what is published through it
        does not reach them. The wait is bounded. Without another router to ask, it is for the edges
        with a lease: all routers have restarted, and edges attach one after the other. Raises
        LinkLost.
        """
        loop = asyncio.get_running_loop()
        config = self.config
        until_s = loop.time() + 2 * config.discovery_interval_s + config.timeout_s
        pause_s = EDGES_PAUSE_S
        while True:
            known_edges: set[str] = set()
            others = self.routers.serving(peer)
            for other in others:
                with contextlib.suppress(LinkLost):
                    known_edges.update((await _edges_of(other)).edges.edge_ids)
            reply = await _edges_of(peer, living=not others)
            here = reply.edges
            missing = known_edges.union(here.living).difference(here.edge_ids)
            # Without the store a router does not know the leases; that does not mean: none.
            if not missing and reply.failure in {pb.FAILURE_NONE, pb.FAILURE_UNSUPPORTED}:
                return
            if loop.time() >= until_s:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_EDGES_PAUSE_S)
        log.warning(
            "router used before all edges have attached to it",
            extra={"router": peer.name, "edges": len(missing)},
        )

    async def _open_gate(self, gate: asyncio.Event, others: list[RouterPeer]) -> None:
        """Open a gate once what was published through the other members is confirmed."""
        await asyncio.gather(*(self._barrier(member) for member in others))
        gate.set()

    async def _barrier(self, member: RouterPeer) -> None:
        """Return when what was published through a member is confirmed, or it is removed."""
        while self.routers.is_member(member):
            if member.state is State.OPEN:
                try:
                    await member.request(pb.Request(barrier=pb.BarrierRequest()))
                except LinkLost:
                    continue
                return
            await self.routers.wait_changed()

    # Connections lost

    def disconnected(self, peer: RouterPeer) -> None:
        """A connection ended: keep what is not confirmed for the router, or for another one."""
        lost = peer.disconnected()
        if lost:
            self.counters.published += lost
            self.counters.dropped["link_lost"] += lost
        self.routers.disconnect(peer)
        if self.routers.is_member(peer):
            log.warning("router connection lost", extra={"router": peer.name})
            self._tasks.spawn(self._handle_loss(peer))
        else:
            # It had not joined: no task handles its loss.
            self._publish_dispatcher.reroute(peer.take_waiting())
        if not self.routers.reachable():
            self._publish_dispatcher.pause()
        self.edge.pushes_lost()

    async def _handle_loss(self, peer: RouterPeer) -> None:
        """Wait a moment for a router to return; then fence it, and resend what it had."""
        routers = self.routers
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_GRACE_S):
                while not peer.attached:
                    await routers.wait_changed()
        while routers.is_member(peer) and not peer.attached:
            others = routers.others(peer)
            if not others:
                await routers.wait_changed()
                continue
            with contextlib.suppress(LinkLost):
                await self._fence_instances(peer, others[0])
                if routers.is_member(peer) and not peer.attached:
                    log.warning("router lost, resending its publishes", extra={"router": peer.name})
                    self._remove(peer)

    async def _fence_instances(self, peer: RouterPeer, through: RouterPeer) -> None:
        """Have the store refuse later writes of a router's instances that have ended here.

        Returns early when the router returns while another one is asked. Raises LinkLost.
        """
        own = peer.instance if through is peer else ""
        for instance in peer.unfenced_instances - {own}:
            while True:
                request = pb.Request(fence=pb.FenceRequest(instance=instance))
                if not (await through.request(request)).failure:
                    break
                await asyncio.sleep(RETRY_S)
                if through is not peer and peer.attached:
                    return
            peer.unfenced_instances.discard(instance)

    def _remove(self, peer: RouterPeer) -> None:
        """Remove a router from the table, and reroute what waits for it, in order."""
        self.routers.remove(peer)
        self._publish_dispatcher.reroute(peer.take_waiting())
        self._publish_dispatcher.resume()

    # Leaving

    def _on_leaving(self, peer: RouterPeer, _operation: pb.Leaving) -> None:
        if peer.state is not State.LEAVING:
            self._tasks.spawn(self._leave(peer, peer.outbox))

    async def _leave(self, peer: RouterPeer, outbox: Outbox[pb.EdgeFrame] | None) -> None:
        """A router shuts down: wait until what it has is confirmed, then remove it."""
        routers = self.routers
        while not routers.serving(peer):
            # No other router could replace it: use it until it ends.
            await routers.wait_changed()
            if peer.outbox is not outbox:
                return
        peer.state = State.LEAVING
        routers.notify_changed()
        try:
            await peer.request(pb.Request(barrier=pb.BarrierRequest(last=True)))
        except LinkLost:
            return
        # All that it was sent is confirmed, also where the frame with that has not arrived.
        peer.unacknowledged_count = 0
        if routers.is_member(peer):
            log.info("router stopping, detached from it", extra={"router": peer.name})
            self._remove(peer)
        self._forget_stream(peer)


async def _edges_of(peer: RouterPeer, *, living: bool = False) -> pb.Reply:
    """Request the edges of a router (none if it is too old for that). Raises LinkLost."""
    return await peer.request(pb.Request(edges=pb.EdgesRequest(living=living)))
