"""What clients need of the edge they are connected to, and no more.

Made by ``Edge``, read by everything in this room. Owns the settings in force, the clock of the last
tick, timers and tasks; the edge's registries stay with the edge, which hands in what is called.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tidegate.core.second_chance import SecondChance
from tidegate.mqtt.connection import ConnectionSettings

if TYPE_CHECKING:
    from tidegate.edge.auth.acl import Authorizer
    from tidegate.edge.auth.authentication import Authenticator
    from tidegate.edge.auth.methods import Method
    from tidegate.edge.client.banned import Banned
    from tidegate.edge.client.connection_log import ConnectionLog
    from tidegate.edge.client.recorder import Recorder
    from tidegate.link.interfaces import RouterLink
    from tidegate.mqtt.enums import ReasonCode
    from tidegate.mqtt.packets import Publish
    from tidegate.runtime.config.model import Config, LimitsConfig
    from tidegate.runtime.telemetry.counters import Counters

log = logging.getLogger(__name__)

T = TypeVar("T")


class Flushable(Protocol):
    """What has something to send at the end of this turn of the event loop."""

    def flush(self) -> None:
        """Write it."""


class Resumable(Protocol):
    """A packet queue that waits for a router."""

    def resume(self, reason: int) -> None:
        """Remove a pause reason and handle what waits."""


def _report(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("edge task failed", exc_info=task.exception())


class EdgeContext:
    """See the module's docstring. ``start`` before use."""

    __slots__ = (
        "_loop",
        "_next_assigned",
        "_tasks",
        "authentication_methods",
        "authenticator",
        "authorizer",
        "banned",
        "connection_log",
        "connection_settings",
        "counters",
        "edge_id",
        "expiring",
        "features",
        "is_publishing_paused",
        "later",
        "limits",
        "mark",
        "now_ms",
        "recorder",
        "refusal",
        "router",
        "soon",
        "tick_s",
        "time_s",
        "topic_names",
        "waiting_for_router",
    )

    _loop: asyncio.AbstractEventLoop
    #: Seconds of the event loop's clock, now.
    time_s: Callable[[], float]
    #: Call something in the next turn of the event loop.
    soon: Callable[[Callable[[], object]], asyncio.Handle]
    #: Call something after a delay in seconds.
    later: Callable[[float, Callable[[], object]], asyncio.TimerHandle]

    def __init__(
        self,
        edge_id: str,
        router: RouterLink,
        config: Config,
        authenticator: Authenticator,
        authorizer: Authorizer,
        counters: Counters,
        now_ms: Callable[[], int],
        mark: Callable[[Flushable], None],
        connection_log: ConnectionLog,
        recorder: Recorder,
        banned: Banned,
    ) -> None:
        """``mark`` notes what has something to send; it is flushed at the end of this turn."""
        self.edge_id = edge_id
        self.router = router
        self.features = config.features
        self.authenticator = authenticator
        self.authorizer = authorizer
        #: Methods of enhanced authentication, by name.
        self.authentication_methods: Mapping[str, Method] = {}
        self.counters = counters
        self.connection_log = connection_log
        self.recorder = recorder
        self.banned = banned
        self.now_ms = now_ms
        #: Topic names that clients have published to, by their bytes: decoded and checked once.
        self.topic_names: SecondChance[bytes, str] = SecondChance(config.limits.max_cached_topics)
        self.mark = mark
        #: What a CONNECT is answered with while none is accepted (draining); None: it is accepted.
        self.refusal: ReasonCode | None = None
        #: Seconds of the loop's clock, read once per tick: good enough for keep alive.
        self.tick_s = 0.0
        #: Whether no router takes publishes now, and the queues that have one waiting for it.
        self.is_publishing_paused = False
        self.waiting_for_router: OrderedDict[Resumable, None] = OrderedDict()
        #: Called at every tick, until False is returned: they have queued messages that expire.
        self.expiring: dict[Callable[[], bool], None] = {}
        self._next_assigned = 0
        self._tasks: set[asyncio.Future[Any]] = set()
        self.go_by(config.limits)

    def go_by(self, limits: LimitsConfig) -> None:
        """Take these limits; a connection keeps what CONNACK has announced."""
        self.limits = limits
        self.connection_settings = ConnectionSettings(
            limits.max_packet_size_bytes,
            limits.receive_maximum,
            limits.max_topic_alias,
            self.topic_names,
        )

    def start(self) -> None:
        """Take the running event loop."""
        # Kept, since to look it up costs a system call until Python 3.12.
        loop = self._loop = asyncio.get_running_loop()
        self.time_s, self.soon, self.later = loop.time, loop.call_soon, loop.call_later
        self.tick_s = loop.time()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that outlives the call that starts it; ``idle`` waits for it."""
        task: asyncio.Task[None] = self._loop.create_task(work)
        self.follow(task, _report)
        return task

    def follow(self, future: asyncio.Future[T], done: Callable[[asyncio.Future[T]], None]) -> None:
        """Call ``done`` when a future has ended; ``idle`` waits for it."""

        def ended(future: asyncio.Future[T]) -> None:
            self._tasks.discard(future)
            done(future)

        self._tasks.add(future)
        future.add_done_callback(ended)

    async def idle(self) -> None:
        """Return when everything that was spawned or followed has ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def assign_client_id(self) -> str:
        """Make a client identifier that no other session has [MQTT-3.2.2-16]."""
        self._next_assigned += 1
        return f"auto-{self.edge_id}-{self._next_assigned}"

    def remaining_s(self, message: Publish) -> int:
        """Seconds until a message expires, at least 1; 0 when it has expired.

        [MQTT-3.3.2-5], [MQTT-3.3.2-6]
        """
        left_ms = message.expires_at_ms - self.now_ms()
        return (left_ms + 999) // 1000 if left_ms > 0 else 0
