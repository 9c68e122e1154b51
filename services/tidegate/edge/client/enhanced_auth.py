"""Enhanced authentication: the exchange of AUTH packets (MQTT5 §4.12).

The exchange itself is here; what is said in it is a method's business (SCRAM and the like), which
an edge has by name. A method that no edge has is refused with 0x8C. Called for CONNECT by
``connecting`` and for a re-authentication by the client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tidegate.edge.channel import Peer
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.errors import ProtocolViolation
from tidegate.mqtt.packets import Auth, Properties

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client


@dataclass(slots=True, frozen=True)
class Step:
    """What a method says to the client's data.

    ``reason_code`` CONTINUE_AUTHENTICATION: ``data`` goes to the client, which must answer;
    SUCCESS: it is who ``username`` says, and ``data`` goes along with the success; anything else:
    refused.
    """

    reason_code: ReasonCode
    data: bytes | None = None
    username: str | None = None


class AuthExchange(Protocol):
    """One run of a method."""

    async def step(self, data: bytes | None) -> Step:
        """Take the client's next data (None: it sent none)."""


#: Begins a run of a method: client identifier, user name of CONNECT, peer.
Method = Callable[[str, str | None, Peer], AuthExchange]


async def authenticate(client: Client, method: str, data: bytes | None) -> Step | None:
    """Run the exchange to its end; None when the connection ends before.

    Raises ProtocolViolation when the client's answer is not what it must be.
    """
    make = client.edge.authentication_methods.get(method)
    if make is None:
        return Step(ReasonCode.BAD_AUTHENTICATION_METHOD)
    exchange = make(client.client_id, client.username, client.channel.peer)
    step = await exchange.step(data)
    while step.reason_code == ReasonCode.CONTINUE_AUTHENTICATION and not client.closed:
        client.send_packet(auth_packet(step.reason_code, method, step.data))
        answer = await client.next_auth()
        if answer is None:
            return None
        check_method(answer, method)
        if answer.reason_code != ReasonCode.CONTINUE_AUTHENTICATION:
            raise ProtocolViolation("an AUTH that does not continue", statement="MQTT-4.12.0-3")
        step = await exchange.step(answer.properties.authentication_data)
    return None if client.closed else step


def auth_packet(reason_code: ReasonCode, method: str, data: bytes | None) -> Auth:
    """Make an AUTH of the server [MQTT-4.12.0-2]."""
    return Auth(reason_code, Properties(authentication_method=method, authentication_data=data))


def check_method(packet: Auth, method: str | None) -> None:
    """Raise ProtocolViolation unless an AUTH names the method of CONNECT [MQTT-4.12.0-5]."""
    if packet.properties.authentication_method != method:
        raise ProtocolViolation(
            "an AUTH with another method than CONNECT's", statement="MQTT-4.12.0-5"
        )
