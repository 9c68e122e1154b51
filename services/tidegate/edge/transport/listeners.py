"""All listeners of an edge: start, change, stop accepting, end, and what they count.

Built by the edge from the configuration. It knows no MQTT: for every connection, once its transport
is ready (PROXY header read, TLS and WebSocket handshakes done), it makes a channel and asks the
edge's factory for a handler. One timer serves the deadlines of all connections.

A change of the configuration is prepared first, which may fail, and then taken: listeners whose
address stays keep their sockets and connections, added ones open before removed ones close.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tidegate.edge.channel import HandlerFactory
from tidegate.edge.transport.acceptor import Acceptor, bind
from tidegate.edge.transport.listener import (
    Connection,
    ConnectionTotal,
    Listener,
    ListenerCounters,
    Refusal,
)
from tidegate.edge.transport.listener_diff import (
    OpenListener,
    matched,
    needs_new_acceptor,
    place_of,
)
from tidegate.edge.transport.tls import TlsContexts
from tidegate.edge.transport.websocket import FRAME_SLACK_BYTES, HandshakePolicy, WebSocketFrames
from tidegate.edge.transport.websocket_channel import SWEEPS_PER_PING
from tidegate.runtime.config.applied import Applied, sentence_of
from tidegate.runtime.config.model import ListenerConfig

log = logging.getLogger(__name__)

#: How often it is tried to open a listener again that an undone change has closed.
REOPEN_INTERVAL_S = 2.0
#: Granularity of every deadline here.
SWEEP_INTERVAL_S = 0.5
_ABORT_TIMEOUT_S = 1.0
#: WebSocket close code for an edge that goes away.
_GOING_AWAY = 1001


@dataclass(slots=True, frozen=True)
class _Kept:
    """A listener that stays, with what it becomes."""

    door: OpenListener
    config: ListenerConfig
    tls: TlsContexts | None
    #: Instead of the one it has, which nobody can connect to any more.
    acceptor: Acceptor | None = None


@dataclass(slots=True)
class Change:
    """Other settings, prepared: nothing of them counts before `Listeners.apply`."""

    max_packet_size_bytes: int
    connect_timeout_s: float
    removed: list[OpenListener]
    doors: list[_Kept | OpenListener] = field(default_factory=list)
    #: Removed ones that do not accept any more, because their port (the value) is needed.
    closed: dict[OpenListener, int] = field(default_factory=dict)
    #: Removed ones whose sockets an added one goes on with.
    inherited: list[OpenListener] = field(default_factory=list)

    @property
    def kept(self) -> list[_Kept]:
        """Those that are open already."""
        return [each for each in self.doors if isinstance(each, _Kept)]

    @property
    def added(self) -> list[OpenListener]:
        """Those that are bound, and do not accept yet."""
        return [door for door in self.doors if isinstance(door, OpenListener)]


class Listeners:
    """The listening sockets of a process and the connections that came through them."""

    def __init__(
        self,
        configs: Sequence[ListenerConfig],
        handler_factory_for: Callable[[ListenerConfig], HandlerFactory],
        *,
        max_packet_size_bytes: int = 1_048_576,
        max_connections: int = 0,
        connect_timeout_s: float = 15.0,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        frames_class: type[WebSocketFrames] = WebSocketFrames,
        applied: Applied | None = None,
    ) -> None:
        """Keep the configuration; nothing is opened before `start`.

        ``max_connections`` is of all listeners together (each has its own as well); 0: no limit.
        ``connect_timeout_s`` bounds every stage before a connection has its handler.
        ``frames_class`` is for tests that look at the WebSocket layer alone. ``applied`` hears
        which certificates are in use.
        """
        self._configs = list(configs)
        self._handler_factory_for = handler_factory_for
        self._max_packet_size_bytes = max_packet_size_bytes
        self._total = ConnectionTotal(max_connections)
        self._opening_timeout_s = connect_timeout_s
        self._sweep_interval_s = sweep_interval_s
        self._frames_class = frames_class
        self._applied = applied or Applied()
        #: How many changes were undone for which listeners had been closed for a moment.
        self.interruptions = 0
        self._doors: list[OpenListener] = []
        #: Those that an undone change has closed, and that could not be opened again; their ports.
        self._shut: dict[OpenListener, int] = {}
        self._reopen_at = 0.0
        self._reopening: asyncio.Task[None] | None = None
        self._stopped = False
        #: Removed listeners that have connections still.
        self._leaving: list[Listener] = []
        self._timer: asyncio.TimerHandle | None = None
        self._next_ping: dict[Listener, float] = {}
        self._addresses: dict[str, list[str]] = {}

    async def start(self) -> None:
        """Read certificates, bind everything, then accept.

        Raises OSError or `TlsConfigurationError` naming the listener; then
        nothing is left open.
        """
        self._stopped = False
        change = await self.prepare(
            self._configs,
            max_packet_size_bytes=self._max_packet_size_bytes,
            connect_timeout_s=self._opening_timeout_s,
        )
        await self.apply(change)
        self._sweep()

    # Changing

    async def prepare(
        self,
        configs: Sequence[ListenerConfig],
        *,
        max_packet_size_bytes: int,
        connect_timeout_s: float,
    ) -> Change:
        """Read the certificates and bind what other settings need; ``apply`` or ``undo`` follows.

        Raises OSError or `TlsConfigurationError` naming the listener; then
        everything is as before.
        """
        await self._reopen()
        found, removed = matched(self._doors, configs)
        change = Change(max_packet_size_bytes, connect_timeout_s, removed)
        try:
            for config, door in zip(configs, found, strict=True):
                if door is None:
                    change.doors.append(self._open(config, change))
                else:
                    change.doors.append(self._keep(door, config))
        except BaseException:
            await self.undo(change)
            raise
        return change

    async def undo(self, change: Change) -> None:
        """Forget a change that was prepared."""
        for door in change.added:
            inherits = any(old.place == door.place for old in change.inherited)
            door.acceptor.stop(keeps_path=inherits)
            for connection in list(door.state.connections):
                connection.abort()
        for kept in change.kept:
            if kept.acceptor is not None:
                kept.acceptor.stop()
        if not change.closed:
            return
        self.interruptions += 1
        self._shut |= change.closed
        await self._reopen()
        for door in self._shut:
            log.error("a listener cannot be opened again", extra={"listener": door.state.label})

    async def _reopen(self) -> None:
        """Open what an undone change has closed; what cannot be opened is tried again."""
        for door in list(self._shut):
            port = self._shut.pop(door, None)
            if port is None or self._stopped:
                continue
            try:
                door.acceptor = Acceptor(
                    door.state, bind(door.config.model_copy(update={"port": port}))
                )
                self._note_addresses()  # it can be connected to already
                await door.acceptor.start()
            except OSError as exc:
                door.acceptor.stop()
                log.debug("not opened again", extra={"error": sentence_of(exc)})
                if door in self._doors:
                    self._shut[door] = port
            else:
                log.info("a listener is open again", extra={"listener": door.state.label})
            self._note_addresses()

    def _note_addresses(self) -> None:
        self._addresses = {door.state.label: door.acceptor.addresses for door in self._doors}

    def _keep(self, door: OpenListener, config: ListenerConfig) -> _Kept:
        """Prepare what a listener becomes; a Unix socket's lost file is made again."""
        tls = self._tls_of(config, door)
        acceptor = Acceptor(door.state, bind(config)) if door.acceptor.is_lost else None
        return _Kept(door, config, tls, acceptor)

    def _open(self, config: ListenerConfig, change: Change) -> OpenListener:
        """Bind a new listener, on the sockets of a removed one if it is at the same place."""
        state = self._make_state(config, change)
        for old in change.removed:
            if not old.acceptor.is_open or old in change.closed:
                continue
            if old.place == place_of(config):
                change.inherited.append(old)
                return OpenListener(state, Acceptor(state, old.acceptor.copies()))
        try:
            return OpenListener(state, Acceptor(state))
        except OSError as exc:
            in_the_way = [
                old
                for old in change.removed
                if old.is_in_the_way_of(config)
                and old not in change.closed
                and old not in change.inherited
            ]
            if exc.errno != errno.EADDRINUSE or not in_the_way:
                raise
        for old in in_the_way:
            change.closed[old] = old.acceptor.port
            old.acceptor.stop()
        return OpenListener(state, Acceptor(state))

    def _make_state(self, config: ListenerConfig, change: Change) -> Listener:
        state = Listener(
            config,
            self._handler_factory_for(config),
            loop=asyncio.get_running_loop(),
            total=self._total,
            max_frame_bytes=change.max_packet_size_bytes + FRAME_SLACK_BYTES,
            policy=HandshakePolicy(config.paths, config.allowed_origins),
            frames_class=self._frames_class,
            tls=self._tls_of(config, None),
            connect_timeout_s=change.connect_timeout_s,
        )
        for old in self.all_listeners:
            is_gone = old in self._leaving or any(old is one.state for one in change.removed)
            if is_gone and old.label == state.label:
                state.counters = old.counters  # one series goes on
        return state

    def _tls_of(self, config: ListenerConfig, door: OpenListener | None) -> TlsContexts | None:
        if not config.tls.certificates:
            return None
        if door is not None and door.state.tls is not None:
            old = door.config
            if (old.tls, old.label) == (config.tls, config.label):
                return door.state.tls
        return TlsContexts(config, self._applied)

    async def apply(self, change: Change) -> list[Listener]:
        """Go by a change that was prepared; return the listeners that are no more.

        Their connections stay until the caller ends them. Raises OSError when the system refuses
        something; then nothing is taken.
        """
        await self._accept(change)
        doors = []
        for each in change.doors:
            if isinstance(each, _Kept):
                self._change(each, change)
            doors.append(each.door if isinstance(each, _Kept) else each)
            tls = doors[-1].state.tls
            if tls is not None:
                self._applied.took(tls.take_digests())
        self._doors = doors
        self._shut = {door: port for door, port in self._shut.items() if door in doors}
        for old in change.removed:
            old.acceptor.stop(keeps_path=old in change.inherited)
            old.state.is_over = True
        self._note_addresses()
        gone = [old.state for old in change.removed]
        self._leaving += gone
        if self._stopped:  # meanwhile
            await self.stop_accepting()
        return gone

    async def _accept(self, change: Change) -> None:
        """Do all of a change that may fail, or nothing of it."""
        changed: list[OpenListener] = []
        label = ""
        try:
            for kept in change.kept:
                if kept.acceptor is not None:
                    label = kept.config.label
                    await kept.acceptor.change(kept.config)
                elif needs_new_acceptor(kept.door.config, kept.config):
                    label = kept.config.label
                    await kept.door.acceptor.change(kept.config)
                    changed.append(kept.door)
            for door in change.added:
                label = door.state.label
                await door.acceptor.start()
        except BaseException as error:
            for door in changed:
                await _change_back(door)
            await self.undo(change)
            if isinstance(error, OSError):
                problem = f"listener {label}: cannot be changed: {sentence_of(error)}"
                raise OSError(error.errno, problem) from error
            raise

    def _change(self, kept: _Kept, change: Change) -> None:
        if kept.config != kept.door.config:
            log.info("a listener has changed", extra={"listener": kept.config.label})
        if kept.acceptor is not None:
            log.warning("a socket's file is made again", extra={"listener": kept.config.label})
            kept.door.acceptor.stop()
            kept.door.acceptor = kept.acceptor
        kept.door.state.change(
            kept.config,
            self._handler_factory_for(kept.config),
            max_frame_bytes=change.max_packet_size_bytes + FRAME_SLACK_BYTES,
            policy=HandshakePolicy(kept.config.paths, kept.config.allowed_origins),
            tls=kept.tls,
            connect_timeout_s=change.connect_timeout_s,
        )

    # What is open

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Where each listener (by its label) really listens: ``host:port`` or a path."""
        return self._addresses

    @property
    def all_listeners(self) -> Sequence[Listener]:
        """The listeners, those that are no more and have connections still among them."""
        return [*(door.state for door in self._doors), *self._leaving]

    def connections_of(self) -> Counter[str]:
        """How many sockets are open, by label of the listener."""
        found: Counter[str] = Counter()
        for state in self.all_listeners:
            found[state.label] += len(state.connections)
        return found

    def counters(self) -> dict[str, ListenerCounters]:
        """What has been counted, by label of the listener; one that is open comes first."""
        return {state.label: state.counters for state in reversed(self.all_listeners)}

    def refused(self) -> dict[tuple[str, Refusal], int]:
        """Connections that got no handler, by listener and reason."""
        return {
            (label, reason): count
            for label, counters in self.counters().items()
            for reason, count in counters.refused.items()
        }

    def certificate_not_after(self) -> dict[str, float]:
        """When the first certificate of each TLS listener expires, seconds since the epoch."""
        return {
            door.state.label: door.state.tls.certificate_not_after
            for door in self._doors
            if door.state.tls is not None
        }

    # The end

    async def stop_accepting(self) -> None:
        """Close the listening sockets; connections stay as they are."""
        self._stopped = True
        for door in self._doors:
            door.acceptor.stop()

    async def close(self, deadline_s: float = 5.0) -> None:
        """Stop accepting, close all connections, and drop what is left after ``deadline_s``."""
        await self.stop_accepting()
        for state in self.all_listeners:
            state.is_over = True
        if self._reopening is not None:
            await asyncio.gather(self._reopening, return_exceptions=True)
        for connection in self._connections():
            connection.close(_GOING_AWAY)
        if not await self._total.wait_for_none(deadline_s):
            for connection in self._connections():
                connection.abort()
            # An aborted transport says so in the next turns of the loop.
            await self._total.wait_for_none(_ABORT_TIMEOUT_S)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _connections(self) -> Iterable[Connection]:
        return [connection for state in self.all_listeners for connection in state.connections]

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        # Rescheduled first: whatever one connection raises, the next sweep comes.
        self._timer = loop.call_later(self._sweep_interval_s, self._sweep)
        for state in self.all_listeners:
            state.sweep(now)
            if state.websockets and state.config.websocket_ping_s:
                self._sweep_pings(state, now)
        for door in self._doors:
            tls = door.state.tls
            if tls is not None and tls.is_due(now):
                tls.reload(now, door.state.counters)
        if self._leaving:
            self._forget_empty()
        if self._shut and now >= self._reopen_at:
            self._reopen_at = now + REOPEN_INTERVAL_S
            self._reopening = loop.create_task(self._reopen())

    def _forget_empty(self) -> None:
        for state in self._leaving:
            if not state.connections:
                self._next_ping.pop(state, None)
        self._leaving = [state for state in self._leaving if state.connections]

    def reload_certificates(self) -> None:
        """Look at the certificate files of every listener now (SIGHUP)."""
        now = asyncio.get_running_loop().time()
        for door in self._doors:
            if door.state.tls is not None:
                door.state.tls.reload(now, door.state.counters)

    def _sweep_pings(self, state: Listener, now: float) -> None:
        due = self._next_ping.get(state, 0.0)
        if now < due:
            return
        self._next_ping[state] = now + state.config.websocket_ping_s / SWEEPS_PER_PING
        for channel in list(state.websockets):
            channel.sweep()


async def _change_back(door: OpenListener) -> None:
    try:
        await door.acceptor.change(door.config)
    except OSError as exc:
        log.error(  # noqa: TRY400 - the sentence says it all
            "a listener cannot be changed back",
            extra={"listener": door.state.label, "error": sentence_of(exc)},
        )
