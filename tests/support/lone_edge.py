"""An edge without sockets and without a router: both ends are fakes of the test.

``LoneEdge`` is the real ``Edge`` with its real clients. Bytes are fed in by hand and collected;
what reaches the router is written down, and answered at once or when the test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from support import mqtt_bytes
from support.mqtt_bytes import V5, Packet
from support.virtual_time import turns
from tidegate.edge.auth.acl import Authorizer
from tidegate.edge.auth.authentication import Authenticator
from tidegate.edge.channel import Peer
from tidegate.edge.client.client import Client
from tidegate.edge.edge import Edge
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    OnRead,
    Origin,
    RetainedForQueue,
    RetainedPage,
    RouterUnavailable,
    SessionFenced,
)
from tidegate.mqtt.packets import Publish
from tidegate.mqtt.topics import matches
from tidegate.runtime.config.model import Config
from tidegate.runtime.telemetry.counters import Counters


class FakeChannel:
    """What a client writes to."""

    def __init__(self) -> None:
        self.peer = Peer("127.0.0.1", 1234, "tcp", "fake")
        self.is_paused = False
        self.is_closed = False
        self.written = bytearray()
        self.unfinished_bytes = 0
        #: "accepted" when CONNACK is sent, "failed" when it ends without.
        self.outcomes: list[str] = []

    def write(self, packets: Sequence[bytes]) -> None:
        """Collect."""
        if not self.is_closed:
            self.written += b"".join(packets)

    def pause_reading(self) -> None:
        """Note it."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Note it."""
        self.is_paused = False

    def hold_unfinished(self, size: int) -> None:
        """Note it."""
        self.unfinished_bytes = size

    def accepted(self) -> None:
        """Note it."""
        self.unfinished_bytes = 0
        self.outcomes.append("accepted")

    def failed(self) -> None:
        """Note it."""
        self.outcomes.append("failed")

    def close(self, websocket_code: int = 1000) -> None:
        """Note it."""
        self.is_closed = True

    def abort(self) -> None:
        """Note it."""
        self.is_closed = True


