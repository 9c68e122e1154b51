"""Disconnecting the clients of removed listeners: which, how fast, at what cost; time is virtual.

Input: a real edge with fake channels and a fake router, listeners that are no more. Output: whose
connection closes when, and how often all clients of the edge were looked through for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, ValuesView
from typing import Any, cast

import pytest

from support.lone_edge import EdgeClient, LoneEdge
from support.virtual_time import run_virtual
from tidegate.edge.client.client import Client
from tidegate.edge.drain.drain import Drainer
from tidegate.edge.drain.listener_removal import ListenerRemoval
from tidegate.edge.drain.paced_disconnector import TICK_S
from tidegate.edge.transport.listener import Listener
from tidegate.runtime.config.model import DrainConfig


class Gone:
    """A removed listener, as far as it is looked at; ``channels`` are its connections."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.connections: set[object] = set()

    def has(self, fake: EdgeClient) -> None:
        """A connection of it has its handler."""
        channel: Any = fake.channel
        channel.handler = fake.client
        self.connections.add(channel)

    def sweep(self) -> None:
        """Forget what is closed, as the listener does."""
        self.connections = {
            each for each in self.connections if not getattr(each, "is_closed", False)
        }


class Harness:
    """A lone edge with its listener removal."""

    def __init__(self, alone: LoneEdge, **settings: Any) -> None:
        self.alone = alone
        self.drainer = Drainer(alone.edge, DrainConfig(**settings), self._stop_accepting)
        self.listener_removal = ListenerRemoval(alone.edge, self.drainer)

    async def _stop_accepting(self) -> None:
        """There are no sockets."""

    def begin(self, *listeners: Gone) -> None:
        self.listener_removal.start(cast(list[Listener], list(listeners)))

    async def until_empty(self, listener: Gone) -> float:
        """Wait until it has no connection; return how long that took."""
        began_s = self.alone.edge.context.time_s()
        while listener.connections:
            listener.sweep()
            await asyncio.sleep(TICK_S / 4)
        return self.alone.edge.context.time_s() - began_s


def _scenario(play: Callable[[LoneEdge], Coroutine[Any, Any, None]]) -> None:
    async def scenario() -> None:
        async with LoneEdge() as alone:
            await play(alone)

    run_virtual(scenario())


def test_its_clients_go_at_the_rate_and_those_of_others_stay() -> None:
    async def play(alone: LoneEdge) -> None:
        harness, gone = Harness(alone, rate=10), Gone("gone")
        for number in range(10):
            gone.has(await alone.connect(f"goes-{number}"))
        stays = [await alone.connect(f"stays-{number}") for number in range(3)]
        harness.begin(gone)
        took_s = await harness.until_empty(gone)
        # The first one goes at once.
        assert took_s == pytest.approx(0.9, abs=2 * TICK_S)
        assert not any(fake.channel.is_closed for fake in stays)
        await harness.listener_removal.stop()

    _scenario(play)


def test_clients_with_a_late_handler_and_listeners_removed_later_are_included() -> None:
    async def play(alone: LoneEdge) -> None:
        harness, gone, other = Harness(alone, rate=10), Gone("gone"), Gone("other")
        handshake = object()
        gone.connections.add(handshake)
        gone.has(await alone.connect("first"))
        other.has(await alone.connect("second"))
        harness.begin(gone)
        await asyncio.sleep(1.0)
        harness.begin(other)
        await harness.until_empty(other)
        gone.connections.discard(handshake)
        gone.has(alone.accept())
        await harness.until_empty(gone)
        assert not alone.edge.clients
        await harness.listener_removal.stop()

    _scenario(play)


def test_a_few_that_go_do_not_have_all_clients_looked_through_again_and_again() -> None:
    """The edge may have a hundred thousand, and there are fifty looks in a second."""

    class Walked(dict[str, Client]):
        walks = 0

        def values(self) -> ValuesView[Client]:  # type: ignore[override]  # dict has its own type
            self.walks += 1
            return super().values()

    async def play(alone: LoneEdge) -> None:
        harness, gone = Harness(alone, rate=10), Gone("gone")
        clients = alone.edge.clients = Walked()
        for number in range(10):
            gone.has(await alone.connect(f"goes-{number}"))
        harness.begin(gone)
        await harness.until_empty(gone)
        assert clients.walks < 5  # the edge's own ticks
        await harness.listener_removal.stop()

    _scenario(play)
