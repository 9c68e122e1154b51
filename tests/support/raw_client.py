"""A client that sends bytes and shows what comes back; it has no MQTT logic of its own.

Tests of a running broker use it over TCP, TLS, Unix sockets and WebSocket. It acknowledges nothing,
keeps no session and hides nothing: a test says every packet that it sends and expects.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import secrets
import socket
import ssl
import time
from collections.abc import Sequence
from typing import ClassVar, Final, Self
from urllib.parse import urlsplit

from support import mqtt_bytes
from support.closing import reset
from support.mqtt_bytes import Filter, Packet, Property, Will

#: Seconds that anything may take on a busy machine before the test fails.
DEADLINE_S: Final = float(os.environ.get("TIDEGATE_TEST_DEADLINE_S", "10"))

_WS_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Pipe(asyncio.Protocol):
    """Bytes of one connection: what came in stays readable after a reset."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.ended = False
        self.lost = False
        self.changed = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # a stream transport

    def data_received(self, data: bytes) -> None:
        """Store and wake the reader."""
        self.buffer += data
        self.changed.set()

    def eof_received(self) -> bool:
        """The server is done; our side closes too."""
        self.ended = True
        self.changed.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, whatever way."""
        self.ended = self.lost = True
        self.changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        """Our send buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """There is room again."""
        self._writable.set()

    async def write(self, data: bytes) -> None:
        """Write and wait for room; a connection that is gone is not an error here."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
            await self._writable.wait()

    async def wait(self, deadline: float) -> None:
        """Wait for more bytes or the end.

        Raises:
            TimeoutError: nothing came before the deadline (monotonic seconds).

        """
        self.changed.clear()
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await self.changed.wait()

    async def wait_for_end(self, timeout_s: float) -> None:
        """Wait until the server has ended the connection.

        Raises:
            TimeoutError: it has not within ``timeout_s``.

        """
        async with asyncio.timeout(timeout_s):
            while not self.ended:
                self.changed.clear()
                await self.changed.wait()


class RawClient:
    """One connection to a broker, of one protocol version."""

    _opened: ClassVar[list[RawClient]] = []

    def __init__(self, pipe: Pipe, *, version: int, websocket: bool) -> None:
        self.pipe = pipe
        self.version = version
        self.websocket = websocket
        #: False towards a broker that closes without saying why.
        self.reasons_required = True
        self.connack: Packet | None = None
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self.frames: list[tuple[int, bool, bytes]] = []
        self._mqtt = bytearray() if websocket else pipe.buffer
        self._aliases: dict[int, str] = {}
        self._postponed: list[Packet] = []

    # --- opening and closing ----------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        address: str,
        *,
        version: int = mqtt_bytes.V5,
        subprotocols: Sequence[str] = ("mqtt",),
        ssl_context: ssl.SSLContext | None = None,
        receive_buffer_bytes: int = 0,
        early: bytes = b"",
    ) -> Self:
        """Connect to ``tcp://h:p``, ``tls://…``, ``unix:/path``, ``ws://h:p/path`` or ``wss://…``.

        ``receive_buffer_bytes`` makes the kernel's receive buffer small; ``early`` bytes are sent
        in one write with a WebSocket handshake.
        """
        loop = asyncio.get_running_loop()
        parts = urlsplit(address)
        secure = ssl_context if parts.scheme in {"tls", "wss"} else None
        if parts.scheme == "unix":
            _, pipe = await loop.create_unix_connection(Pipe, parts.path)
        else:
            family = socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            try:
                await loop.sock_connect(sock, (parts.hostname, parts.port))
            except OSError:
                sock.close()
                raise
            _, pipe = await loop.create_connection(
                Pipe,
                sock=sock,
                ssl=secure,
                server_hostname=parts.hostname if secure else None,
            )
        client = cls(pipe, version=version, websocket=parts.scheme in {"ws", "wss"})
        cls._opened.append(client)
        if client.websocket:
            await client._shake_hands(parts.path or "/mqtt", parts.netloc, subprotocols, early)
        return client

    async def _shake_hands(
        self, path: str, host: str, subprotocols: Sequence[str], early: bytes
    ) -> None:
        key = base64.b64encode(secrets.token_bytes(16))
        offered = f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}\r\n" if subprotocols else ""
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n{offered}\r\n"
        )
        await self.pipe.write(head.encode() + early)
        answer = await self.read_http_head()
        status, *lines = answer.split("\r\n")
        if " 101 " not in status:
            raise ConnectionRefusedError(answer)
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        expected = base64.b64encode(
            hashlib.sha1(key + _WS_GUID, usedforsecurity=False).digest()
        ).decode()
        assert headers["sec-websocket-accept"] == expected
        self.subprotocol = headers.get("sec-websocket-protocol")

    async def read_http_head(self) -> str:
        """Read an HTTP response up to its empty line; what follows stays in the buffer."""
        deadline = time.monotonic() + DEADLINE_S
        while b"\r\n\r\n" not in self.pipe.buffer:
            if self.pipe.ended:
                raise ConnectionResetError(bytes(self.pipe.buffer))
            await self.pipe.wait(deadline)
        head, _, rest = bytes(self.pipe.buffer).partition(b"\r\n\r\n")
        self.pipe.buffer[:] = rest
        return head.decode("latin-1")

    @classmethod
    async def reset_all(cls) -> None:
        """Reset every connection that a test has left open: the end of a fixture."""
        left, cls._opened = cls._opened, []
        for client in left:
            client.reset()
        while any(not client.pipe.lost for client in left):
            await asyncio.sleep(0)

    def close(self) -> None:
        """Close without DISCONNECT: for the server the network has failed."""
        if self.pipe.transport is not None:
            self.pipe.transport.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        if self.pipe.transport is not None and not self.pipe.lost:
            reset(self.pipe.transport)

    def pause(self) -> None:
        """Stop reading: the server's writes fill the socket."""
        assert self.pipe.transport is not None
        self.pipe.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        assert self.pipe.transport is not None
        self.pipe.transport.resume_reading()

    # --- bytes ------------------------------------------------------------------------------

    async def send(self, *packets: bytes) -> None:
        """Send bytes; over WebSocket each argument is one binary frame."""
        if self.websocket:
            for one in packets:
                await self.send_frame(one)
        else:
            await self.pipe.write(b"".join(packets))

    async def send_frame(
        self, payload: bytes, *, opcode: int = 2, fin: bool = True, masked: bool = True
    ) -> None:
        """Send one WebSocket frame."""
        await self.pipe.write(frame(payload, opcode=opcode, fin=fin, masked=masked))

    def _unframe(self) -> None:
        """Move the payload of the whole WebSocket frames to the MQTT bytes."""
        buffer = self.pipe.buffer
        while len(buffer) >= 2:
            opcode, fin, length, offset = buffer[0] & 15, bool(buffer[0] & 128), buffer[1], 2
            assert not length & 128, "a server must not mask its frames"
            if length == 126:
                offset, length = 4, int.from_bytes(buffer[2:4], "big")
            elif length == 127:
                offset, length = 10, int.from_bytes(buffer[2:10], "big")
            if len(buffer) < offset + length:
                return
            payload = bytes(buffer[offset : offset + length])
            del buffer[: offset + length]
            self.frames.append((opcode, fin, payload))
            if opcode in {0, 2}:
                self._mqtt += payload
            elif opcode == 8:
                self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
                self.pipe.ended = True
                self.close()
            elif opcode == 9 and self.pipe.transport is not None:
                self.pipe.transport.write(frame(payload, opcode=10))

    async def receive_or_end(self, timeout_s: float = DEADLINE_S) -> Packet | None:
        """The next packet, or None when the server has closed the connection.

        Raises:
            TimeoutError: neither happened in time.
            MisbehaviourError: the bytes are not what a server may send.

        """
        if self._postponed:
            return self._postponed.pop(0)
        deadline = time.monotonic() + timeout_s
        while True:
            if self.websocket:
                self._unframe()
            raw = mqtt_bytes.split(self._mqtt)
            if raw is not None:
                return self._decode(raw)
            if self.pipe.ended:
                assert not self._mqtt, f"half a packet before the end: {bytes(self._mqtt).hex()}"
                return None
            await self.pipe.wait(deadline)

    def _decode(self, raw: bytes) -> Packet:
        result = mqtt_bytes.decode(raw, self.version)
        alias = result.number("topic_alias") if result.kind == "PUBLISH" else 0
        if alias:
            if result.topic:
                self._aliases[alias] = result.topic
            else:
                result.topic = self._aliases[alias]
        return result

    async def receive(self, timeout_s: float = DEADLINE_S) -> Packet:
        """The next packet; the connection must still be there."""
        received = await self.receive_or_end(timeout_s)
        assert received is not None, "the server closed the connection"
        return received

    # --- expectations -----------------------------------------------------------------------

    async def expect(self, kind: str, **fields: object) -> Packet:
        """The next packet, which must be of this kind and have these attributes."""
        received = await self.receive()
        assert received.kind == kind, f"expected {kind}, got {received}"
        for name, value in fields.items():
            found = getattr(received, name)
            assert found == value, f"{kind}.{name}: expected {value!r}, got {found!r} in {received}"
        return received

    async def expect_among(self, kind: str, **fields: object) -> Packet:
        """The first packet of this kind; packets of other kinds stay for later, in order."""
        passed: list[Packet] = []
        while (received := await self.receive()).kind != kind:
            passed.append(received)
        self._postponed[:0] = passed
        for name, value in fields.items():
            assert getattr(received, name) == value, f"{name} of {received}"
        return received

    async def expect_closed(
        self, *, reasons: Sequence[int] | None = None, timeout_s: float = DEADLINE_S
    ) -> Packet | None:
        """The server closes, after at most a DISCONNECT (5.0 only); return that.

        With ``reasons``, a 5.0 server must have said one of them.
        """
        last = await self.receive_or_end(timeout_s)
        if last is not None:
            assert last.kind == "DISCONNECT", f"expected the end, got {last}"
            after = await self.receive_or_end(timeout_s)
            assert after is None, f"a packet after DISCONNECT: {after}"
        if reasons is not None and self.version == mqtt_bytes.V5:
            assert last is not None or not self.reasons_required, "closed without DISCONNECT"
        if reasons is not None and last is not None:
            assert last.reason in reasons, f"DISCONNECT with 0x{last.reason:02x}"
        return last

    async def expect_refused(self, *, reasons: Sequence[int] | None = None) -> Packet | None:
        """CONNECT fails: the server closes, after at most a CONNACK with an error; return that."""
        last = await self.receive_or_end()
        if last is not None:
            assert last.kind == "CONNACK", f"expected a refusal, got {last}"
            assert last.reason != 0, "the server accepted it"
            assert not last.session_present
            assert await self.receive_or_end() is None, "still open after a refusal"
        if reasons is not None:
            assert last is not None or not self.reasons_required, "closed without CONNACK"
        if reasons is not None and last is not None:
            assert last.reason in reasons, f"CONNACK with 0x{last.reason:02x}"
        return last

    async def expect_nothing(self) -> None:
        """Nothing was on its way: the answer to a PINGREQ is the next packet."""
        await self.send(mqtt_bytes.PINGREQ)
        await self.expect("PINGRESP")

    # --- packets, in this client's version --------------------------------------------------

    async def connect(
        self,
        client_id: str | bytes = "",
        *,
        clean: bool = True,
        keep_alive: int = 0,
        props: Sequence[Property] = (),
        will: Will | None = None,
        username: str | None = None,
        password: bytes | None = None,
    ) -> Packet:
        """Send CONNECT and expect the success."""
        await self.send(
            mqtt_bytes.connect(
                client_id,
                version=self.version,
                clean=clean,
                keep_alive=keep_alive,
                props=props,
                will=will,
                username=username,
                password=password,
            )
        )
        self.connack = await self.expect("CONNACK", reason=0)
        return self.connack

    async def subscribe(
        self, *filters: Filter, packet_id: int = 1, props: Sequence[Property] = ()
    ) -> Packet:
        """Send SUBSCRIBE and expect its SUBACK as the next packet."""
        await self.send(mqtt_bytes.subscribe(packet_id, filters, version=self.version, props=props))
        return await self.expect("SUBACK", packet_id=packet_id)

    async def unsubscribe(self, *filters: str, packet_id: int = 1) -> Packet:
        """Send UNSUBSCRIBE and expect its UNSUBACK as the next packet."""
        await self.send(mqtt_bytes.unsubscribe(packet_id, filters, version=self.version))
        return await self.expect("UNSUBACK", packet_id=packet_id)

    async def publish(
        self,
        topic: str | bytes,
        payload: bytes = b"payload",
        *,
        qos: int = 0,
        packet_id: int = 1,
        retain: bool = False,
        dup: bool = False,
        props: Sequence[Property] = (),
    ) -> None:
        """Send PUBLISH and wait for nothing."""
        await self.send(
            mqtt_bytes.publish(
                topic,
                payload,
                qos=qos,
                packet_id=packet_id if qos else None,
                retain=retain,
                dup=dup,
                version=self.version,
                props=props,
            )
        )

    async def deliver(
        self,
        topic: str | bytes,
        payload: bytes = b"payload",
        *,
        qos: int = 1,
        packet_id: int = 1,
        retain: bool = False,
        props: Sequence[Property] = (),
    ) -> Packet | None:
        """Send PUBLISH and go through its acknowledgements; return PUBACK or PUBREC."""
        await self.publish(topic, payload, qos=qos, packet_id=packet_id, retain=retain, props=props)
        if qos == 0:
            return None
        if qos == 1:
            return await self.expect("PUBACK", packet_id=packet_id)
        received = await self.expect("PUBREC", packet_id=packet_id)
        if received.reason < 0x80:
            await self.send(mqtt_bytes.acknowledge("PUBREL", packet_id))
            await self.expect("PUBCOMP", packet_id=packet_id)
        return received

    async def acknowledge(self, received: Packet) -> None:
        """Go through the acknowledgements of a received PUBLISH."""
        if received.qos == 1:
            await self.send(mqtt_bytes.acknowledge("PUBACK", received.packet_id))
        elif received.qos == 2:
            await self.send(mqtt_bytes.acknowledge("PUBREC", received.packet_id))
            await self.expect("PUBREL", packet_id=received.packet_id)
            await self.send(mqtt_bytes.acknowledge("PUBCOMP", received.packet_id))

    async def disconnect(self, reason: int | None = None, props: Sequence[Property] = ()) -> None:
        """Send DISCONNECT and wait for the server to close."""
        await self.send(mqtt_bytes.disconnect(reason, props if reason is not None else None))
        await self.expect_closed()
        self.close()


def frame(payload: bytes, *, opcode: int = 2, fin: bool = True, masked: bool = True) -> bytes:
    """Encode one WebSocket frame (RFC 6455, 5.2)."""
    head = bytearray([opcode | (128 if fin else 0)])
    mask_bit = 128 if masked else 0
    if len(payload) < 126:
        head.append(mask_bit | len(payload))
    elif len(payload) < 65536:
        head.append(mask_bit | 126)
        head += len(payload).to_bytes(2, "big")
    else:
        head.append(mask_bit | 127)
        head += len(payload).to_bytes(8, "big")
    if not masked:
        return bytes(head) + payload
    key = secrets.token_bytes(4)
    repeated = key * (len(payload) // 4 + 1)
    body = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")
    return bytes(head) + key + body.to_bytes(len(payload), "big")
