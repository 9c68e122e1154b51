"""decode∘encode is the identity, for every packet of every version; and nothing undocumented."""

from __future__ import annotations

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from support.packet_strategies import any_packet, mutated
from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MalformedPacket, MqttError, ProtocolViolation
from tidegate.mqtt.packets import Packet

#: Every answer that a fault found by the codec may have.
ANSWERS: Final = {
    ReasonCode.MALFORMED_PACKET,
    ReasonCode.PROTOCOL_ERROR,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ReasonCode.TOPIC_FILTER_INVALID,
    ReasonCode.TOPIC_NAME_INVALID,
    ReasonCode.TOPIC_ALIAS_INVALID,
}
versions: Final = st.sampled_from(list(ProtocolVersion))
packets: Final = versions.flatmap(lambda version: st.tuples(st.just(version), any_packet(version)))


def split(wire: bytes) -> tuple[int, bytes]:
    """Take a packet's fixed header off; the remaining length must be exact."""
    at, length, shift = 1, 0, 0
    while True:
        length |= (wire[at] & 0x7F) << shift
        shift += 7
        at += 1
        if wire[at - 1] < 0x80:
            break
    assert length == len(wire) - at
    return wire[0], wire[at:]


def filled(packet: Packet, version: ProtocolVersion) -> Packet:
    """Give a packet the empty properties that the decoder gives it where the field is there."""
    return decode_packet(*split(encode(packet, version)), version)


@given(packets)
@settings(max_examples=400)
def test_a_packet_comes_back_from_its_bytes(case: tuple[ProtocolVersion, Packet]) -> None:
    version, packet = case
    assert decode_packet(*split(encode(packet, version)), version) == packet


@given(packets)
@settings(max_examples=100)
def test_the_bytes_of_a_decoded_packet_are_the_bytes_it_came_from(
    case: tuple[ProtocolVersion, Packet],
) -> None:
    version, packet = case
    wire = encode(packet, version)
    assert encode(filled(packet, version), version) == wire


def decode_or_refuse(first_byte: int, body: bytes, version: ProtocolVersion) -> None:
    """Decode; whatever comes out is a packet or a documented error."""
    try:
        packet = decode_packet(first_byte, body, version)
    except MqttError as error:
        documented = type(error) in (MalformedPacket, ProtocolViolation)
        assert documented and error.reason_code in ANSWERS and str(error)  # noqa: PT017, PT018
        return
    # What was decoded can be written, and means the same.
    assert decode_packet(*split(encode(packet, version)), version) is not None


@given(st.integers(0, 255), st.binary(max_size=60), versions)
@settings(max_examples=400)
def test_any_bytes_are_a_packet_or_a_documented_error(
    first_byte: int, body: bytes, version: ProtocolVersion
) -> None:
    decode_or_refuse(first_byte, body, version)


@given(
    versions.flatmap(
        lambda version: st.tuples(
            st.just(version),
            mutated(any_packet(version).map(lambda packet: encode(packet, version))),
        )
    )
)
@settings(max_examples=500)
def test_a_mutated_packet_is_a_packet_or_a_documented_error(
    case: tuple[ProtocolVersion, bytes],
) -> None:
    version, wire = case
    decode_or_refuse(wire[0] if wire else 0, wire[2:], version)
