"""The edge: every connected client of this process, and the fan-out to them.

Implements ``EdgeLink``. Owns the registry of clients, the index of their subscriptions, the
delivery plans made from it, and the one flush per turn of the event loop in which every client
that has something to send gets one write. Loses nothing but sockets when it dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tidegate.core.topic_index import TopicIndex
from tidegate.edge.auth.acl import Authorizer
from tidegate.edge.auth.authentication import Authenticator
from tidegate.edge.channel import Channel, Handler, HandlerFactory
from tidegate.edge.client.client import Client
from tidegate.edge.client.connect import Attaching
from tidegate.edge.client.enhanced_auth import Method
from tidegate.edge.client.packet_queue import Reader
from tidegate.edge.client.pause_reasons import LINK
from tidegate.edge.fan_out import FanOut, Group, Recipient, build_fan_out
from tidegate.link.interfaces import RouterLink, SharedReceipt
from tidegate.mqtt.encode import encode_publish
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.config.model import Config, ListenerConfig
from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

MAX_CACHED_PLANS: Final = 10_000
TICK_S: Final = 0.5
#: How long held clients are let go on before everybody else has a turn.
RELEASE_S: Final = 0.005


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
    ) -> None:
        self.edge_id = edge_id
        self.router = router
        self.config = config
        self.limits = config.limits
        self.features = config.features
        self.authenticator = authenticator
        self.authorizer = authorizer
        self.counters = counters
        self.now_ms = now_ms
        #: What a CONNECT is answered with while no client is taken (draining); None: it is taken.
        self.refusal: ReasonCode | None = None
        #: Methods of enhanced authentication, by name.
        self.authentication_methods: dict[str, Method] = {}
        #: Seconds of the loop's clock, read once per tick: good enough for keep alive.
        self.tick_s = 0.0
        self.clients: dict[str, Client] = {}
        #: Connections that have not been accepted yet, with no client identifier to go by.
        self.waiting: set[Client] = set()
        #: Whether no router takes publishes now, and the clients that have one waiting for it.
        self.is_holding = False
        self.held: dict[Reader, None] = {}
        self._is_releasing = False
        #: Ends of connections that the router has not confirmed, by client identifier.
        self.detaching: dict[str, asyncio.Task[None]] = {}
        self.attaching: dict[str, Attaching] = {}
        #: Those of ``attaching`` that have no client yet, or none any more: they have its place.
        self.newcomers: set[str] = set()
        self.index: TopicIndex[Client, SubscriptionOptions] = TopicIndex()
        self.subscription_count = 0
        self._interest: dict[str, int] = {}
        self._plans: dict[str, FanOut] = {}
        self._dirty: list[Client] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_assigned = 0

    # Life

    def start(self) -> None:
        """Begin to watch keep alives. Call from a running event loop."""
        self._loop = asyncio.get_running_loop()
        self.tick_s = self._loop.time()
        self._ticking = asyncio.create_task(self._tick_forever())

    async def stop(self, reason_code: ReasonCode = ReasonCode.SERVER_SHUTTING_DOWN) -> None:
        """Say goodbye to every client and wait until the router knows of all of them."""
        for client in [*self.waiting, *self.clients.values()]:
            client.shut_down(reason_code)
        self.flush()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    def time_s(self) -> float:
        """Seconds of the event loop's clock, now."""
        assert self._loop is not None
        return self._loop.time()

    def later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call something after a delay."""
        assert self._loop is not None
        return self._loop.call_later(delay_s, call)

    def soon(self, call: Callable[[], None]) -> None:
        """Call something in the next turn of the event loop."""
        assert self._loop is not None
        self._loop.call_soon(call)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that outlives the call that starts it; ``stop`` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an edge task failed", exc_info=task.exception())

    async def _tick_forever(self) -> None:
        assert self._loop is not None
        while True:
            await asyncio.sleep(TICK_S)
            self.tick_s = now_s = self._loop.time()
            for client in list(self.clients.values()):
                if client.halted:
                    client.relieve()
                # What a client has last sent is known to within a tick: never end it early.
                if client.deadline_s and client.seen_s + client.deadline_s + TICK_S < now_s:
                    client.keep_alive_ended()
            for client in list(self.waiting):
                if client.seen_s + self.limits.connect_timeout_s + TICK_S < now_s:
                    client.connect_timed_out()

    # Holding publishers

    def hold_publishing(self) -> None:
        """Take no PUBLISH, SUBSCRIBE or UNSUBSCRIBE from now on: no router can have them.

        Clients notice nothing but that their answers wait. Idempotent; to be called by the link,
        from the event loop, also from inside ``RouterLink.publish``: the next one waits already.
        """
        self.is_holding = True

    def resume_publishing(self) -> None:
        """Take them again; what waits is handled soon, in order. Idempotent."""
        self.is_holding = False
        if self.held and not self._is_releasing:
            self._is_releasing = True
            self.soon(self._release_held)

    def _release_held(self) -> None:
        """Let clients go on, one after the other, for a while, then in another turn."""
        until_s = self.time_s() + RELEASE_S
        while self.held and not self.is_holding:
            client = next(iter(self.held))
            del self.held[client]
            client.release(LINK)
            if self.time_s() >= until_s:
                break
        self._is_releasing = bool(self.held) and not self.is_holding
        if self._is_releasing:
            self.soon(self._release_held)

    # Connections

    def handler_factory(self, listener: ListenerConfig) -> HandlerFactory:
        """What a listener calls for each connection it accepts."""

        def make(channel: Channel) -> Handler:
            client = Client(self, channel, listener)
            self.waiting.add(client)
            return client

        return make

    def is_full_for(self, client_id: str) -> bool:
        """Whether no more may come; one that takes its own connection over needs no place."""
        most = self.limits.max_connections
        return (
            0 < most <= len(self.clients) + len(self.newcomers)
            and client_id not in self.clients
            and client_id not in self.newcomers
        )

    def kick(self, client_id: str, epoch: int, reason_code: ReasonCode) -> None:
        """End the connection of an older epoch (see EdgeLink)."""
        client = self.clients.get(client_id)
        if client is not None and (not epoch or client.epoch == epoch):
            client.taken_over(reason_code)
        elif epoch and (attaching := self.attaching.get(client_id)) is not None:
            attaching.lost_epoch = max(attaching.lost_epoch, epoch)

    def reconfigure(self, config: Config) -> None:
        """Go by other limits and features from now on.

        They count for connections to come and for every packet from now on; what a client has been
        told stays: its Receive Maximum, the largest packet, topic aliases. They are taken when a
        connection begins, so one that has not been told yet is told what counts for it.
        """
        before = self.limits
        self.config = config
        self.limits = config.limits
        self.features = config.features
        for client in list(self.clients.values()):  # one that may be read again may end at once
            client.inbound.limits_changed(before)

    def authorization_changed(self) -> None:
        """The ACL is another one: forget every decision made under the old one.

        A client that waits for its session takes the rules anew when it has it.
        """
        self._plans.clear()
        for client in self.clients.values():
            client.authorization_changed()

    def users_changed(self) -> None:
        """The password file is another one: whoever is not in it any more has to go."""
        for client in [*self.waiting, *self.clients.values()]:
            if client.by_password and not self.authenticator.knows(client.username):
                client.disconnect(ReasonCode.NOT_AUTHORIZED, "the user is gone")

    # Subscriptions of connected clients

    def subscribe(self, client: Client, topic_filter: str, options: SubscriptionOptions) -> None:
        """Add or replace a client's subscription (not a shared one)."""
        if self.index.add(topic_filter, client, options):
            self.subscription_count += 1
            count = self._interest.get(topic_filter, 0)
            self._interest[topic_filter] = count + 1
            if not count:
                self.router.add_interest(self.edge_id, topic_filter)

    def unsubscribe(self, client: Client, topic_filter: str) -> None:
        """Remove a client's subscription (not a shared one)."""
        if not self.index.remove(topic_filter, client):
            return
        self.subscription_count -= 1
        count = self._interest[topic_filter] - 1
        if count:
            self._interest[topic_filter] = count
        else:
            del self._interest[topic_filter]
            self.router.remove_interest(self.edge_id, topic_filter)

    # Delivery

    def plan(self, topic: str) -> FanOut:
        """Return the current plan for a topic."""
        matches = self.index.match(topic)
        plan = self._plans.get(topic)
        if plan is not None and plan.matches is matches:
            return plan
        if len(self._plans) >= MAX_CACHED_PLANS:
            self._plans.clear()
        plan = self._plans[topic] = build_fan_out(topic, matches)
        return plan

    def deliver(self, message: Publish, publisher_id: str) -> None:
        """Give a message to every client it matches (see EdgeLink)."""
        matches = self.index.match(message.topic)
        plan = self._plans.get(message.topic)
        if plan is None or plan.matches is not matches:
            plan = self.plan(message.topic)
        if message.qos:
            for recipient in plan.windowed:
                recipient.client.delivery.offer_to(recipient, message, publisher_id)
            groups, special = plan.low_groups, plan.low_special
        else:
            groups, special = plan.groups, plan.special
        for group in groups:
            self._fan_out(group, message)
        for recipient in special:
            self._give(recipient, message, publisher_id)

    def _fan_out(self, group: Group, message: Publish) -> None:
        """Encode once, hand the same bytes to every client of the group, as QoS 0."""
        expiry = None
        if message.expires_at_ms:
            expiry = self.remaining_s(message)
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
            topic=message.topic[group.hidden :] if group.hidden else None,
        )
        dirty = self._dirty
        was_clean = not dirty
        sent = 0
        for client in group.clients:
            if client.slow and not client.admit(len(wire)):
                continue
            out = client.out
            if not out:
                dirty.append(client)
            out.append(wire)
            sent += 1
        counters = self.counters
        counters.published += len(group.clients)
        counters.delivered += sent
        counters.messages_sent[0] += sent
        counters.publish_bytes_sent += sent * len(message.payload)
        if was_clean and dirty:
            self._schedule_flush()

    def _give(self, recipient: Recipient, message: Publish, publisher_id: str) -> None:
        """Deliver at QoS 0 to one client whose bytes are its own."""
        client = recipient.client
        subscription_ids = recipient.subscription_ids
        if client.client_id == publisher_id:
            if recipient.own_qos < 0:
                return
            subscription_ids = recipient.own_subscription_ids
        client.delivery.send_qos0(
            message, message.retain and recipient.retain_as_published, subscription_ids
        )

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        """Offer a queued message (see EdgeLink)."""
        client = self.clients.get(client_id)
        if client is not None and client.epoch == epoch:
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
            client.count_unreadable()
            if receipt is not None:
                receipt.done()
            return True
        return client.delivery.offer_shared(message, group, options, receipt)

    def pushes_lost(self) -> None:
        """Have every durable session look into its queue (see EdgeLink)."""
        for client in self.clients.values():
            if client.incarnation:
                client.delivery.suspect()

    def remaining_s(self, message: Publish) -> int:
        """Seconds a message has left to live, at least 1; 0 when it has expired.

        [MQTT-3.3.2-5], [MQTT-3.3.2-6]
        """
        left_ms = message.expires_at_ms - self.now_ms()
        return (left_ms + 999) // 1000 if left_ms > 0 else 0

    # Sending

    def mark(self, client: Client) -> None:
        """Note that a client has something to send; it goes out at the end of this turn."""
        if not self._dirty:
            self._schedule_flush()
        self._dirty.append(client)

    def _schedule_flush(self) -> None:
        assert self._loop is not None
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write once to every client that has something to send."""
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.flush()

    def assign_client_id(self) -> str:
        """Make a client identifier that no other session has [MQTT-3.2.2-16]."""
        self._next_assigned += 1
        return f"auto-{self.edge_id}-{self._next_assigned}"
