"""``tidegate edge``: an edge whose routers are processes of their own.

It listens once it has found a router: until then the admin server says that it is not ready.
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

NO_ROUTER: Final = "no router can be reached"

#: What the environment is to blame for when an edge cannot start.
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
        self._side: EdgeComponents | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Find a router, then accept clients."""
        tracer = self.start_telemetry(stack).tracer
        router_client, counters = self._router_client, self.counters
        link = router_client if tracer is None else TracedRouterLink(router_client, tracer)
        side = self._side = EdgeComponents(self, router_client.edge_id, link)
        edge = side.edge
        router_client.set_edge(edge if tracer is None else TracedEdgeLink(edge, tracer, counters))
        router_client.publish_dispatcher.on_paused = edge.pause_publishing
        router_client.publish_dispatcher.on_resumed = edge.resume_publishing
        router_client.verification.connections = lambda: [
            (client.client_id, client.epoch) for client in edge.clients.values()
        ]
        router_client.figures.own = lambda: figures_of(counters, edge)
        self.exporter.add(_readings(router_client))
        stack.push_async_callback(router_client.stop)
        side.start(stack)
        admin_url = await self.start_admin(stack, side.control(self.status))
        await router_client.start()
        await self.unless_stopped(router_client.ready())
        await side.open()

        def measure() -> None:
            counters.subscriptions = edge.registry.subscription_count

        self.every_second(stack, measure)
        return side.places(admin_url)

    async def reconfigure(self, config: Config) -> None:
        """All that an edge has is live."""
        assert self._side is not None
        await self._side.reconfigure(config)

    async def leave(self, reason: str) -> None:
        """Let the clients go."""
        assert self._side is not None
        await self._side.drain(reason)

    def problem(self) -> str:
        """Draining, or without a router."""
        if self._side is not None and (problem := self._side.problem()):
            return problem
        return "" if self._router_client.routers.reachable() else NO_ROUTER

    def status(self) -> Json:
        """What /status says beside the edge's part."""
        assert self._side is not None
        return {
            **super().status(),
            "listeners": self._side.listeners.addresses,
            "link": {
                "routers": {
                    name: {"state": channel.state.value, "address": channel.address}
                    for name, channel in self._router_client.routers.members.items()
                }
            },
        }


def _readings(router_client: RouterClient) -> CallbackMetrics:
    """What /metrics says of the link."""
    return CallbackMetrics(
        (
            (
                "link_routers",
                "Routers that this edge knows, by state.",
                ["state"],
                lambda: _by_state(router_client),
            ),
        )
    )


def _by_state(router_client: RouterClient) -> list[tuple[list[str], int]]:
    count = Counter(channel.state for channel in router_client.routers.members.values())
    return [([state.value], count[state]) for state in State]


def run(
    config: Config, announce: Callable[[str], None], loaded: LoadedConfig | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(EdgeProcess, config, announce, loaded)
