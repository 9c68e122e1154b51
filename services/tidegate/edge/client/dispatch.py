"""From a packet to what handles it: the table of packet types, and the handlers of a few lines.

Made once by ``Edge``; called by every client's ``PacketQueue``, in order, for each packet but
PUBLISH and PUBACK, which reach ``publish`` and ``delivery`` directly as soon as the client has
these. Owns nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from tidegate.edge.client.client import Ending
from tidegate.edge.client.connect import Connecting
from tidegate.edge.client.delivery import delivery_of
from tidegate.edge.client.enhanced_auth import check_method, reauthenticate
from tidegate.edge.client.publish import receiver_of
from tidegate.edge.client.state import ANSWERING
from tidegate.edge.client.subscribe import subscribe, unsubscribe
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.errors import MqttError, ProtocolViolation
from tidegate.mqtt.packets import (
    Auth,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
)

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.client.registry import ClientRegistry

PINGRESP_BYTES: Final = b"\xd0\x00"


class Dispatch:
    """See the module's docstring."""

    __slots__ = ("_handlers", "_registry")

    def __init__(self, registry: ClientRegistry) -> None:
        self._registry = registry
        self._handlers: dict[type, Callable[[Client, Any], None]] = {
            Connect: self._on_connect,
            Publish: _on_publish,
            PubAck: _on_puback,
            PubRec: _on_pubrec,
            PubRel: _on_pubrel,
            PubComp: _on_pubcomp,
            Subscribe: self._on_subscribe,
            Unsubscribe: self._on_unsubscribe,
            PingReq: _on_pingreq,
            Disconnect: _on_disconnect,
            Auth: _on_auth,
        }

    def handle(self, client: Client, packet: Packet) -> None:
        """Handle one packet. Raises MqttError when it breaks a rule."""
        self._handlers[type(packet)](client, packet)

    def _on_connect(self, client: Client, packet: Connect) -> None:
        client.answer_as(packet)
        refusal = client.context.refusal
        if refusal is not None:
            client.refuse(refusal, "server accepts no new connections")
            return
        Connecting(client, packet, self._registry).start()

    def _on_subscribe(self, client: Client, packet: Subscribe) -> None:
        delivery_of(client)  # messages may come as soon as it has the subscription
        _in_order(client, subscribe(client, packet, self._registry))

    def _on_unsubscribe(self, client: Client, packet: Unsubscribe) -> None:
        _in_order(client, unsubscribe(client, packet, self._registry))


def _in_order(client: Client, work: Awaitable[None]) -> None:
    """Run something asynchronous; what the client sent after it waits until it is done."""
    client.queue.pause_reading(ANSWERING)
    client.context.spawn(_run_in_order(client, work))


async def _run_in_order(client: Client, work: Awaitable[None]) -> None:
    try:
        await work
    except MqttError as error:
        client.fail(error)
    except Exception:
        client.fail_internally()
    finally:
        client.queue.resume(ANSWERING)


def _on_publish(client: Client, packet: Publish) -> None:
    receiver_of(client).on_publish(packet)


def _on_puback(client: Client, packet: PubAck) -> None:
    delivery_of(client).on_puback(packet.packet_id)


def _on_pubrec(client: Client, packet: PubRec) -> None:
    delivery_of(client).on_pubrec(packet)


def _on_pubrel(client: Client, packet: PubRel) -> None:
    receiver_of(client).on_pubrel(packet)


def _on_pubcomp(client: Client, packet: PubComp) -> None:
    delivery_of(client).on_pubcomp(packet)


def _on_pingreq(client: Client, _packet: PingReq) -> None:
    client.send(PINGRESP_BYTES)


def _on_disconnect(client: Client, packet: Disconnect) -> None:
    properties = packet.properties
    expiry_s = properties.session_expiry_interval if properties is not None else None
    if expiry_s is not None:
        if expiry_s and not client.session_expiry_s:
            raise ProtocolViolation("session expiry interval must stay 0 when it was 0 in CONNECT")
        expiry_s = min(expiry_s, client.context.limits.max_session_expiry_s)
    publishes_will = packet.reason_code != ReasonCode.SUCCESS  # [MQTT-3.14.4-3]
    client.ending = Ending(publishes_will, session_expiry_s=expiry_s)
    client.close("disconnect_with_will" if publishes_will else "disconnect")


def _on_auth(client: Client, packet: Auth) -> None:
    if client.authentication_method is None:
        raise ProtocolViolation(
            "AUTH without an authentication method in CONNECT", statement="MQTT-4.12.0-6"
        )
    check_method(packet, client.authentication_method)
    if packet.reason_code != ReasonCode.RE_AUTHENTICATE:
        raise ProtocolViolation(
            "AUTH must start with Re-authenticate (0x19)", statement="MQTT-4.12.1-1"
        )
    _in_order(client, reauthenticate(client, client.authentication_method, packet))
