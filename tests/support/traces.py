"""Plays a script of raw packets against a broker and writes down what came back, in a normal form.

What a broker may choose freely (packet identifiers, assigned names, the words of a reason string)
is left out or starred, so that two brokers' traces can be compared line by line.
"""

from __future__ import annotations

import asyncio
import difflib
import time
import uuid
from collections.abc import Awaitable, Callable

from support.broker import Server
from support.mqtt_bytes import V5, MisbehaviourError, Packet, Property
from support.raw_client import RawClient

# A step is over when every connection has been silent for so long.
QUIET_S = 0.7
LONGEST_STEP_S = 8.0

_LIMITS = frozenset(
    {
        "receive_maximum",
        "server_keep_alive",
        "topic_alias_maximum",
        "maximum_packet_size",
        "maximum_qos",
        "session_expiry",
    }
)
# Left out: an alias was resolved by the raw client, and the words of a reason are free.
_HIDDEN = frozenset({"topic_alias", "reason_string"})
_STARRED = frozenset({"assigned_client_id", "message_expiry"})


class Player:
    """Named connections to one broker, and the trace of what they received."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clients: dict[str, RawClient] = {}
        self._ended: set[str] = set()
        self._prefix = uuid.uuid4().hex[:8]
        self.trace: list[str] = []
        #: Whether CONNACK is written down with what it says about limits and features.
        self.limits_shown = False

    def name(self, name: str) -> str:
        """Return a client identifier that only this run uses; traces show the short name."""
        return f"{self._prefix}-{name}"

    def topic(self, topic: str) -> str:
        """Return a topic that only this run uses; traces show the short one."""
        return f"{self._prefix}/{topic}"

    async def send(self, who: str, *packets: bytes, version: int = V5) -> None:
        """Send packets, on a new connection if ``who`` has none."""
        if who not in self._clients:
            address = self._server.address("tcp")
            url = f"tcp://{address.host}:{address.port}"
            self._clients[who] = await RawClient.open(url, version=version)
            self._ended.discard(who)
        await self._clients[who].send(*packets)

    async def drop(self, who: str) -> None:
        """Close a connection without a word."""
        client = self._clients.pop(who)
        client.close()

    async def settle(self, title: str) -> None:
        """Write down what every connection received until all are silent."""
        names = sorted(self._clients)
        for lines in await asyncio.gather(*(self._listen(name) for name in names)):
            self.trace += [f"{title} | {line}" for line in lines]
        for name in [name for name in names if name in self._ended]:
            self._clients.pop(name).close()

    async def _listen(self, who: str) -> list[str]:
        client, lines = self._clients[who], []
        end = time.monotonic() + LONGEST_STEP_S
        while time.monotonic() < end:
            try:
                packet = await client.receive_or_end(QUIET_S)
            except TimeoutError:
                break
            except MisbehaviourError as error:
                lines.append(f"{who}: against the specification: {error}")
                continue
            if packet is None:
                self._ended.add(who)
                lines.append(f"{who}: closed")
                break
            lines.append(f"{who}: {self._describe(packet, client.version)}")
        # An acknowledgement and a message may overtake each other freely.
        return sorted(lines, key=_rank)

    def close(self) -> None:
        """Close what is open."""
        for client in self._clients.values():
            client.close()

    def _describe(self, packet: Packet, version: int) -> str:
        words = [packet.kind]
        if packet.kind == "CONNACK":
            words.append(f"0x{packet.reason:02x}")
            words += ["present"] if packet.session_present else []
        elif packet.kind == "PUBLISH":
            words += [packet.topic, f"qos{packet.qos}", packet.payload.decode()]
            words += ["retain"] if packet.retain else []
            words += ["dup"] if packet.dup else []
        elif packet.codes:
            words.append(" ".join(f"0x{code:02x}" for code in packet.codes))
        elif version == V5 and packet.kind != "PINGRESP":
            words.append(f"0x{packet.reason:02x}")
        for name, value in sorted(packet.properties, key=_by_name):
            limit = packet.kind == "CONNACK" and name in _LIMITS and not self.limits_shown
            if name not in _HIDDEN and not limit:
                words.append(f"{name}={'*' if name in _STARRED else repr(value)}")
        return " ".join(words).replace(f"{self._prefix}/", "").replace(f"{self._prefix}-", "")


Scenario = Callable[[Player], Awaitable[None]]


def _by_name(one: Property) -> tuple[str, int]:
    name, value = one
    # Subscription identifiers have no order among themselves; user properties keep theirs.
    return name, value if isinstance(value, int) else 0


def _rank(line: str) -> int:
    kind = line.split()[1]
    return {"PUBLISH": 1, "DISCONNECT": 2, "closed": 3}.get(kind, 0)


async def play(server: Server, scenario: Scenario) -> list[str]:
    """Return the trace of one scenario."""
    player = Player(server)
    try:
        await scenario(player)
    finally:
        player.close()
    return player.trace


def compare(reference: list[str], ours: list[str]) -> list[str]:
    """Return the lines that differ: ``- …`` only the reference's, ``+ …`` only ours."""
    lines = difflib.ndiff(reference, ours)
    return [line for line in lines if line[0] in "+-"]
