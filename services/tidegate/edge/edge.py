"""The edge: every connected client of this process, and the fan-out to them.

Implements ``EdgeLink``. Makes the clients and what they need (context, registry, dispatch); owns
the fan-out of each topic, and the one flush per turn of the event loop in which every client that
has something to send gets one write. Loses nothing but sockets when it dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from tidegate.bans.ban import Ban, BanKind
from tidegate.core.matches import Matches
from tidegate.core.session_key import session_key
from tidegate.edge.auth.acl import Authorizer
from tidegate.edge.auth.authentication import Authenticator
from tidegate.edge.auth.methods import Method
from tidegate.edge.channel import Channel, Handler, HandlerFactory
from tidegate.edge.client.banned import Banned
from tidegate.edge.client.client import KEEP_ALIVE_FACTOR, Client
from tidegate.edge.client.connection_log import ConnectionLog
from tidegate.edge.client.context import EdgeContext, Flushable
from tidegate.edge.client.dispatch import Dispatch
from tidegate.edge.client.group_rights import look_at_groups
from tidegate.edge.client.recorder import Recorder
from tidegate.edge.client.registry import ClientRegistry
from tidegate.edge.client.state import NO_ROUTER
from tidegate.edge.delivered_once import Connection, DeliveredOnce
from tidegate.edge.fan_out import FanOut, Group, build_fan_out, recipients_of, unreadable
from tidegate.link.interfaces import PendingWill, RouterLink, SharedReceipt
from tidegate.mqtt.encode import encode_publish
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.config.model import Config, ListenerConfig
from tidegate.runtime.telemetry.counters import Counters

T = TypeVar("T")

TICK_S: Final = 0.5
#: What the tick does in one turn of the event loop, in clients that are only looked at: well below
#: a millisecond. Then what the end of a connection counts for, and a look into a queue.
TURN: Final = 500
ENDING: Final = 50
EXPIRING: Final = 5
#: How long waiting clients are resumed before the event loop serves others.
RESUME_S: Final = 0.005
#: Clients that are looked at in one turn of the event loop when bans have changed.
ENFORCED_AT_ONCE: Final = 500


class Edge:
    """See the module's docstring. ``start`` before use, ``stop`` at the end."""

    def __init__(
        self,
        edge_id: str,
        router: RouterLink,
        config: Config,
        authenticator: Authenticator,
        authorizer: Authorizer,
        counters: Counters,
        now_ms: Callable[[], int],
        authentication_methods: Mapping[str, Method] | None = None,
        name: str = "",
    ) -> None:
        """``name``: what the record calls this edge; "": its identifier."""
        self.edge_id = edge_id
        self.config = config
        self.counters = counters
        self._connection_log = ConnectionLog(config.log)
        self._recorder = Recorder(config.record, name or edge_id, counters, now_ms, router.record)
        self.context = EdgeContext(
            edge_id,
            router,
            config,
            authenticator,
            authorizer,
            counters,
            now_ms,
            self.mark,
            self._connection_log,
            self._recorder,
            Banned(now_ms),
        )
        self.context.authentication_methods = dict(authentication_methods or {})
        self.registry = ClientRegistry(self.context)
        #: The same as in the registry, without a step in between.
        self.clients = self.registry.clients
        self._index = self.registry.index
        self._replaying = self.registry.observers.all
        self._dispatch = Dispatch(self.registry)
        self._delivered = DeliveredOnce()
        self._dirty: list[Flushable] = []
        self._is_resuming = False
        self._limit_caches(config.limits.max_cached_topics)
        self._ticking: asyncio.Task[None] | None = None

    # The process

    def start(self) -> None:
        """Begin to watch keep alives. Call from a running event loop."""
        self.context.start()
        self._connection_log.tick(self.context.tick_s)
        self._recorder.start(self.context.later)
        self._recorder.tick(self.context.tick_s)
        self._ticking = asyncio.create_task(self._tick_forever())

    async def stop(self, reason_code: ReasonCode = ReasonCode.SERVER_SHUTTING_DOWN) -> None:
        """Disconnect every client and wait until the router has confirmed all of it."""
        for client in [*self.registry.connecting, *self.clients.values()]:
            client.shut_down(reason_code)
        self.flush()
        self._recorder.send_all()
        try:
            await self.context.idle()
        finally:
            if self._ticking is not None:
                self._ticking.cancel()
                await asyncio.gather(self._ticking, return_exceptions=True)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Look what has lasted too long. Every TICK_S, or later where clients are many."""
        context = self.context
        context.tick_s = now_s = context.time_s()
        self._connection_log.tick(now_s)
        self._recorder.tick(now_s)
        await self._in_turns(list(self.clients.values()), self._look_at)
        await self._in_turns(list(self.registry.connecting), self._look_at_connecting)
        await self._in_turns(list(context.expiring), self._expire)

    async def _in_turns(self, items: Sequence[T], look_at: Callable[[T], int]) -> None:
        """Look at all items, and let others have the event loop after TURN of work.

        ``look_at`` returns what it has done beyond that, in items that are only looked at.
        """
        context, left = self.context, TURN
        for item in items:
            left -= 1 + look_at(item)
            if left <= 0:
                await asyncio.sleep(0)
                left = TURN
                # What comes meanwhile is noted with this time, which must not be an old one.
                context.tick_s = context.time_s()

    def _look_at(self, client: Client) -> int:
        queue = client.queue
        if queue.halted:
            queue.let_overtake()
        # What a client has last sent is known to within a tick: never end it early.
        keep_alive_s = client.keep_alive_s
        if keep_alive_s:
            silent_s = self.context.tick_s - queue.seen_s
            if silent_s > keep_alive_s * KEEP_ALIVE_FACTOR + TICK_S:
                client.keep_alive_ended()
                return ENDING
        return 0

    def _look_at_connecting(self, client: Client) -> int:
        context = self.context
        if client.since_s + context.limits.connect_timeout_s + TICK_S < context.tick_s:
            client.connect_timed_out()
            return ENDING
        return 0

    def _expire(self, expire: Callable[[], bool]) -> int:
        if not expire():
            self.context.expiring.pop(expire, None)
        return EXPIRING

    # Publishers, while no router takes what they send

    def pause_publishing(self) -> None:
        """Take no PUBLISH, SUBSCRIBE or UNSUBSCRIBE from now on: no router can have them.

        Clients notice nothing but that their answers wait. Idempotent; to be called by the link,
        from the event loop, also from inside ``RouterLink.publish``: the next one waits already.
        """
        self.context.is_publishing_paused = True

    def resume_publishing(self) -> None:
        """Take them again; what waits is handled soon, in order. Idempotent."""
        context = self.context
        context.is_publishing_paused = False
        if context.waiting_for_router and not self._is_resuming:
            self._is_resuming = True
            context.soon(self._resume_waiting)

    def _resume_waiting(self) -> None:
        """Resume clients, one after the other, for a while, then in another turn."""
        context = self.context
        waiting = context.waiting_for_router
        until_s = context.time_s() + RESUME_S
        while waiting and not context.is_publishing_paused:
            queue, _ = waiting.popitem(last=False)
            queue.resume(NO_ROUTER)
            if context.time_s() >= until_s:
                break
        self._is_resuming = bool(waiting) and not context.is_publishing_paused
        if self._is_resuming:
            context.soon(self._resume_waiting)

    # Connections

    def handler_factory(self, listener: ListenerConfig) -> HandlerFactory:
        """What a listener calls for each connection it accepts."""
        context, registry, handle = self.context, self.registry, self._dispatch.handle

        def make(channel: Channel, accepted_s: float) -> Handler:
            client = Client(context, channel, listener, registry, handle, accepted_s)
            registry.connecting.add(client)
            return client

        return make

    def listeners_in_use(self) -> list[ListenerConfig]:
        """Return the listeners that clients came through, as they were then."""
        clients = (*self.registry.connecting, *self.clients.values())
        return list({id(client.listener): client.listener for client in clients}.values())

    def refuse_connections(self, reason_code: ReasonCode) -> None:
        """Answer every CONNECT with a refusal from now on."""
        self.context.refusal = reason_code

    def kick(self, client_id: str, epoch: int, reason_code: ReasonCode) -> None:
        """End the connection of an older epoch (see EdgeLink)."""
        client = self.clients.get(client_id)
        if client is not None and (not epoch or client.epoch == epoch):
            client.taken_over(reason_code)
        elif epoch and (attaching := self.registry.attaching.get(client_id)) is not None:
            attaching.lost_epoch = max(attaching.lost_epoch, epoch)

    def session_lost(self, client_id: str, epoch: int) -> None:
        """End a connection whose session the store has lost (see EdgeLink)."""
        client = self.clients.get(client_id)
        if client is not None and client.epoch == epoch:
            client.session_lost()

    def connections(self) -> list[tuple[str, int]]:
        """Its connections (see EdgeLink)."""
        return [
            (client.session_key, client.epoch)
            for client in self.clients.values()
            if client.is_stored
        ]

    def verify_sessions(self) -> None:
        """The router does it here (see EdgeLink)."""

    def fence(self, client_id: str, epoch: int) -> None:
        """End a connection that is older (see EdgeLink)."""
        client = self.clients.get(client_id)
        if client is not None and client.epoch < epoch:
            client.taken_over(ReasonCode.SESSION_TAKEN_OVER)
        attaching = self.registry.attaching.get(client_id)
        if attaching is not None:
            attaching.lost_epoch = max(attaching.lost_epoch, epoch - 1)

    #: In one process the router publishes wills itself (see EdgeLink).
    knows_wills: Final = False
    publishes_wills: Final = False

    def publish_will(self, will: PendingWill) -> bool:
        """Leave it to the router (see EdgeLink)."""
        return False

    def give_up(self) -> None:
        """Nothing is to be verified where the router has never lost the edge (see EdgeLink)."""

    def reconfigure(self, config: Config) -> None:
        """Go by other limits and features from now on.

        They count for connections to come and for every packet from now on; what CONNACK has
        announced to a client stays: Receive Maximum, Maximum Packet Size, Topic Alias Maximum.
        These are read when a connection is accepted, so what is announced is what is enforced.
        """
        before, before_log = self.context.limits, self.config.log
        self.config = config
        if config.log != before_log:
            self._connection_log.reconfigure(config.log)
        self._recorder.reconfigure(config.record)
        self.context.go_by(config.limits)
        self._limit_caches(config.limits.max_cached_topics)
        self.context.features = config.features
        for client in list(self.clients.values()):  # one that may be read again may end at once
            client.inbound.limits_changed(before)

    def _limit_caches(self, topics: int) -> None:
        """Keep what has been found out about so many topics; rules of clients keep theirs."""
        self._index.limit_cache(topics)
        context = self.context
        context.topic_names.limit = topics
        context.authorizer.cached_topics = topics

    def authorization_changed(self) -> None:
        """The ACL has changed: forget every decision made under the old one.

        A client that waits for its session takes the new rules when it has it.
        """
        self._index.forget_derived()
        clients = list(self.clients.values())
        for client in clients:
            client.authorization_changed()
            look_at_groups(client)
        for client in clients:  # other members have the new rules by now
            client.delivery.withdraw()

    def users_changed(self) -> None:
        """The password file has changed: disconnect clients whose user has been removed.

        A client that waits for its session is looked up when it has it.
        """
        knows = self.context.authenticator.knows
        for client in list(self.clients.values()):
            if client.by_password and not knows(client.username, client.listener):
                client.disconnect(ReasonCode.NOT_AUTHORIZED, "user has been removed")

    def set_bans(self, bans: Sequence[bytes]) -> None:
        """Go by these bans (see EdgeLink)."""
        new = self.context.banned.set(bans)
        if new:
            self.context.spawn(self._enforce(new))

    async def _enforce(self, bans: Sequence[Ban]) -> None:
        """Disconnect who is banned, a few at a time.

        DISCONNECT has no reason code for it, as CONNACK has (MQTT5 §3.14.2.1).
        """
        find, clients = self.context.banned.find, self.clients
        names = [ban for ban in bans if ban.kind is BanKind.CLIENT]
        candidates = [clients.get(session_key(ban.mount_point, ban.value)) for ban in names]
        if len(names) < len(bans):
            candidates = list(clients.values())
        for number, client in enumerate(candidates):
            if client is not None and (ban := find(client.client_id, client, client.username)):
                client.disconnect(
                    ReasonCode.ADMINISTRATIVE_ACTION,
                    "banned",
                    counted_as="banned",
                    cause=ban.reason,
                )
            if number % ENFORCED_AT_ONCE == ENFORCED_AT_ONCE - 1:
                await asyncio.sleep(0)

    # Delivery

    def fan_out(self, topic: str) -> FanOut:
        """Return the current fan-out of a topic."""
        matches = self._index.match(topic)
        fan_out = matches.derived
        return fan_out if isinstance(fan_out, FanOut) else self._find_fan_out(topic, matches)

    def _find_fan_out(self, topic: str, matches: Matches[Client, SubscriptionOptions]) -> FanOut:
        """Return the fan-out of other topics with the same matches and readers, or a new one."""
        if any(client.acl is not None for client, _ in matches.pairs):
            by = unreadable(topic, matches.pairs)
            matches = self._index.vary(topic, matches, by)
        fan_out = matches.derived
        if not isinstance(fan_out, FanOut):
            fan_out = matches.derived = build_fan_out(topic, matches.pairs)
        return fan_out

    def deliver(self, message: Publish, publisher_id: str, identity: str = "") -> None:
        """Give a message to every client it matches (see EdgeLink)."""
        noting = self._note(message) if self._replaying else None
        matches = self._index.match(message.topic)
        fan_out: FanOut | None = matches.derived  # type: ignore[assignment]  # set below only
        if fan_out is None:
            fan_out = self._find_fan_out(message.topic, matches)
        if identity:
            connections = fan_out.connections(matches.pairs)
            earlier = self._delivered.add(
                identity, connections.union(noting) if noting else connections
            )
            if earlier is not None:
                self._deliver_to_others(message, publisher_id, earlier)
                return
        if message.qos:
            for recipient in fan_out.windowed:
                recipient.offer(message, publisher_id)
            groups, special = fan_out.low_groups, fan_out.low_special
        else:
            groups, special = fan_out.groups, fan_out.special
        for group in groups:
            self._send_to_group(group, message)
        for recipient in special:
            recipient.send_qos0(message, publisher_id)

    def _note(self, message: Publish) -> list[Connection]:
        """Show a message to the replays of its topic; return who is given it as a retained one."""
        noting = []
        for replay, _ in self.registry.observers.match(message.topic):
            if replay.note(message):
                noting.append(replay.connection)
        return noting

    def _deliver_to_others(
        self, message: Publish, publisher_id: str, earlier: frozenset[Connection]
    ) -> None:
        """Deliver a message that comes again to the clients that have not been given it.

        Nobody gets a QoS 2 message twice when its router has died [MQTT-4.3.3-10]. The router puts
        it into the queues of durable sessions that lack it.
        """
        matches = self._index.match(message.topic).pairs
        if self.fan_out(message.topic).connections(matches) <= earlier:
            return
        for recipient in recipients_of(message.topic, matches):
            client = recipient.client
            if client.incarnation or (client.session_key, client.epoch) in earlier:
                # What a durable session has at QoS 0 it may have had at another edge.
                continue
            if not message.qos or not recipient.qos:
                recipient.send_qos0(message, publisher_id)
            else:
                recipient.offer(message, publisher_id)

    def _send_to_group(self, group: Group, message: Publish) -> None:
        """Encode once, hand the same bytes to every client of the group, as QoS 0."""
        expiry = None
        if message.expires_at_ms:
            expiry = self.context.remaining_s(message)
            if not expiry:
                self.counters.published += len(group.clients)
                self.counters.dropped["expired"] += len(group.clients)
                return
        wire = encode_publish(
            message,
            group.version,
            0,
            message.retain and group.retain_as_published,
            False,
            0,
            group.subscription_ids,
            expiry,
            0,
            topic=message.topic[group.mount_point_length :] if group.mount_point_length else None,
        )
        dirty = self._dirty
        was_clean = not dirty
        sent = 0
        for client in group.clients:
            if client.slow and not client.admit(len(wire), message.topic):
                continue
            out = client.out
            if out is None:
                dirty.append(client)
                client.out = [wire]
            else:
                out.append(wire)
            sent += 1
        counters = self.counters
        counters.published += len(group.clients)
        counters.delivered += sent
        counters.messages_sent[0] += sent
        counters.publish_bytes_sent += sent * len(message.payload)
        if was_clean and dirty:
            self.context.soon(self.flush)

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        """Offer a queued message (see EdgeLink)."""
        client = self.clients.get(client_id)
        if client is None or client.epoch != epoch:
            return
        client.delivery.push(seq, message)

    def deliver_shared(
        self,
        client_id: str,
        epoch: int,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """Give a shared subscription's message to one member (see EdgeLink)."""
        client = self.clients.get(client_id)
        if client is None or client.epoch != epoch:
            return False
        if not client.may_read(message.topic):
            rights = client.group_rights
            if rights is not None and (group in rights.left or group not in client.subscriptions):
                return rights.take_back(group, message)
            client.count_unreadable(message.topic)
            if receipt is not None:
                receipt.done()
            return True
        return client.delivery.offer_shared(message, group, options, receipt)

    def pushes_lost(self) -> None:
        """Have every durable session look into its queue (see EdgeLink)."""
        for client in self.clients.values():
            if client.incarnation:
                client.delivery.resync()

    # Sending

    def mark(self, client: Flushable) -> None:
        """Note that a client has something to send; it goes out at the end of this turn."""
        if not self._dirty:
            self.context.soon(self.flush)
        self._dirty.append(client)

    def has_unsent(self) -> bool:
        """Whether clients have something to send, which goes out at the end of this turn."""
        return bool(self._dirty)

    def flush(self) -> None:
        """Write once to every client that has something to send."""
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.flush()
