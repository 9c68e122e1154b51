"""What must hold for any bytes from a client, as one function of one input.

The fuzz target feeds it what it invents, a test feeds it the corpus. An input's first byte says
which version is spoken and whether CONNECT has already come; the rest is the stream.
"""

from __future__ import annotations

from typing import Final

from tidegate.mqtt.codec import decode_packet, encode
from tidegate.mqtt.connection import ServerConnection
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.errors import MalformedPacket, MqttError, ProtocolViolation
from tidegate.mqtt.packets import Connect, Packet

VERSIONS: Final = tuple(ProtocolVersion)
_DOCUMENTED: Final = (MalformedPacket, ProtocolViolation)


def _machine(version: ProtocolVersion, is_connected: bool) -> ServerConnection:
    machine = ServerConnection(max_packet_size_bytes=4096, receive_maximum=4, topic_alias_maximum=4)
    if is_connected:
        machine.receive(encode(Connect("c", protocol_version=version), version))
        assert machine.connect is not None
    return machine


def _fault(machine: ServerConnection) -> tuple[type[MqttError], int, str] | None:
    error = machine.error
    if error is None:
        return None
    assert isinstance(error, _DOCUMENTED), repr(error)
    return type(error), error.reason_code, error.statement


def check_stream(stream: bytes, version: ProtocolVersion, is_connected: bool) -> None:
    """Any chunking gives the same packets and the same fault; what was read can be written."""
    machine = _machine(version, is_connected)
    packets = machine.receive(stream)
    for step in (1, 7):
        other = _machine(version, is_connected)
        again: list[Packet] = []
        for at in range(0, len(stream), step):
            again += other.receive(stream[at : at + step])
        assert again == packets, step
        assert _fault(other) == _fault(machine), step
    for packet in packets:
        wire = encode(packet, machine.version)
        at = 1
        while wire[at] & 0x80:
            at += 1
        assert decode_packet(wire[0], wire[at + 1 :], machine.version) is not None


def check_packet(packet: bytes, version: ProtocolVersion) -> None:
    """One packet of either direction, without its remaining length, is read or refused."""
    try:
        decode_packet(packet[0], packet[1:], version)
    except _DOCUMENTED:
        return


def check(data: bytes) -> None:
    """Apply both checks to an input of the fuzzer."""
    if len(data) < 2:
        return
    version = VERSIONS[data[0] % 3]
    check_stream(data[1:], version, is_connected=data[0] // 3 % 2 == 1)
    check_packet(data[1:], version)
