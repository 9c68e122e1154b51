"""Enhanced authentication: the exchange of AUTH packets (MQTT5 §4.12).

The exchange itself is here; its content is the business of a method (SCRAM and the like), which an
edge has by name. A method that it does not have is refused with 0x8C. Called by ``connect`` for
CONNECT, and by ``dispatch`` for a re-authentication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.edge.auth.methods import Step
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.errors import ProtocolViolation
from tidegate.mqtt.packets import Auth, Properties

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client


async def authenticate(
    client: Client, method: str, data: bytes | None, client_id: str, username: str | None
) -> Step | None:
    """Run the exchange to its end; None when the connection ends before.

    Raises ProtocolViolation when the client's answer is not what it must be.
    """
    make = client.context.authentication_methods.get(method)
    if make is None:
        return Step(ReasonCode.BAD_AUTHENTICATION_METHOD)
    exchange = make(client_id, username, client.channel.peer)
    step = await exchange.step(data)
    while step.reason_code == ReasonCode.CONTINUE_AUTHENTICATION and not client.is_closed:
        client.send_packet(auth_packet(step.reason_code, method, step.data))
        answer = await client.queue.next_auth()
        if answer is None:
            return None
        check_method(answer, method)
        if answer.reason_code != ReasonCode.CONTINUE_AUTHENTICATION:
            raise ProtocolViolation(
                "AUTH must have reason code Continue authentication (0x18)",
                statement="MQTT-4.12.0-3",
            )
        step = await exchange.step(answer.properties.authentication_data)
    return None if client.is_closed else step


async def reauthenticate(client: Client, method: str, packet: Auth) -> None:
    """Prove again who the client is (MQTT5 §4.12.1) [MQTT-4.12.1-2]."""
    data = packet.properties.authentication_data
    step = await authenticate(client, method, data, client.client_id, client.username)
    if step is None:
        return
    if step.reason_code != ReasonCode.SUCCESS:
        client.disconnect(step.reason_code)
        return
    client.send_packet(auth_packet(step.reason_code, method, step.data))


def auth_packet(reason_code: ReasonCode, method: str, data: bytes | None) -> Auth:
    """Make an AUTH of the server [MQTT-4.12.0-2]."""
    return Auth(reason_code, Properties(authentication_method=method, authentication_data=data))


def check_method(packet: Auth, method: str | None) -> None:
    """Raise ProtocolViolation unless an AUTH names the method of CONNECT [MQTT-4.12.0-5]."""
    if packet.properties.authentication_method != method:
        raise ProtocolViolation(
            "authentication method differs from that of CONNECT", statement="MQTT-4.12.0-5"
        )
