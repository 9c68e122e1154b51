"""Graceful shutdown of an edge: its clients are disconnected at a rate, and nothing is lost.

Called by ``roles`` at SIGTERM and by the admin API. Readiness fails at once (``roles`` reads
``is_draining``); after ``drain.delay_s`` no connection is accepted any more, and the clients are
disconnected at ``drain.rate``: each gets its outstanding acknowledgements, then DISCONNECT. A drain
cannot be undone: a drained edge is stopped and started again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidegate.edge.drain.paced_disconnector import FLUSH_S, TICK_S, PacedDisconnector
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.config.model import DrainConfig

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.edge import Edge

log = logging.getLogger(__name__)

#: The part of the deadline that is reserved for the last clients' acknowledgements.
RESERVED_SHARE: Final = 0.2


@dataclass(slots=True, frozen=True)
class Progress:
    """The progress of a drain. Times are Unix seconds; 0: not started."""

    is_draining: bool
    is_done: bool
    reason: str
    since_s: float
    clients_at_start: int
    clients_left: int


class Drainer:
    """Drains one edge, once. ``stop_accepting`` closes its listening sockets."""

    __slots__ = (
        "_clients_at_start",
        "_config",
        "_deadline_s",
        "_disconnector",
        "_done",
        "_edge",
        "_reason",
        "_since_s",
        "_stop_accepting",
        "_task",
    )

    def __init__(
        self, edge: Edge, config: DrainConfig, stop_accepting: Callable[[], Awaitable[None]]
    ) -> None:
        self._edge = edge
        self._config = config
        self._stop_accepting = stop_accepting
        self._reason = ""
        self._since_s = 0.0
        self._clients_at_start = 0
        self._deadline_s = 0.0
        self._disconnector = PacedDisconnector(
            edge, lambda client: client.shut_down(self.reason_code)
        )
        self._task: asyncio.Task[None] | None = None
        self._done = asyncio.Event()

    def start(self, reason: str) -> None:
        """Start, from a running event loop; a second call changes nothing."""
        if self._task is not None:
            return
        edge, config = self._edge, self._config
        self._reason = reason
        self._since_s = time.time()
        self._deadline_s = edge.context.time_s() + config.deadline_s
        self._clients_at_start = len(edge.clients)
        edge.counters.draining = 1
        log.info(
            "drain started",
            extra={
                "reason": reason,
                "clients": self._clients_at_start,
                "rate": config.rate,
                "delay_s": config.delay_s,
                "deadline_s": config.deadline_s,
            },
        )
        self._task = asyncio.create_task(self._run())

    @property
    def is_draining(self) -> bool:
        """Whether it has started (true until the process ends)."""
        return self._task is not None

    @property
    def rate(self) -> float:
        """Clients per second that may be disconnected."""
        return self._config.rate

    @property
    def reason_code(self) -> ReasonCode:
        """The reason code of the DISCONNECT that MQTT 5 clients get."""
        if self._config.reason == "use_another_server":
            return ReasonCode.USE_ANOTHER_SERVER
        return ReasonCode.SERVER_SHUTTING_DOWN

    def reconfigure(self, config: DrainConfig) -> None:
        """Take other settings; a drain that has started keeps its own."""
        if self._task is None:
            self._config = config

    async def wait(self) -> None:
        """Return when all clients are disconnected, or the deadline has passed."""
        await self._done.wait()

    def not_ready_reason(self) -> str:
        """Return why the edge is not ready, for the readiness page."""
        left = len(self._edge.clients)
        if self._done.is_set() and not left:
            return "drained: waiting for termination"
        return f"draining: {left} client{'' if left == 1 else 's'} left"

    def progress(self) -> Progress:
        """Return its progress."""
        return Progress(
            self.is_draining,
            self._done.is_set(),
            self._reason,
            self._since_s,
            self._clients_at_start,
            len(self._edge.clients),
        )

    async def _run(self) -> None:
        edge = self._edge
        try:
            async with asyncio.timeout_at(self._deadline_s):
                await asyncio.sleep(self._config.delay_s)
                await self._refuse_new_clients()
                await self._disconnect_all()
                await self._sessions_ended()
        except TimeoutError:
            log.warning(
                "drain deadline reached, disconnecting the remaining clients",
                extra={"clients": len(edge.clients)},
            )
            await self._refuse_new_clients()
            for client in [*edge.registry.connecting, *edge.clients.values()]:
                client.shut_down(self.reason_code)
        except Exception:
            log.exception("drain failed, disconnecting the remaining clients at shutdown")
        finally:
            self._done.set()
        log.info("drain finished", extra={"clients": self._disconnector.selected_count})

    async def _sessions_ended(self) -> None:
        """Return when the router has the end of every session.

        A CONNECT that was refused may still get one: unless that is ended here, its will is
        published when the lease of this edge is over [MQTT311-3.1.2-8].
        """
        registry = self._edge.registry
        while registry.detaching or registry.attaching:
            if registry.detaching:
                await asyncio.wait(list(registry.detaching.values()))
            else:
                await asyncio.sleep(TICK_S)

    async def _refuse_new_clients(self) -> None:
        """Stop accepting; a CONNECT of a connection that is open already is refused."""
        another = self._config.reason == "use_another_server"
        self._edge.refuse_connections(
            ReasonCode.USE_ANOTHER_SERVER if another else ReasonCode.SERVER_UNAVAILABLE
        )
        await self._stop_accepting()

    async def _disconnect_all(self) -> None:
        """Disconnect all clients at the rate, in the order in which they connected."""
        edge, disconnector = self._edge, self._disconnector
        candidates: deque[Client] = deque()
        disconnector.start()
        while True:
            if not candidates:
                candidates.extend(
                    client
                    for client in (*edge.registry.connecting, *edge.clients.values())
                    if client not in disconnector
                )
            disconnector.tick(self._rate(len(candidates)), candidates)
            if not (candidates or disconnector or edge.clients or edge.registry.connecting):
                return
            await asyncio.sleep(TICK_S)

    def _rate(self, count: int) -> float:
        """Return clients per second: the configured rate, or more if needed for the deadline."""
        config = self._config
        left_s = self._deadline_s - min(FLUSH_S, config.deadline_s * RESERVED_SHARE)
        left_s -= self._edge.context.time_s()
        if left_s <= TICK_S:
            return count / TICK_S
        return max(config.rate, count / left_s)
