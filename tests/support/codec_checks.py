"""What must hold for any bytes from a client, as one function of one input.

The fuzz target feeds it what it invents, a test feeds it the seeds and what once went wrong. An
input's first byte says which version is spoken and whether CONNECT has already come; the rest is
the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from support.packet_vectors import load
from tidegate.mqtt.connection import ConnectionSettings, ServerConnection
from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode
from tidegate.mqtt.enums import PacketType, ProtocolVersion
from tidegate.mqtt.errors import MalformedPacket, MqttError, ProtocolViolation
from tidegate.mqtt.packets import Connect, Packet, Properties

VERSIONS: Final = tuple(ProtocolVersion)
_DOCUMENTED: Final = (MalformedPacket, ProtocolViolation)


def seed(stream: bytes, version: ProtocolVersion, *, is_connected: bool) -> bytes:
    """Make an input of a stream."""
    return bytes((VERSIONS.index(version) + (3 if is_connected else 0),)) + stream


def seeds() -> Iterator[tuple[str, bytes]]:
    """Name and make the inputs to begin with: every packet vector, and other protocols."""
    for is_valid in (True, False):
        for parameter in load(valid=is_valid):
            vector = parameter.values[0]
            is_connect = vector.first_byte >> 4 == PacketType.CONNECT
            name = str(parameter.id)
            yield name, seed(vector.wire, vector.version, is_connected=not is_connect)
    yield "http", seed(b"GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n", VERSIONS[1], is_connected=False)
    yield "tls", seed(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", VERSIONS[2], is_connected=False)


def _machine(version: ProtocolVersion, is_connected: bool) -> ServerConnection:
    machine = ServerConnection(ConnectionSettings(4096, 4, 4))
    if is_connected:
        machine.receive(encode(Connect("c", protocol_version=version), version))
        assert machine.has_connect
    return machine


def _fault(machine: ServerConnection) -> tuple[type[MqttError], int, str] | None:
    error = machine.error
    if error is None:
        return None
    assert isinstance(error, _DOCUMENTED), repr(error)
    return type(error), error.reason_code, error.statement


def _decode_whole(wire: bytes, version: ProtocolVersion) -> Packet:
    at = 1
    while wire[at] & 0x80:
        at += 1
    return decode_packet(wire[0], wire[at + 1 :], version)


def _plain(packet: Packet) -> Packet:
    """Say it the short way: a properties field that is empty may as well be missing."""
    if getattr(packet, "properties", None) == Properties():
        packet.properties = None  # type: ignore[union-attr]  # what has such a field, may
    return packet


def check_stream(stream: bytes, version: ProtocolVersion, *, is_connected: bool) -> None:
    """Any chunking gives the same packets and the same fault; what was read is written the same."""
    machine = _machine(version, is_connected)
    packets = machine.receive(stream)
    for step in (1, 7):
        other = _machine(version, is_connected)
        again: list[Packet] = []
        for at in range(0, len(stream), step):
            again += other.receive(stream[at : at + step])
        assert again == packets, step
        assert _fault(other) == _fault(machine), step
        assert other.refusal_version == machine.refusal_version, step
    for packet in packets:
        wire = encode(packet, machine.version)
        assert _plain(_decode_whole(wire, machine.version)) == _plain(packet)


def check_packet(packet: bytes, version: ProtocolVersion) -> None:
    """One packet of either direction, without its remaining length, is read or refused."""
    try:
        found = decode_packet(packet[0], packet[1:], version)
    except _DOCUMENTED:
        return
    if isinstance(found, Connect):
        version = found.protocol_version
    # Nothing is lost by writing what was read, except what an old version has no place for.
    wire = encode(found, version)
    assert encode(_decode_whole(wire, version), version) == wire


def check(data: bytes) -> None:
    """Apply both checks to an input of the fuzzer."""
    if len(data) < 2:
        return
    version = VERSIONS[data[0] % 3]
    check_stream(data[1:], version, is_connected=data[0] // 3 % 2 == 1)
    check_packet(data[1:], version)
