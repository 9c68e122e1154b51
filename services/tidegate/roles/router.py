"""``tidegate router``: a router, its store, and the gRPC server that edges attach to.

While the store is not reachable at the start, the connection is retried and the router is not
ready, so that routers and their store can start in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Final

from tidegate import __version__
from tidegate.link.interfaces import RouterService
from tidegate.link.router_end.link_server import LinkServer
from tidegate.link.traced_links import TracedRouterService
from tidegate.roles import process
from tidegate.roles.process import NO_STORE, WRITES_NOT_STORED, Process
from tidegate.roles.router_reload import RouterReload
from tidegate.roles.sys_figures import figures_of
from tidegate.router.inspection import handlers_of
from tidegate.router.record import Record
from tidegate.router.router import Router
from tidegate.router.sys_publisher import SysPublisher
from tidegate.runtime.admin.control import Control, Json, Page
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.telemetry.metrics import CallbackMetrics
from tidegate.runtime.telemetry.tracing import Tracer
from tidegate.store.api import StoreInUse, StoreUnavailable
from tidegate.store.groups import CLUSTER, VARIABLE
from tidegate.store.redis_store import RedisStore, StoreRefused

log = logging.getLogger(__name__)

#: Pauses between attempts to connect to the store at the start.
MIN_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 1.0

#: The lease of the store until the router has its own.
HOLD_MS: Final = 3000

#: Errors with which the start of a router fails because of its environment.
STARTUP_ERRORS: Final[tuple[type[Exception], ...]] = (OSError, StoreRefused)


class RouterProcess(Process):
    """See the module's docstring."""

    role: ClassVar[str] = "router"
    command: ClassVar[Role] = "router"

    def __init__(self, config: Config, announce: Callable[[str], None]) -> None:
        super().__init__(config, announce)
        self._router: Router | None = None
        self._link_server: LinkServer | None = None
        self._router_reload: RouterReload | None = None
        self._address = ""
        #: Why there is no router yet.
        self._problem = ""

    @property
    def grace_s(self) -> float:
        """Without another router edges stay connected to the end, so it is short."""
        return min(self.config.drain.deadline_s, self.config.shutdown_timeout_s)

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Connect to the store, load what routing needs, then accept edges."""
        tracer = self.start_telemetry(stack).tracer
        handlers: dict[str, Page] = {}
        control = Control(self.status, pages=self.pages(), handlers=handlers)
        admin_url = await self.start_admin(stack, control)
        store, router = await self.unless_stopped(self._connect(tracer))
        self._router = router
        handlers.update(handlers_of(router))
        stack.push_async_callback(store.close)
        self.close_within(stack, router.stop, WRITES_NOT_STORED)
        service: RouterService = router
        if tracer is not None:
            service = TracedRouterService(router, tracer, router.table.route)
        link_server = self._link_server = LinkServer(
            service, self.name, self.config.link, self.counters
        )
        link_server.share_time(self.clock)
        stack.push_async_callback(link_server.stop)
        self.exporter.add(_metrics(router, link_server))
        counters = self.counters
        link_server.figures.own = lambda: figures_of(counters)
        sys_publisher = SysPublisher(
            router,
            link_server.figures.all_processes,
            __version__,
            self.config.features.sys_interval_s,
            leads=lambda: _leads(router),
        )
        self.background(stack, sys_publisher.run())
        self._router_reload = RouterReload(store, router, sys_publisher)

        def measure() -> None:
            counters.retained_count = len(router.retained)
            counters.sessions = len(router.table.sessions)
            counters.subscriptions = router.table.offline_subscription_count

        self.every_second(stack, measure)
        self._address = await link_server.start()
        return f"link={self._address}" + (f" admin={admin_url}" if admin_url else "")

    async def _connect(self, tracer: Tracer | None) -> tuple[RedisStore, Router]:
        """Connect and load, with retries. Raises StoreRefused."""
        pause_s, reason = MIN_BACKOFF_S, ""
        while True:
            try:
                return await self._try_to_connect(tracer)
            except StoreUnavailable as error:
                self._problem = str(error) if isinstance(error, StoreInUse) else NO_STORE
                if str(error) != reason:
                    reason = str(error)
                    log.warning("store unavailable, retrying", extra={"reason": reason})
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, MAX_BACKOFF_S)

    async def _try_to_connect(self, tracer: Tracer | None) -> tuple[RedisStore, Router]:
        config = self.config
        assert config.store.url is not None
        store = await RedisStore.connect(
            url=config.store.url, limits=config.limits, store=config.store, counters=self.counters
        )
        try:
            await store.share_time(self.clock)
            store.use_for(os.environ.get(VARIABLE, CLUSTER))
            # Nothing is read while a broker uses the store that shares it with no other.
            await store.hold(self.clock.now_ms(), HOLD_MS)
            router = Router(
                store,
                config.limits,
                config.features,
                self.counters,
                self.clock.now_ms,
                config.store.edge_lease_s,
                alone=False,
                name=self.name,
                on_fenced=self._fenced,
                record=Record(store, config.record, self.counters, self.clock.now_ms, self.name),
                tracer=tracer,
            )
            await router.start()
        except BaseException:
            await store.close()
            raise
        return store, router

    def _fenced(self) -> None:
        """This router was fenced (its lease was ended by a peer): edges have to reconnect."""
        if self._link_server is not None:
            self._link_server.fenced()

    async def reconfigure(self, config: Config) -> None:
        """Apply limits and features."""
        assert self._router_reload is not None
        self._router_reload.reconfigure(config)

    async def drain(self, reason: str) -> None:
        """Ask the edges to move to other routers, and wait until they have."""
        assert self._link_server is not None
        log.info("router draining", extra={"reason": reason, "edges": len(self._link_server.edges)})
        await self._link_server.leave(self.grace_s)

    def problem(self) -> str:
        """Say that the store is not reachable."""
        if self._router is None:
            return self._problem
        return "" if self._router.current else NO_STORE

    def status(self) -> Json:
        """Return /status: what is stored for the whole broker, and the attached edges."""
        router, link_server = self._router, self._link_server
        link: Json = {"listen": self._address, "edges": [], "store_reachable": False}
        if router is not None and link_server is not None:
            link |= {
                "store_reachable": router.current,
                "instance": router.instance,
                "routers": router.live_routers(),
                "edges": [edge.name for edge in link_server.edges],
            }
        return {
            **super().status(),
            "sessions": self.counters.sessions,
            "retained": self.counters.retained_count,
            "store_history": router.history_status() if router is not None else None,
            "link": link,
        }


def _leads(router: Router) -> bool:
    """Whether this router publishes $SYS for the broker: the first by name of the running ones."""
    return router.current and router.instance == min(router.live_routers(), default="")


def _metrics(router: Router, link_server: LinkServer) -> CallbackMetrics:
    """Return the metrics of the link."""
    return CallbackMetrics(
        (
            (
                "link_edges",
                "Edges attached to this router, by their version of the link protocol.",
                ["version"],
                lambda: [
                    ([str(version)], count)
                    for version, count in Counter(
                        edge.version for edge in link_server.edges
                    ).items()
                ],
            ),
            (
                "router_current",
                "1 while this router holds its lease in the store.",
                [],
                lambda: [([], int(router.current))],
            ),
        )
    )


def run(
    config: Config, announce: Callable[[str], None], loaded: LoadedConfig | None = None
) -> None:
    """Route until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(RouterProcess, config, announce, loaded)
