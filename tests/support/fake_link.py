"""Either end of the link, faked by the test: what the real other end asks, and what it is told.

``FakeEdge`` and ``FakeService`` replace an edge and a router behind a real
``RouterClient`` and a real ``LinkServer``. ``FakeRouter`` and ``FakeStream`` replace a
whole peer: they exchange frames with a router client or a link server directly, without gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from support.waiting import wait_for_async
from tidegate.core.standing import Standing
from tidegate.link.edge_end.router_client import RouterClient
from tidegate.link.edge_end.router_peer import RouterPeer
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    EdgeLink,
    OnRead,
    Origin,
    PendingWill,
    RetainedPage,
    RetainedRequest,
)
from tidegate.link.messages import read_message, write_message
from tidegate.link.records import (
    COMPLETE,
    KIND,
    PUSH,
    Record,
    decode,
    encode_completion,
    encode_message,
    is_plain,
    message_of,
    seqs_of,
)
from tidegate.link.router_end.link_server import LinkServer
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import NEWEST_VERSION, RECORDS_VERSION
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.runtime.config.model import LinkConfig
from tidegate.runtime.telemetry.counters import Counters

DEADLINE_S = 20.0
#: Enough for frames to go to and fro, and nothing to a grace period or a heartbeat.
MOMENT_S = 0.1


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition."""
    await wait_for_async(condition, DEADLINE_S, what)


class FakeOrigin:
    """A publisher: what it was answered."""

    is_will = False

    def __init__(self, client_id: str = "publisher", epoch: int = 1) -> None:
        self.is_superseded = False
        #: See EndedPublisher; the test calls what was set.
        self.on_settled: Callable[[], object] | None = None
        self.under_way = False
        self.client_id = client_id
        self.epoch = epoch
        #: (payload, code), in the order in which the answers came.
        self.answers: list[tuple[bytes, int]] = []
        self.receipts: list[int] = []

    def is_under_way(self) -> bool:
        """See EndedPublisher."""
        return self.under_way

    def identity(self, message: Publish) -> str:
        """See Origin."""
        return f"{self.client_id}/{message.packet_id}" if message.qos == 2 else ""

    def receipt(self, message: Publish) -> int:
        """See Origin; counts how often it is asked."""
        self.receipts.append(message.packet_id)
        return 3 if message.qos == 2 else -1

    def published(self, message: Publish, code: int) -> None:
        """See Origin."""
        self.answers.append((message.payload, code))


class FakeEdge:
    """What routers ask of an edge, written down."""

    def __init__(self, edge_id: str = "edge-1") -> None:
        self.edge_id = edge_id
        self.delivered: list[Publish] = []
        self.publishers: list[str] = []
        self.pushed: list[tuple[str, int, int, Publish]] = []
        self.shared: list[tuple[str, int, Publish, str, SubscriptionOptions]] = []
        self.receipts: list[Any] = []
        #: As they are stored.
        self.bans: list[bytes] = []
        self.kicked: list[tuple[str, int, ReasonCode]] = []
        self.pushes_lost_count = 0
        self.lost: list[tuple[str, int]] = []
        self.own_connections: list[tuple[str, int]] | None = None
        self.verify_count = 0
        #: What was delivered with an identity.
        self.identities: list[str] = []
        self.fenced: list[tuple[str, int]] = []
        self.wills: list[PendingWill] = []
        self.knows_wills = False
        self.publishes_wills = False
        self.given_up_count = 0
        #: Whether the member of a shared subscription is here.
        self.has_member = True

    @property
    def payloads(self) -> list[bytes]:
        """The payloads of what was delivered."""
        return [message.payload for message in self.delivered]

    def deliver(self, message: Publish, publisher_id: str, identity: str = "") -> None:
        """See EdgeLink."""
        self.delivered.append(message)
        self.identities += [identity] if identity else []
        self.publishers.append(publisher_id)

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        """See EdgeLink."""
        self.pushed.append((client_id, epoch, seq, message))

    def deliver_shared(
        self,
        client_id: str,
        epoch: int,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: Any = None,
    ) -> bool:
        """See EdgeLink."""
        if not self.has_member:
            return False
        self.shared.append((client_id, epoch, message, group, options))
        self.receipts.append(receipt)
        return True

    def kick(self, client_id: str, epoch: int, reason_code: ReasonCode) -> None:
        """See EdgeLink."""
        self.kicked.append((client_id, epoch, reason_code))

    def session_lost(self, client_id: str, epoch: int) -> None:
        """See EdgeLink."""
        self.lost.append((client_id, epoch))

    def connections(self) -> list[tuple[str, int]] | None:
        """See EdgeLink."""
        return self.own_connections

    def verify_sessions(self) -> None:
        """See EdgeLink."""
        self.verify_count += 1

    def fence(self, client_id: str, epoch: int) -> None:
        """See EdgeLink."""
        self.fenced.append((client_id, epoch))

    def publish_will(self, will: PendingWill) -> bool:
        """See EdgeLink."""
        if self.publishes_wills:
            self.wills.append(will)
        return self.publishes_wills

    def give_up(self) -> None:
        """See EdgeLink."""
        self.given_up_count += 1

    def pushes_lost(self) -> None:
        """See EdgeLink."""
        self.pushes_lost_count += 1

    def set_bans(self, bans: Sequence[bytes]) -> None:
        """See EdgeLink."""
        self.bans = list(bans)


