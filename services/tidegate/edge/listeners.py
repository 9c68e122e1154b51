"""All listeners of an edge: start, stop accepting, end, and what they count.

Built by the edge from the configuration. It knows no MQTT: for every connection, once its transport
is ready (PROXY header read, TLS and WebSocket handshakes done), it makes a channel and asks the
edge's factory for a handler. One timer serves the deadlines of all connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from tidegate.edge.acceptor import Acceptor
from tidegate.edge.channel import HandlerFactory
from tidegate.edge.state import Connection, ConnectionTotal, ListenerState, Refusal
from tidegate.edge.tls import TlsContexts
from tidegate.edge.websocket import FRAME_SLACK_BYTES, HandshakePolicy, WebSocketFrames
from tidegate.edge.websocket_channel import SWEEPS_PER_PING
from tidegate.runtime.config import ListenerConfig

log = logging.getLogger(__name__)

#: Granularity of every deadline here.
SWEEP_INTERVAL_S = 0.5
_ABORT_TIMEOUT_S = 1.0
#: WebSocket close code for an edge that goes away.
_GOING_AWAY = 1001


class Listeners:
    """The listening sockets of a process and the connections that came through them."""

    def __init__(
        self,
        configs: Sequence[ListenerConfig],
        handler_factory_for: Callable[[ListenerConfig], HandlerFactory],
        *,
        max_packet_size_bytes: int = 1_048_576,
        max_connections: int = 0,
        opening_timeout_s: float = 15.0,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        frames_class: type[WebSocketFrames] = WebSocketFrames,
    ) -> None:
        """Keep the configuration; nothing is opened before `start`.

        ``max_connections`` is of all listeners together (each has its own as well); 0: no limit.
        ``opening_timeout_s`` bounds every stage before a connection has its handler.
        ``frames_class`` is for tests that look at the WebSocket layer alone.
        """
        self._configs = list(configs)
        self._handler_factory_for = handler_factory_for
        self._max_packet_size_bytes = max_packet_size_bytes
        self._total = ConnectionTotal(max_connections)
        self._opening_timeout_s = opening_timeout_s
        self._sweep_interval_s = sweep_interval_s
        self._frames_class = frames_class
        self._states: list[ListenerState] = []
        self._acceptors: list[Acceptor] = []
        self._timer: asyncio.TimerHandle | None = None
        self._next_ping: dict[ListenerState, float] = {}
        self._addresses: dict[str, list[str]] = {}

    async def start(self) -> None:
        """Read certificates, bind everything, then accept.

        Raises OSError or `tidegate.edge.tls.TlsConfigurationError` naming the listener; then
        nothing is left open.
        """
        loop = asyncio.get_running_loop()
        try:
            for config in self._configs:
                state = self._make_state(config, loop)
                self._states.append(state)
                self._acceptors.append(Acceptor(state))
            self._addresses = {
                state.label: acceptor.addresses
                for state, acceptor in zip(self._states, self._acceptors, strict=True)
            }
            for acceptor in self._acceptors:
                await acceptor.start()
        except BaseException:
            await self.stop_accepting()
            raise
        self._sweep()

    def _make_state(self, config: ListenerConfig, loop: asyncio.AbstractEventLoop) -> ListenerState:
        return ListenerState(
            config,
            self._handler_factory_for(config),
            loop=loop,
            total=self._total,
            max_frame_bytes=self._max_packet_size_bytes + FRAME_SLACK_BYTES,
            policy=HandshakePolicy(config.paths, config.allowed_origins),
            frames_class=self._frames_class,
            tls=TlsContexts(config) if config.tls.certificates else None,
            opening_timeout_s=self._opening_timeout_s,
        )

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Where each listener (by its label) really listens: ``host:port`` or a path."""
        return self._addresses

    @property
    def states(self) -> Sequence[ListenerState]:
        """The listeners, for metrics: ``label``, ``counters``, ``tls``, ``connections``."""
        return self._states

    def open_connections(self) -> int:
        """How many sockets are open, handshakes included."""
        return self._total.open

    def refused(self) -> dict[tuple[str, Refusal], int]:
        """Connections that got no handler, by listener and reason."""
        return {
            (state.label, reason): count
            for state in self._states
            for reason, count in state.counters.refused.items()
        }

    def certificate_not_after(self) -> dict[str, float]:
        """When the first certificate of each TLS listener expires, seconds since the epoch."""
        return {
            state.label: state.tls.certificate_not_after
            for state in self._states
            if state.tls is not None
        }

    async def stop_accepting(self) -> None:
        """Close the listening sockets; connections stay as they are."""
        for acceptor in self._acceptors:
            acceptor.stop()
        self._acceptors.clear()

    async def close(self, deadline_s: float = 5.0) -> None:
        """Stop accepting, close all connections, and drop what is left after ``deadline_s``."""
        await self.stop_accepting()
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
        return [connection for state in self._states for connection in state.connections]

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        # Rescheduled first: whatever one connection raises, the next sweep comes.
        self._timer = loop.call_later(self._sweep_interval_s, self._sweep)
        for state in self._states:
            state.sweep(now)
            if state.websockets and state.config.websocket_ping_s:
                self._sweep_pings(state, now)
            if state.tls is not None and state.tls.is_due(now):
                state.tls.reload(now, state.counters)

    def reload_certificates(self) -> None:
        """Look at the certificate files of every listener now (SIGHUP)."""
        now = asyncio.get_running_loop().time()
        for state in self._states:
            if state.tls is not None:
                state.tls.reload(now, state.counters)

    def _sweep_pings(self, state: ListenerState, now: float) -> None:
        due = self._next_ping.get(state, 0.0)
        if now < due:
            return
        self._next_ping[state] = now + state.config.websocket_ping_s / SWEEPS_PER_PING
        for channel in list(state.websockets):
            channel.sweep()
