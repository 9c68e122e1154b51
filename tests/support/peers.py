"""The clients of one test, and topics and client identifiers that no other test uses."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Final

import pytest

from support.broker import Server
from support.mqtt_bytes import V5, V311, Filter, Property, Will
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for_async

#: Run the test with 3.1.1 and with 5.0.
both_versions = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5.0"])
#: Run the test over TCP and over WebSocket.
both_transports = pytest.mark.parametrize("transport", ["tcp", "ws"])

#: Seconds of session expiry of a session that shall outlive its connection.
DURABLE_S: Final = 300


class Peers:
    """Makes the clients of one test, and the names that they use."""

    def __init__(self, server: Server, transport: str) -> None:
        self.server = server
        self.transport = transport
        self.prefix = uuid.uuid4().hex[:8]
        self.clients: list[RawClient] = []
        self._markers = 0

    def address(self, transport: str) -> str:
        """The URL of the broker's listener of that kind."""
        address = self.server.address(transport)
        if address.scheme == "unix":
            return f"unix:{address.path}"
        path = "/mqtt" if address.scheme in {"ws", "wss"} else ""
        return f"{address.scheme}://{address.host}:{address.port}{path}"

    def topic(self, name: str = "topic") -> str:
        """A topic name or filter of this test."""
        return f"{self.prefix}/{name}"

    def client_id(self, name: str = "client") -> str:
        """A client identifier of this test."""
        return f"{name}{self.prefix}"

    async def open(
        self,
        version: int = V5,
        *,
        transport: str | None = None,
        subprotocols: Sequence[str] = ("mqtt",),
    ) -> RawClient:
        """A connection without CONNECT."""
        client = await RawClient.open(
            self.address(transport or self.transport), version=version, subprotocols=subprotocols
        )
        client.reasons_required = self.server.product == "tidegate"
        self.clients.append(client)
        return client

    async def connect(
        self,
        name: str = "client",
        version: int = V5,
        *,
        clean: bool = True,
        keep_alive: int = 0,
        props: Sequence[Property] = (),
        will: Will | None = None,
    ) -> RawClient:
        """A connected client; its session ends with the connection unless said otherwise."""
        client = await self.open(version)
        await client.connect(
            self.client_id(name), clean=clean, keep_alive=keep_alive, props=props, will=will
        )
        return client

    async def durable(
        self,
        name: str = "durable",
        version: int = V5,
        *,
        clean: bool = False,
        props: Sequence[Property] = (),
        will: Will | None = None,
    ) -> RawClient:
        """A connected client whose session outlives the connection."""
        more: Sequence[Property] = [*props, ("session_expiry", DURABLE_S)] if version == V5 else ()
        return await self.connect(name, version, clean=clean, props=more, will=will)

    async def subscriber(
        self, *filters: Filter, version: int = V5, name: str = "subscriber"
    ) -> RawClient:
        """A connected client with subscriptions."""
        client = await self.connect(name, version)
        await client.subscribe(*filters)
        return client

    async def assert_nothing_delivered(
        self, publisher: RawClient, subscriber: RawClient, *, qos: int = 1
    ) -> None:
        """Nothing is on its way to the subscriber: a marker sent after it comes first."""
        self._markers += 1
        topic = self.topic(f"marker/{self._markers}")
        await subscriber.subscribe((topic, qos), packet_id=60_000 + self._markers)
        await publisher.deliver(topic, b"marker", qos=qos, packet_id=60_000 + self._markers)
        received = await subscriber.expect("PUBLISH")
        assert received.payload == b"marker", f"unexpected: {received}"
        await subscriber.acknowledge(received)


async def let_pass(seconds: float) -> None:
    """Let time pass that the specification counts in whole seconds (expiry, delay)."""
    end = time.monotonic() + seconds
    await wait_for_async(lambda: time.monotonic() >= end, seconds + DEADLINE_S, "time passes")