class FakeService:
    """What a link server asks of its router, written down; answered at once, or when the test says.

    Publishes go to every attached edge that has said that it is interested in the very topic, or in
    ``#``.
    """

    def __init__(self, instance: str = "router-1.a") -> None:
        self.instance = instance
        #: Every call but ``publish``: its name and its arguments.
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        #: By the name of a call: what it returns, or raises.
        self.results: dict[str, Any] = {}
        self.edges: dict[str, EdgeLink] = {}
        #: By edge and filter: whether only messages of QoS 0 are sent.
        self.interest: dict[str, dict[str, bool]] = {}
        self.published: list[tuple[Origin, Publish]] = []
        #: Publishes that wait for an answer, while ``answers_late``.
        self.open: list[tuple[Origin, Publish]] = []
        self.answers_late = False
        #: By topic: the edges that its messages are forwarded to, unread.
        self.live: dict[str, list[EdgeLink]] = {}
        self.completed: list[Callable[[], None] | None] = []
        self.living: list[str] = []
        self.edges_with_lease: list[str] = []
        #: Cleared: requests wait.
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.pages: list[list[str]] = []

    @property
    def payloads(self) -> list[bytes]:
        """The payloads of what was published."""
        return [message.payload for _, message in self.published]

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of all calls of one name."""
        return [arguments for called, arguments in self.calls if called == name]

    def _call(self, name: str, *arguments: Any) -> Any:
        self.calls.append((name, arguments))
        result = self.results.get(name)
        if isinstance(result, Exception):
            raise result
        return result

    async def _ask(self, name: str, *arguments: Any) -> Any:
        self.calls.append((name, arguments))
        await self.may_answer.wait()
        result = self.results.get(name)
        if isinstance(result, Exception):
            raise result
        return result

    def edges_only(self, topic: str, qos: int) -> Sequence[EdgeLink]:
        """See RouterService."""
        return self.live.get(topic, ())

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """See RouterLink."""
        self.published.append((origin, message))
        for edge_id, edge in self.edges.items():
            if {message.topic, "#"} & self.interest[edge_id].keys():
                edge.deliver(message, origin.client_id)
        if message.qos and self.answers_late:
            self.open.append((origin, message))
            return None
        return 0

    def answer(self, count: int = -1, code: int = 0) -> None:
        """Answer the oldest open publishes (-1: all)."""
        for _ in range(len(self.open) if count < 0 else count):
            origin, message = self.open.pop(0)
            origin.published(message, code)

    def attach_edge(self, edge: EdgeLink) -> None:
        """See RouterService."""
        self._call("attach_edge", edge.edge_id)
        before = self.edges.get(edge.edge_id)
        if before is not None:
            self.detach_edge(before)
        self.edges[edge.edge_id] = edge
        self.interest[edge.edge_id] = {}

    def detach_edge(self, edge: EdgeLink) -> None:
        """See RouterService."""
        self._call("detach_edge", edge.edge_id)
        if self.edges.get(edge.edge_id) is edge:
            del self.edges[edge.edge_id], self.interest[edge.edge_id]

    def add_interest(
        self, edge_id: str, filters: Sequence[str], *, only_qos0: bool = False
    ) -> None:
        """See RouterLink."""
        self.interest[edge_id].update(dict.fromkeys(filters, only_qos0))

    def remove_interest(self, edge_id: str, filters: Sequence[str]) -> None:
        """See RouterLink."""
        for topic_filter in filters:
            self.interest[edge_id].pop(topic_filter, None)

    async def attach(self, edge_id: str, request: AttachSession) -> AttachedSession:
        """See RouterLink."""
        found = await self._ask("attach", edge_id, request)
        return found or AttachedSession(1, 1, False)

    async def detach(self, request: DetachSession) -> DetachedSession:
        """See RouterLink."""
        return await self._ask("detach", request) or DetachedSession()

    def hasten(self, client_id: str) -> None:
        """See RouterLink."""

    async def settle(self, *arguments: Any) -> None:
        """See RouterService."""
        await self._ask("settle", *arguments)

    def publish_will(self, will: PendingWill) -> None:
        """See RouterService."""
        self._call("publish_will", will)

    async def withdraw_wills(self, *arguments: Any) -> None:
        """See RouterService."""
        await self._ask("withdraw_wills", *arguments)

    async def wills_published(self, *arguments: Any) -> None:
        """See RouterService."""
        await self._ask("wills_published", *arguments)

    async def subscribe(
        self, *arguments: Any, generation: str = "", again: Any = (), attempt: Any = ()
    ) -> None:
        """See RouterService."""
        await self._ask("subscribe", *arguments, *([generation] if generation else []), attempt)

    async def unsubscribe(self, *arguments: Any, attempt: Any = ()) -> None:
        """See RouterService."""
        await self._ask("unsubscribe", *arguments, attempt)

    async def verify_wills(self, *arguments: Any) -> list[bool]:
        """See RouterService."""
        answer: list[bool] = await self._ask("verify_wills", *arguments)
        return answer or [True] * len(arguments[-1])

    async def withdraw_connects(self, *arguments: Any) -> None:
        """See RouterService."""
        await self._ask("withdraw_connects", *arguments)

    def ban(self, ban: bytes) -> None:
        """See RouterLink."""
        self._call("ban", ban)

    def record(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """See RouterLink."""
        self._call("record", list(events))
        return True

    def join_groups(self, *arguments: Any) -> None:
        """See RouterService."""
        self._call("join_groups", *arguments)

    def leave_groups(self, *arguments: Any) -> None:
        """See RouterLink."""
        self._call("leave_groups", *arguments)

    def set_session_location(self, *arguments: Any) -> None:
        """See RouterService."""
        self._call("set_session_location", *arguments)

    async def interest_synced(self) -> None:
        """See RouterLink."""

    async def fetch(self, *arguments: Any) -> list[tuple[int, Publish]]:
        """See RouterLink."""
        return await self._ask("fetch", *arguments) or []

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """See RouterLink."""
        self._call("complete", client_id, epoch, seqs)
        self.completed.append(done)

    async def release(self, *arguments: Any) -> None:
        """See RouterLink."""
        await self._ask("release", *arguments)

    async def complete_receipt(self, *arguments: Any) -> None:
        """See RouterLink."""
        await self._ask("complete_receipt", *arguments)

    async def return_entries(self, *arguments: Any) -> None:
        """See RouterLink."""
        await self._ask("return_entries", *arguments)

    async def match_retained(self, topic_filter: str) -> AsyncIterator[list[str]]:
        """See RouterLink."""
        await self._ask("match_retained", topic_filter)
        for page in self.pages:
            yield page

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        """See RouterLink: each topic has its own name as payload."""
        await self._ask("get_retained", topics)
        return [Publish(topic, topic.encode(), retain=True) for topic in topics]

    def retains_none(self, filters: Sequence[str]) -> bool:
        """See RouterLink; only edges of the same process call it."""
        raise NotImplementedError

    async def read_retained(
        self,
        filters: Sequence[str],
        last: RetainedPage | None = None,
        on_read: OnRead | None = None,
    ) -> RetainedPage:
        """See RouterLink; only edges of the same process call it."""
        raise NotImplementedError

    async def retained_page(self, request: RetainedRequest) -> RetainedPage:
        """See RouterService."""
        page = await self._ask("retained_page", request)
        return page if isinstance(page, RetainedPage) else RetainedPage([])

    async def queue_retained(self, *arguments: Any) -> None:
        """See RouterLink."""
        await self._ask("queue_retained", *arguments)

    async def replayed(self, *arguments: Any) -> None:
        """See RouterLink."""
        await self._ask("replayed", *arguments)

    def replay_again(self, *arguments: Any) -> None:
        """See RouterService."""
        self._call("replay_again", *arguments)

    async def enqueue(self, *arguments: Any) -> None:
        """See RouterLink."""
        await self._ask("enqueue", *arguments)

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """See RouterLink."""
        self._call("redispatch", topic_filter, message)

    async def heartbeat(self, edge_id: str) -> bool:
        """See RouterService."""
        return await self._ask("heartbeat", edge_id) is not False

    async def end_lease(self, edge_id: str) -> None:
        """See RouterService."""
        await self._ask("end_lease", edge_id)

    async def verify(self, connections: Sequence[tuple[str, int]]) -> list[Standing]:
        """See RouterService."""
        answer = await self._ask("verify", connections) or [Standing.OWNED] * len(connections)
        return list(map(Standing, answer))

    async def fence(self, instance: str) -> None:
        """See RouterService."""
        await self._ask("fence", instance)

    async def catch_up(self) -> None:
        """See RouterService."""
        await self._ask("catch_up")

    async def leased_edges(self) -> list[str]:
        """See RouterService."""
        return self.edges_with_lease

    def live_routers(self) -> list[str]:
        """See RouterService."""
        return self.living


#: The newest version of the link that the fakes speak.
spoken_version = NEWEST_VERSION


def unpack_operations(frame: pb.EdgeFrame | pb.RouterFrame) -> None:
    """Replace the packed records in a frame by the operations that they stand for."""
    is_edge = isinstance(frame, pb.EdgeFrame)
    unpacked: list[Any] = []
    for operation in frame.operations:
        if operation.WhichOneof("kind") != "records":
            unpacked.append(operation)
            continue
        for record in decode(operation.records):
            unpacked.append(pb.EdgeOperation() if is_edge else pb.RouterOperation())
            _unpack(unpacked[-1], operation.records, record)
    del frame.operations[:]
    frame.operations.extend(unpacked)


def _unpack(out: Any, records: bytes, record: Record) -> None:
    flags, number, epoch, _, client_id = record[:5]
    if flags & KIND == COMPLETE:
        out.complete.id, out.complete.client_id, out.complete.epoch = number, client_id, epoch
        out.complete.seqs.extend(seqs_of(records, record))
    elif flags & KIND == PUSH:
        out.push.seq, out.push.client_id, out.push.epoch = number, client_id, epoch
        write_message(out.push.message, message_of(records, record))
    elif isinstance(out, pb.EdgeOperation):
        out.publish.id, out.publish.client_id, out.publish.epoch = number, client_id, epoch
        write_message(out.publish.message, message_of(records, record))
    else:
        out.deliver.publisher_id = client_id
        write_message(out.deliver.message, message_of(records, record))


def pack_operations(frame: pb.EdgeFrame | pb.RouterFrame) -> None:
    """Replace the operations that packed records can stand for, as the newest version does."""
    packed: list[Any] = []
    for operation in frame.operations:
        record = _record_of(operation)
        if record is None:
            packed.append(operation)
        elif packed and packed[-1].WhichOneof("kind") == "records":
            packed[-1].records += record
        else:
            packed.append(type(operation)(records=record))
    del frame.operations[:]
    frame.operations.extend(packed)


def _record_of(operation: Any) -> bytes | None:
    kind = operation.WhichOneof("kind")
    if kind == "complete":
        one = operation.complete
        return encode_completion(one.client_id, one.id, one.epoch, one.seqs)
    if kind not in {"publish", "deliver", "push"}:
        return None
    one = getattr(operation, kind)
    message = read_message(one.message)
    if not is_plain(message) or (kind == "publish" and (one.identity or one.receipt)):
        return None
    if kind == "deliver":
        return encode_message(message, one.publisher_id)
    if kind == "push":
        return encode_message(message, one.client_id, one.seq, one.epoch, PUSH)
    return encode_message(message, one.client_id, one.id, one.epoch)


# A router for a real router client


class FakeRouter:
    """A router for a real router client, without gRPC: frames are read and sent here.

    It answers ``Synced`` and requests at once, but for the kinds in ``silent_about``; publishes
    when the test says.
    """

    def __init__(
        self, router_client: RouterClient, name: str, credit_bytes: int = 1_000_000
    ) -> None:
        self.router_client = router_client
        self.name = name
        self.address = f"{name}:7000"
        self.credit_bytes = credit_bytes
        self.instance = ""
        self.channel: RouterPeer | None = None
        #: Everything that came over this connection, in order, as (kind, message).
        self.operations: list[tuple[str, Any]] = []
        self.received: list[pb.EdgeFrame] = []
        self.silent_about: set[str] = set()
        #: The kinds and numbers of requests that it has not answered.
        self.unanswered: list[tuple[str, int]] = []
        #: By the kind of a request: what to answer instead of nothing.
        self.replies: dict[str, pb.Reply] = {}
        self._writing: asyncio.Task[None] | None = None

    def connect(self, life: str = "a") -> None:
        """The router client's stream has been welcomed."""
        self.instance = f"{self.name}.{life}"
        self.operations, self.unanswered = [], []
        welcome = pb.Welcome(
            version=spoken_version,
            instance=self.instance,
            name=self.name,
            credit_bytes=self.credit_bytes,
        )
        channel = self.channel = self.router_client.membership.connected(self.address, welcome)
        outbox = channel.outbox
        assert outbox is not None
        self._writing = asyncio.create_task(outbox.send(self._take, lambda: None))
        stream: Any = SimpleNamespace(address=self.address, channel=channel)
        self.router_client.membership.streams[self.address] = (stream, self._writing)

    async def join(self, life: str = "a") -> None:
        """Connect, and give the router client the time to use it (of a loop of virtual time)."""
        self.connect(life)
        await asyncio.sleep(MOMENT_S)

    def lose(self) -> None:
        """The connection ends."""
        assert self.channel is not None
        assert self._writing is not None
        self._writing.cancel()
        self.router_client.membership.streams.pop(self.address, None)
        self.router_client.membership.disconnected(self.channel)
        self.channel = None

    def send(self, frame: pb.RouterFrame) -> None:
        """Say something to the edge."""
        assert self.channel is not None
        if self.channel.version >= RECORDS_VERSION:
            pack_operations(frame)
        self.router_client.frame_handler.receive(self.channel, frame)

    def say(self, **operation: Any) -> None:
        """Say one operation to the edge."""
        self.send(pb.RouterFrame(operations=[pb.RouterOperation(**operation)]))

    async def _take(self, frame: pb.EdgeFrame) -> None:
        unpack_operations(frame)
        self.received.append(frame)
        for operation in frame.operations:
            kind = operation.WhichOneof("kind")
            assert kind is not None
            self._act(kind, getattr(operation, kind))

    def _act(self, kind: str, operation: Any) -> None:
        if kind == "request":
            kind, number = operation.WhichOneof("kind"), operation.id
            if kind in self.silent_about:
                self.unanswered.append((kind, number))
            else:
                self._reply(kind, number)
            operation = getattr(operation, kind)
        elif kind == "synced" and kind not in self.silent_about:
            # Not from inside the router client's own writing.
            asyncio.get_running_loop().call_soon(self._applied, operation.id)
        self.operations.append((kind, operation))

    def _applied(self, number: int) -> None:
        if self.channel is not None:
            self.say(applied=pb.Applied(id=number))

    def _reply(self, kind: str, number: int) -> None:
        reply = pb.Reply()
        reply.CopyFrom(self.replies.get(kind, pb.Reply()))
        reply.id = number
        asyncio.get_running_loop().call_soon(self._say_reply, reply)

    def _say_reply(self, reply: pb.Reply) -> None:
        if self.channel is not None:
            self.say(reply=reply)

    def answer_all(self, kind: str) -> None:
        """Be silent about a kind of request no more; answer what has come."""
        self.silent_about.discard(kind)
        for found, number in self.unanswered:
            if found == kind:
                self._reply(kind, number)
        self.unanswered = [item for item in self.unanswered if item[0] != kind]

    def of(self, kind: str) -> list[Any]:
        """All operations of one kind that have come."""
        return [operation for found, operation in self.operations if found == kind]

    @property
    def published(self) -> list[Publish]:
        """What was published here."""
        return [read_message(operation.message) for operation in self.of("publish")]

    @property
    def payloads(self) -> list[bytes]:
        """The payloads of what was published here."""
        return [message.payload for message in self.published]

    def settle(self, *payloads: bytes, code: int = 0) -> None:
        """Answer publishes (all of this connection when none is named), and give credit back."""
        frame = pb.RouterFrame()
        for operation in self.of("publish"):
            message = read_message(operation.message)
            if payloads and message.payload not in payloads:
                continue
            frame.credit_bytes += (
                100 + len(message.topic) + len(message.payload) + len(message.properties)
            )
            if operation.id:
                frame.done_ids.append(operation.id)
                frame.done_codes.append(code)
            else:
                frame.unacknowledged_done += 1
        self.send(frame)


