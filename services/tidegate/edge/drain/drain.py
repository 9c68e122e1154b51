"""Letting the clients of an edge go, a few at a time, so that nothing is lost.

Called by the composition root at SIGTERM and by the admin API. Readiness fails at once (the root
asks ``is_draining``); after ``drain.delay_s`` no connection is accepted any more, and the clients
are asked to leave at ``drain.rate``. Each gets the acknowledgements it is owed, then DISCONNECT.
There is no way back: a drained edge is ended and started again.
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

#: The part of the deadline that is left for the last clients' acknowledgements.
RESERVED_SHARE: Final = 0.2


@dataclass(slots=True, frozen=True)
class Progress:
    """How far a drain has come. Times are Unix seconds; 0: not begun."""

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
        "_done",
        "_edge",
        "_paced_disconnector",
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
        self._paced_disconnector = PacedDisconnector(
            edge, lambda client: client.shut_down(self.goodbye)
        )
        self._task: asyncio.Task[None] | None = None
        self._done = asyncio.Event()

    def start(self, reason: str) -> None:
        """Begin, from a running event loop; a second call changes nothing."""
        if self._task is not None:
            return
        edge, config = self._edge, self._config
        self._reason = reason
        self._since_s = time.time()
        self._deadline_s = edge.time_s() + config.deadline_s
        self._clients_at_start = len(edge.clients)
        edge.counters.draining = 1
        log.info(
            "draining",
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
        """Whether it has begun (and for ever after)."""
        return self._task is not None

    @property
    def rate(self) -> float:
        """Clients per second that may be asked to leave."""
        return self._config.rate

    @property
    def goodbye(self) -> ReasonCode:
        """What MQTT 5 clients are told when they are let go."""
        if self._config.reason == "use_another_server":
            return ReasonCode.USE_ANOTHER_SERVER
        return ReasonCode.SERVER_SHUTTING_DOWN

    def reconfigure(self, config: DrainConfig) -> None:
        """Go by other settings; a drain that has begun goes on by its own."""
        if self._task is None:
            self._config = config

    async def wait(self) -> None:
        """Return when no client is left, or the deadline has passed."""
        await self._done.wait()

    def not_ready_reason(self) -> str:
        """Say in words why the edge is not ready."""
        left = len(self._edge.clients)
        if self._done.is_set() and not left:
            return "drained: this process waits for its end"
        return f"draining: {left} client{'' if left == 1 else 's'} left"

    def progress(self) -> Progress:
        """Say how far it has come."""
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
                await self._close_the_doors()
                await self._shed()
                while edge.detaching:
                    await asyncio.wait(list(edge.detaching.values()))
        except TimeoutError:
            log.warning("drain deadline: the rest goes now", extra={"clients": len(edge.clients)})
            await self._close_the_doors()
            for client in [*edge.waiting, *edge.clients.values()]:
                client.shut_down(self.goodbye)
        except Exception:
            log.exception("draining failed: everybody goes at once")
        finally:
            self._done.set()
        log.info("drained", extra={"clients": self._paced_disconnector.asked})

    async def _close_the_doors(self) -> None:
        """Accept nobody any more; a CONNECT that is still on its way is refused."""
        another = self._config.reason == "use_another_server"
        self._edge.refusal = (
            ReasonCode.USE_ANOTHER_SERVER if another else ReasonCode.SERVER_UNAVAILABLE
        )
        await self._stop_accepting()

    async def _shed(self) -> None:
        """Ask everybody to leave, those who came first first, and see them off."""
        edge, paced_disconnector = self._edge, self._paced_disconnector
        waiting: deque[Client] = deque()
        paced_disconnector.begin()
        while True:
            if not waiting:
                waiting.extend(
                    client
                    for client in (*edge.waiting, *edge.clients.values())
                    if client not in paced_disconnector
                )
            paced_disconnector.earn(self._rate(len(waiting)))
            paced_disconnector.ask(waiting)
            paced_disconnector.let_go()
            if not (waiting or paced_disconnector or edge.clients or edge.waiting):
                return
            await asyncio.sleep(TICK_S)

    def _rate(self, count: int) -> float:
        """Clients per second: what is configured, or more if the deadline could not be kept."""
        config = self._config
        left_s = self._deadline_s - min(FLUSH_S, config.deadline_s * RESERVED_SHARE)
        left_s -= self._edge.time_s()
        if left_s <= TICK_S:
            return count / TICK_S
        return max(config.rate, count / left_s)
