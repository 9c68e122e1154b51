"""An MQTT client that keeps its session (unless told not to), and writes down what it sees.

It reconnects to any edge with a random pause, gives up connections that say nothing, and can open
a connection while the old one is still there. ``support.load`` makes publishers and subscribers of
it. It shares no code with the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from support import mqtt_bytes
from support.history import NO_CODE, History, Kind
from support.mqtt_bytes import V5, MisbehaviourError, Packet, Property, Will

#: Session expiry of everybody here; far beyond any test.
EXPIRY_S: Final = 3600
_PING_AFTER_S: Final = 0.5

#: Host and port of the edge to try now.
ChooseEdge = Callable[[], tuple[str, int]]


@dataclass(slots=True)
class Patience:
    """How long a client waits before it goes elsewhere, in seconds."""

    connack_s: float = 3.0
    #: Nothing came for this long although PINGREQ was sent.
    silence_s: float = 3.0
    pause_s: tuple[float, float] = (0.02, 0.25)
    keep_alive_s: int = 30


class Wire(asyncio.Protocol):
    """One connection of a client: bytes in, packets to the client."""

    def __init__(self, client: SessionClient, number: int) -> None:
        self.client = client
        self.number = number
        self.transport: asyncio.Transport | None = None
        self.heard = time.monotonic()
        self.accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self.code = NO_CODE
        #: Set when the client says nothing any more, also no PINGREQ.
        self.mute = False
        self.place = ""
        self.why = ""
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        self._buffer += data
        try:
            while (raw := mqtt_bytes.split(self._buffer)) is not None:
                self.client.take(self, mqtt_bytes.decode(raw, self.client.version))
        except MisbehaviourError as error:
            self.client.note(Kind.BROKEN, self, note=str(error))
            self.abort("broke a rule")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        if not self.accepted.done():
            self.accepted.set_result(False)
        why = self.why or (str(exc) if exc else "closed by the server")
        self.client.note(Kind.ENDED, self, code=self.code, note=why)
        self.client.wires.discard(self)

    def send(self, data: bytes) -> None:
        """Write; a connection that is gone is not an error here."""
        if self.transport is not None and not self.transport.is_closing() and not self.mute:
            self.transport.write(data)

    def abort(self, why: str) -> None:
        """Drop the connection, as a client that dies."""
        self.why = self.why or why
        if self.transport is not None:
            self.transport.abort()

    def finish(self, packet: bytes = mqtt_bytes.disconnect()) -> None:
        """Send DISCONNECT, or nothing, and close."""
        self.send(packet)
        self.why = self.why or ("left with DISCONNECT" if packet else "closed")
        if self.transport is not None:
            self.transport.close()

    @property
    def open(self) -> bool:
        """Whether it can still carry packets."""
        return not self.lost.is_set()


class SessionClient:
    """One client identifier with a session that outlives its connections, if it is durable."""

    def __init__(
        self,
        client_id: str,
        version: int,
        choose_edge: ChooseEdge,
        history: History,
        chance: random.Random,
        patience: Patience | None = None,
        *,
        durable: bool = True,
    ) -> None:
        self.client_id = client_id
        self.durable = durable
        self.version = version
        self.choose_edge = choose_edge
        self.history = history
        self.chance = chance
        self.patience = patience or Patience()
        self.current: Wire | None = None
        self.wires: set[Wire] = set()
        self.connected = asyncio.Event()
        self.connections = 0
        self.sessions_taken_up = 0
        #: What MQTT 5 clients ask for; a shorter one is in the history.
        self.expiry_s = EXPIRY_S
        #: Where the newest connection goes.
        self.place = ""
        #: Connect with TLS.
        self.tls: ssl.SSLContext | None = None
        #: Cleared while the client shall stay away.
        self.wanted = asyncio.Event()
        self.wanted.set()
        self._one_connect = asyncio.Lock()

    # --- connections --------------------------------------------------------------------------

    async def run(self) -> None:
        """Be connected whenever wanted; the test cancels it."""
        try:
            while True:
                await self.wanted.wait()
                if await self.connect():
                    await self._watch()
                await asyncio.sleep(self.chance.uniform(*self.patience.pause_s))
        finally:
            for wire in list(self.wires):
                wire.abort("the test is over")

    async def connect(self) -> bool:
        """Open a connection beside any that is there; True once it is the session's newest.

        One attempt at a time: which of two CONNECTs came last, only the broker would know.
        """
        async with self._one_connect:
            return await self._connect()

    async def _connect(self) -> bool:
        self.connections += 1
        loop = asyncio.get_running_loop()
        wire = Wire(self, self.connections)
        place = self.choose_edge()
        wire.place = str(place[1])
        try:
            async with asyncio.timeout(self.patience.connack_s):
                await loop.create_connection(lambda: wire, *place, ssl=self.tls)
                self.wires.add(wire)
                self._note_connect(wire)
                wire.send(self._connect_packet(wire))
                return await wire.accepted
        except (OSError, TimeoutError):
            wire.abort("no CONNACK in time")
            return False

    def _note_connect(self, wire: Wire) -> None:
        expiry_s = self.expiry_s if self.expiry_s != EXPIRY_S else 0
        facts = {"clean": not self.durable, "seconds": expiry_s, "place": wire.place}
        self.note(Kind.CONNECT, wire, note=f"to {wire.place}", **facts)

    def _connect_packet(self, wire: Wire) -> bytes:
        return mqtt_bytes.connect(
            self.client_id,
            version=self.version,
            clean=not self.durable,
            keep_alive=self.patience.keep_alive_s,
            props=self.connect_properties() if self.version == V5 else (),
            will=self.will(wire),
        )

    def will(self, wire: Wire) -> Will | None:
        """The will of a connection, if there is one; it is noted by who gives it."""
        return None

    def connect_properties(self) -> list[Property]:
        """The properties of an MQTT 5 CONNECT."""
        return [("session_expiry", self.expiry_s)] if self.durable else []

    async def _watch(self) -> None:
        """Ping, and give up a connection that says nothing; return when there is none."""
        while (wire := self.current) is not None and wire.open:
            silent_s = time.monotonic() - wire.heard
            if silent_s > self.patience.silence_s:
                wire.abort(f"nothing heard for {silent_s:.1f} s")
                break
            if silent_s > _PING_AFTER_S:
                wire.send(mqtt_bytes.PINGREQ)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PING_AFTER_S):
                    await wire.lost.wait()
        self.connected.clear()

    def leave(self, *, politely: bool) -> None:
        """Go offline and stay so until ``wanted`` is set: with DISCONNECT, or just gone."""
        self.wanted.clear()
        if self.current is not None:
            if self.current.open:
                self.note(Kind.LEFT, self.current, code=0 if politely else NO_CODE)
            if politely:
                self.current.finish()
            else:
                self.current.abort("left")

    # --- packets ------------------------------------------------------------------------------

    def take(self, wire: Wire, packet: Packet) -> None:
        """Handle one packet from the server."""
        match packet.kind:
            case "CONNACK":
                self._take_connack(wire, packet)
            case "DISCONNECT":
                wire.code = packet.reason
                wire.abort("DISCONNECT from the server")
            case "PINGRESP":
                pass
            case _:
                if not wire.accepted.done():
                    raise MisbehaviourError(f"{packet.kind} before CONNACK")
                self.take_packet(wire, packet)

    def _take_connack(self, wire: Wire, packet: Packet) -> None:
        if wire.accepted.cancelled():
            wire.abort("CONNACK came too late")
            return
        if wire.accepted.done():
            raise MisbehaviourError("a second CONNACK")
        if packet.reason:
            self.note(Kind.REFUSED, wire, code=packet.reason)
            wire.abort("refused")
            return
        self.note(Kind.CONNECTED, wire, code=int(packet.session_present))
        self.current = wire
        self.place = wire.place
        self.sessions_taken_up += 1
        wire.accepted.set_result(True)
        self.connected.set()
        self.resume(wire, packet.session_present)

    def resume(self, wire: Wire, session_present: bool) -> None:
        """Take the session up again on a new connection."""

    def take_packet(self, wire: Wire, packet: Packet) -> None:
        """Handle a packet that is not about the connection."""
        raise MisbehaviourError(f"{packet.kind} to {self.client_id}")

    def note(self, kind: Kind, wire: Wire, **facts: Any) -> None:
        """Write down what happened on a connection (``facts``: those of ``History.add``)."""
        self.history.add(kind, self.client_id, wire.number, **facts)
