"""The annotated packets of tests/vectors/packets, as test parameters.

Each vector is one packet as bytes with a comment per field, and either the packet it decodes to or
the error it ends in. ``decode_only`` marks what is valid, but not how we would write it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tidegate.mqtt import packets
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.packets import Packet, Properties, SubscriptionOptions, Will

DIRECTORY: Final = Path(__file__).parents[1] / "vectors" / "packets"


@dataclass(frozen=True, slots=True)
class Vector:
    """One vector in one protocol version."""

    version: ProtocolVersion
    wire: bytes
    packet: Packet | None
    decode_only: bool
    error: str
    reason_code: int
    statement: str

    @property
    def first_byte(self) -> int:
        """The first byte of the fixed header."""
        return self.wire[0]

    @property
    def body(self) -> bytes:
        """What stands behind the remaining length."""
        at = 1
        while self.wire[at] & 0x80:
            at += 1
        return self.wire[at + 1 :]


def _plain(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    return value


def _properties(fields: dict[str, Any]) -> Properties:
    return Properties(**{name: _plain(value) for name, value in fields.items()})


def packet_of(fields: dict[str, Any]) -> Packet:
    """Make the packet that a vector describes."""
    make = getattr(packets, fields["type"])
    arguments: dict[str, Any] = {}
    for name, value in fields.items():
        match name:
            case "type":
                continue
            case "properties" if isinstance(value, dict) and "hex" not in value:
                arguments[name] = _properties(value)
            case "protocol_version":
                arguments[name] = ProtocolVersion(value)
            case "will":
                arguments[name] = Will(**{key: _plain(item) for key, item in value.items()})
            case "subscriptions":
                arguments[name] = [
                    (topic_filter, SubscriptionOptions(**options))
                    for topic_filter, options in value
                ]
            case "reason_codes" | "topic_filters":
                arguments[name] = value
            case _:
                arguments[name] = _plain(value)
    made: Packet = make(**arguments)
    return made


def load(*, valid: bool) -> list[Any]:
    """Return one pytest parameter per vector and version, marked with its statement."""
    found = []
    for path in sorted(DIRECTORY.glob("*.json")):
        for raw in json.loads(path.read_text()):
            if ("packet" in raw) != valid:
                continue
            error = raw.get("error", {})
            statement = error.get("statement", "")
            for version in raw["versions"]:
                vector = Vector(
                    ProtocolVersion(version),
                    bytes.fromhex("".join(part for part, _ in raw["bytes"])),
                    packet_of(raw["packet"]) if valid else None,
                    raw.get("decode_only", False),
                    error.get("class", ""),
                    int(error.get("reason_code", "0"), 16),
                    statement,
                )
                marks = [pytest.mark.statement(statement)] if statement else []
                name = f"{path.stem}-{version}-{raw['name']}"
                found.append(pytest.param(vector, id=name, marks=marks))
    return found
