"""All in one: an edge, a router and the store in one process, joined directly.

The composition root of ``tidegate serve``. Builds the objects, wires them, starts them in order,
says ``tidegate ready`` when everything accepts, and takes them down in the opposite order. The same
edge and router run apart in a cluster (``tidegate.roles``); there is no second way of keeping
state.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from tidegate import __version__
from tidegate.edge.auth.methods import Method
from tidegate.link.interfaces import RouterLink, RouterUnavailable
from tidegate.link.traced_links import TracedEdgeLink, TracedRouterLink, TracedRouterService
from tidegate.roles import edge_components, process
from tidegate.roles.edge_components import EdgeComponents
from tidegate.roles.process import Process, now_ms
from tidegate.roles.router_reload import RouterReload
from tidegate.roles.sys_figures import figures_of
from tidegate.router.router import Router
from tidegate.router.sys_publisher import SysPublisher
from tidegate.runtime.admin.control import Json
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.store.api import StoreUnavailable
from tidegate.store.embedded import EmbeddedError, EmbeddedValkey
from tidegate.store.redis_store import RedisStore, StoreRefused

#: Heartbeats of an edge during one lease.
HEARTBEATS_PER_LEASE: Final = 4

#: What the environment is to blame for when the broker cannot start.
STARTUP_ERRORS: Final = (
    *edge_components.STARTUP_ERRORS,
    StoreUnavailable,
    StoreRefused,
    EmbeddedError,
)


class Broker(Process):
    """The parts of an all-in-one broker, started and stopped together."""

    role: ClassVar[str] = "serve"

    def __init__(
        self,
        config: Config,
        announce: Callable[[str], None],
        authentication_methods: Mapping[str, Method] | None = None,
    ) -> None:
        super().__init__(config, announce)
        self._authentication_methods = authentication_methods
        self._store_reachable = False
        self._side: EdgeComponents | None = None
        self._limited: RouterReload | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Start the store, the router, the edge, and what looks after them."""
        config, counters = self.config, self.counters
        tracer = self.start_telemetry(stack).tracer
        store = await self._open_store(stack)
        router = Router(
            store,
            config.limits,
            config.features,
            counters,
            now_ms,
            config.store.edge_lease_s,
            tracer=tracer,
        )
        edge_id = f"edge-{secrets.token_hex(6)}"
        link: RouterLink = router
        if tracer is not None:
            link = TracedRouterService(router, tracer, router.table.route)
            link = TracedRouterLink(link, tracer)
        side = self._side = EdgeComponents(self, edge_id, link, self._authentication_methods)
        edge = side.edge
        router.attach_edge(edge if tracer is None else TracedEdgeLink(edge, tracer, counters))
        await router.heartbeat(edge_id)
        await router.start()
        stack.push_async_callback(router.stop)
        stack.push_async_callback(_end_lease, store, edge_id)
        side.start(stack)
        await side.open()
        admin_url = await self.start_admin(stack, side.control(self.status))
        self.background(stack, self._heartbeat(router, edge_id))

        def measure() -> None:
            counters.retained_count = len(router.retained)
            counters.sessions = len(router.table.sessions)
            counters.subscriptions = (
                edge.registry.subscription_count + router.table.offline_subscription_count()
            )

        self.every_second(stack, measure)
        system = SysPublisher(
            router,
            lambda: {edge_id: figures_of(counters, edge)},
            __version__,
            config.features.sys_interval_s,
            counters,
        )
        self.background(stack, system.run())
        self._limited = RouterReload(store, router, system)
        return side.places(admin_url)

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> RedisStore:
        """Start the embedded server if there is no URL; connect."""
        config = self.config
        url = config.store.url
        if url is None:
            embedded = EmbeddedValkey(config.store.data_dir, config.store.durability)
            await embedded.start()
            stack.push_async_callback(embedded.stop)
            url = embedded.url
        store = await RedisStore.connect(
            url=url, limits=config.limits, store=config.store, counters=self.counters
        )
        self._store_reachable = True
        stack.push_async_callback(store.close)
        if config.store.url is None:
            # The data directory is locked: no other edge can be alive.
            await store.end_all_leases()
        return store

    async def _heartbeat(self, router: Router, edge_id: str) -> None:
        while True:
            try:
                await router.heartbeat(edge_id)
                self._store_reachable = True
            except RouterUnavailable:
                self._store_reachable = False
            await asyncio.sleep(self.config.store.edge_lease_s / HEARTBEATS_PER_LEASE)

    async def reconfigure(self, config: Config) -> None:
        """The edge first: it is what may refuse."""
        assert self._side is not None
        assert self._limited is not None
        await self._side.reconfigure(config)
        self._limited.reconfigure(config)

    async def leave(self, reason: str) -> None:
        """Let the clients go."""
        assert self._side is not None
        await self._side.drain(reason)

    def problem(self) -> str:
        """Draining, or without its store."""
        if self._side is not None and (problem := self._side.problem()):
            return problem
        return "" if self._store_reachable else "the store does not answer"

    def status(self) -> Json:
        """What /status says beside the edge's part."""
        assert self._side is not None
        return {
            **super().status(),
            "sessions": self.counters.sessions,
            "retained": self.counters.retained_count,
            "listeners": self._side.listeners.addresses,
            "link": {"routers": "in this process", "store_reachable": self._store_reachable},
        }


async def _end_lease(store: RedisStore, edge_id: str) -> None:
    with contextlib.suppress(StoreUnavailable):
        await store.end_lease(edge_id)


def run(
    config: Config, announce: Callable[[str], None], loaded: LoadedConfig | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(Broker, config, announce, loaded)
