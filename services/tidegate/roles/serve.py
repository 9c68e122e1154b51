"""All in one: an edge, a router and the store in one process, connected directly.

The composition root of ``tidegate serve``. Builds the objects, connects them, starts them in order,
prints ``tidegate ready`` when everything accepts, and stops them in the opposite order. In a
cluster the same edge and router run as separate processes; state is kept in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from tidegate import __version__
from tidegate.edge.auth.methods import Method
from tidegate.link.interfaces import RouterLink, RouterUnavailable
from tidegate.link.traced_links import TracedEdgeLink, TracedRouterLink, TracedRouterService
from tidegate.roles import console_child, edge_components, process
from tidegate.roles.edge_components import EdgeComponents
from tidegate.roles.process import NO_STORE, WRITES_NOT_STORED, Process
from tidegate.roles.router_reload import RouterReload
from tidegate.roles.start_checks import check_admin, check_edge
from tidegate.roles.store_use import EXIT_STORE_LOST, StoreUse, patience_s
from tidegate.roles.sys_figures import figures_of
from tidegate.router.inspection import handlers_of
from tidegate.router.record import Record
from tidegate.router.router import Router
from tidegate.router.sys_publisher import SysPublisher
from tidegate.runtime.admin.control import Control, Json
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.store.api import StoreUnavailable
from tidegate.store.embedded import EmbeddedError, EmbeddedValkey
from tidegate.store.groups import group_of
from tidegate.store.redis_store import RedisStore, StoreRefused

log = logging.getLogger(__name__)

#: Heartbeats of an edge during one lease.
HEARTBEATS_PER_LEASE: Final = 4

#: Errors with which the start of the broker fails because of its environment.
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
        self._store_url = ""
        self._console: console_child.ConsoleChild | None = None
        self._components: EdgeComponents | None = None
        self._router: Router | None = None
        self._router_reload: RouterReload | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Start the store, the router, the edge, and the background tasks."""
        config, counters = self.config, self.counters
        check_edge(config)
        check_admin(config.admin)
        tracer = self.start_telemetry(stack).tracer
        store = await self._open_store(stack)
        router = self._router = Router(
            store,
            config.limits,
            config.features,
            counters,
            self.clock.now_ms,
            config.store.edge_lease_s,
            record=Record(store, config.record, counters, self.clock.now_ms, self.name),
            tracer=tracer,
        )
        edge_id = f"edge-{secrets.token_hex(6)}"
        link: RouterLink = router
        if tracer is not None:
            link = TracedRouterService(router, tracer, router.table.route)
            link = TracedRouterLink(link, tracer)
        components = self._components = EdgeComponents(
            self, edge_id, link, self._authentication_methods
        )
        edge = components.edge
        router.attach_edge(edge if tracer is None else TracedEdgeLink(edge, tracer, counters))
        await router.heartbeat(edge_id)
        await router.start()
        self.close_within(stack, router.stop, WRITES_NOT_STORED)
        stack.push_async_callback(_end_lease, store, edge_id)
        components.start(stack)
        await components.open()
        control = components.control(self.status)
        control = replace(control, handlers={**control.handlers, **handlers_of(router)})
        admin_url = await self.start_admin(stack, control)
        self.background(stack, self._heartbeat(router, edge_id))

        def measure() -> None:
            counters.retained_count = len(router.retained)
            counters.sessions = len(router.table.sessions)
            counters.subscriptions = (
                edge.registry.subscription_count + router.table.offline_subscription_count
            )

        self.every_second(stack, measure)
        sys_publisher = SysPublisher(
            router,
            lambda: {edge_id: figures_of(counters, edge)},
            __version__,
            config.features.sys_interval_s,
            counters,
        )
        self.background(stack, sys_publisher.run())
        self._router_reload = RouterReload(store, router, sys_publisher)
        await self._start_console(stack, control)
        return components.endpoints(admin_url)

    async def _start_console(self, stack: contextlib.AsyncExitStack, control: Control) -> None:
        """Begin to start the console, if there is to be one; nothing waits for it."""
        if not console_child.is_wanted(self.config):
            return
        directory = Path(tempfile.mkdtemp(prefix="tidegate-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        address = await self.start_private_admin(stack, directory / "admin", control)
        broker = console_child.Broker(self.config, self._store_url, [address], [])
        self._console = console_child.ConsoleChild(broker, directory, self._announce)
        stack.push_async_callback(self._console.stop)
        self.background(stack, self._console.run())

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> RedisStore:
        """Start the embedded server if there is no URL; connect."""
        config = self.config
        url = config.store.url
        if url is None:
            embedded = EmbeddedValkey(
                config.store.data_dir,
                config.store.durability,
                max_memory_bytes=config.store.max_memory_bytes,
            )
            await embedded.start()
            stack.push_async_callback(embedded.stop)
            url = embedded.url
        self._store_url = url
        store = await RedisStore.connect(
            url=url, limits=config.limits, store=config.store, counters=self.counters
        )
        self._store_reachable = True
        stack.push_async_callback(store.close)
        await store.share_time(self.clock)
        if config.store.url is None:
            # The data directory is locked: no other edge can be running.
            await store.end_all_leases()
            return store
        store.use_for(group_of(self.name))
        use = StoreUse(store, self.clock.now_ms)
        await self.unless_stopped(use.take(patience_s(config)))
        stack.push_async_callback(use.give_up)
        self.background(stack, use.keep(self._store_lost))
        return store

    def _store_lost(self, reason: str) -> None:
        """Exit at once: what this process writes from now on, the other one does not see."""
        log.error("store lost, exiting", extra={"reason": reason})
        self.exit(EXIT_STORE_LOST)

    async def _heartbeat(self, router: Router, edge_id: str) -> None:
        while True:
            try:
                await router.heartbeat(edge_id)
                self._store_reachable = True
            except RouterUnavailable:
                self._store_reachable = False
            await asyncio.sleep(self.config.store.edge_lease_s / HEARTBEATS_PER_LEASE)

    async def reconfigure(self, config: Config) -> None:
        """Apply it to the edge first: it may raise NotApplied."""
        assert self._components is not None
        assert self._router_reload is not None
        await self._components.reconfigure(config)
        self._router_reload.reconfigure(config)
        if self._console is not None:
            self._console.reconfigure(config)

    async def drain(self, reason: str) -> None:
        """Drain the clients."""
        assert self._components is not None
        await self._components.drain(reason)

    def problem(self) -> str:
        """Say that it drains, or that the store is not reachable."""
        if self._components is not None and (problem := self._components.problem()):
            return problem
        return "" if self._store_reachable else NO_STORE

    def status(self) -> Json:
        """Return /status without the part of ``edge.administration``."""
        assert self._components is not None
        assert self._router is not None
        return {
            **super().status(),
            "sessions": self.counters.sessions,
            "retained": self.counters.retained_count,
            "store_history": self._router.history_status(),
            "listeners": self._components.listeners.addresses,
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
