"""All listeners of an edge: start, reconfigure, stop accepting, close, and what they count.

Built by ``roles`` from the configuration. It knows no MQTT: for every connection, once its
transport is ready (PROXY header read, TLS and WebSocket handshakes done), a channel is made and the
edge's factory is called for a handler. One timer serves the deadlines of all connections.

Other settings are prepared first, which may fail, and then applied: listeners whose address stays
keep their sockets and connections, added ones open before removed ones close.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tidegate.edge.channel import HandlerFactory
from tidegate.edge.transport.accepted_connection import (
    SWEEPS_PER_PING,
    AcceptedConnection,
    ListenerCounters,
    Refusal,
)
from tidegate.edge.transport.acceptor import Acceptor, bind
from tidegate.edge.transport.descriptor_guard import DescriptorGuard
from tidegate.edge.transport.listener import ConnectionTotal, Listener, OnRefused
from tidegate.edge.transport.listener_diff import (
    OpenListener,
    bind_address_of,
    match_listeners,
    needs_new_acceptor,
)
from tidegate.edge.transport.tls import TlsContexts
from tidegate.edge.transport.websocket import FRAME_SLACK_BYTES, HandshakePolicy, WebSocketFrames
from tidegate.runtime.config.model import ListenerConfig
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import error_text

log = logging.getLogger(__name__)

#: How often it is tried to reopen a listener that an undone change has closed.
REOPEN_INTERVAL_S = 2.0
#: Granularity of every deadline here.
SWEEP_INTERVAL_S = 0.5
_ABORT_TIMEOUT_S = 1.0
#: WebSocket close code of an endpoint that shuts down (RFC 6455 §7.4.1).
_GOING_AWAY = 1001


@dataclass(slots=True, frozen=True)
class KeptListener:
    """A listener that stays open, with the settings that it takes."""

    current: OpenListener
    config: ListenerConfig
    tls: TlsContexts | None
    #: Replaces the one it has, whose Unix socket file is missing.
    acceptor: Acceptor | None = None


@dataclass(slots=True)
class ListenerChange:
    """Prepared settings: none of them counts before `Listeners.apply`."""

    max_packet_size_bytes: int
    connect_timeout_s: float
    removed: list[OpenListener]
    #: In the order of the configuration.
    wanted: list[KeptListener | OpenListener] = field(default_factory=list)
    #: Removed ones that do not accept any more, because their port (the value) is needed.
    closed: dict[OpenListener, int] = field(default_factory=dict)
    #: Removed ones whose sockets an added one uses.
    reused: list[OpenListener] = field(default_factory=list)

    @property
    def kept(self) -> list[KeptListener]:
        """Those that are open already."""
        return [each for each in self.wanted if isinstance(each, KeptListener)]

    @property
    def added(self) -> list[OpenListener]:
        """Those that are bound, and do not accept yet."""
        return [each for each in self.wanted if isinstance(each, OpenListener)]


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
        config_status: ConfigStatus | None = None,
        on_refused: OnRefused | None = None,
        has_unsent: Callable[[], bool] | None = None,
    ) -> None:
        """Keep the configuration; nothing is opened before `start`.

        ``max_connections`` is of all listeners together (each has its own as well); 0: no limit.
        ``connect_timeout_s`` bounds every stage before a connection has its handler.
        ``frames_class`` is for tests that look at the WebSocket layer alone. ``config_status``
        records which certificates are in use. ``on_refused`` is called for each connection that
        ends before it has a handler. ``has_unsent``: whether handlers are going to write in this
        turn of the event loop (`UnfinishedWork`).
        """
        self._configs = list(configs)
        self._handler_factory_for = handler_factory_for
        self._max_packet_size_bytes = max_packet_size_bytes
        self._total = ConnectionTotal(max_connections)
        if on_refused is not None:
            self._total.on_refused = on_refused
        if has_unsent is not None:
            self._total.work.has_unsent = has_unsent
        self._unfinished_limit = sys.maxsize
        self._descriptors = DescriptorGuard(self._total)
        self._connect_timeout_s = connect_timeout_s
        self._sweep_interval_s = sweep_interval_s
        self._frames_class = frames_class
        self._config_status = config_status or ConfigStatus()
        #: How many changes were undone for which listeners had been closed for a moment.
        self.interruptions = 0
        self._open: list[OpenListener] = []
        #: Those that an undone change has closed, and that could not be reopened; their ports.
        self._to_reopen: dict[OpenListener, int] = {}
        self._reopen_at = 0.0
        self._reopening: asyncio.Task[None] | None = None
        self._stopped = False
        #: Removed listeners that still have connections.
        self._removed: list[Listener] = []
        self._timer: asyncio.TimerHandle | None = None
        self._next_ping: dict[Listener, float] = {}
        self._addresses: dict[str, list[str]] = {}

    async def start(self) -> None:
        """Read certificates, bind everything, then accept.

        Raises OSError or `TlsConfigurationError` naming the listener; then nothing is left open.
        """
        self._stopped = False
        change = await self.prepare(
            self._configs,
            max_packet_size_bytes=self._max_packet_size_bytes,
            connect_timeout_s=self._connect_timeout_s,
        )
        self._descriptors.measure()
        await self.apply(change)
        self._sweep()

    # Reconfiguration

    async def prepare(
        self,
        configs: Sequence[ListenerConfig],
        *,
        max_packet_size_bytes: int,
        connect_timeout_s: float,
    ) -> ListenerChange:
        """Read the certificates and bind what other settings need; ``apply`` or ``undo`` follows.

        Raises OSError or `TlsConfigurationError` naming the listener; then everything is as before.
        """
        await self._reopen()
        matches, removed = match_listeners(self._open, configs)
        change = ListenerChange(max_packet_size_bytes, connect_timeout_s, removed)
        try:
            for config, current in zip(configs, matches, strict=True):
                if current is None:
                    change.wanted.append(self._bind_added(config, change))
                else:
                    change.wanted.append(self._prepare_kept(current, config))
        except BaseException:
            await self.undo(change)
            raise
        return change

    async def undo(self, change: ListenerChange) -> None:
        """Drop a prepared change: close what it opened, reopen what it closed."""
        for added in change.added:
            reuses = any(old.bind_address == added.bind_address for old in change.reused)
            added.acceptor.stop(keeps_path=reuses)
            for connection in list(added.listener.connections):
                connection.abort()
        for kept in change.kept:
            if kept.acceptor is not None:
                kept.acceptor.stop()
        if not change.closed:
            return
        self.interruptions += 1
        self._to_reopen |= change.closed
        await self._reopen()
        for each in self._to_reopen:
            log.error("listener not reopened, retrying", extra={"listener": each.listener.label})

    async def _reopen(self) -> None:
        """Open what an undone change has closed; what cannot be opened is tried again."""
        for each in list(self._to_reopen):
            port = self._to_reopen.pop(each, None)
            if port is None or self._stopped:
                continue
            try:
                each.acceptor = Acceptor(
                    each.listener, bind(each.config.model_copy(update={"port": port}))
                )
                self._note_addresses()  # clients can connect already
                await each.acceptor.start()
            except OSError as exc:
                each.acceptor.stop()
                log.debug("listener not reopened", extra={"error": error_text(exc)})
                if each in self._open:
                    self._to_reopen[each] = port
            else:
                log.info("listener reopened", extra={"listener": each.listener.label})
            self._note_addresses()

    def _note_addresses(self) -> None:
        self._addresses = {each.listener.label: each.acceptor.addresses for each in self._open}

    def _prepare_kept(self, current: OpenListener, config: ListenerConfig) -> KeptListener:
        """Prepare what a listener becomes; a missing Unix socket file is created again."""
        tls = self._tls_contexts(config, current)
        acceptor = None
        if current.acceptor.is_file_missing:
            acceptor = Acceptor(current.listener, bind(config))
        return KeptListener(current, config, tls, acceptor)

    def _bind_added(self, config: ListenerConfig, change: ListenerChange) -> OpenListener:
        """Bind a new listener, on the sockets of a removed one if it has the same address."""
        listener = self._new_listener(config, change)
        for old in change.removed:
            if not old.acceptor.is_open or old in change.closed:
                continue
            if old.bind_address == bind_address_of(config):
                change.reused.append(old)
                return OpenListener(listener, Acceptor(listener, old.acceptor.duplicate_sockets()))
        try:
            return OpenListener(listener, Acceptor(listener))
        except OSError as exc:
            blocking = [
                old
                for old in change.removed
                if old.may_block(config) and old not in change.closed and old not in change.reused
            ]
            if exc.errno != errno.EADDRINUSE or not blocking:
                raise
        for old in blocking:
            change.closed[old] = old.acceptor.port
            old.acceptor.stop()
        return OpenListener(listener, Acceptor(listener))

    def _new_listener(self, config: ListenerConfig, change: ListenerChange) -> Listener:
        listener = Listener(
            config,
            self._handler_factory_for(config),
            loop=asyncio.get_running_loop(),
            total=self._total,
            max_frame_bytes=change.max_packet_size_bytes + FRAME_SLACK_BYTES,
            policy=HandshakePolicy(config.paths, config.allowed_origins),
            frames_class=self._frames_class,
            tls=self._tls_contexts(config, None),
            connect_timeout_s=change.connect_timeout_s,
        )
        listener.unfinished.limit = self._unfinished_limit
        for old in self.all_listeners:
            is_removed = old in self._removed or any(old is one.listener for one in change.removed)
            if is_removed and old.label == listener.label:
                listener.counters = old.counters  # one series goes on
        return listener

    def _tls_contexts(
        self, config: ListenerConfig, current: OpenListener | None
    ) -> TlsContexts | None:
        if not config.tls.certificates:
            return None
        if current is not None and current.listener.tls is not None:
            old = current.config
            if (old.tls, old.label) == (config.tls, config.label):
                return current.listener.tls
        return TlsContexts(config, self._config_status)

    async def apply(self, change: ListenerChange) -> list[Listener]:
        """Switch to prepared settings; return the listeners that were removed.

        Their connections stay until the caller ends them. Raises OSError when the system refuses
        something; then nothing is changed.
        """
        await self._start_accepting(change)
        is_open: list[OpenListener] = []
        for each in change.wanted:
            if isinstance(each, KeptListener):
                self._reconfigure(each, change)
            current = each.current if isinstance(each, KeptListener) else each
            is_open.append(current)
            if current.listener.tls is not None:
                self._config_status.mark_applied(current.listener.tls.pop_digests())
        self._open = is_open
        self._to_reopen = {each: port for each, port in self._to_reopen.items() if each in is_open}
        for old in change.removed:
            old.acceptor.stop(keeps_path=old in change.reused)
            old.listener.is_closed = True
        self._note_addresses()
        removed = [old.listener for old in change.removed]
        self._removed += removed
        if self._stopped:  # meanwhile
            await self.stop_accepting()
        return removed

    async def _start_accepting(self, change: ListenerChange) -> None:
        """Do all of a change that may fail, or nothing of it."""
        changed: list[OpenListener] = []
        label = ""
        try:
            for kept in change.kept:
                if kept.acceptor is not None:
                    label = kept.config.label
                    await kept.acceptor.reconfigure(kept.config)
                elif needs_new_acceptor(kept.current.config, kept.config):
                    label = kept.config.label
                    await kept.current.acceptor.reconfigure(kept.config)
                    changed.append(kept.current)
            for added in change.added:
                label = added.listener.label
                await added.acceptor.start()
        except BaseException as error:
            for each in changed:
                await _restore_acceptor(each)
            await self.undo(change)
            if isinstance(error, OSError):
                problem = f"listener {label}: cannot be changed: {error_text(error)}"
                raise OSError(error.errno, problem) from error
            raise

    def _reconfigure(self, kept: KeptListener, change: ListenerChange) -> None:
        if kept.config != kept.current.config:
            log.info("listener reconfigured", extra={"listener": kept.config.label})
        if kept.acceptor is not None:
            log.warning("Unix socket file recreated", extra={"listener": kept.config.label})
            kept.current.acceptor.stop()
            kept.current.acceptor = kept.acceptor
        kept.current.listener.reconfigure(
            kept.config,
            self._handler_factory_for(kept.config),
            max_frame_bytes=change.max_packet_size_bytes + FRAME_SLACK_BYTES,
            policy=HandshakePolicy(kept.config.paths, kept.config.allowed_origins),
            tls=kept.tls,
            connect_timeout_s=change.connect_timeout_s,
        )

    def limit_addresses(self, limit: int, ipv6_prefix_length: int) -> None:
        """Let each client address have ``limit`` connections (0: any number) from now on."""
        self._total.addresses.set(
            limit,
            ipv6_prefix_length,
            (
                (connection, connection.client_address, listener.trusted)
                for listener in self.all_listeners
                for connection in listener.connections
            ),
        )

    def limit_unfinished_bytes(self, limit: int) -> None:
        """Let what each listener holds of clients without CONNACK be ``limit`` bytes at most."""
        self._unfinished_limit = limit
        for listener in self.all_listeners:
            listener.unfinished.limit = limit

    # What is open

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Where each listener (by its label) listens: ``host:port`` or a path, as bound."""
        return self._addresses

    @property
    def all_listeners(self) -> Sequence[Listener]:
        """The open listeners, then the removed ones that still have connections."""
        return [*(each.listener for each in self._open), *self._removed]

    def connections_of(self) -> Counter[str]:
        """How many sockets are open, by label of the listener."""
        found: Counter[str] = Counter()
        for listener in self.all_listeners:
            found[listener.label] += len(listener.connections)
        return found

    @property
    def waiting(self) -> int:
        """How many connections wait for a turn of the event loop (`UnfinishedWork`)."""
        return len(self._total.work)

    @property
    def waited(self) -> int:
        """How often a connection had to wait for one."""
        return self._total.work.waited

    @property
    def pauses(self) -> int:
        """How often one was put off for addresses where most connections come to nothing."""
        return self._total.work.pauses

    @property
    def connection_limit(self) -> int:
        """How many connections the limit of open files allows."""
        return self._total.room

    def counters(self) -> dict[str, ListenerCounters]:
        """What has been counted, by label of the listener; one that is open comes first."""
        return {each.label: each.counters for each in reversed(self.all_listeners)}

    def refused(self) -> dict[tuple[str, Refusal], int]:
        """Connections that got no handler, by listener and reason."""
        return {
            (label, reason): count
            for label, counters in self.counters().items()
            for reason, count in counters.refused.items()
        }

    def tls_contexts(self) -> dict[str, TlsContexts]:
        """Return the certificates of each TLS listener, by its label."""
        return {
            each.listener.label: each.listener.tls
            for each in self._open
            if each.listener.tls is not None
        }

    # Stopping

    async def stop_accepting(self) -> None:
        """Close the listening sockets; connections stay as they are."""
        self._stopped = True
        for each in self._open:
            each.acceptor.stop()

    async def close(self, deadline_s: float = 5.0) -> None:
        """Stop accepting, close all connections, and drop what is left after ``deadline_s``."""
        await self.stop_accepting()
        for listener in self.all_listeners:
            listener.is_closed = True
        if self._reopening is not None:
            await asyncio.gather(self._reopening, return_exceptions=True)
        await self._descriptors.stop()
        for connection in self._connections():
            connection.close(_GOING_AWAY)
        if not await self._total.wait_for_none(deadline_s):
            for connection in self._connections():
                connection.abort()
            # An aborted transport calls connection_lost in the next turns of the loop.
            await self._total.wait_for_none(_ABORT_TIMEOUT_S)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _connections(self) -> Iterable[AcceptedConnection]:
        return [
            connection for listener in self.all_listeners for connection in listener.connections
        ]

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        # Rescheduled first: whatever one connection raises, the next sweep comes.
        self._timer = loop.call_later(self._sweep_interval_s, self._sweep)
        self._descriptors.sweep(now, [each.acceptor for each in self._open])
        for listener in self.all_listeners:
            listener.sweep(now)
            if listener.websockets and listener.config.websocket_ping_s:
                self._sweep_pings(listener, now)
        for each in self._open:
            tls = each.listener.tls
            if tls is not None and tls.is_due(now):
                tls.reload(now, each.listener.counters)
        if self._removed:
            self._drop_empty()
        if self._to_reopen and now >= self._reopen_at:
            self._reopen_at = now + REOPEN_INTERVAL_S
            self._reopening = loop.create_task(self._reopen())

    def _drop_empty(self) -> None:
        for listener in self._removed:
            if not listener.connections:
                self._next_ping.pop(listener, None)
        self._removed = [listener for listener in self._removed if listener.connections]

    def reload_certificates(self) -> None:
        """Check the certificate files of every listener now (SIGHUP)."""
        now = asyncio.get_running_loop().time()
        for each in self._open:
            if each.listener.tls is not None:
                each.listener.tls.reload(now, each.listener.counters)

    def _sweep_pings(self, listener: Listener, now: float) -> None:
        due = self._next_ping.get(listener, 0.0)
        if now < due:
            return
        self._next_ping[listener] = now + listener.config.websocket_ping_s / SWEEPS_PER_PING
        for channel in list(listener.websockets):
            channel.sweep()


async def _restore_acceptor(current: OpenListener) -> None:
    try:
        await current.acceptor.reconfigure(current.config)
    except OSError as exc:
        log.error(  # noqa: TRY400 - a traceback adds nothing
            "listener settings not restored",
            extra={"listener": current.listener.label, "error": error_text(exc)},
        )
