"""What the conformance tests share: clients of a running broker, and names of their own.

Input: bytes on sockets of the fixture ``broker`` (any broker: ``--broker mosquitto``). Output: the
packets that come back, judged by support.mqtt_bytes. Every test uses topics and client identifiers
that no other test uses, so that one broker serves a whole module. Nothing inside the broker is
looked at; its own rules are tested under tests/unit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.broker import Server
from support.mqtt_bytes import V5
from support.peers import Peers
from support.raw_client import RawClient


@pytest.fixture
def transport() -> str:
    """The listener that clients use; parametrize it to run a test over several."""
    return "tcp"


@pytest.fixture
async def peers(broker: Server, transport: str) -> AsyncIterator[Peers]:
    """Yield the clients of this test; all are closed with it."""
    if not broker.has(transport):
        pytest.skip(f"{broker.product} has no {transport} listener here")
    yield Peers(broker, transport)
    await RawClient.reset_all()


@pytest.fixture
async def publisher(peers: Peers, version: int) -> RawClient:
    """A connected client that publishes."""
    return await peers.connect("publisher", version)


@pytest.fixture
def version() -> int:
    """The protocol version; parametrize it for statements of both standards."""
    return V5


@pytest.fixture
def is_tidegate(broker: Server) -> bool:
    """Whether choices that the standard leaves open are ours."""
    return broker.product == "tidegate"
