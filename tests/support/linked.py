"""Real edges' and routers' ends of the link in one process, joined by real gRPC.

What stands behind them (the edge, the router) is a fake or real, as the test likes. Used as
``async with Wires(directory) as wires``.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from support.fake_link import FakeEdge, FakeService, until
from tidegate.link.edge_end.router_client import RouterClient
from tidegate.link.edge_end.router_peer import State
from tidegate.link.interfaces import EdgeLink, RouterService
from tidegate.link.router_end.link_server import LinkServer
from tidegate.runtime.config.model import Carrier, LinkConfig
from tidegate.runtime.telemetry.counters import Counters

#: Discovery that waits for nobody.
QUICK: dict[str, Any] = {"discovery_interval_s": 0.05}
#: The link notices within a moment that a peer is silent.
IMPATIENT: dict[str, Any] = {"heartbeat_s": 0.05, "timeout_s": 0.3, "stall_s": 0.1}


class Carriers(NamedTuple):
    """What carries the link of edges, and of routers."""

    edge: Carrier = Carrier.ASYNCIO
    router: Carrier = Carrier.ASYNCIO


#: Runs a test with every pair of carriers; for modules that use the fixture ``wires``.
every_carrier = pytest.mark.parametrize(
    "carriers",
    [Carriers(edge, router) for edge in Carrier for router in Carrier],
    ids=lambda pair: f"{pair.edge}-{pair.router}",
    indirect=True,
)


class WiredRouter:
    """A link server, and what is behind it."""

    def __init__(self, service: RouterService, name: str, config: LinkConfig) -> None:
        self.service = service
        self.name = name
        self.counters = Counters()
        self.link_server = LinkServer(service, name, config, self.counters)
        self.address = ""
        self.stopped = False

    @property
    def fake(self) -> FakeService:
        """What is behind it, if it is a fake."""
        assert isinstance(self.service, FakeService)
        return self.service

    async def leave(self, timeout_s: float = 10.0) -> None:
        """End as a process does that is told to."""
        await self.link_server.leave(timeout_s)
        await self.stop()

    async def stop(self) -> None:
        """End at once."""
        if not self.stopped:
            self.stopped = True
            await self.link_server.stop()


class WiredEdge:
    """A router client, and what is behind it."""

    def __init__(self, edge: EdgeLink, config: LinkConfig, lease_s: float = 10.0) -> None:
        self.edge = edge
        self.counters = Counters()
        self.router_client = RouterClient(
            edge.edge_id, edge.edge_id, config, lease_s, self.counters
        )
        self.router_client.set_edge(edge)
        self.holding: list[bool] = []
        self.router_client.publish_dispatcher.on_paused = lambda: self.holding.append(True)
        self.router_client.publish_dispatcher.on_resumed = lambda: self.holding.append(False)
        self.stopped = False

    @property
    def fake(self) -> FakeEdge:
        """What is behind it, if it is a fake."""
        assert isinstance(self.edge, FakeEdge)
        return self.edge

    def open_to(self) -> set[str]:
        """Names of the routers that take publishes."""
        members = self.router_client.routers.members
        return {name for name, channel in members.items() if channel.state is State.OPEN}

    def look_at(self, *places: str) -> None:
        """Look for routers at these places from now on."""
        membership = self.router_client.membership
        membership.config = membership.config.model_copy(update={"routers": list(places)})

    async def uses(self, *names: str) -> None:
        """Wait until these routers, and no others, are its members and take publishes."""
        await until(
            lambda: self.open_to() == set(names) == self.router_client.routers.members.keys(),
            f"{self.edge.edge_id} uses {names}, not {self.open_to()}",
        )

    async def stop(self) -> None:
        """End it."""
        if not self.stopped:
            self.stopped = True
            await self.router_client.stop()


class Wires:
    """Routers on Unix sockets in ``directory``, and edges; all end with the block."""

    def __init__(self, directory: Path, carriers: Carriers | None = None, **config: Any) -> None:
        self.directory = directory
        self.carriers = carriers or Carriers()
        self.config = QUICK | config
        self.numbers = itertools.count(1)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def router(
        self, name: str, service: RouterService | None = None, **config: Any
    ) -> WiredRouter:
        """Start a router's end, on a socket named after it if ``config`` does not say where."""
        place = {"listen": f"unix:{self.directory / name}", "carrier": self.carriers.router}
        settings = self.config | place | config
        router = WiredRouter(
            service or FakeService(f"{name}.{next(self.numbers)}"), name, LinkConfig(**settings)
        )
        router.address = await router.link_server.start()
        self._stack.push_async_callback(router.stop)
        return router

    async def edge(
        self, *routers: str, edge: EdgeLink | None = None, lease_s: float = 10.0, **config: Any
    ) -> WiredEdge:
        """Start an edge's end that looks for routers at these addresses."""
        places = {"routers": list(routers), "carrier": self.carriers.edge}
        settings = self.config | places | config
        wired = WiredEdge(
            edge or FakeEdge(f"edge-{next(self.numbers)}"), LinkConfig(**settings), lease_s
        )
        await wired.router_client.start()
        self._stack.push_async_callback(wired.stop)
        return wired

    def place(self, name: str) -> str:
        """Where a router of this name listens, or will."""
        return f"unix:{self.directory / name}"
