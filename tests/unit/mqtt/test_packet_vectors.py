"""Every annotated packet decodes to what it says or to its error, and encodes to its bytes."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any, Final

import pytest

from support.packet_vectors import DIRECTORY, Vector, load
from tidegate.mqtt import packets
from tidegate.mqtt.connection import ConnectionSettings, ServerConnection
from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode
from tidegate.mqtt.enums import PacketType
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.packets import Connect, Publish

VALID: Final = load(valid=True)
WRONG: Final = load(valid=False)
FROM_SERVERS: Final = (
    PacketType.CONNACK,
    PacketType.SUBACK,
    PacketType.UNSUBACK,
    PacketType.PINGRESP,
)
BY_BYTE: Final = pytest.mark.parametrize("by_byte", [False, True], ids=["whole", "byte by byte"])


def connected(vector: Vector) -> ServerConnection:
    """Return a connection on which a client of the vector's version has connected."""
    connection = ServerConnection(ConnectionSettings(topic_alias_maximum=10))
    version = vector.version
    connection.receive(encode(Connect("c", protocol_version=version), version))
    assert connection.has_connect
    return connection


def from_clients(parameters: list[Any]) -> list[Any]:
    """Leave out what only servers send."""
    return [one for one in parameters if one.values[0].first_byte >> 4 not in FROM_SERVERS]


@pytest.mark.parametrize("vector", VALID)
@pytest.mark.statement("MQTT-1.5.4-3", "MQTT311-1.5.3-3")
def test_a_valid_packet_decodes(vector: Vector) -> None:
    assert decode_packet(vector.first_byte, vector.body, vector.version) == vector.packet


@pytest.mark.parametrize("vector", [one for one in VALID if not one.values[0].decode_only])
@pytest.mark.statement("MQTT-2.2.2-1", "MQTT-2.1.3-1", "MQTT311-2.2.2-1")
def test_a_packet_encodes_to_its_bytes(vector: Vector) -> None:
    assert vector.packet is not None
    assert encode(vector.packet, vector.version) == vector.wire


@pytest.mark.parametrize("vector", WRONG)
def test_a_wrong_packet_ends_in_the_reason_that_the_specification_names(vector: Vector) -> None:
    with pytest.raises(MqttError) as caught:
        decode_packet(vector.first_byte, vector.body, vector.version)
    assert type(caught.value).__name__ == vector.error
    assert caught.value.reason_code == vector.reason_code
    assert caught.value.statement == vector.statement


def stands_alone(parameter: Any) -> bool:
    """Say whether a valid packet is one that a client may send first after CONNECT."""
    packet = parameter.values[0].packet
    return not isinstance(packet, Publish) or bool(
        packet.topic and not packet.subscription_identifiers
    )


@pytest.mark.parametrize("vector", list(filter(stands_alone, from_clients(VALID))))
@BY_BYTE
def test_a_connection_decodes_a_valid_packet(vector: Vector, by_byte: bool) -> None:
    wanted = vector.packet
    if isinstance(wanted, Connect):
        connection = ServerConnection()
    else:
        connection = connected(vector)
        if isinstance(wanted, Publish):
            wanted = copy.copy(wanted)
            wanted.topic_alias = 0
    if by_byte:
        received = [
            packet for value in vector.wire for packet in connection.receive(bytes((value,)))
        ]
    else:
        received = connection.receive(vector.wire)
    assert received == [wanted]
    assert connection.error is None


@pytest.mark.parametrize("vector", from_clients(WRONG))
@BY_BYTE
def test_a_connection_ends_with_the_same_reason(vector: Vector, by_byte: bool) -> None:
    is_connect = vector.first_byte >> 4 == PacketType.CONNECT
    connection = ServerConnection() if is_connect else connected(vector)
    if by_byte:
        for value in vector.wire:
            assert connection.receive(bytes((value,))) == []
    else:
        assert connection.receive(vector.wire) == []
    error = connection.error
    assert error is not None
    assert type(error).__name__ == vector.error
    assert error.reason_code == vector.reason_code
    assert error.statement == vector.statement
    assert connection.receive(b"\xc0\0") == [], "nothing is decoded after a fault"


@pytest.mark.parametrize("vector", VALID)
def test_a_packet_that_is_cut_anywhere_is_an_error_and_nothing_else(vector: Vector) -> None:
    for end in range(len(vector.body)):
        # A part of one packet may be another whole one; it is never the same.
        with contextlib.suppress(MqttError):
            cut = decode_packet(vector.first_byte, vector.body[:end], vector.version)
            assert cut != vector.packet or vector.decode_only


def test_every_packet_type_has_valid_and_wrong_vectors() -> None:
    for kind in PacketType:
        for parameters in (VALID, WRONG):
            assert any(one.values[0].first_byte >> 4 == kind for one in parameters), kind.name


def test_every_vector_says_what_each_field_is() -> None:
    for path in DIRECTORY.glob("*.json"):
        for raw in json.loads(path.read_text()):
            for part, comment in raw["bytes"]:
                assert comment, (path.name, raw["name"], part)


def test_names_in_the_vectors_are_packet_classes() -> None:
    assert all(hasattr(packets, type(one.values[0].packet).__name__) for one in VALID)
