"""``tidegate router``: a router, its store, and the gRPC server that edges attach to.

While the store cannot be reached at the start it is tried again and again, not ready, so that
routers come up together with their store in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Final

from tidegate import __version__
from tidegate.link.interfaces import RouterService
from tidegate.link.router_end.link_server import LinkServer
from tidegate.link.traced_links import TracedRouterService
from tidegate.roles import process
from tidegate.roles.process import Process, now_ms
from tidegate.roles.router_reload import RouterReload
from tidegate.roles.sys_figures import figures_of
from tidegate.router.router import Router
from tidegate.router.sys_publisher import SysPublisher
from tidegate.runtime.admin.control import Control, Json
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.telemetry.metrics import CallbackMetrics
from tidegate.runtime.telemetry.tracing import Tracer
from tidegate.store.api import StoreUnavailable
from tidegate.store.redis_store import RedisStore, StoreRefused

log = logging.getLogger(__name__)

#: Between two attempts to reach the store at the start.
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0

NO_STORE: Final = "the store does not answer"

#: What the environment is to blame for when a router cannot start.
STARTUP_ERRORS: Final[tuple[type[Exception], ...]] = (OSError, StoreRefused)


class RouterProcess(Process):
    """See the module's docstring."""

    role: ClassVar[str] = "router"
    command: ClassVar[Role] = "router"

    def __init__(self, config: Config, announce: Callable[[str], None]) -> None:
        super().__init__(config, announce)
        self._router: Router | None = None
        self._link_server: LinkServer | None = None
        self._limited: RouterReload | None = None
        self._address = ""
        self._store_refuses = False

    @property
    def grace_s(self) -> float:
        """Without another router to go to, edges stay to the end: no reason to wait for long."""
        return min(self.config.drain.deadline_s, self.config.shutdown_timeout_s)

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Reach the store, load from it what routing needs, then accept edges."""
        tracer = self.start_telemetry(stack).tracer
        admin_url = await self.start_admin(stack, Control(self.status))
        store, router = await self.unless_stopped(self._bring_up(tracer))
        self._router = router
        stack.push_async_callback(store.close)
        stack.push_async_callback(router.stop)
        service: RouterService = router
        if tracer is not None:
            service = TracedRouterService(router, tracer, router.table.route)
        link_server = self._link_server = LinkServer(
            service, self.name, self.config.link, self.counters
        )
        stack.push_async_callback(link_server.stop)
        self.exporter.add(_readings(router, link_server))
        counters = self.counters
        link_server.figures.own = lambda: figures_of(counters)
        system = SysPublisher(
            router,
            link_server.figures.all_processes,
            __version__,
            self.config.features.sys_interval_s,
            leads=lambda: _leads(router),
        )
        self.background(stack, system.run())
        self._limited = RouterReload(store, router, system)

        def measure() -> None:
            counters.retained_count = len(router.retained)
            counters.sessions = len(router.table.sessions)
            counters.subscriptions = router.table.offline_subscription_count()

        self.every_second(stack, measure)
        self._address = await link_server.start()
        return f"link={self._address}" + (f" admin={admin_url}" if admin_url else "")

    async def _bring_up(self, tracer: Tracer | None) -> tuple[RedisStore, Router]:
        """Connect and load, as often as it takes. Raises StoreRefused."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._try_to_bring_up(tracer)
            except StoreUnavailable as error:
                self._store_refuses = True
                log.warning("the store cannot be used, will retry", extra={"reason": str(error)})
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _try_to_bring_up(self, tracer: Tracer | None) -> tuple[RedisStore, Router]:
        config = self.config
        assert config.store.url is not None
        store = await RedisStore.connect(
            url=config.store.url, limits=config.limits, store=config.store, counters=self.counters
        )
        try:
            router = Router(
                store,
                config.limits,
                config.features,
                self.counters,
                now_ms,
                config.store.edge_lease_s,
                alone=False,
                name=self.name,
                on_fenced=self._fenced,
                tracer=tracer,
            )
            await router.start()
        except BaseException:
            await store.close()
            raise
        return store, router

    def _fenced(self) -> None:
        """Another router, or an edge, has declared this one dead: edges must come anew."""
        if self._link_server is not None:
            self._link_server.drop_all()

    async def reconfigure(self, config: Config) -> None:
        """Limits and features."""
        assert self._limited is not None
        self._limited.reconfigure(config)

    async def leave(self, reason: str) -> None:
        """Ask the edges to go on without this router, and wait until they have."""
        assert self._link_server is not None
        log.info("leaving", extra={"reason": reason, "edges": len(self._link_server.edges)})
        await self._link_server.leave(self.grace_s)

    def problem(self) -> str:
        """Without its store."""
        if self._router is None:
            return NO_STORE if self._store_refuses else ""
        return "" if self._router.current else NO_STORE

    def status(self) -> Json:
        """What /status says: what is held for the whole broker, and who is attached."""
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
            "link": link,
        }


def _leads(router: Router) -> bool:
    """Whether this is the router that speaks for all: the first by name of those that live."""
    return router.current and router.instance == min(router.live_routers(), default="")


def _readings(router: Router, link_server: LinkServer) -> CallbackMetrics:
    """What /metrics says of the link."""
    return CallbackMetrics(
        (
            (
                "link_edges",
                "Edges attached to this router, by the version of the link they speak.",
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
                "1 while this router's lease in the store lasts.",
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
