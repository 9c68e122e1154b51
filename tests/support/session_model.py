"""A broker of one process and its store, reduced to who is connected and what is stored.

``SessionModel`` has a router (ours) on a store that does, in memory, what the script does for
CONNECT and the end of connections, one call after the other, when a test says so: it may also lose
replies. The edge is as small as it can be: it takes what the router gives, in the order in which it
comes, as ``edge.client.connect`` does. Every step checks the promises.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tidegate.link.interfaces import AttachedSession, AttachSession, DetachSession
from tidegate.mqtt.packets import Will
from tidegate.router.router import Router
from tidegate.runtime.config.model import FeaturesConfig, LimitsConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import (
    AttachReply,
    AttachRequest,
    DetachReply,
    DetachRequest,
    DueWill,
    EndedSession,
    StoreUnavailable,
)


class BrokenPromiseError(AssertionError):
    """What must not happen has happened."""


@dataclass(slots=True)
class Stored:
    """A session, as the store has it."""

    epoch: int
    edge: str
    incarnation: int
    expiry_s: int
    will: bytes | None


class ModelStore:
    """See the module's docstring. Calls wait in their order until ``step`` or ``lose``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.writer = ""
        self.on_replaced: Callable[[], None] = lambda: None
        self.is_reachable = True
        self.epoch = 100
        self.sessions: dict[str, Stored] = {}
        #: By client: wills that have been claimed, and not been published.
        self.pending: dict[str, list[DueWill]] = {}
        self.edges: set[str] = set()
        self.waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()

    def partition(self, _name: str) -> int:
        """There is one."""
        return 0

    def _submit(self, run: Callable[[], Any]) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = self._loop.create_future()
        self.waiting.append((run, reply))
        return reply

    def step(self) -> None:
        """Run the oldest call, and answer it."""
        run, reply = self.waiting.popleft()
        reply.set_result(run())

    def lose(self, *, is_run: bool) -> None:
        """Do not answer the oldest call; it may have been run."""
        run, reply = self.waiting.popleft()
        if is_run:
            run()
        reply.set_exception(StoreUnavailable("lost"))

    def attach(self, request: AttachRequest) -> asyncio.Future[AttachReply]:
        """CONNECT, as in ``connection.lua``."""
        return self._submit(lambda: self._attach(request))

    def _attach(self, request: AttachRequest) -> AttachReply:
        self.epoch += 1
        epoch, client_id = self.epoch, request.client_id
        self.edges.add(request.edge_id)
        reply = AttachReply(epoch, 0, False, wills=self.pending.pop(client_id, []))
        known = self.sessions.get(client_id)
        if known is not None:
            if known.edge:
                reply.previous_edge, reply.previous_epoch = known.edge, known.epoch
            ended = (
                request.clean_start
                or not known.incarnation
                or (known.edge != "" and not known.expiry_s)
            )
            if known.will is not None and (ended or known.edge):
                will = DueWill(f"{known.epoch}:{client_id}", client_id, known.epoch, known.will)
                reply.wills.append(will)
            if ended:
                reply.discarded_incarnation = known.incarnation
            else:
                reply.incarnation, reply.session_present = known.incarnation, True
        if not reply.incarnation and request.session_expiry_s:
            reply.incarnation = epoch
        self.sessions[client_id] = Stored(
            epoch, request.edge_id, reply.incarnation, request.session_expiry_s, request.will
        )
        return reply

    def detach(self, request: DetachRequest) -> asyncio.Future[DetachReply]:
        """The end of a connection, as in ``connection.lua``."""
        return self._submit(lambda: self._detach(request))

    def _detach(self, request: DetachRequest) -> DetachReply:
        known = self.sessions.get(request.client_id)
        if known is None or known.epoch != request.epoch or not known.edge:
            return DetachReply(fenced=True)
        return self._disconnect(request.client_id, known, publish_will=request.publish_will)

    def _disconnect(self, client_id: str, known: Stored, *, publish_will: bool) -> DetachReply:
        reply = DetachReply(fenced=False)
        if known.will is not None and publish_will:
            will = DueWill(f"{known.epoch}:{client_id}", client_id, known.epoch, known.will)
            reply.wills.append(will)
            self.pending.setdefault(client_id, []).append(will)
        known.will = None
        if known.incarnation and known.expiry_s:
            known.edge = ""
        else:
            del self.sessions[client_id]
            if known.incarnation:
                reply.ended = EndedSession(client_id, known.incarnation)
        return reply

    def sweep(self, edge_id: str) -> list[str]:
        """End the connections of all other edges; the clients whose wills are due."""
        due = []
        for client_id, known in list(self.sessions.items()):
            if known.edge in {"", edge_id}:
                continue
            if self._disconnect(client_id, known, publish_will=True).wills:
                due.append(client_id)
        self.edges &= {edge_id}
        return due

    async def will_published(self, will_ids: list[str]) -> None:
        """A will is not pending any more."""
        for client_id, wills in list(self.pending.items()):
            left = [will for will in wills if will.will_id not in will_ids]
            self.pending[client_id] = left
            if not left:
                del self.pending[client_id]

    async def reserve_epochs(self, _partition: int, count: int) -> int:
        """Return the first of so many epochs."""
        first: int = await self._submit(lambda: self._reserve(count))
        return first

    def _reserve(self, count: int) -> int:
        first, self.epoch = self.epoch + 1, self.epoch + count
        return first

    async def connected_edges(self) -> tuple[set[str], list[str]]:
        """Edges that may have connections, clients with wills to be published."""
        return set(self.edges), list(self.pending)