class FakeRouter:
    """What an edge asks of routers, written down; only what the tests need is there."""

    def __init__(self) -> None:
        self.published: list[Publish] = []
        #: Events for the record: (session key, encoded event).
        self.recorded: list[tuple[str, bytes]] = []
        self.takes_events = True
        #: Bans of clients that flap.
        self.bans: list[bytes] = []
        self.attached: list[AttachSession] = []
        self.detached: list[DetachSession] = []
        #: The filters of all SUBSCRIBEs and UNSUBSCRIBEs, and those of groups that were left.
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.left: list[str] = []
        #: Entries that a client may not read: sequence numbers, and up to which they may be sent.
        self.returned: list[tuple[list[int], int]] = []
        #: Messages of shared subscriptions for another member: (subscription, message).
        self.redispatched: list[tuple[str, Publish]] = []
        #: Publishes that have not been answered yet, while ``answers_late``.
        self.open: list[tuple[Origin, Publish]] = []
        self.answers_late = False
        #: Called with each publish, after it was written down.
        self.on_publish: Any = None
        #: No session can be had.
        self.refuses_sessions = False
        self.incarnation = 0
        #: What the next connections get, if it is no new session.
        self.session: AttachedSession | None = None
        #: What waits in the one durable session's queue, by sequence number.
        self.queued: dict[int, Publish] = {}
        #: Another connection has that session now.
        self.has_newer = False
        #: Deliveries that are to be forgotten: client identifier, epoch, sequence numbers.
        self.completed: list[tuple[str, int, list[int]]] = []
        #: How many of the next calls of ``complete_receipt`` fail.
        self.failures = 0
        #: By topic; ``page_size`` of them are read at a time, when ``readable`` is set.
        self.retained: dict[str, Publish] = {}
        self.page_size = 100
        self.readable = asyncio.Event()
        self.readable.set()
        self.failing_reads = 0
        self.reads: list[tuple[list[str], RetainedPage | None]] = []
        #: Subscriptions and topics whose retained messages are to be queued.
        self.enqueued: list[tuple[str, str]] = []
        self.failing_queues = 0
        #: Generations of SUBSCRIBEs, with the filters that the session had before.
        self.generations: list[tuple[str, list[str]]] = []
        #: Up to where retained messages have been sent: (filter, generation, topic).
        self.replays: list[tuple[str, str, str]] = []
        #: Filters that the edge is interested in, and whether in messages of QoS 0 only.
        self.interest: dict[str, bool] = {}
        #: Cleared: everything that is awaited waits.
        self.reachable = asyncio.Event()
        self.reachable.set()

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """See RouterLink."""
        self.published.append(message)
        if self.on_publish is not None:
            self.on_publish(message)
        if self.answers_late:
            self.open.append((origin, message))
            return None
        return 0

    def answer(self, count: int = -1, code: int = 0) -> None:
        """Answer the oldest open publishes (-1: all)."""
        if count < 0:
            count = len(self.open)
        for _ in range(count):
            origin, message = self.open.pop(0)
            origin.published(message, code)

    async def attach(self, edge_id: str, request: AttachSession) -> AttachedSession:
        """See RouterLink."""
        self.attached.append(request)
        await self.reachable.wait()
        if self.refuses_sessions:
            raise RouterUnavailable("none is there")
        return self.session or AttachedSession(1, self.incarnation, False)

    async def detach(self, request: DetachSession) -> DetachedSession:
        """See RouterLink."""
        await self.reachable.wait()
        self.detached.append(request)
        return DetachedSession()

    def hasten(self, client_id: str) -> None:
        """See RouterLink."""

    async def subscribe(self, *arguments: Any, generation: str = "", again: Any = ()) -> None:
        """See RouterLink."""
        self.generations.append((generation, list(again)))
        await self.reachable.wait()
        if self.refuses_sessions:
            raise RouterUnavailable("none is there")
        self.subscribed += [topic_filter for topic_filter, _ in arguments[-1]]

    async def unsubscribe(self, *arguments: Any) -> None:
        """See RouterLink."""
        await self.reachable.wait()
        if self.refuses_sessions:
            raise RouterUnavailable("none is there")
        self.unsubscribed += arguments[-1]

    async def complete_receipt(self, *arguments: Any) -> None:
        """See RouterLink."""
        if self.failures:
            self.failures -= 1
            raise RouterUnavailable("none is there")
        await self.reachable.wait()

    async def fetch(
        self,
        client_id: str,
        epoch: int,
        incarnation: int,
        after_seq: int,
        max_count: int,
        max_bytes: int,
    ) -> list[tuple[int, Publish]]:
        """See RouterLink."""
        await self.reachable.wait()
        if self.has_newer:
            raise SessionFenced(client_id)
        return [item for item in self.queued.items() if item[0] > after_seq][:max_count]

    def complete(self, client_id: str, epoch: int, seqs: list[int]) -> None:
        """See RouterLink."""
        self.completed.append((client_id, epoch, seqs))

    def leave_groups(self, *arguments: Any) -> None:
        """See RouterLink."""
        self.left += arguments[-1]

    async def return_entries(
        self, client_id: str, epoch: int, incarnation: int, seqs: Sequence[int], sent_seq: int
    ) -> None:
        """See RouterLink."""
        await self.reachable.wait()
        if self.refuses_sessions:
            raise RouterUnavailable("none is there")
        self.returned.append((list(seqs), sent_seq))

    def record(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """See RouterLink."""
        if self.takes_events:
            self.recorded += events
        return self.takes_events

    def ban(self, ban: bytes) -> None:
        """See RouterLink."""
        self.bans.append(ban)

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """See RouterLink."""
        self.redispatched.append((topic_filter, message))

    def add_interest(
        self, _edge_id: str, filters: Sequence[str], *, only_qos0: bool = False
    ) -> None:
        """See RouterLink."""
        self.interest.update(dict.fromkeys(filters, only_qos0))

    def remove_interest(self, _edge_id: str, filters: Sequence[str]) -> None:
        """See RouterLink."""
        for topic_filter in filters:
            del self.interest[topic_filter]

    async def interest_synced(self) -> None:
        """See RouterLink."""

    def retains_none(self, _filters: Sequence[str]) -> bool:
        """See RouterLink: a router of another process does not say."""
        return False

    async def read_retained(
        self,
        filters: Sequence[str],
        last: RetainedPage | None = None,
        on_read: OnRead | None = None,
    ) -> RetainedPage:
        """See RouterLink: what is retained when the answer comes."""
        self.reads.append((list(filters), last))
        await self.reachable.wait()
        await self.readable.wait()
        if self.failing_reads:
            self.failing_reads -= 1
            raise RouterUnavailable("none is there")
        after = last.after or "" if last is not None else ""
        found = [
            self.retained[topic]
            for topic in sorted(self.retained)
            if topic > after and any(matches(one, topic) for one in filters)
        ]
        page = RetainedPage(found[: self.page_size])
        if len(found) > self.page_size:
            page.after = page.messages[-1].topic
        if on_read is not None:
            on_read(lambda topic: page.after is None or topic <= page.after)
        return page

    async def queue_retained(
        self, client_id: str, incarnation: int, items: Sequence[RetainedForQueue]
    ) -> None:
        """See RouterLink."""
        if self.failing_queues:
            self.failing_queues -= 1
            raise RouterUnavailable("none is there")
        self.enqueued += [(item.topic_filter, item.message.topic) for item in items]

    async def replayed(
        self, client_id: str, epoch: int, items: Sequence[tuple[str, str, str]]
    ) -> None:
        """See RouterLink."""
        self.replays += items


class EdgeClient:
    """One client of the edge, with its channel."""

    def __init__(self, edge: Edge, client: Client, channel: FakeChannel, version: int) -> None:
        self.edge = edge
        self.client = client
        self.channel = channel
        self.version = version

    def send(self, *packets: bytes) -> None:
        """Feed bytes, as one chunk, if the edge reads now."""
        assert not self.channel.is_paused, "nobody reads"
        self.client.data_received(b"".join(packets))

    def publish(self, number: int, qos: int = 0, size: int = 0) -> bytes:
        """Encode a PUBLISH that can be told from others."""
        payload = b"%d" % number + bytes(size)
        packet_id = number if qos else None
        return mqtt_bytes.publish("t", payload, qos=qos, packet_id=packet_id, version=self.version)

    def received(self) -> list[Packet]:
        """Take what the client has been sent since the last time."""
        self.edge.flush()
        found = []
        while (raw := mqtt_bytes.split(self.channel.written)) is not None:
            found.append(mqtt_bytes.decode(raw, self.version))
        return found

    def kinds(self) -> list[str]:
        """Take the names of what the client has been sent since the last time."""
        return [packet.kind for packet in self.received()]

    def lose(self, reason: str = "peer_closed") -> None:
        """The connection breaks."""
        self.channel.is_closed = True
        self.client.connection_lost(reason)


class LoneEdge:
    """The edge under test. Make it in a running event loop, ``start`` it, ``stop`` it."""

    def __init__(self, **settings: Any) -> None:
        settings = {"auth": {"allow_anonymous": True}, "listeners": [{}]} | settings
        self.config = Config.model_validate(settings)
        self.counters = Counters()
        #: Unix time, as far as messages expire.
        self.now_ms = 0
        self.router = FakeRouter()
        self.edge = Edge(
            "edge",
            self.router,  # type: ignore[arg-type]  # a part of it
            self.config,
            Authenticator(self.config.auth, self.counters, self.config.listeners),
            Authorizer(self.config.auth, self.config.listeners),
            self.counters,
            lambda: self.now_ms,
        )

    async def __aenter__(self) -> LoneEdge:
        """Start."""
        self.edge.start()
        return self

    async def __aexit__(self, *arguments: object) -> None:
        """Stop."""
        self.router.reachable.set()
        await self.edge.stop()

    def accept(self, version: int = V5) -> EdgeClient:
        """A connection without CONNECT."""
        channel = FakeChannel()
        handler = self.edge.handler_factory(self.config.listeners[0])(channel, 0.0)
        assert isinstance(handler, Client)
        return EdgeClient(self.edge, handler, channel, version)

    async def connect(self, client_id: str, version: int = V5, **options: Any) -> EdgeClient:
        """A connected client, CONNACK taken."""
        fake = self.accept(version)
        fake.send(mqtt_bytes.connect(client_id, version=version, **options))
        await turns()
        assert fake.kinds() == ["CONNACK"]
        return fake
