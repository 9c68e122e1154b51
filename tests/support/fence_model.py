"""A model of takeover, publish and retained write, small enough to be read in one sitting.

One client, one topic, two edges, two routers, a store. Everything between them is a queue that is
advanced one step at a time, by a scheduler that wants to break a promise: whoever is not chosen
hangs. The client publishes 1, 2, 3, …; on a new connection it repeats what has not been
acknowledged, then goes on. It may end a connection before it comes back; once the store has that
end, the next connection supersedes nobody. The promises are checked where something takes effect:

- After CONNACK of a connection nothing of an older one takes effect: neither live nor retained.
- What is retained is never older than what was acknowledged.

What keeps them are the rules in ``Rules``. Each can be left out; then there is a course of events
that breaks a promise, and tests/property/test_fence_model.py finds it. The model shares no code
with the broker, and knows nothing of it that is not written here.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final

EDGES: Final = ("x", "y")
ROUTERS: Final = ("a", "b")

#: How often the scheduler may do each of these in one course.
Budget = dict[str, int]
BUDGET: Final[Budget] = {
    "publish": 4,
    "connect": 2,
    "leave": 1,
    "lose": 2,
    "give up": 1,
    "expire": 2,
    "restart": 1,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the parts do so that the promises hold."""

    #: A router refuses publishes of an epoch below its fence for that stream.
    refuses: bool = True
    #: CONNACK waits until every router with a lease has read the takeover in the change log.
    connack_waits: bool = True
    #: A router says that it has read an entry after what it handled before is in the store.
    position_follows_writes: bool = True
    #: An edge asks whether its connections are still theirs before it uses a new stream.
    verifies: bool = True
    #: It opens the stream first, so that the router fences it if a takeover comes in between.
    opens_before_verifying: bool = True
    #: A router whose lease has ended handles nothing until it has read the whole log.
    stops_without_lease: bool = True
    #: The store refuses what a router wrote under a lease that has ended since.
    store_checks_lease: bool = True
    #: A router instance that an edge gives up, or finds gone, is fenced in the store before
    #: another one gets its publishes.
    fences_lost_router: bool = True
    #: A router forgets the rest of an edge's old stream when the edge opens a new one.
    forgets_old_stream: bool = True
    #: A router that an edge has given up hung; it closes its streams, unread, when it goes on.
    closes_after_pause: bool = True
    #: The end of a connection is stored when all that it has published is confirmed; otherwise
    #: when the router has it.
    ends_when_confirmed: bool = True


@dataclass(eq=False, slots=True)
class Connection:
    """One connection of the client; ``socket`` has what its edge has not read."""

    epoch: int
    edge: str
    socket: deque[int] = field(default_factory=deque)
    closed: bool = False
    #: Its client has ended it; and the store has that, so its edge forgets it.
    left: bool = False
    ended: bool = False


@dataclass(eq=False, slots=True)
class Stream:
    """From an edge to a router instance; frames are (connection, number)."""

    edge: str
    router: Router
    frames: deque[tuple[Connection, int]] = field(default_factory=deque)
    usable: bool = False
    #: The router has seen it; its fence counts from then on.
    known: bool = False
    broken: bool = False
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """On its way from a router to the store."""

    connection: Connection
    number: int
    stream: Stream
    lease: int


@dataclass(eq=False, slots=True)
class Router:
    """One instance of a router. A dead one may still have writes on their way."""

    name: str
    generation: int = 0
    lease: int | None = None
    read: int = 0
    streams: list[Stream] = field(default_factory=list)
    #: To the store, in order: writes, and positions in the log.
    pipeline: deque[Write | int] = field(default_factory=deque)
    dead: bool = False

    @property
    def label(self) -> str:
        """For people: a, a', …"""
        return self.name + "'" * self.generation


@dataclass(eq=False, slots=True)
class Edge:
    """Its stream to the topic's router, and what was not confirmed on it, in order."""

    name: str
    stream: Stream
    unanswered: list[tuple[Connection, int]] = field(default_factory=list)


class BrokenPromiseError(AssertionError):
    """Something took effect that must not."""


