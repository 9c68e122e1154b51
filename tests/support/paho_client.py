"""paho-mqtt as a test uses it: connected when made, everything it received kept in order."""

from __future__ import annotations

import contextlib
import ssl
import threading
from types import TracebackType
from typing import Any, Protocol, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from support.broker import Address
from support.certificates import Authority, KeyPair
from support.waiting import wait_for

V31 = MQTTProtocolVersion.MQTTv31
V311 = MQTTProtocolVersion.MQTTv311
V5 = MQTTProtocolVersion.MQTTv5
DEADLINE_S = 10.0


def properties(packet_type: int, **values: Any) -> Properties:
    """Return MQTT 5 properties; ``SessionExpiryInterval=60`` and so on, in paho's spelling."""
    result = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho has no types there
    for name, value in values.items():
        setattr(result, name, value)
    return result


class Addressed(Protocol):
    """Whatever tells where its listeners are."""

    def address(self, name: str) -> Address:
        """Return the address of the listener ``name``."""


def stop_loop(client: paho.Client) -> None:
    """Stop paho's thread.

    It forgets itself when it ends, also between the two looks that ``loop_stop`` takes at it.
    """
    with contextlib.suppress(AttributeError):
        client.loop_stop()


class PahoClient:
    """One client on one transport (tcp, tls, ws, wss, unix, or auto-… on the automatic port)."""

    def __init__(
        self,
        server: Addressed,
        client_id: str,
        *,
        protocol: MQTTProtocolVersion = V311,
        transport: str = "tcp",
        authority: Authority | None = None,
        certificate: KeyPair | None = None,
        clean: bool = True,
        session_expiry_s: int = 0,
        will: dict[str, Any] | None = None,
        login: tuple[str, str] | None = None,
        path: str = "/mqtt",
        connect: bool = True,
    ) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self.reason: Any = None
        self.flags: Any = None
        self.disconnected: Any = None
        self._protocol = protocol
        self._server = server
        self._listener, _, spoken = transport.partition("-")
        self._spoken = spoken or self._listener
        self._clean = clean
        self._session_expiry_s = session_expiry_s
        self._granted: dict[int, Any] = {}
        self._lock = threading.Lock()
        arguments: dict[str, Any] = {} if protocol == V5 else {"clean_session": clean}
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            transport=_PAHO_TRANSPORT[self._spoken],
            reconnect_on_failure=False,
            **arguments,
        )
        if self._spoken in {"tls", "wss"}:
            assert authority is not None
            self.paho.tls_set(
                ca_certs=str(authority.certificate),
                certfile=str(certificate.certificate) if certificate else None,
                keyfile=str(certificate.key) if certificate else None,
                tls_version=ssl.PROTOCOL_TLS_CLIENT,
            )
        if self._spoken in {"ws", "wss"}:
            self.paho.ws_set_options(path=path)
        if login is not None:
            self.paho.username_pw_set(*login)
        if will is not None:
            self.paho.will_set(**will)
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = self._on_message
        self.paho.on_subscribe = self._on_subscribe
        self.paho.on_unsubscribe = self._on_unsubscribe
        if connect:
            self.connect()

    def connect(self) -> None:
        """Connect and wait for CONNACK; the reason is in ``reason``, the flags in ``flags``."""
        address = self._server.address(self._listener)
        host, port = (
            (address.path, 1883) if self._spoken == "unix" else (address.host, address.port)
        )
        arguments: dict[str, Any] = {}
        if self._protocol == V5:
            arguments["clean_start"] = self._clean
            if self._session_expiry_s:
                arguments["properties"] = properties(
                    PacketTypes.CONNECT, SessionExpiryInterval=self._session_expiry_s
                )
        self.reason = self.disconnected = None
        self.paho.connect(host, port, 60, **arguments)
        self.paho.loop_start()
        wait_for(
            lambda: self.reason is not None or self.disconnected is not None, DEADLINE_S, "CONNACK"
        )

    def subscribe(self, topic_filter: str, qos: int = 0, **options: Any) -> list[int]:
        """Subscribe, wait for SUBACK and return its reason codes."""
        result, packet_id = self.paho.subscribe(topic_filter, qos, **options)
        assert result == paho.MQTT_ERR_SUCCESS
        assert packet_id is not None
        return self._acknowledged(packet_id, f"SUBACK for {topic_filter}")

    def unsubscribe(self, topic_filter: str) -> list[int]:
        """Unsubscribe, wait for UNSUBACK and return its reason codes."""
        result, packet_id = self.paho.unsubscribe(topic_filter)
        assert result == paho.MQTT_ERR_SUCCESS
        assert packet_id is not None
        return self._acknowledged(packet_id, f"UNSUBACK for {topic_filter}")

    def publish(self, topic: str, payload: bytes, qos: int = 0, **options: Any) -> None:
        """Publish and wait for the whole exchange (QoS 0: for the write)."""
        self.paho.publish(topic, payload, qos, **options).wait_for_publish(DEADLINE_S)

    def expect(self, count: int, deadline_s: float = DEADLINE_S) -> list[paho.MQTTMessage]:
        """Wait for ``count`` messages in all and return them; more than that is a failure."""
        wait_for(
            lambda: len(self.messages) >= count,
            deadline_s,
            f"{count} messages (there are {[m.payload for m in self.messages]})",
        )
        assert len(self.messages) == count, [m.payload for m in self.messages]
        return list(self.messages)

    def payloads(self, count: int, deadline_s: float = DEADLINE_S) -> list[bytes]:
        """Do what ``expect`` does and return the payloads only."""
        return [bytes(message.payload) for message in self.expect(count, deadline_s)]

    def disconnect(self, **arguments: Any) -> None:
        """Send DISCONNECT and wait for the end of the connection."""
        self.paho.disconnect(**arguments)
        wait_for(lambda: self.disconnected is not None, DEADLINE_S, "disconnected")
        stop_loop(self.paho)

    def drop(self) -> None:
        """Close the socket without DISCONNECT, as a client does that dies."""
        socket = self.paho.socket()
        if socket is not None:
            # paho's loop thread notices the end of the stream and cleans up.
            raw = getattr(socket, "_socket", socket)
            with_shutdown = getattr(raw, "shutdown", None)
            assert with_shutdown is not None
            with_shutdown(2)
        wait_for(lambda: self.disconnected is not None, DEADLINE_S, "connection dropped")
        stop_loop(self.paho)

    def close(self) -> None:
        """End quietly whatever the state is."""
        self.paho.disconnect()
        stop_loop(self.paho)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _acknowledged(self, packet_id: int, what: str) -> list[int]:
        wait_for(lambda: packet_id in self._granted, DEADLINE_S, what)
        return [code.value for code in self._granted.pop(packet_id)]

    def _on_connect(self, client: Any, user: Any, flags: Any, reason: Any, props: Any) -> None:
        self.flags = flags
        self.reason = reason

    def _on_disconnect(self, client: Any, user: Any, flags: Any, reason: Any, props: Any) -> None:
        self.disconnected = reason

    def _on_message(self, client: Any, user: Any, message: paho.MQTTMessage) -> None:
        with self._lock:
            self.messages.append(message)

    def _on_subscribe(self, client: Any, user: Any, packet_id: int, codes: Any, p: Any) -> None:
        self._granted[packet_id] = codes

    def _on_unsubscribe(self, client: Any, user: Any, packet_id: int, codes: Any, p: Any) -> None:
        self._granted[packet_id] = codes


_PAHO_TRANSPORT: dict[str, Any] = {
    "tcp": "tcp",
    "tls": "tcp",
    "ws": "websockets",
    "wss": "websockets",
    "unix": "unix",
}
