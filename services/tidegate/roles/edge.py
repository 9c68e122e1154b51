"""``tidegate edge``: an edge whose routers are processes of their own.

It listens once it has found a router: until then the admin server says that it is not ready.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Final

from tidegate.link.channel import State
from tidegate.link.edge_id import new_edge_id
from tidegate.link.fleet import Fleet
from tidegate.roles import edge_side, process
from tidegate.roles.edge_side import EdgeSide
from tidegate.roles.process import Process
from tidegate.runtime.admin import Json
from tidegate.runtime.config import Config
from tidegate.runtime.config_file import Role
from tidegate.runtime.metrics import Readings
from tidegate.runtime.source import Loaded
from tidegate.system import figures_of

NO_ROUTER: Final = "no router can be reached"

#: What the environment is to blame for when an edge cannot start.
BLAMED: Final = edge_side.BLAMED


class EdgeProcess(Process):
    """See the module's docstring."""

    role: ClassVar[str] = "edge"
    command: ClassVar[Role] = "edge"

    def __init__(self, config: Config, announce: Callable[[str], None]) -> None:
        super().__init__(config, announce)
        self._fleet = Fleet(
            new_edge_id(self.name),
            self.name,
            config.link,
            config.store.edge_lease_s,
            self.counters,
        )
        self._side: EdgeSide | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Find a router, then accept clients."""
        tracer = self.install_telemetry(stack).tracer
        fleet, counters = self._fleet, self.counters
        side = self._side = EdgeSide(self, fleet.edge_id, fleet, tracer)
        edge = side.edge
        fleet.serve(edge)
        fleet.outgoing.hold_publishing = edge.hold_publishing
        fleet.outgoing.resume_publishing = edge.resume_publishing
        fleet.verification.connections = lambda: [
            (client.client_id, client.epoch) for client in edge.clients.values()
        ]
        fleet.figures.own = lambda: figures_of(counters, edge)
        self.exporter.add(_readings(fleet))
        stack.push_async_callback(fleet.stop)
        side.start(stack)
        admin_url = await self.start_admin(stack, side.control(self.status))
        await fleet.start()
        await self.unless_stopped(fleet.ready())
        await side.open()

        def measure() -> None:
            counters.subscriptions = edge.subscription_count

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
        return "" if self._fleet.routers.reachable() else NO_ROUTER

    def status(self) -> Json:
        """What /status says beside the edge's part."""
        assert self._side is not None
        return {
            **super().status(),
            "listeners": self._side.listeners.addresses,
            "link": {
                "routers": {
                    name: {"state": channel.state.value, "address": channel.address}
                    for name, channel in self._fleet.routers.members.items()
                }
            },
        }


def _readings(fleet: Fleet) -> Readings:
    """What /metrics says of the link."""
    return Readings(
        (
            (
                "link_routers",
                "Routers that this edge knows, by state.",
                ["state"],
                lambda: _by_state(fleet),
            ),
        )
    )


def _by_state(fleet: Fleet) -> list[tuple[list[str], int]]:
    count = Counter(channel.state for channel in fleet.routers.members.values())
    return [([state.value], count[state]) for state in State]


def run(config: Config, announce: Callable[[str], None], loaded: Loaded | None = None) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(EdgeProcess, config, announce, loaded)
