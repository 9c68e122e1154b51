"""What goes out to one client: its window, its queue, the feed of a durable session.

Owned by a ``Client``. Two kinds of sessions share one window: that of an ephemeral session is fed
from a bounded queue in memory, that of a durable session from its queue in the store (pushed as
messages come, fetched when the client has fallen behind), so backlog never sits in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from tidegate.core.window import (
    DeliveryState,
    DurableFeed,
    MemoryQueue,
    Window,
    packet_id_of,
)
from tidegate.edge.client.in_flight import InFlight
from tidegate.link.interfaces import (
    AttachedSession,
    RouterUnavailable,
    SessionFenced,
    SharedReceipt,
)
from tidegate.mqtt.encode import encode_ack
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import PubComp, Publish, PubRec, SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client, Replay

FETCH_MAX_BYTES: Final = 1_048_576
#: Pushed messages kept while the window is full: enough to spare a fetch in every round.
MAX_HELD: Final = 64
#: What a waiting message costs beside its payload and topic.
OVERHEAD_BYTES: Final = 64
RETRY_S: Final = 0.5
#: Entries that the client may not read, in one request to the router.
MAX_RETURNED: Final = 200
#: SUBSCRIBEs of one client whose retained messages are to be sent; the last ones become one.
MAX_REPLAYS: Final = 2


class Outgoing:
    """A message on its way to one client, as the window and the queue hold it."""

    __slots__ = ("group", "message", "qos", "receipt", "retain", "subscription_ids")

    def __init__(
        self,
        message: Publish,
        qos: int,
        retain: bool,
        subscription_ids: tuple[int, ...],
        group: str = "",
        receipt: SharedReceipt | None = None,
    ) -> None:
        self.message = message
        self.qos = qos
        self.retain = retain
        self.subscription_ids = subscription_ids
        #: The shared subscription it came through, "" for none.
        self.group = group
        #: Reports what becomes of it, if it came through another process.
        self.receipt = receipt


class Delivery:
    """See the module's docstring."""

    __slots__ = (
        "_client",
        "_completed",
        "_context",
        "_feed",
        "_fetching",
        "_is_paused",
        "_is_resumed",
        "_more_room",
        "_next_seq",
        "_queue",
        "_receipts",
        "_releasing",
        "_replays",
        "_resend_left",
        "_resend_until",
        "_sent_until",
        "_unreadable",
        "_window",
        "retained_reads",
        "sent_seq",
    )

    def __init__(self, client: Client) -> None:
        self._client = client
        self._context = client.context
        self._window: Window[Outgoing | None] = Window(client.max_in_flight)
        self._queue: MemoryQueue[Outgoing] | None = None
        self._feed: DurableFeed[Publish] | None = None
        self._next_seq = 1
        #: Highest seq that was put on the wire (durable sessions).
        self.sent_seq = 0
        #: Entries up to this seq may have been sent before: they carry DUP [MQTT-3.3.1-1].
        self._resend_until = 0
        #: How many of them are taken for begun exchanges. DUP may be set on more: what was
        #: acknowledged on a connection that was fenced, or to an edge that died, comes once more.
        self._resend_left = client.context.limits.max_in_flight
        #: Entries up to this seq are known to have been sent before.
        self._sent_until = 0
        self._is_resumed = False
        #: Entries to be forgotten at the end of this turn. None, here and below: there are none.
        self._completed: list[int] | None = None
        #: By seq: who waits for the acknowledgement of a shared subscription's message.
        self._receipts: dict[int, SharedReceipt] | None = None
        #: Entries and packet identifiers of which the store does not have yet that PUBREC came.
        self._releasing: list[tuple[int, int]] | None = None
        self._fetching = False
        #: Entries for ``_return_entries``; None: there has been none.
        self._unreadable: list[int] | None = None
        #: Whether a durable session's messages wait for a SUBACK.
        self._is_paused = False
        #: The retained messages of SUBSCRIBEs that are still to be sent, one after the other.
        self._replays: list[Replay] | None = None
        #: How often retained messages have been read for it.
        self.retained_reads = 0
        #: Set when there may be room again; None: nothing waits for it.
        self._more_room: asyncio.Event | None = None

    # Begin and end

    def begin(self, session: AttachedSession) -> None:
        """Start or resume a durable session.

        Everything sent before and not acknowledged is sent again, with original packet identifiers
        and DUP set [MQTT-4.4.0-1]; PUBREL for what was released.
        """
        self._feed = DurableFeed(MAX_HELD)
        if session.session_present:
            self._is_resumed = True
            self.sent_seq = session.sent_seq
            self._resend_until = self._sent_until = session.sent_seq
            if session.sent_uncertain:
                self._resend_until = max(session.sent_seq, session.last_seq)
            for seq in sorted(session.released):
                packet_id = self._window.start_released(seq)
                self._client.send(encode_ack(0x62, packet_id, 0, self._client.version))
            self._feed.resume(session.released, session.last_seq)
            self.pump()
        else:
            self._feed.begin(session.last_seq)

    def end(self) -> None:
        """The connection has ended: return shared messages to their groups, wake what waits."""
        self._flush_completed()
        counters = self._context.counters
        for _, _, outgoing in self._window.unacknowledged():
            # A QoS 2 message that one member has been sent goes to no other [MQTT-4.8.2-5].
            if outgoing is not None and outgoing.group and outgoing.qos == 1:
                self._return(outgoing)
        if self._queue is not None:
            while (outgoing := self._queue.take()) is not None:
                counters.queued -= 1
                if outgoing.group:
                    counters.dropped["redispatched"] += 1
                    self._return(outgoing)
                else:
                    counters.dropped["disconnected"] += 1
        if self._feed is not None:
            self._feed.clear()  # a fetch that waits for the store still has it
        if self._more_room is not None:
            self._more_room.set()

    def withdraw(self) -> None:
        """Permissions have changed: drop what waits in memory and may not be read any more.

        What came through a shared subscription goes to another member.
        """
        if not self._queue:
            return
        counters, may_read = self._context.counters, self._client.may_read
        for outgoing in self._queue.remove(lambda waiting: not may_read(waiting.message.topic)):
            counters.queued -= 1
            if outgoing.group:
                counters.dropped["redispatched"] += 1
                self._return(outgoing)
            else:
                counters.acl_denied["read"] += 1
                counters.dropped["not_authorized"] += 1
                self._record_drop("not_authorized", outgoing.message)

    def waiting(self) -> tuple[int, int]:
        """Messages under way to the client, and those in memory behind them."""
        return len(self._window), len(self._queue) if self._queue is not None else 0

    def unacknowledged(self, count: int) -> list[InFlight]:
        """Return the oldest exchanges under way (see Outbound)."""
        return [
            InFlight(
                packet_id_of(seq),
                seq,
                state.value,
                1 if state is DeliveryState.AWAITING_PUBACK else 2,
                outgoing.message if outgoing is not None else None,
                outgoing.group if outgoing is not None else "",
            )
            for seq, state, outgoing in self._window.unacknowledged()[:count]
        ]

    def _return(self, outgoing: Outgoing) -> None:
        """Have a shared subscription's message given to another member."""
        if outgoing.receipt is not None:
            outgoing.receipt.returned()
        else:
            self._context.router.redispatch(outgoing.group, outgoing.message)

    # Live messages

    def offer(
        self, message: Publish, qos: int, retain: bool, subscription_ids: tuple[int, ...]
    ) -> None:
        """Deliver a QoS 1 or 2 message to an ephemeral session."""
        self._offer(Outgoing(message, qos, retain, subscription_ids))

    def offer_shared(
        self,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """Deliver a shared subscription's message; False when there is no place for it."""
        qos = min(message.qos, options.qos)
        retain = message.retain and options.retain_as_published
        identifier = options.subscription_identifier
        subscription_ids = (identifier,) if identifier else ()
        if not qos:
            self.send_qos0(message, retain, subscription_ids)
            return True
        self._offer(Outgoing(message, qos, retain, subscription_ids, group, receipt))
        return True

    def _offer(self, outgoing: Outgoing) -> None:
        counters = self._context.counters
        counters.published += 1
        queue = self._queue
        if (queue is None or not queue.count) and self._window.room() > 0 and not self._client.slow:
            self._start(outgoing)
            return
        if queue is None:
            limits = self._context.limits
            queue = self._queue = MemoryQueue(
                limits.max_queued_messages, limits.max_queued_bytes, limits.queue_full_policy
            )
        message = outgoing.message
        before = queue.count
        size_bytes = len(message.payload) + len(message.topic) + OVERHEAD_BYTES
        now_ms = self._context.now_ms()
        reason = queue.offer(outgoing, size_bytes, message.expires_at_ms, now_ms)
        counters.queued += queue.count - before
        if message.expires_at_ms:
            self._context.expiring[self._expire] = None
        if queue.last_expired:
            counters.dropped["expired"] += len(queue.last_expired)
            self._record_drop("expired", queue.last_expired[0].message, len(queue.last_expired))
            _done(queue.last_expired)
        if reason is not None:
            counters.dropped[reason] += queue.last_dropped_count
            dropped = queue.last_dropped
            self._record_drop(reason, dropped[0].message, queue.last_dropped_count)
            _done(dropped)

    def _expire(self) -> bool:
        """Drop what has expired in memory [MQTT-3.3.2-5]; False when nothing there expires."""
        queue = self._queue
        if queue is None or self._client.is_closed:
            return False
        expired = queue.remove_expired(self._context.now_ms())
        self._context.counters.queued -= len(expired)
        self._context.counters.dropped["expired"] += len(expired)
        if expired:
            self._record_drop("expired", expired[0].message, len(expired))
        _done(expired)
        return queue.expires

    def _start(self, outgoing: Outgoing) -> None:
        """Put an ephemeral session's message on the wire, in the window."""
        message = outgoing.message
        expiry = None
        if message.expires_at_ms:
            expiry = self._context.remaining_s(message)
            if not expiry:
                self._context.counters.dropped["expired"] += 1
                self._record_drop("expired", message)
                if outgoing.receipt is not None:
                    outgoing.receipt.done()
                return
        client = self._client
        seq = self._next_seq
        packet_id = (seq - 1) % 65535 + 1
        wire = client.encode(
            message, outgoing.qos, outgoing.retain, False, packet_id,
            outgoing.subscription_ids, expiry,
        )  # fmt: skip
        if wire is None:
            if outgoing.receipt is not None:
                outgoing.receipt.done()
            return
        if outgoing.receipt is not None:
            if self._receipts is None:
                self._receipts = {}
            self._receipts[seq] = outgoing.receipt
        self._next_seq = seq + 1
        self._window.start(seq, outgoing.qos, outgoing)
        client.send(wire)
        self._count_sent(outgoing.qos, message)

    def _record_drop(self, reason: str, message: Publish, count: int = 1) -> None:
        self._context.recorder.dropped(self._client, reason, message.topic, count)

    def _count_sent(self, qos: int, message: Publish) -> None:
        counters = self._context.counters
        counters.messages_sent[qos] += 1
        counters.delivered += 1
        counters.publish_bytes_sent += len(message.payload)

    def send_qos0(self, message: Publish, retain: bool, subscription_ids: tuple[int, ...]) -> None:
        """Send a QoS 0 copy now, or drop it, counted."""
        self._context.counters.published += 1
        self._send_qos0(message, retain, subscription_ids)

    def _send_qos0(self, message: Publish, retain: bool, subscription_ids: tuple[int, ...]) -> None:
        expiry = None
        counters = self._context.counters
        if message.expires_at_ms:
            expiry = self._context.remaining_s(message)
            if not expiry:
                counters.dropped["expired"] += 1
                self._record_drop("expired", message)
                return
        client = self._client
        wire = client.encode(message, 0, retain, False, 0, subscription_ids, expiry)
        if wire is None or (client.slow and not client.admit(len(wire), message.topic)):
            return
        client.send(wire)
        self._count_sent(0, message)

    # Durable sessions

    def push(self, seq: int, message: Publish) -> None:
        """A message that has just been queued in the store."""
        feed = self._feed
        if feed is None:
            return
        if feed.pushed(seq, message, self._room(), len(message.payload) + OVERHEAD_BYTES):
            self._send_durable(seq, message)
            if not self._completed:
                return
            # It may be completed already (it had expired, say): then no acknowledgement will come.
        if feed.behind:
            self.pump()

    def _room(self) -> int:
        return 0 if self._client.slow or self._is_paused else self._window.room()

    def _send_durable(self, seq: int, message: Publish) -> None:
        client = self._client
        counters = self._context.counters
        expiry = None
        dup = seq <= self._resend_until
        again = dup and self._resend_left > 0
        if message.expires_at_ms:
            expiry = self._context.remaining_s(message)
            if not expiry:
                if not again or (message.qos == 1 and seq > self._sent_until):
                    counters.dropped["expired"] += 1
                    self._record_drop("expired", message)
                    self._complete(seq)
                    return
                expiry = 1  # it has been sent before: the exchange must go on [MQTT-4.3.3-7]
        if not client.may_read(message.topic):
            counters.acl_denied["read"] += 1
            self._record_drop("not_authorized", message)
            self._withhold(seq)
            return
        if not message.qos:
            self._send_qos0(message, message.retain, message.subscription_identifiers)
            self._complete(seq)
            return
        packet_id = (seq - 1) % 65535 + 1
        wire = client.encode(
            message, message.qos, message.retain, dup, packet_id,
            message.subscription_identifiers, expiry,
        )  # fmt: skip
        if wire is None:
            self._complete(seq)
            return
        self._window.start(seq, message.qos, None)
        if again:
            self._resend_left -= 1
        self.sent_seq = max(self.sent_seq, seq)
        client.send(wire)
        if not again:
            counters.delivered += 1
        counters.messages_sent[message.qos] += 1
        counters.publish_bytes_sent += len(message.payload)

    def _withhold(self, seq: int) -> None:
        """Leave an entry that the client may not read to the router: it may be for another member.

        Entries do not say so here, but a new session without shared subscriptions has none.
        """
        is_shared = self._is_resumed or any(
            name.startswith("$share/") for name in self._client.subscriptions
        )
        if not is_shared:
            self._context.counters.dropped["not_authorized"] += 1
            self._complete(seq)
        elif self._unreadable:
            self._unreadable.append(seq)
        else:
            self._unreadable = [seq]
            self._context.spawn(self._return_entries())

    async def _return_entries(self) -> None:
        client = self._client
        if client.group_rights is not None:
            await client.group_rights.settled()  # else they would come back
        while self._unreadable and not client.is_closed:
            seqs = self._unreadable[:MAX_RETURNED]
            try:
                await self._context.router.return_entries(
                    client.session_key, client.epoch, client.incarnation, seqs, self._resend_until
                )
            except SessionFenced as error:
                client.fenced(error)
                return
            except RouterUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            del self._unreadable[: len(seqs)]

    def _complete(self, seq: int) -> None:
        """Forget a durable entry; gathered, one call per turn of the event loop."""
        self._context.counters.queued -= 1
        if self._completed is not None:
            self._completed.append(seq)
        else:
            self._completed = [seq]
            self._context.soon(self._flush_completed)

    def _flush_completed(self) -> None:
        seqs, self._completed = self._completed, None
        if seqs is not None:
            client = self._client
            self._context.router.complete(client.session_key, client.epoch, seqs)

    def resync(self) -> None:
        """Pushes may have been lost: look into the store when there is room."""
        if self._feed is not None:
            self._feed.resync()
            self.pump()

    def pump(self) -> None:
        """Send what there is room for."""
        client = self._client
        if client.is_closed:
            return
        feed = self._feed
        if feed is not None:
            self._send_ready(feed)
            if not self._fetching and feed.wants_fetch(self._room()) is not None:
                self._fetching = True
                self._context.spawn(self._fetch())
        elif self._queue is not None:
            self._pump_memory(self._queue)
        if self._more_room is not None:
            self._more_room.set()

    def _send_ready(self, feed: DurableFeed[Publish]) -> None:
        """Send what is held. An entry that is dropped takes no room: look again after it."""
        while ready := feed.take(self._room()):
            for seq, message in ready:
                self._send_durable(seq, message)

    def _pump_memory(self, queue: MemoryQueue[Outgoing]) -> None:
        while queue.count and self._window.room() > 0 and not self._client.slow:
            outgoing = queue.take()
            if outgoing is None:
                break
            self._context.counters.queued -= 1
            self._start(outgoing)

    async def _fetch(self) -> None:
        """Read on in the store until the window is full or the end is reached."""
        client, feed = self._client, self._feed
        assert feed is not None
        try:
            while not client.is_closed:
                room = self._room()
                after_seq = feed.wants_fetch(room)
                if after_seq is None:
                    return
                feed.fetch_started()
                try:
                    entries = await self._context.router.fetch(
                        client.session_key,
                        client.epoch,
                        client.incarnation,
                        after_seq,
                        room,
                        FETCH_MAX_BYTES,
                    )
                except SessionFenced as error:
                    client.fenced(error)
                    return
                except RouterUnavailable:
                    feed.fetch_failed()
                    await asyncio.sleep(RETRY_S)
                    continue
                if client.is_closed:
                    return
                ready = feed.fetched(entries, not entries, self._room(), self._window.accepts)
                for seq, message in ready:
                    self._send_durable(seq, message)
                self._send_ready(feed)
        finally:
            self._fetching = False

    # Acknowledgements

    def on_puback(self, packet_id: int) -> None:
        """QoS 1 is complete."""
        seq = self._window.on_puback(packet_id)
        if seq is None:
            return  # unknown: nothing to do (MQTT5 §4.4 lets a client repeat it)
        if self._feed is not None:
            self._complete(seq)
            if self._feed.behind:
                self.pump()
        else:
            if self._receipts and (receipt := self._receipts.pop(seq, None)) is not None:
                receipt.done()
            queue = self._queue
            if queue is not None and queue.count:
                self.pump()
        if self._more_room is not None:
            self._more_room.set()

    def on_pubrec(self, packet: PubRec) -> None:
        """QoS 2, second step: PUBREL follows, once the store knows it [MQTT-4.3.3-4]."""
        client = self._client
        result = self._window.on_pubrec(packet.packet_id, packet.reason_code)
        if result is None:
            if packet.reason_code < 0x80:
                code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
                client.send(encode_ack(0x62, packet.packet_id, code, client.version))
            return
        action, seq = result
        if action == "release":
            if self._feed is None:
                client.send(encode_ack(0x62, packet.packet_id, 0, client.version))
            elif self._releasing is not None:
                self._releasing.append((seq, packet.packet_id))
            else:
                self._releasing = [(seq, packet.packet_id)]
                self._context.spawn(self._release(self._releasing))
            return
        self._finished(seq)

    async def _release(self, releasing: list[tuple[int, int]]) -> None:
        client = self._client
        while releasing and not client.is_closed:
            batch = list(releasing)
            try:
                await self._context.router.release(
                    client.session_key, client.epoch, [seq for seq, _ in batch]
                )
            except SessionFenced as error:
                client.fenced(error)
                return
            except RouterUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            del releasing[: len(batch)]
            for _, packet_id in batch:
                client.send(encode_ack(0x62, packet_id, 0, client.version))
        self._releasing = None

    def on_pubcomp(self, packet: PubComp) -> None:
        """QoS 2 is complete."""
        seq = self._window.on_pubcomp(packet.packet_id)
        if seq is not None:
            self._finished(seq)

    def _finished(self, seq: int) -> None:
        if self._feed is not None:
            self._complete(seq)
        self.pump()

    # Retained messages

    def send_retained(self, replay: Replay) -> None:
        """Send the retained messages of a SUBSCRIBE, what there is room for at once."""
        replays = self._replays
        if not replays:
            replay.send_some()
        if replay.is_done:
            replay.end()
            return
        if replays is None:
            self._replays = [replay]
            self._context.spawn(self._replay_all(self._replays))
        elif len(replays) > MAX_REPLAYS:
            replays[-1].absorb(replay)
        else:
            replays.append(replay)

    def retained_read(self, messages: Sequence[Publish]) -> None:
        """Retained messages have been read: what waits behind them is not to be older."""
        self.retained_reads += 1
        if self._replays is not None:
            for replay in self._replays[1:]:
                replay.renew(messages)

    def pause(self) -> None:
        """Send nothing from the queue of a durable session until ``resume``."""
        self._is_paused = True

    def resume(self) -> None:
        """Send again."""
        if self._is_paused:
            self._is_paused = False
            self.pump()

    def forget_retained(self, filters: Iterable[str]) -> None:
        """Send no more retained messages of these: the client has unsubscribed."""
        for replay in self._replays or ():
            replay.forget(filters)

    async def _replay_all(self, replays: list[Replay]) -> None:
        """Send what is left of them, at the client's own pace."""
        try:
            while replays and not self._client.is_closed:
                await replays[0].run()
                replays.pop(0).end()
        finally:
            while replays:
                replays.pop().end()
            self._replays = None

    def offer_retained(self, message: Publish, qos: int, subscription_ids: tuple[int, ...]) -> bool:
        """Deliver one with QoS 1 or 2; False when it has to go through the session's queue."""
        if self._feed is not None:
            return False
        self._offer(Outgoing(message, qos, True, subscription_ids))
        return True

    async def wait_for_room(self) -> None:
        """Wait until the client has taken what it was given, so that nothing piles up.

        One waits at a time. Returns also when the connection is over.
        """
        if self._client.is_closed or self.has_room():
            return
        more_room = self._more_room = asyncio.Event()
        try:
            while not self._client.is_closed and not self.has_room():
                more_room.clear()
                await more_room.wait()
        finally:
            self._more_room = None

    def has_room(self) -> bool:
        """Whether the client has taken what it was given."""
        if self._client.slow:
            return False
        if self._feed is not None:
            return not self._feed.behind and self._window.room() > 0
        return not self._queue


def delivery_of(client: Client) -> Delivery:
    """Return what goes out to a connected client, made when it is needed first."""
    delivery = client.delivery
    if not isinstance(delivery, Delivery):
        delivery = Delivery(client)
        client.delivery, client.queue.on_puback = delivery, delivery.on_puback
    return delivery


def _done(dropped: Sequence[Outgoing]) -> None:
    """Report that these went to no client."""
    for outgoing in dropped:
        if outgoing.receipt is not None:
            outgoing.receipt.done()