@dataclass(slots=True)
class Connection:
    """A connection that the edge has accepted."""

    session: AttachedSession
    number: int


@dataclass(slots=True)
class SessionModel:
    """See the module's docstring."""

    #: Changes the parts of a new process, to show that a test notices.
    change: Callable[[Router], None] | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    store: ModelStore = field(init=False)
    router: Router = field(init=False)
    edge_id: str = ""
    processes: int = 0
    connects: int = 0
    #: Accepted without the store, in all.
    unstored_count: int = 0
    #: What has happened that must not.
    broken: str = ""
    clients: dict[str, Connection] = field(default_factory=dict)
    epochs: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Start the first process."""
        # Of a process that is killed: its calls end with CancelledError where none is expected.
        self.loop.set_exception_handler(self._failed)
        self.store = ModelStore(self.loop)
        self.restart()

    def close(self) -> None:
        """End the event loop."""
        self._end_tasks()
        self.loop.close()

    def _end_tasks(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self._turn()

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, asyncio.CancelledError):
            self.broken = self.broken or f"{context['message']}: {error!r}"

    def _turn(self) -> None:
        """Let everything happen that waits for nothing."""

        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def _run(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        self.loop.run_until_complete(run())

    # Steps

    def restart(self) -> None:
        """The process is killed, and another one follows: what was not run never is."""
        self._end_tasks()
        self.store.waiting.clear()
        self.clients.clear()
        self.processes += 1
        self.edge_id = f"edge-{self.processes}"

        async def make() -> Router:
            router = Router(
                self.store,  # type: ignore[arg-type]  # as much of it as is called
                LimitsConfig(),
                FeaturesConfig(),
                Counters(),
                lambda: 0,
            )
            router.unstored._edges = SimpleNamespace(by_id={self.edge_id: None})  # type: ignore[assignment]
            return router

        self.router = self.loop.run_until_complete(make())
        for client_id, known in self.store.sessions.items():
            if known.incarnation:
                self.router.table.session(client_id, known.incarnation)
        if self.change is not None:
            self.change(self.router)

    def connect(self, client_id: str, *, clean: bool, expiry_s: int, has_will: bool) -> None:
        """A client sends CONNECT."""
        self.connects += 1
        number, will = self.connects, Will(f"will/{client_id}") if has_will else None
        request = AttachSession(client_id, clean, expiry_s, will)
        self.loop.run_until_complete(self._connect(request, number))
        self._turn()

    async def _connect(self, request: AttachSession, number: int) -> None:
        attached = asyncio.ensure_future(self.router.attach(self.edge_id, request))
        process = self.processes

        def ended(attached: asyncio.Future[AttachedSession]) -> None:
            if attached.cancelled() or attached.exception() is not None:
                return
            if self.processes == process:
                self._take(request.client_id, attached.result(), number)

        if attached.done():
            ended(attached)
        else:
            attached.add_done_callback(ended)

    def _take(self, client_id: str, session: AttachedSession, number: int) -> None:
        if session.epoch in self.epochs:
            self.broken = f"epoch {session.epoch} is given out twice"
        self.epochs.add(session.epoch)
        if not session.is_stored:
            self.unstored_count += 1
            if client_id in self.store.sessions or client_id in self.store.pending:
                self.broken = f"the store has something of {client_id}"
        older = self.clients.get(client_id)
        if older is not None and older.session.epoch > session.epoch:
            if older.number < number:
                self.broken = f"an older connection of {client_id} stays"
            self._end(client_id, session)
            return
        self.clients[client_id] = Connection(session, number)
        if older is not None:
            self._end(client_id, older.session)

    def disconnect(self, client_id: str) -> None:
        """The connection of a client ends."""
        self._end(client_id, self.clients.pop(client_id).session)
        self._turn()

    def _end(self, client_id: str, session: AttachedSession) -> None:
        if not session.is_stored:
            return
        request = DetachSession(client_id, session.epoch, True)
        detached = asyncio.ensure_future(self.router.detach(request), loop=self.loop)
        detached.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def step(self) -> None:
        """The store runs a call, and answers."""
        if self.store.waiting:
            self.store.step()
            self._turn()

    def lose(self, *, is_run: bool) -> None:
        """The store does not answer a call."""
        if self.store.waiting:
            self.store.lose(is_run=is_run)
            self._turn()

    def sweep(self, *, all_wills: bool) -> None:
        """Edges that have ended are swept, their wills published; or all that are pending."""
        for client_id in self.store.sweep(self.edge_id):
            self.store.pending.pop(client_id)
        if all_wills:
            self.store.pending.clear()
        for client_id, known in list(self.router.table.sessions.items()):
            stored = self.store.sessions.get(client_id)
            if stored is None:
                self.router.table.drop_session(client_id, known.incarnation)
        self._run(self.router.unstored.look())
        self._turn()

    def check(self) -> None:
        """Raise BrokenPromiseError if something has happened that must not, or is so now."""
        if self.broken:
            raise BrokenPromiseError(self.broken)
        for client_id, connection in self.clients.items():
            if connection.session.is_stored:
                continue
            if client_id in self.store.sessions or client_id in self.store.pending:
                raise BrokenPromiseError(f"the store has something of {client_id}")