def fleet_of(edge: FakeEdge, **config: Any) -> RouterClient:
    """A router client that has not been started: the test brings its routers. It has a lease."""
    router_client = RouterClient(edge.edge_id, "edge", LinkConfig(**config), 10.0, Counters())
    router_client.set_edge(edge)
    router_client.lease.until_s = float("inf")
    return router_client


# An edge for a real link server


class FakeStream:
    """The stream of an edge to a real link server, without gRPC."""

    def __init__(self, link_server: LinkServer, edge_id: str = "edge-1") -> None:
        self.edge_id = edge_id
        self.frames: list[pb.RouterFrame] = []
        self._coming: asyncio.Queue[Any] = asyncio.Queue()
        #: Cleared: the edge takes nothing.
        self.takes = asyncio.Event()
        self.takes.set()
        #: Whether it says how much it has taken, and answers echoes.
        self.confirms = True
        self._taken = 0  # the one with Welcome does not count
        #: Kinds of operations that have come, packed records unread.
        self.kinds: set[str] = set()
        #: That Welcome has named.
        self.version = 0
        self.task = asyncio.create_task(link_server.attach(self))

    # FrameStream

    async def read(self) -> Any:
        """The next frame of the edge."""
        return await self._coming.get()

    async def receive(self, sink: Callable[[Any], None]) -> None:
        """Pass on every frame of the edge."""
        while (frame := await self.read()) is not None:
            sink(frame)

    async def write(self, frame: pb.RouterFrame) -> None:
        """Take a frame of the router."""
        await self.takes.wait()
        self.kinds.update(str(one.WhichOneof("kind")) for one in frame.operations)
        unpack_operations(frame)
        self.frames.append(frame)
        if frame.HasField("welcome"):
            self.version = frame.welcome.version
        if not self.confirms or frame.HasField("welcome"):
            return
        self._taken += 1
        answer = pb.EdgeFrame(frames_taken=self._taken)
        for operation in frame.operations:
            if operation.HasField("echo"):
                answer.operations.add().echo.id = operation.echo.id
        self._coming.put_nowait(answer)

    # What the test says

    def send(self, frame: pb.EdgeFrame) -> None:
        """Send a frame."""
        if self.version >= RECORDS_VERSION:
            pack_operations(frame)
        self._coming.put_nowait(frame)

    def say(self, **operation: Any) -> None:
        """Send one operation."""
        self.send(pb.EdgeFrame(operations=[pb.EdgeOperation(**operation)]))

    def ask(self, number: int, **request: Any) -> None:
        """Send one request."""
        self.say(request=pb.Request(id=number, **request))

    def end(self) -> None:
        """Close it."""
        self._coming.put_nowait(None)

    def hello(self, oldest: int = 1, newest: int | None = None) -> None:
        """Send the first frame."""
        newest = spoken_version if newest is None else newest
        hello = pb.Hello(
            oldest_version=oldest, newest_version=newest, edge_id=self.edge_id, name="edge"
        )
        self.send(pb.EdgeFrame(hello=hello))

    async def attach(self) -> pb.Welcome:
        """Say Hello and go on; return what it was answered."""
        self.hello()
        self.say(synced=pb.Synced(id=1))
        await until(lambda: self.of("applied"), "the link server has attached the edge")
        return self.frames[0].welcome

    def of(self, kind: str) -> list[Any]:
        """All operations of one kind that have come."""
        return [
            getattr(operation, kind)
            for frame in self.frames
            for operation in frame.operations
            if operation.WhichOneof("kind") == kind
        ]

    @property
    def done(self) -> dict[int, int]:
        """What is settled: number and code."""
        return {
            number: code
            for frame in self.frames
            for number, code in zip(frame.done_ids, frame.done_codes, strict=True)
        }

    @property
    def credit_bytes(self) -> int:
        """Credit that was given back, in all."""
        return sum(frame.credit_bytes for frame in self.frames)

    async def reply(self, number: int) -> pb.Reply:
        """Wait for the answer to a request."""
        await until(
            lambda: any(reply.id == number for reply in self.of("reply")),
            f"request {number} is answered",
        )
        found: pb.Reply = next(reply for reply in self.of("reply") if reply.id == number)
        return found


class NoListener:
    """In the place of a link server's listener."""

    def __init__(self, carrier: object, serve: object, counters: object) -> None:
        self.serving: list[bool] = []

    async def start(self, address: str, tls: object) -> str:
        """Listen nowhere."""
        return address

    async def set_serving(self, *, is_serving: bool) -> None:
        """Note it."""
        self.serving.append(is_serving)

    async def stop(self) -> None:
        """Nothing is there."""
