"""What an older version has no place for goes away, and what one hop adds is added."""

from __future__ import annotations

import pytest

from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode, encode_ack, encode_publish
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    Properties,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tidegate.mqtt.properties import forwarded_properties

V31, V311, V5 = ProtocolVersion
older = pytest.mark.parametrize("version", [V31, V311])


@pytest.mark.parametrize(
    ("reason_code", "return_code"),
    [
        (ReasonCode.SUCCESS, 0),
        (ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, 2),
        (ReasonCode.SERVER_UNAVAILABLE, 3),
        (ReasonCode.SERVER_BUSY, 3),
        (ReasonCode.QUOTA_EXCEEDED, 3),
        (ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
        (ReasonCode.NOT_AUTHORIZED, 5),
        (ReasonCode.BANNED, 5),
        (ReasonCode.BAD_AUTHENTICATION_METHOD, 5),
    ],
)
@older
def test_a_reason_code_of_connack_becomes_a_return_code(
    version: ProtocolVersion, reason_code: ReasonCode, return_code: int
) -> None:
    packet = ConnAck(reason_code=reason_code, properties=Properties(reason_string="x"))
    assert encode(packet, version) == bytes((0x20, 2, 0, return_code))


def test_3_1_has_no_session_present_flag() -> None:
    assert encode(ConnAck(session_present=True), V31) == b"\x20\x02\0\0"
    assert encode(ConnAck(session_present=True), V311) == b"\x20\x02\1\0"


@pytest.mark.statement("MQTT311-3.9.3-2")
def test_every_failure_in_a_suback_is_0x80_and_qos_0_before_there_was_one() -> None:
    packet = SubAck(1, [0x87, 2, 0x80], Properties(reason_string="x"))
    assert encode(packet, V311) == b"\x90\x05\0\1\x80\2\x80"
    assert encode(packet, V31) == b"\x90\x05\0\1\0\2\0"


@pytest.mark.parametrize(
    ("packet", "wire"),
    [
        (PubAck(1, 0x87, Properties(reason_string="x")), b"\x40\x02\0\1"),
        (UnsubAck(1, [0, 0x11], Properties(reason_string="x")), b"\xb0\x02\0\1"),
        (Disconnect(0x8E, Properties(reason_string="x")), b"\xe0\0"),
        (
            Subscribe(1, [("a", SubscriptionOptions(1, True, True, 2, 7))], Properties()),
            b"\x82\x06\0\1\0\1a\1",
        ),
        (Unsubscribe(1, ["a"], Properties(user_properties=(("a", "b"),))), b"\xa2\x05\0\1\0\1a"),
    ],
    ids=lambda value: type(value).__name__,
)
@older
def test_what_is_new_in_5_goes_away(version: ProtocolVersion, packet: Packet, wire: bytes) -> None:
    assert encode(packet, version) == wire


@older
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 10, 118, 119, 120, 121, 122, 123, 124, 125, 20_000])
def test_a_publish_has_no_properties_before_5(
    version: ProtocolVersion, qos: int, size: int
) -> None:
    message = Publish(
        "a/b", b"p" * size, properties=forwarded_properties(Properties(content_type="x"))
    )
    packet_id = 9 if qos else 0
    wire = encode_publish(message, version, qos, True, bool(qos), packet_id, (1,), 60, 3)
    at = 1
    while wire[at] & 0x80:
        at += 1
    assert decode_packet(wire[0], wire[at + 1 :], version) == Publish(
        "a/b", b"p" * size, qos, True, bool(qos), packet_id
    )


@pytest.mark.statement("MQTT-3.3.1-2", "MQTT-3.3.4-3", "MQTT-3.3.2-17")
@pytest.mark.parametrize("size", [0, 10, 90, 100, 110, 120, 20_000])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_publish_of_5_has_what_travels_on_and_what_this_hop_adds(qos: int, size: int) -> None:
    forwarded = forwarded_properties(Properties(content_type="x", user_properties=(("a", "b"),)))
    # The message's own flags and one-hop properties are the publisher's, and stay out of it.
    message = Publish("a/b", b"p" * size, 2, True, True, 77, forwarded, 5, 6, (7,))
    packet_id = 9 if qos else 0
    wire = encode_publish(message, 5, qos, False, False, packet_id, (1, 300), 60, 3, topic="")
    at = 1
    while wire[at] & 0x80:
        at += 1
    assert decode_packet(wire[0], wire[at + 1 :], V5) == Publish(
        "", b"p" * size, qos, False, False, packet_id, forwarded, 60, 3, (1, 300)
    )


def test_an_acknowledgement_has_a_reason_code_only_where_it_says_something() -> None:
    assert encode_ack(0x40, 0x0102, 0, 5) == b"\x40\x02\x01\x02"
    assert encode_ack(0x50, 0x0102, 0x97, 5) == b"\x50\x03\x01\x02\x97"
    assert encode_ack(0x70, 0x0102, 0x92, 4) == b"\x70\x02\x01\x02"


@pytest.mark.parametrize(
    "will",
    [
        Will("w"),
        Will("w", will_delay_interval=9),
        Will("w", message_expiry_interval=0),
        Will("w", properties=b"\x01\x01"),
    ],
)
def test_a_will_has_the_properties_that_were_given(will: Will) -> None:
    wire = encode(Connect("c", will=will), V5)
    assert decode_packet(wire[0], wire[2:], V5) == Connect("c", will=will)