class Model:
    """The whole; ``steps`` are what the scheduler may do now."""

    def __init__(self, rules: Rules, budget: Budget) -> None:
        self.rules = rules
        self.left = dict.fromkeys(BUDGET, 0) | budget
        # The store.
        self.epoch = 0
        self.log: list[int] = []
        self.leases: dict[Router, int] = {}
        self.positions: dict[Router, int] = {}
        self.fenced: set[Router] = set()
        self.retained = 0
        self._lease = 0
        # Routers and edges.
        self.routers = {name: Router(name) for name in ROUTERS}
        self.instances = list(self.routers.values())
        for router in self.instances:
            self._join(router)
        self.edges = {name: Edge(name, Stream(name, self.routers["a"])) for name in EDGES}
        for edge in self.edges.values():
            self._become_known(edge.stream)
            edge.stream.usable = True
        # The client.
        self.connections = [Connection(0, "x")]
        self.current = self.connections[0]
        self.pending: Connection | None = None
        self.numbers = 0
        self.acknowledged = 0

    def state(self) -> Hashable:
        """What distinguishes it from others: everything, without identities."""
        streams: dict[Stream, int] = {}

        def number(stream: Stream) -> int:
            return streams.setdefault(stream, len(streams))

        routers = tuple(
            (
                *(router.name, router.lease, router.read, router.dead, router in self.fenced),
                *(self.leases.get(router), self.positions.get(router)),
                tuple(number(stream) for stream in router.streams),
                tuple(
                    item
                    if isinstance(item, int)
                    else (item.connection.epoch, item.number, number(item.stream), item.lease)
                    for item in router.pipeline
                ),
            )
            for router in self.instances
        )
        edges = tuple(
            (number(edge.stream), tuple((one.epoch, seq) for one, seq in edge.unanswered))
            for edge in self.edges.values()
        )
        seen = tuple(
            (
                *(one.edge, self.instances.index(one.router), one.usable, one.known),
                *(one.broken, one.fence),
                tuple((frame.epoch, seq) for frame, seq in one.frames),
            )
            for one in streams
        )
        client = (
            *(tuple(self.left.values()), self.current.epoch, self.numbers, self.acknowledged),
            self.pending and (self.pending.epoch, self.pending.edge),
            tuple(
                (one.edge, one.closed, one.left, one.ended, tuple(one.socket))
                for one in self.connections
            ),
        )
        store = self.retained, self.epoch, len(self.log), self._lease
        return client, routers, edges, seen, store

    # --- what the scheduler may do --------------------------------------------------------------

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Every step that is possible now, by a name for people."""
        yield from self._client_steps()
        for edge in self.edges.values():
            yield from self._edge_steps(edge)
        for router in self.instances:
            yield from self._router_steps(router)

    def _client_steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        if self.pending is None:
            if self.left["publish"] and not self.current.left:
                yield "client publishes", self._publish
            if self.left["leave"] and not self.current.left:
                yield "client leaves", self._leave
            if self.left["connect"]:
                for name in EDGES:
                    yield f"client connects to {name}", lambda name=name: self._connect(name)  # type: ignore[misc]
        elif not self.rules.connack_waits or all(
            self.positions.get(router, 0) >= len(self.log) for router in self.leases
        ):
            yield "client gets CONNACK", self._connack

    def _edge_steps(self, edge: Edge) -> Iterator[tuple[str, Callable[[], None]]]:
        stream = edge.stream
        for connection in self.connections:
            if connection.edge == edge.name and connection.socket and stream.usable:
                yield (
                    f"{edge.name} reads from connection {connection.epoch}",
                    lambda connection=connection: self._read(edge, connection),  # type: ignore[misc]
                )
        if self.pending is None and self._may_end(edge):
            yield f"{edge.name} stores the end", self._end
        if not stream.usable:
            yield f"{edge.name} verifies", lambda: self._verify(edge)
        if stream.broken or (self.left["lose"] and stream.usable):
            yield f"{edge.name} opens a new stream", lambda: self._reopen(edge)
        if self.left["give up"]:
            yield f"{edge.name} gives {stream.router.label} up", lambda: self._give_up(edge)

    def _router_steps(self, router: Router) -> Iterator[tuple[str, Callable[[], None]]]:
        name = router.label
        if router.pipeline:
            yield f"store takes from {name}", lambda: self._take(router)
        if router in self.leases and self.left["expire"]:
            yield f"lease of {name} ends", lambda: self._expire(router)
        if router.dead:
            return
        if router.lease is None and not router.pipeline:
            yield f"{name} gets a lease", lambda: self._join(router)
        if router.lease is not None and router.read < len(self.log):
            yield f"{name} reads the log", lambda: self._read_log(router)
        for stream in [*router.streams, *self._unseen(router)]:
            if stream.frames and (router.lease is not None or not self.rules.stops_without_lease):
                old = "" if self.edges[stream.edge].stream is stream else " an old stream"
                yield (
                    f"{name} handles{old} from {stream.edge}",
                    lambda stream=stream: self._handle(stream),  # type: ignore[misc]
                )
        if self.left["restart"]:
            yield f"{name} dies and starts again", lambda: self._restart(router)

    # --- the client -----------------------------------------------------------------------------

    def _publish(self) -> None:
        self.left["publish"] -= 1
        self.numbers += 1
        self.current.socket.append(self.numbers)

    def _leave(self) -> None:
        self.left["leave"] -= 1
        self.current.left = True

    def _connect(self, edge: str) -> None:
        """CONNECT: the store raises the epoch, and notes it in the log if it supersedes one."""
        self.left["connect"] -= 1
        self.epoch += 1
        if not self.current.ended:
            self.log.append(self.epoch)
        self.pending = Connection(self.epoch, edge)

    def _connack(self) -> None:
        """Take the connection; repeat what is not acknowledged. [MQTT-4.4.0-1]"""
        assert self.pending is not None
        self.current, self.pending = self.pending, None
        self.connections.append(self.current)
        self.current.socket.extend(range(self.acknowledged + 1, self.numbers + 1))

    # --- edges ----------------------------------------------------------------------------------

    def _read(self, edge: Edge, connection: Connection) -> None:
        frame = connection, connection.socket.popleft()
        edge.unanswered.append(frame)
        edge.stream.frames.append(frame)

    def _may_end(self, edge: Edge) -> bool:
        """Whether the end of the connection may be stored that the client has left."""
        connection = self.current
        if not connection.left or connection.ended or connection.edge != edge.name:
            return False
        under_way = edge.unanswered if self.rules.ends_when_confirmed else edge.stream.frames
        is_known = edge.stream.known and not edge.stream.broken
        return (
            is_known
            and not connection.socket
            and all(one[0] is not connection for one in under_way)
        )

    def _end(self) -> None:
        self.current.ended = True

    def _reopen(self, edge: Edge) -> None:
        """The stream was lost: open another one to the router of that name, as it is now."""
        if not edge.stream.broken:
            self.left["lose"] -= 1
        self._open(edge, self.routers[edge.stream.router.name])

    def _open(self, edge: Edge, router: Router) -> None:
        if self.rules.fences_lost_router and router is not edge.stream.router:
            self.fenced.add(edge.stream.router)
        if self.rules.closes_after_pause and router.name != edge.stream.router.name:
            edge.stream.frames.clear()
        edge.stream = Stream(edge.name, router)
        if self.rules.opens_before_verifying:
            self._become_known(edge.stream)

    def _verify(self, edge: Edge) -> None:
        """Close what the store says is another connection's by now; then go on, in order."""
        if self.rules.verifies:
            for connection in self.connections:
                is_known = connection.edge == edge.name and not connection.ended
                if is_known and connection.epoch < self.epoch:
                    connection.closed = True
                    connection.socket.clear()
            edge.unanswered = [frame for frame in edge.unanswered if not frame[0].closed]
        edge.stream.usable = True
        edge.stream.frames.extend(edge.unanswered)

    def _give_up(self, edge: Edge) -> None:
        """The router seems lost: let the other one have the topic."""
        self.left["give up"] -= 1
        other = next(name for name in ROUTERS if name != edge.stream.router.name)
        self._open(edge, self.routers[other])

    # --- routers --------------------------------------------------------------------------------

    def _unseen(self, router: Router) -> list[Stream]:
        streams = [edge.stream for edge in self.edges.values()]
        return [one for one in streams if one.router is router and not one.known]

    def _become_known(self, stream: Stream) -> None:
        router = stream.router
        stream.known = True
        stream.broken = router.dead
        if self.rules.forgets_old_stream:
            router.streams = [one for one in router.streams if one.edge != stream.edge]
        router.streams.append(stream)

    def _handle(self, stream: Stream) -> None:
        if not stream.known:
            self._become_known(stream)
        router = stream.router
        connection, number = stream.frames.popleft()
        if self.rules.refuses and connection.epoch < stream.fence:
            self._answer(stream, connection, number)
            return
        self._takes_effect(connection, number, "live")
        router.pipeline.append(Write(connection, number, stream, router.lease or 0))

    def _read_log(self, router: Router) -> None:
        epoch = self.log[router.read]
        router.read += 1
        self._fence(router, epoch)
        if self.rules.position_follows_writes:
            router.pipeline.append(router.read)
        else:
            self.positions[router] = router.read

    def _fence(self, router: Router, epoch: int) -> None:
        for stream in router.streams:
            stream.fence = max(stream.fence, epoch)

    def _join(self, router: Router) -> None:
        """Get a lease, after reading everything."""
        for epoch in self.log:
            self._fence(router, epoch)
        router.read = self.positions[router] = len(self.log)
        self._lease += 1
        router.lease = self.leases[router] = self._lease

    def _expire(self, router: Router) -> None:
        """The router's own clock ends the lease not later than the store's."""
        self.left["expire"] -= 1
        del self.leases[router]
        router.lease = None

    def _restart(self, router: Router) -> None:
        self.left["restart"] -= 1
        self._begin_anew(router)

    def _begin_anew(self, router: Router) -> None:
        """Another instance with the same name, also when the store has fenced this one."""
        router.dead = True
        router.streams = []
        for edge in self.edges.values():
            if edge.stream.router is router:
                edge.stream.broken = True
        self.routers[router.name] = Router(router.name, router.generation + 1)
        self.instances.append(self.routers[router.name])

    # --- the store ------------------------------------------------------------------------------

    def _take(self, router: Router) -> None:
        item = router.pipeline.popleft()
        if isinstance(item, int):
            self.positions[router] = max(self.positions[router], item)
            return
        if router in self.fenced:
            if not router.dead:
                self._begin_anew(router)
            return
        if self.rules.store_checks_lease and self.leases.get(router) != item.lease:
            # Nothing behind it may be confirmed before it is sent again.
            for stream in router.streams:
                stream.broken = True
                stream.frames.clear()
            item.stream.broken = True
            return
        self._takes_effect(item.connection, item.number, "retained")
        self.retained = item.number
        if not item.stream.broken:
            self._answer(item.stream, item.connection, item.number)
        if self.retained < self.acknowledged:
            raise BrokenPromiseError(
                f"{self.retained} is retained, {self.acknowledged} was acknowledged"
            )

    def _answer(self, stream: Stream, connection: Connection, number: int) -> None:
        """Confirm to the edge, if it still listens there; it acknowledges to the client."""
        edge = self.edges[stream.edge]
        if edge.stream is not stream or (connection, number) not in edge.unanswered:
            return
        edge.unanswered.remove((connection, number))
        if connection is self.current and connection.epoch >= stream.fence:
            self.acknowledged = max(self.acknowledged, number)

    def _takes_effect(self, connection: Connection, number: int, how: str) -> None:
        if connection.epoch < self.current.epoch:
            raise BrokenPromiseError(
                f"{number} of connection {connection.epoch} takes effect ({how}),"
                f" connection {self.current.epoch} has its CONNACK"
            )


def explore(rules: Rules, budget: Budget) -> tuple[int, list[str] | None]:
    """Try every course of events: the count of states, and a shortest one that breaks a promise."""
    start = Model(rules, budget)
    seen = {start.state()}
    waiting: deque[tuple[bytes, list[str]]] = deque([(pickle.dumps(start), [])])
    while waiting:
        before, course = waiting.popleft()
        for index in range(sum(1 for _ in pickle.loads(before).steps())):
            model: Model = pickle.loads(before)
            name, step = list(model.steps())[index]
            try:
                step()
            except BrokenPromiseError as error:
                return len(seen), [*course, name, str(error)]
            state = model.state()
            if state not in seen:
                seen.add(state)
                waiting.append((pickle.dumps(model), [*course, name]))
    return len(seen), None
