"""All routers, as an edge sees them: which one gets what, and what happens when one comes or goes.

Implements ``RouterLink`` for an edge in a process of its own. A publish goes to the router that
rendezvous hashing names for its topic, session work to the one for its client identifier,
subscriptions to all. Nothing here decides about correctness (the store's scripts do), but order is
kept here (G4): a topic moves to another router only when everything published before is settled, or
when the router that had it has been fenced in the store. ``docs/adr/0008-the-link.md`` has the why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

from tidegate.core.rendezvous import owner
from tidegate.link.api import (
    PUBLISHED,
    AttachedSession,
    AttachSession,
    DetachSession,
    EdgeLink,
    Origin,
    RouterUnavailable,
    SessionFenced,
)
from tidegate.link.channel import SMALL, LinkLost, RouterChannel, Sent, State
from tidegate.link.discovery import resolve
from tidegate.link.messages import (
    read_attached,
    read_message,
    read_options,
    size_of,
    write_attach,
    write_detach,
    write_message,
    write_subscriptions,
)
from tidegate.link.outbox import Outbox
from tidegate.link.stream import RouterStream
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.config import LinkConfig
from tidegate.runtime.telemetry import Counters

log = logging.getLogger(__name__)

MAX_OWNERS: Final = 20_000
#: A router that is gone may be back, as it was, after a moment.
GRACE_S: Final = 1.0
RETRY_S: Final = 0.2
#: How often it is asked whether all edges have come to a router that joins.
EDGES_PAUSE_S: Final = 0.02
LONGEST_EDGES_PAUSE_S: Final = 0.5
TRIES: Final = 4
SNAPSHOT_FILTERS: Final = 500
VERIFY_PAGE: Final = 500
#: How often queues are looked into while a living router cannot be reached.
DEGRADED_S: Final = 1.0


class SharedReceipt:
    """Tells the router that gave a shared message what became of it."""

    __slots__ = ("_channel", "_fleet", "_group", "_id", "_message", "_outbox")

    def __init__(
        self, fleet: Fleet, channel: RouterChannel, number: int, group: str, message: Publish
    ) -> None:
        self._fleet = fleet
        self._channel = channel
        self._outbox = channel.outbox
        self._id = number
        self._group = group
        self._message = message

    def done(self) -> None:
        """Over (see api.SharedReceipt)."""
        outbox = self._outbox
        if outbox is not None and self._channel.outbox is outbox:
            outbox.frame.shared_done.append(self._id)
            outbox.grew(8)

    def returned(self) -> None:
        """For another member (see api.SharedReceipt)."""
        outbox = self._outbox
        if outbox is not None and self._channel.outbox is outbox:
            outbox.frame.operations.add().shared_returned.id = self._id
            outbox.grew(SMALL)
        else:
            self._fleet.redispatch(self._group, self._message)


class Fleet:
    """See the module's docstring. ``edge`` must be set before ``start``."""

    edge: EdgeLink

    def __init__(
        self, edge_id: str, name: str, config: LinkConfig, lease_s: float, counters: Counters
    ) -> None:
        self.edge_id = edge_id
        self.name = name
        self.config = config
        self._lease_s = lease_s
        self.counters = counters
        #: Called when publishers must wait, and when they may go on.
        self.hold_publishing: Callable[[], None] = _nothing
        self.resume_publishing: Callable[[], None] = _nothing
        #: What this edge adds to the figures of the whole broker; nothing: it tells none.
        self.figures: Callable[[], dict[str, int]] = dict
        self._figures_of_routers: dict[str, dict[str, int]] = {}
        #: Connections of this edge, as (client_id, epoch): what is verified after an absence.
        self.connections: Callable[[], list[tuple[str, int]]] = list
        #: Routers by name: those that topics are spread over, here or not.
        self.members: dict[str, RouterChannel] = {}
        self._owners: dict[str, RouterChannel] = {}
        #: By client identifier; any router that is there would do as well.
        self._session_routers: dict[str, RouterChannel] = {}
        self._homeless: list[Sent] = []
        self._holding = False
        self._order = 0
        self._interest: set[str] = set()
        self._shared: dict[str, tuple[int, dict[str, SubscriptionOptions]]] = {}
        self._held: dict[str, tuple[int, int]] = {}
        self._streams: dict[str, tuple[RouterStream, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        self._leased = False
        self._leased_until_s = 0.0
        self._verifying = False
        self._must_verify = False
        self._living: set[str] = set()
        self._stopped = False
        #: Set: look for routers now.
        self._look = asyncio.Event()
        self._handlers: dict[str, Callable[[RouterChannel, Any], None]] = {
            "deliver": self._on_deliver,
            "push": self._on_push,
            "shared": self._on_shared,
            "kick": self._on_kick,
            "reply": _on_reply,
            "applied": _on_applied,
            "echo": _on_echo,
            "pushes_lost": self._on_pushes_lost,
            "figures": self._on_figures,
            "leaving": self._on_leaving,
        }

    # Life

    async def start(self) -> None:
        """Begin to look for routers."""
        self._spawn(self._discover())
        self._spawn(self._keep_lease())
        self._spawn(self._watch_absent())

    async def ready(self) -> None:
        """Return when at least one router can be reached, and every router knows that we live."""
        while not self.reachable() or not self._leased:
            await self._change()

    def reachable(self) -> list[RouterChannel]:
        """The routers that are there now."""
        return [channel for channel in self.members.values() if channel.attached]

    async def stop(self) -> None:
        """End the lease and the connections; the edge's clients are gone already."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                # What clients published last may still be on its way.
                await asyncio.gather(
                    *(
                        channel.request(pb.Request(barrier=pb.BarrierRequest()))
                        for channel in self.reachable()
                    ),
                    return_exceptions=True,
                )
                await self._ask(self.edge_id, pb.Request(end_lease=pb.EndLeaseRequest()))
        except (RouterUnavailable, TimeoutError) as error:
            log.warning("the lease could not be ended", extra={"reason": str(error)})
        self._stopped = True
        tasks = [*self._tasks, *(task for _, task in self._streams.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._stopped:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.counters.internal_errors += 1
            log.error("a task of the link failed", exc_info=task.exception())

    async def _discover(self) -> None:
        while True:
            found, complete = await resolve(self.config.routers)
            for address in found - self._streams.keys():
                stream = RouterStream(self, address)
                self._streams[address] = (stream, asyncio.create_task(stream.run()))
            for address in self._streams.keys() - found:
                # What could not be looked up may still be there; what serves is left alone.
                if complete and self._streams[address][0].channel is None:
                    self._streams.pop(address)[1].cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.discovery_interval_s):
                    await self._look.wait()
            self._look.clear()

    async def _change(self) -> None:
        """Wait until a router has come, gone, or changed its state."""
        self._changed.clear()
        await self._changed.wait()

    # Members

    def attached_to(self, name: str, instance: str = "") -> RouterChannel | None:
        """The channel with a connection to a router (only to that life, if one is named)."""
        for channel in self._everywhere():
            if channel.name == name and instance in {"", channel.instance}:
                return channel
        return None

    async def until_gone(self, channel: RouterChannel) -> None:
        """Return when a connection that there is now is there no more."""
        outbox = channel.outbox
        while channel.attached and channel.outbox is outbox:
            await self._change()

    def welcomed(self, address: str, welcome: pb.Welcome) -> RouterChannel:
        """Take up a new connection: tell the router everything about this edge."""
        channel = self.members.get(welcome.name) or self.attached_to(welcome.name)
        if channel is None:
            channel = RouterChannel(welcome.name, address)
        elif channel.attached:
            # An earlier life of it: dead, only nobody has told us yet.
            self.disconnected(channel)
        is_new_life = channel.instance != welcome.instance
        channel.address = address
        channel.instance = welcome.instance
        channel.lives.add(welcome.instance)
        channel.version = welcome.version
        channel.credit_bytes = welcome.credit_bytes
        channel.outbox = Outbox(pb.EdgeFrame, gather_s=self.config.gather_s)
        channel.frames_taken = channel.untold_bytes = 0
        self._tell_all(channel)
        self._spawn(self._join(channel, channel.outbox, is_new_life))
        return channel

    def _tell_all(self, channel: RouterChannel) -> None:
        """What a router must know of this edge when it begins."""
        outbox = channel.outbox
        assert outbox is not None
        filters = list(self._interest)
        for start in range(0, len(filters), SNAPSHOT_FILTERS):
            part = filters[start : start + SNAPSHOT_FILTERS]
            outbox.frame.operations.add().interest.added.extend(part)
            outbox.grew(sum(map(len, part)) + SMALL)
        for client_id, (epoch, incarnation) in self._held.items():
            _tell_hold(outbox, client_id, epoch, incarnation, False)
        for client_id, (epoch, subscriptions) in self._shared.items():
            _tell_shared(outbox, client_id, epoch, list(subscriptions.items()))

    async def _join(
        self, channel: RouterChannel, outbox: Outbox[pb.EdgeFrame], is_new_life: bool
    ) -> None:
        """From the first frame to the first publish. Ends early when the connection does."""
        try:
            await channel.sync()
            await self._fence_lives(channel, channel)
            if is_new_life:
                if self._is_member(channel) and self._serving(channel):
                    # It begins anew, as any router that joins: others have its topics until then.
                    self._remove(channel)
                await self._wait_for_edges(channel)
        except LinkLost:
            return
        if channel.outbox is not outbox or channel.state is State.LEAVING:
            return
        log.info("attached to a router", extra={"router": channel.name, "address": channel.address})
        if not self._is_member(channel):
            others = list(self.members.values())
            self.members[channel.name] = channel
            self._forget_owners()
            channel.gate = None
            if others:
                channel.gate = asyncio.ensure_future(
                    asyncio.gather(*(self._barrier(member) for member in others))
                )
        if channel.gate is not None and not channel.gate.done():
            channel.state = State.GATED
            self._changed.set()
            await asyncio.shield(channel.gate)
        if channel.outbox is not outbox or channel.state is State.LEAVING:
            # It went away meanwhile: the next connection finds it a member, and opens it.
            return
        channel.state = State.OPEN
        channel.flush_waiting()
        self._changed.set()
        self._rehome()
        self._let_publish()
        self._must_verify = True
        self._start_verifying()
        self.edge.pushes_lost()

    def _is_member(self, channel: RouterChannel) -> bool:
        return self.members.get(channel.name) is channel

    def _others(self, channel: RouterChannel) -> list[RouterChannel]:
        """Routers that are there, and stay, beside this one."""
        return [
            one for one in self.reachable() if one is not channel and one.state is not State.LEAVING
        ]

    def _serving(self, channel: RouterChannel) -> list[RouterChannel]:
        """Routers beside this one that take publishes: they know what all edges want."""
        return [one for one in self._others(channel) if one.state is State.OPEN]

    async def _wait_for_edges(self, channel: RouterChannel) -> None:
        """Wait until edges that other routers serve have come to this router too.

        Until then it does not know what their clients want, and what is published through it does
        not reach them. One that cannot come is waited for only so long. Where there is no other
        router to ask, those are meant that have a lease: all routers have begun anew, and edges
        come one by one. Raises LinkLost.
        """
        loop = asyncio.get_running_loop()
        config = self.config
        until_s = loop.time() + 2 * config.discovery_interval_s + config.timeout_s
        pause_s = EDGES_PAUSE_S
        while True:
            there: set[str] = set()
            others = self._serving(channel)
            for other in others:
                with contextlib.suppress(LinkLost):
                    there.update((await self._edges_of(other)).edge_ids)
            here = await self._edges_of(channel, living=not others)
            missing = there.union(here.living).difference(here.edge_ids)
            if not missing:
                return
            if loop.time() >= until_s:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_EDGES_PAUSE_S)
        log.warning(
            "a router is used although not all edges have come to it",
            extra={"router": channel.name, "edges": len(missing)},
        )

    async def _edges_of(self, channel: RouterChannel, *, living: bool = False) -> pb.EdgesReply:
        """Ask a router for edges (none if it does not know the request). Raises LinkLost."""
        reply = await channel.request(pb.Request(edges=pb.EdgesRequest(living=living)))
        return reply.edges

    async def _barrier(self, member: RouterChannel) -> None:
        """Return when what was published through a member is settled, or is nobody's any more."""
        while self.members.get(member.name) is member:
            if member.state is State.OPEN:
                try:
                    await member.request(pb.Request(barrier=pb.BarrierRequest()))
                except LinkLost:
                    continue
                return
            await self._change()

    def disconnected(self, channel: RouterChannel) -> None:
        """The connection is gone; what is not settled waits for the router, or for another."""
        lost = channel.disconnected()
        if lost:
            self.counters.published += lost
            self.counters.dropped["link_lost"] += lost
        self._changed.set()
        self._forget_owners()
        if self._is_member(channel):
            log.warning("a router is gone", extra={"router": channel.name})
            self._spawn(self._give_up(channel))
        else:
            # It had not joined, and nobody will look after what it was told.
            self._homeless += channel.take_waiting()
            self._rehome()
        if not self.reachable():
            self._hold()
        self.edge.pushes_lost()

    async def _give_up(self, channel: RouterChannel) -> None:
        """Wait a moment for a router to come back; then give what it had to others."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                while not channel.attached:
                    await self._change()
        while self._is_member(channel) and not channel.attached:
            others = self._others(channel)
            if not others:
                await self._change()
                continue
            with contextlib.suppress(LinkLost):
                await self._fence_lives(channel, others[0])
                if self._is_member(channel) and not channel.attached:
                    log.warning("gave a router up", extra={"router": channel.name})
                    self._remove(channel)

    async def _fence_lives(self, channel: RouterChannel, through: RouterChannel) -> None:
        """Have the store refuse what lives of a router that have ended here may still write.

        Ends early when the router comes back while another one is asked. Raises LinkLost.
        """
        own = channel.instance if through is channel else ""
        for instance in channel.lives - {own}:
            while True:
                request = pb.Request(fence=pb.FenceRequest(instance=instance))
                if not (await through.request(request)).failure:
                    break
                await asyncio.sleep(RETRY_S)
                if through is not channel and channel.attached:
                    return
            channel.lives.discard(instance)

    def _remove(self, channel: RouterChannel) -> None:
        """Spread what waits for a router over the others, in order."""
        del self.members[channel.name]
        self._forget_owners()
        self._homeless += channel.take_waiting()
        self._homeless.sort(key=lambda sent: sent.order)
        self._changed.set()
        self._rehome()
        self._let_publish()

    def _rehome(self) -> None:
        """Give what belongs to no router to those that are there."""
        homeless, self._homeless = self._homeless, []
        for sent in homeless:
            if sent.message is None:
                self._complete(sent)
                continue
            channel = self._owner(sent.message.topic)
            if channel is None:
                self._homeless.append(sent)
            else:
                channel.publish(sent)

    def _on_leaving(self, channel: RouterChannel, _operation: pb.Leaving) -> None:
        if channel.state is not State.LEAVING:
            self._spawn(self._leave(channel, channel.outbox))

    async def _leave(self, channel: RouterChannel, outbox: Outbox[pb.EdgeFrame] | None) -> None:
        """A router is about to end: settle what it has, then go on without it."""
        while not self._serving(channel):
            # Nobody could take its place: it goes on until it ends.
            await self._change()
            if channel.outbox is not outbox:
                return
        channel.state = State.LEAVING
        self._changed.set()
        try:
            await channel.request(pb.Request(barrier=pb.BarrierRequest(last=True)))
        except LinkLost:
            return
        # All that it was sent has been settled, whether it has found the time to say so or not.
        channel.sent_unanswered = 0
        if self._is_member(channel):
            log.info("a router leaves", extra={"router": channel.name})
            self._remove(channel)
        self._forget_stream(channel)

    def _forget_stream(self, channel: RouterChannel) -> None:
        """Close the connection to a router that leaves; it sees that nobody needs it any more."""
        for address, (stream, task) in list(self._streams.items()):
            if stream.channel is channel:
                task.cancel()
                del self._streams[address]

    # Publishers

    def _hold(self) -> None:
        if not self._holding:
            self._holding = True
            self.hold_publishing()

    def _let_publish(self) -> None:
        """Let publishers go on if every router takes something."""
        if (
            self._holding
            and self.reachable()
            and all(member.has_credit() for member in self.members.values())
        ):
            self._holding = False
            self.resume_publishing()

    def _forget_owners(self) -> None:
        """Routers have come or gone: what belongs to whom is found anew."""
        self._owners.clear()
        self._session_routers.clear()

    def _owner(self, topic: str) -> RouterChannel | None:
        members = self.members
        if not members:
            return None
        channel = members[owner(topic, members)]
        if len(self._owners) >= MAX_OWNERS:
            self._owners.clear()
        self._owners[topic] = channel
        return channel

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message (see RouterLink)."""
        channel = self._owners.get(message.topic) or self._owner(message.topic)
        qos = message.qos
        if not qos and channel is not None and channel.state is State.OPEN:
            channel.publish_unanswered(message, origin.client_id)
        else:
            self._order += 1
            sent = Sent(origin.client_id, origin.epoch, self._order, size_of(message))
            sent.origin = origin
            sent.message = message
            if qos == 2:
                sent.receipt = origin.receipt(message)
                sent.identity = origin.identity(message)
            if channel is None:
                self._homeless.append(sent)
                self._hold()
            else:
                channel.publish(sent)
        if channel is not None and channel.outstanding_bytes >= channel.credit_bytes:
            self._hold()
        return None if qos else PUBLISHED

    # Frames

    def receive(self, channel: RouterChannel, frame: pb.RouterFrame) -> None:
        """Act on a frame from a router."""
        handlers = self._handlers
        for operation in frame.operations:
            kind = operation.WhichOneof("kind")
            handle = handlers.get(kind)
            if handle is not None:
                try:
                    handle(channel, getattr(operation, kind))
                except Exception:
                    # A fault of ours in one of them: the rest of the frame is for other clients.
                    log.exception("what a router sent could not be acted on")
                    self.counters.internal_errors += 1
        channel.taken(frame.ByteSize())
        if frame.credit_bytes or frame.done_ids or frame.unacknowledged_done:
            channel.settled(frame)
            if self._holding:
                self._let_publish()

    def _on_deliver(self, _channel: RouterChannel, operation: pb.Deliver) -> None:
        self.edge.deliver(read_message(operation.message), operation.publisher_id)

    def _on_push(self, _channel: RouterChannel, operation: pb.Push) -> None:
        self.edge.push(
            operation.client_id, operation.epoch, operation.seq, read_message(operation.message)
        )

    def _on_shared(self, channel: RouterChannel, operation: pb.Shared) -> None:
        message = read_message(operation.message)
        group = operation.group
        receipt = None
        if operation.id:
            receipt = SharedReceipt(self, channel, operation.id, group, message)
        taken = self.edge.deliver_shared(
            operation.client_id,
            operation.epoch,
            message,
            group,
            read_options(operation.options),
            receipt,
        )
        if taken:
            return
        if receipt is not None:
            receipt.returned()
        else:
            self.redispatch(group, message)

    def _on_kick(self, _channel: RouterChannel, operation: pb.Kick) -> None:
        try:
            reason = ReasonCode(operation.reason_code)
        except ValueError:  # the router is newer
            reason = ReasonCode.UNSPECIFIED_ERROR
        self.edge.kick(operation.client_id, operation.epoch, reason)

    def _on_pushes_lost(self, _channel: RouterChannel, _operation: pb.PushesLost) -> None:
        self.edge.pushes_lost()

    def _on_figures(self, channel: RouterChannel, operation: pb.Figures) -> None:
        self._figures_of_routers[channel.instance] = dict(operation.values)

    def _tell_figures(self) -> None:
        """Tell every router this edge's figures, and those of the routers it does not speak to."""
        there = self.reachable()
        lives = {channel.instance for channel in there}
        known = {life: self._figures_of_routers.get(life, {}) for life in lives}
        self._figures_of_routers = known
        parts = [(self.edge_id, self.figures()), *known.items()]
        for channel in there:
            assert channel.outbox is not None
            for life, values in parts:
                if values and life != channel.instance:
                    operation = channel.outbox.frame.operations.add().figures
                    operation.life = life
                    operation.values.update(values)
                    channel.outbox.grew(SMALL * len(values))

    # Requests

    def _session_router(self, key: str) -> RouterChannel | None:
        """The router for a client's session work: one that is there.

        If need be one that has not joined yet: it may not route, but leases and sessions are the
        store's, and must not run out while edges are waited for.
        """
        known = self._session_routers.get(key)
        if known is not None and known.attached and known.state is not State.LEAVING:
            return known
        there = {channel.name: channel for channel in self.reachable() or self._everywhere()}
        if len(there) > 1:
            staying = {
                name: channel
                for name, channel in there.items()
                if channel.state is not State.LEAVING
            }
            there = staying or there
        if not there:
            return None
        if len(self._session_routers) >= MAX_OWNERS:
            self._session_routers.clear()
        channel = self._session_routers[key] = there[owner(key, there)]
        return channel

    async def _ask(self, key: str, request: pb.Request, size: int = SMALL) -> pb.Reply:
        """Ask the router for ``key``, another one if that one goes away.

        Every request may be repeated. Raises SessionFenced, RouterUnavailable.
        """
        for _ in range(TRIES):
            channel = self._session_router(key)
            if channel is None:
                raise RouterUnavailable("no router can be reached")
            try:
                reply = await channel.request(request, size)
            except LinkLost:
                continue
            _check(reply)
            return reply
        raise RouterUnavailable("routers come and go")

    async def _insist(self, key: str, request: pb.Request) -> pb.Reply:
        """Ask until there is an answer. Raises SessionFenced."""
        while True:
            try:
                return await self._ask(key, request)
            except RouterUnavailable as error:
                log.debug("a router is awaited", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_S)

    async def attach(self, edge_id: str, request: AttachSession) -> AttachedSession:
        """Make this edge the owner of a session (see RouterLink)."""
        await self._have_lease()
        message = pb.Request()
        write_attach(message.attach, request)
        size = SMALL + (len(request.will.payload) if request.will else 0)
        reply = await self._ask(request.client_id, message, size)
        session = read_attached(reply.attach)
        if session.incarnation:
            self._hold_session(request.client_id, session.epoch, session.incarnation)
        return session

    async def _have_lease(self) -> None:
        """Wait for the lease: sessions of an edge without one are taken for lost.

        Raises RouterUnavailable.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._leased_until_s:
            return
        try:
            async with asyncio.timeout(self.config.timeout_s):
                while loop.time() >= self._leased_until_s:
                    await self._change()
        except TimeoutError:
            raise RouterUnavailable("no router gives this edge a lease") from None

    def _hold_session(self, client_id: str, epoch: int, incarnation: int) -> None:
        known = self._held.get(client_id)
        if known is not None and known[0] > epoch:
            return
        self._held[client_id] = (epoch, incarnation)
        for channel in self._everywhere():
            assert channel.outbox is not None
            _tell_hold(channel.outbox, client_id, epoch, incarnation, False)

    async def detach(self, request: DetachSession) -> None:
        """End a connection (see RouterLink)."""
        client_id = request.client_id
        known = self._held.get(client_id)
        if known is not None and known[0] == request.epoch:
            del self._held[client_id]
            for channel in self._everywhere():
                assert channel.outbox is not None
                _tell_hold(channel.outbox, client_id, known[0], known[1], True)
        message = pb.Request()
        write_detach(message.detach, request)
        await self._insist(client_id, message)

    def _everywhere(self) -> list[RouterChannel]:
        """Every router with a connection, also one that is about to join."""
        found = {id(channel): channel for channel in self.reachable()}
        for stream, _ in self._streams.values():
            channel = stream.channel
            if channel is not None and channel.attached:
                found[id(channel)] = channel
        return list(found.values())

    async def subscribe(
        self,
        edge_id: str,
        client_id: str,
        epoch: int,
        incarnation: int,
        subscriptions: Sequence[tuple[str, SubscriptionOptions]],
    ) -> None:
        """Apply subscriptions everywhere (see RouterLink)."""
        if not incarnation:
            shared = [item for item in subscriptions if item[0].startswith("$share/")]
            if shared:
                known = self._shared.get(client_id)
                filters = known[1] if known is not None and known[0] == epoch else {}
                filters.update(shared)
                self._shared[client_id] = (epoch, filters)
                for channel in self._everywhere():
                    assert channel.outbox is not None
                    _tell_shared(channel.outbox, client_id, epoch, shared)
            return
        request = pb.Request()
        wanted = request.subscribe
        wanted.client_id, wanted.epoch, wanted.incarnation = client_id, epoch, incarnation
        wanted.subscriptions.extend(write_subscriptions(subscriptions))
        await self._change_everywhere(client_id, request, wanted)

    async def _change_everywhere(
        self,
        client_id: str,
        request: pb.Request,
        wanted: pb.SubscribeRequest | pb.UnsubscribeRequest,
    ) -> None:
        """Have a durable session's subscriptions stored, and known to every living router."""
        for _ in range(TRIES):
            told = self._everywhere()
            del wanted.told[:]
            wanted.told.extend(channel.instance for channel in told)
            await self._ask(client_id, request, request.ByteSize())
            answers = await asyncio.gather(
                *(channel.request(pb.Request(catch_up=pb.CatchUpRequest())) for channel in told),
                return_exceptions=True,
            )
            for answer in answers:
                if isinstance(answer, pb.Reply):
                    _check(answer)
            if all(isinstance(answer, pb.Reply) for answer in answers):
                return
            # A router that went away may live on for other edges, and not know the change. This
            # time whoever stores it waits for that router.
        raise RouterUnavailable("routers come and go")

    async def unsubscribe(
        self, edge_id: str, client_id: str, epoch: int, incarnation: int, filters: Sequence[str]
    ) -> None:
        """Remove subscriptions everywhere (see RouterLink)."""
        if not incarnation:
            self.leave_groups(client_id, epoch, filters)
            return
        request = pb.Request()
        wanted = request.unsubscribe
        wanted.client_id, wanted.epoch, wanted.incarnation = client_id, epoch, incarnation
        wanted.topic_filters.extend(filters)
        await self._change_everywhere(client_id, request, wanted)

    def leave_groups(self, client_id: str, epoch: int, filters: Sequence[str]) -> None:
        """Take a connection out of its groups (see RouterLink)."""
        known = self._shared.get(client_id)
        if known is None or known[0] != epoch:
            return
        left = [topic_filter for topic_filter in filters if known[1].pop(topic_filter, None)]
        if not known[1]:
            del self._shared[client_id]
        for channel in self._everywhere():
            assert channel.outbox is not None
            operation = channel.outbox.frame.operations.add().leave_groups
            operation.client_id, operation.epoch = client_id, epoch
            operation.topic_filters.extend(left)
            channel.outbox.grew(SMALL + sum(map(len, left)))

    def add_interest(self, edge_id: str, topic_filter: str) -> None:
        """Send this edge what matches (see RouterLink)."""
        self._interest.add(topic_filter)
        for channel in self._everywhere():
            assert channel.outbox is not None
            channel.outbox.frame.operations.add().interest.added.append(topic_filter)
            channel.outbox.grew(SMALL + len(topic_filter))

    def remove_interest(self, edge_id: str, topic_filter: str) -> None:
        """Stop that (see RouterLink)."""
        self._interest.discard(topic_filter)
        for channel in self._everywhere():
            assert channel.outbox is not None
            channel.outbox.frame.operations.add().interest.removed.append(topic_filter)
            channel.outbox.grew(SMALL + len(topic_filter))

    async def settled(self) -> None:
        """Wait until all routers know this edge's interest (see RouterLink)."""
        for answer in [channel.sync() for channel in self._everywhere()]:
            try:
                await answer
            except LinkLost:
                continue

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, Publish]]:
        """Read a session's queue (see RouterLink)."""
        request = pb.Request(
            fetch=pb.FetchRequest(
                client_id=client_id,
                incarnation=incarnation,
                after_seq=after_seq,
                max_count=max_count,
                max_bytes=max_bytes,
            )
        )
        reply = await self._ask(client_id, request)
        return [(entry.seq, read_message(entry.message)) for entry in reply.fetch.entries]

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """Forget deliveries (see RouterLink)."""
        self._order += 1
        sent = Sent(client_id, epoch, self._order, 0)
        sent.seqs = seqs
        sent.done = done
        self._complete(sent)

    def _complete(self, sent: Sent) -> None:
        channel = self._session_router(sent.client_id)
        if channel is None:
            self._homeless.append(sent)
        else:
            channel.complete(sent)

    async def release(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """PUBREC has come for these (see RouterLink)."""
        await self._ask(
            client_id,
            pb.Request(release=pb.ReleaseRequest(client_id=client_id, epoch=epoch, seqs=seqs)),
        )

    async def complete_receipt(
        self, client_id: str, epoch: int, packet_id: int, value: int
    ) -> None:
        """PUBREL has come (see RouterLink)."""
        await self._ask(
            client_id,
            pb.Request(
                receipt=pb.ReceiptRequest(
                    client_id=client_id, epoch=epoch, packet_id=packet_id, value=value
                )
            ),
        )

    async def enqueue(self, client_id: str, incarnation: int, messages: Sequence[Publish]) -> None:
        """Queue messages for one session (see RouterLink)."""
        request = pb.Request()
        request.enqueue.client_id, request.enqueue.incarnation = client_id, incarnation
        for message in messages:
            write_message(request.enqueue.messages.add(), message)
        await self._insist(client_id, request)

    async def match_retained(self, topic_filter: str) -> AsyncIterator[list[str]]:
        """Topics with a retained message (see RouterLink)."""
        cursor = 0
        channel = self._session_router(topic_filter)
        while True:
            if channel is None:
                raise RouterUnavailable("no router can be reached")
            request = pb.Request(
                match_retained=pb.MatchRetainedRequest(topic_filter=topic_filter, cursor=cursor)
            )
            try:
                reply = await channel.request(request)
            except LinkLost:
                raise RouterUnavailable("a router went away") from None
            _check(reply)
            if reply.match_retained.topics:
                yield list(reply.match_retained.topics)
            cursor = reply.match_retained.cursor
            if not cursor:
                return

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """Read retained messages, each through the router that writes it (see RouterLink)."""
        there = {channel.name: channel for channel in self.reachable()}
        if not there:
            raise RouterUnavailable("no router can be reached")
        parts: dict[str, list[str]] = {}
        for topic in topics:
            parts.setdefault(owner(topic, there), []).append(topic)
        answers = []
        for name, part in parts.items():
            request = pb.Request(get_retained=pb.GetRetainedRequest(topics=part))
            answers.append(there[name].request(request, request.ByteSize()))
        found: list[Publish] = []
        for answer in answers:
            try:
                reply = await answer
            except LinkLost:
                raise RouterUnavailable("a router went away") from None
            _check(reply)
            found += map(read_message, reply.get_retained.messages)
        return found

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a lost member's message to another one (see RouterLink)."""
        channel = self._session_router(topic_filter)
        if channel is None:
            self.counters.dropped["link_lost"] += 1
            self.counters.published += 1
            return
        assert channel.outbox is not None
        operation = channel.outbox.frame.operations.add().redispatch
        operation.topic_filter = topic_filter
        write_message(operation.message, message)
        channel.outbox.grew(size_of(message))

    # Leases

    async def _keep_lease(self) -> None:
        """Say that this edge lives; when that was not known for a time, ask who is still ours."""
        loop = asyncio.get_running_loop()
        while True:
            asked_s = loop.time()
            try:
                reply = await self._ask(self.edge_id, pb.Request(lease=pb.LeaseRequest()))
            except RouterUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            self._living = set(reply.lease.routers)
            self._tell_figures()
            if reply.lease.was_lost and self._leased:
                self._must_verify = True
                self._start_verifying()
            self._leased = True
            self._leased_until_s = asked_s + self._lease_s
            self._changed.set()
            await asyncio.sleep(self._lease_s / 4)

    def _start_verifying(self) -> None:
        if not self._verifying:
            self._verifying = True
            self._spawn(self._verify())

    async def _verify(self) -> None:
        """End the connections whose sessions have gone to others while we could not be told."""
        try:
            while self._must_verify:
                self._must_verify = False
                connections = self.connections()
                for start in range(0, len(connections), VERIFY_PAGE):
                    await self._verify_page(connections[start : start + VERIFY_PAGE])
        finally:
            self._verifying = False

    async def _verify_page(self, page: list[tuple[str, int]]) -> None:
        request = pb.Request()
        request.verify.client_ids.extend(client_id for client_id, _ in page)
        request.verify.epochs.extend(epoch for _, epoch in page)
        reply = await self._insist(self.edge_id, request)
        for (client_id, epoch), live in zip(page, reply.verify.live, strict=False):
            if not live:
                self.edge.kick(client_id, epoch, ReasonCode.SESSION_TAKEN_OVER)

    async def _watch_absent(self) -> None:
        """While a living router cannot be reached from here, its pushes cannot come either."""
        while True:
            await asyncio.sleep(DEGRADED_S)
            here = {channel.instance for channel in self._everywhere()}
            if self._living - here:
                self._look.set()
                # Neither can it say that a session has been taken over elsewhere.
                self.edge.pushes_lost()
                self._must_verify = True
                self._start_verifying()


def _check(reply: pb.Reply) -> None:
    failure = reply.failure
    if not failure:
        return
    if failure == pb.FAILURE_FENCED:
        raise SessionFenced(reply.text)
    raise RouterUnavailable(reply.text)


def _on_reply(channel: RouterChannel, operation: pb.Reply) -> None:
    channel.replied(operation)


def _on_applied(channel: RouterChannel, operation: pb.Applied) -> None:
    channel.applied(operation.id)


def _on_echo(channel: RouterChannel, operation: pb.Echo) -> None:
    outbox = channel.outbox
    if outbox is not None:
        outbox.frame.operations.add().echo.id = operation.id
        outbox.grew(SMALL)


def _tell_hold(
    outbox: Outbox[pb.EdgeFrame], client_id: str, epoch: int, incarnation: int, ended: bool
) -> None:
    operation = outbox.frame.operations.add().hold
    operation.client_id, operation.epoch = client_id, epoch
    operation.incarnation, operation.ended = incarnation, ended
    outbox.grew(SMALL)


def _tell_shared(
    outbox: Outbox[pb.EdgeFrame],
    client_id: str,
    epoch: int,
    subscriptions: Sequence[tuple[str, SubscriptionOptions]],
) -> None:
    operation = outbox.frame.operations.add().shared_member
    operation.client_id, operation.epoch = client_id, epoch
    operation.subscriptions.extend(write_subscriptions(subscriptions))
    outbox.grew(SMALL + sum(len(name) for name, _ in subscriptions))


def _nothing() -> None:
    pass
