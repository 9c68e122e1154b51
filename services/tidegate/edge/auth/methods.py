"""Methods of enhanced authentication (MQTT5 §4.12): what an edge is given, by name.

A method makes an exchange for each CONNECT or re-authentication that names it; ``edge.client`` runs
the exchange. None is built in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tidegate.edge.channel import Peer
from tidegate.mqtt.enums import ReasonCode


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
