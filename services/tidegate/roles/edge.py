"""``tidegate edge``: an edge whose routers are processes of their own.

It listens once it is connected to a router: until then the admin server reports it as not ready.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Final

from tidegate.link.edge_end.router_client import RouterClient
from tidegate.link.edge_end.router_peer import State
from tidegate.link.edge_id import new_edge_id
from tidegate.link.traced_links import TracedEdgeLink, TracedRouterLink
from tidegate.roles import edge_components, process
from tidegate.roles.edge_components import EdgeComponents
from tidegate.roles.process import Process
from tidegate.roles.sys_figures import figures_of
from tidegate.runtime.admin.control import Json
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.telemetry.metrics import CallbackMetrics

NO_ROUTER: Final = "no router reachable"

#: Errors with which the start of an edge fails because of its environment.
STARTUP_ERRORS: Final = edge_components.STARTUP_ERRORS


class EdgeProcess(Process):
    """See the module's docstring."""

    role: ClassVar[str] = "edge"
    command: ClassVar[Role] = "edge"

    def __init__(self, config: Config, announce: Callable[[str], None]) -> None:
        super().__init__(config, announce)
        self._router_client = RouterClient(
            new_edge_id(self.name),
            self.name,
            config.link,
            config.store.edge_lease_s,
            self.counters,
        )
        self._router_client.routers.limit_caches(config.limits.max_cached_topics)
        self._components: EdgeComponents | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Connect to a router, then accept clients."""
        tracer = self.start_telemetry(stack).tracer
        router_client, counters = self._router_client, self.counters
        link = router_client if tracer is None else TracedRouterLink(router_client, tracer)
        components = self._components = EdgeComponents(self, router_client.edge_id, link)
        edge = components.edge
        router_client.lease.clock = self.clock
        router_client.set_edge(edge if tracer is None else TracedEdgeLink(edge, tracer, counters))
        router_client.publish_dispatcher.on_paused = edge.pause_publishing
        router_client.publish_dispatcher.on_resumed = edge.resume_publishing
        router_client.verification.connections = edge.connections
        router_client.figures.own = lambda: figures_of(counters, edge)
        self.exporter.add(_metrics(router_client))
        stack.push_async_callback(router_client.stop)
        components.start(stack)
        admin_url = await self.start_admin(stack, components.control(self.status))
        await router_client.start()
        await self.unless_stopped(router_client.ready())
        await components.open()

        def measure() -> None:
            counters.subscriptions = edge.registry.subscription_count

        self.every_second(stack, measure)
        return components.endpoints(admin_url)

    async def reconfigure(self, config: Config) -> None:
        """Apply it to the components, and to the end of the link."""
        assert self._components is not None
        await self._components.reconfigure(config)
        self._router_client.routers.limit_caches(config.limits.max_cached_topics)

    async def drain(self, reason: str) -> None:
        """Drain the clients."""
        assert self._components is not None
        await self._components.drain(reason)

    def problem(self) -> str:
        """Say that it drains, or that no router is reachable."""
        if self._components is not None and (problem := self._components.problem()):
            return problem
        return "" if self._router_client.routers.reachable() else NO_ROUTER

    def status(self) -> Json:
        """Return /status without the part of ``edge.administration``."""
        assert self._components is not None
        return {
            **super().status(),
            "listeners": self._components.listeners.addresses,
            "link": {
                "routers": {
                    name: {"state": peer.state.value, "address": peer.address}
                    for name, peer in self._router_client.routers.members.items()
                }
            },
        }


def _metrics(router_client: RouterClient) -> CallbackMetrics:
    """Return the metrics of the link."""
    return CallbackMetrics(
        (
            (
                "link_routers",
                "Routers known to this edge, by state.",
                ["state"],
                lambda: _by_state(router_client),
            ),
        )
    )


def _by_state(router_client: RouterClient) -> list[tuple[list[str], int]]:
    count = Counter(peer.state for peer in router_client.routers.members.values())
    return [([state.value], count[state]) for state in State]


def run(
    config: Config, announce: Callable[[str], None], loaded: LoadedConfig | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(EdgeProcess, config, announce, loaded)
