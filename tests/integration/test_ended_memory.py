"""The memory of ended connections is free at once, in a process as it runs (G6).

``tests/unit/edge/client/test_absent.py`` finds what holds it; here channels, transports, the router
and the allocator are there as well, and the collector is as rare as in production.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest

from support.broker import Server
from support.certificates import Certificates
from support.peers import Peers
from support.raw_client import RawClient

MIB = 1024 * 1024
_SIZE = 900_000
_CYCLES = 5
_CLIENTS = 4
_MESSAGES = 12
#: All five cycles together; one client that was not free would be 10 MiB of it.
_GROWTH_BYTES = 40 * MIB


@pytest.fixture
async def peers(broker: Server) -> AsyncIterator[Peers]:
    """Yield the clients of this test."""
    yield Peers(broker, "tcp")
    await RawClient.reset_all()


@pytest.mark.parametrize(
    ("transport", "qos", "ending"),
    [
        ("tcp", 0, "reset"),
        ("tcp", 1, "reset"),
        ("tcp", 2, "reset"),
        ("tls", 1, "reset"),
        ("ws", 1, "reset"),
        ("tcp", 1, "disconnect"),
    ],
)
async def test_slow_readers_that_have_gone_leave_no_memory(
    broker: Server,
    peers: Peers,
    certificates: Certificates,
    transport: str,
    qos: int,
    ending: str,
) -> None:
    trusting = ssl.create_default_context(cafile=certificates.authority.certificate)
    publisher = await peers.connect("publisher")
    payload = bytes(_SIZE)
    sizes = []
    for cycle in range(_CYCLES):
        for number in range(_CLIENTS):
            # Every topic is published to by one client only: no cache may keep what it led to.
            topic = peers.topic(f"{cycle}/{number}")
            slow = await RawClient.open(
                peers.address(transport),
                ssl_context=trusting,
                receive_buffer_bytes=4096,
            )
            await slow.connect(peers.client_id("slow"))
            await slow.subscribe((topic, qos))
            slow.pause()
            for packet_id in range(1, _MESSAGES + 1):
                await publisher.deliver(topic, payload, qos=max(qos, 1), packet_id=packet_id)
            if ending == "disconnect":
                await slow.send(b"\xe0\x00")
            slow.reset()
        sizes.append(broker.memory_bytes())
    growth = sizes[-1] - sizes[0]
    assert growth < _GROWTH_BYTES, [size // MIB for size in sizes]
