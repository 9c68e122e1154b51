"""All in one: an edge, a router and the store in one process, joined directly.

The composition root of ``tidegate serve``. Builds the objects, wires them, starts them in order,
says ``tidegate ready`` when everything accepts, and takes them down in the opposite order. The same
edge and router run apart in a cluster; there is no second way of keeping state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from tidegate import __version__
from tidegate.edge.administration import control_of, readings_of
from tidegate.edge.authn import Authenticator
from tidegate.edge.authz import Authorizer
from tidegate.edge.drain import Drainer
from tidegate.edge.edge import Edge
from tidegate.edge.exchange import Method
from tidegate.edge.listeners import Listeners
from tidegate.edge.watch import FileWatch
from tidegate.link.api import RouterUnavailable
from tidegate.router.router import Router
from tidegate.runtime import log as logs
from tidegate.runtime import loop as loops
from tidegate.runtime.admin import AdminServer, Control, Json
from tidegate.runtime.config import Config
from tidegate.runtime.metrics import Exporter, Readings
from tidegate.runtime.shutdown import Shutdown
from tidegate.runtime.telemetry import Counters, watch_event_loop_lag
from tidegate.runtime.tracing import install
from tidegate.store.api import StoreUnavailable
from tidegate.store.embedded import EmbeddedValkey
from tidegate.store.redis_store import RedisStore
from tidegate.system import SystemTopics

log = logging.getLogger(__name__)

#: Heartbeats of an edge during one lease.
HEARTBEATS_PER_LEASE: Final = 4


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Broker:
    """The parts of an all-in-one broker, started and stopped together."""

    def __init__(
        self,
        config: Config,
        announce: Callable[[str], None],
        authentication_methods: Mapping[str, Method] | None = None,
    ) -> None:
        self._config = config
        self._authentication_methods = dict(authentication_methods or {})
        self._announce = announce
        self._counters = Counters()
        self._exporter = Exporter(self._counters)
        self._store_reachable = False
        self._serving = False
        self._shutdown: Shutdown | None = None
        self._drainer: Drainer | None = None

    def stop(self, reason: str) -> None:
        """Ask ``run`` to end, as SIGTERM does."""
        if self._shutdown is not None:
            self._shutdown.request(reason)

    async def run(self) -> None:
        """Serve until a signal comes, or ``stop`` is called."""
        config = self._config
        with Shutdown(config.shutdown_timeout_s, grace_s=config.drain.deadline_s) as shutdown:
            self._shutdown = shutdown
            async with contextlib.AsyncExitStack() as stack:
                drainer = await self._start(stack, shutdown)
                drainer.start(await shutdown.wait())
                await drainer.wait()
                shutdown.end_grace()
                self._serving = False
        log.info("stopped")

    async def _start(self, stack: contextlib.AsyncExitStack, shutdown: Shutdown) -> Drainer:
        config, counters = self._config, self._counters
        telemetry = install(config.telemetry, "serve", config.name, self._exporter)
        stack.push_async_callback(telemetry.close)
        store = await self._open_store(stack)
        router = Router(
            store, config.limits, config.features, counters, now_ms, config.store.edge_lease_s
        )
        edge_id = f"edge-{secrets.token_hex(6)}"
        authenticator = Authenticator(config.auth, counters)
        stack.callback(authenticator.close)
        authorizer = Authorizer(config.auth, counters)
        edge = Edge(edge_id, router, config, authenticator, authorizer, counters, now_ms)
        edge.authentication_methods = self._authentication_methods
        edge.tracer = telemetry.tracer
        router.trace_with(telemetry.tracer)
        router.attach_edge(edge)
        await router.heartbeat(edge_id)
        await router.start()
        stack.push_async_callback(router.stop)
        edge.start()
        listeners = Listeners(
            config.listeners,
            edge.handler_factory,
            max_packet_size_bytes=config.limits.max_packet_size_bytes,
            opening_timeout_s=config.limits.connect_timeout_s,
        )
        self._exporter.add(_listener_readings(listeners))
        self._exporter.add(readings_of(edge))
        stack.push_async_callback(self._stop_edge, edge, listeners, store, edge_id)
        drainer = self._drainer = Drainer(edge, config.drain, listeners.stop_accepting)
        await listeners.start()
        control = control_of(edge, drainer, self._status(listeners))
        admin_address = await self._start_admin(stack, control)
        self._watch_files(stack, shutdown, edge, listeners)
        self._background(stack, self._heartbeat(router, edge_id))
        self._background(stack, watch_event_loop_lag(counters))
        self._background(stack, self._gauge(edge, router))
        if config.features.sys_interval_s:
            system = SystemTopics(
                edge, router, counters, __version__, config.features.sys_interval_s
            )
            self._background(stack, system.run())
        self._serving = True
        self._say_ready(listeners, admin_address)
        return drainer

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> RedisStore:
        """Start the embedded server if there is no URL; connect."""
        config = self._config
        url = config.store.url
        if url is None:
            embedded = EmbeddedValkey(config.store.data_dir, config.store.durability)
            await embedded.start()
            stack.push_async_callback(embedded.stop)
            url = embedded.url
        store = await RedisStore.connect(
            url=url, limits=config.limits, store=config.store, counters=self._counters
        )
        self._store_reachable = True
        stack.push_async_callback(store.close)
        if config.store.url is None:
            # The data directory is locked: no other edge can be alive.
            await store.end_all_leases()
        return store

    async def _stop_edge(
        self, edge: Edge, listeners: Listeners, store: RedisStore, edge_id: str
    ) -> None:
        await listeners.stop_accepting()
        await edge.stop()
        await listeners.close()
        with contextlib.suppress(StoreUnavailable):
            await store.end_lease(edge_id)

    def _status(self, listeners: Listeners) -> Callable[[], Json]:
        """What /status says of the process as a whole."""
        counters, started_s = self._counters, time.monotonic()

        def status() -> Json:
            return {
                "version": __version__,
                "role": "serve",
                "name": self._config.name or socket.gethostname(),
                "uptime_s": round(time.monotonic() - started_s, 1),
                "sessions": counters.sessions,
                "retained": counters.retained_count,
                "listeners": listeners.addresses,
                "link": {"routers": "in this process", "store_reachable": self._store_reachable},
            }

        return status

    async def _start_admin(self, stack: contextlib.AsyncExitStack, control: Control) -> str:
        admin = self._config.admin
        if not admin.enabled:
            return ""
        server = AdminServer(
            admin.address,
            admin.port,
            ready=self._readiness,
            metrics=self._exporter.render,
            control=control,
            token_file=admin.token_file,
        )
        await server.start()
        stack.push_async_callback(server.stop)
        return server.address

    def _background(
        self, stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]
    ) -> None:
        """Run something until the end; if it fails, that is logged, and the process goes on."""
        task = asyncio.create_task(work)
        task.add_done_callback(_report)

        async def cancel() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(cancel)

    def _readiness(self) -> tuple[bool, str]:
        """What /readyz says."""
        if not self._serving:
            return False, "starting or stopping"
        if self._drainer is not None and self._drainer.is_draining:
            return False, self._drainer.sentence()
        if not self._store_reachable:
            return False, "the store does not answer"
        return True, "ready"

    def _watch_files(
        self,
        stack: contextlib.AsyncExitStack,
        shutdown: Shutdown,
        edge: Edge,
        listeners: Listeners,
    ) -> None:
        """Read passwords, ACL and certificates again when they change, and at SIGHUP."""

        def reload_acl() -> None:
            edge.authorizer.reload()
            edge.authorization_changed()

        auth = self._config.auth
        for name, files, reload in (
            ("password_file", edge.authenticator.files(), edge.authenticator.reload),
            ("acl_file", edge.authorizer.files(), reload_acl),
        ):
            watch = FileWatch(
                name, files, reload, self._counters, interval_s=auth.reload_interval_s
            )
            shutdown.on_hangup(watch.trigger)
            self._background(stack, watch.run())
        shutdown.on_hangup(listeners.reload_certificates)

    async def _gauge(self, edge: Edge, router: Router) -> None:
        """Bring the gauges up to date once a second."""
        counters = self._counters
        while True:
            counters.retained_count = len(router.retained)
            counters.sessions = len(router.table.sessions)
            counters.subscriptions = (
                edge.subscription_count + router.table.offline_subscription_count()
            )
            await asyncio.sleep(1)

    async def _heartbeat(self, router: Router, edge_id: str) -> None:
        while True:
            try:
                await router.heartbeat(edge_id)
                self._store_reachable = True
            except RouterUnavailable:
                self._store_reachable = False
            await asyncio.sleep(self._config.store.edge_lease_s / HEARTBEATS_PER_LEASE)

    def _say_ready(self, listeners: Listeners, admin_address: str) -> None:
        places = []
        for listener in self._config.listeners:
            path = listener.paths[0] if listener.protocol in {"ws", "wss"} else ""
            places += [
                f"{name}={listener.protocol.value}://{address}{path}"
                for name, addresses in listeners.addresses.items()
                if name == listener.label
                for address in addresses
            ]
        if admin_address:
            places.append(f"admin=http://{admin_address}")
        self._announce(f"tidegate ready {' '.join(places)}")


def _listener_readings(listeners: Listeners) -> Readings:
    """What /metrics says of each listener."""
    states = listeners.states
    return Readings(
        (
            (
                "listener_connections",
                "Sockets that are open, handshakes included.",
                ["listener"],
                lambda: [([state.label], len(state.connections)) for state in states],
            ),
            (
                "listener_accepted_total",
                "Sockets accepted.",
                ["listener"],
                lambda: [([state.label], state.counters.accepted) for state in states],
            ),
            (
                "listener_refused_total",
                "Sockets that ended before they could speak MQTT.",
                ["listener", "reason"],
                lambda: [
                    ([label, reason.value], count)
                    for (label, reason), count in listeners.refused().items()
                ],
            ),
            (
                "certificate_not_after_seconds",
                "When the first certificate of a listener expires, Unix time.",
                ["listener"],
                lambda: [
                    ([label], when) for label, when in listeners.certificate_not_after().items()
                ],
            ),
            (
                "certificate_reloads_total",
                "Times that changed certificate files were read.",
                ["listener", "result"],
                lambda: [
                    ([state.label, result], count)
                    for state in states
                    for result, count in (
                        ("ok", state.counters.reloads),
                        ("failed", state.counters.reload_failures),
                    )
                ],
            ),
        )
    )


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a background task failed", exc_info=task.exception())


def run(config: Config, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    logs.configure(config.log.level, config.log.format)
    loops.run(_run(config, announce))


async def _run(config: Config, announce: Callable[[str], None]) -> None:
    def ready(line: str) -> None:
        loops.settle_garbage_collector()
        announce(line)

    await Broker(config, ready).run()
