"""Cost of the protocol per packet: `python bench/bench_codec.py`.

Prints microseconds per packet for chunks of 64 KiB that a connection receives, for packets that
are decoded one at a time, and for the encoders. Each figure is the best of several runs, because
other load on the machine only ever adds.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from tidegate.mqtt.connection import ConnectionSettings, ServerConnection
from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode, encode_ack, encode_publish
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.packets import (
    ConnAck,
    Connect,
    Packet,
    PingReq,
    Properties,
    PubAck,
    Publish,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    Will,
)
from tidegate.mqtt.properties import forwarded_properties

V311, V5 = ProtocolVersion.V311, ProtocolVersion.V5
CHUNK_BYTES = 65_536
RUNS = 7
RUN_S = 0.02
TARGET_RECEIVE_US = 0.6

PAYLOAD = bytes(64)
TOPIC = "fleet/d1234/telemetry/temperature"
USER = Properties(user_properties=(("trace", "0123456789abcdef"), ("unit", "celsius")))


def best_us(work: Callable[[], object], count: int) -> float:
    """Time of one of the ``count`` packets that a call of ``work`` handles, microseconds."""
    timer = timeit.Timer(work)
    calls = max(1, int(RUN_S / timer.timeit(1)))
    return min(timer.repeat(RUNS, calls)) / calls / count * 1e6


def received_us(version: ProtocolVersion, wire: bytes, size: int = CHUNK_BYTES) -> float:
    """Cost of ``wire``, repeated to fill ``size`` bytes, in one call of ``receive``."""
    count = max(1, size // len(wire))
    chunk = wire * count
    connection = ServerConnection(ConnectionSettings(topic_alias_maximum=10))
    connection.receive(encode(Connect("c", version), version))

    def work() -> None:
        if len(connection.receive(chunk)) != count:
            raise AssertionError(connection.error)

    return best_us(work, count)


def publish(qos: int = 0, properties: Properties | None = None, alias: int = 0) -> Publish:
    """Make a message like a sensor's."""
    return Publish(
        TOPIC,
        PAYLOAD,
        qos,
        packet_id=7 if qos else 0,
        properties=forwarded_properties(properties) if properties is not None else b"",
        topic_alias=alias,
    )


def report_receive() -> None:
    """Print what a connection spends on what clients send."""
    print(f"ServerConnection.receive, chunks of {CHUNK_BYTES // 1024} KiB, us per packet")
    streams: list[tuple[str, ProtocolVersion, Packet]] = [
        ("3.1.1 PUBLISH QoS 0", V311, publish()),
        ("3.1.1 PUBLISH QoS 1", V311, publish(1)),
        ("3.1.1 PUBLISH QoS 2", V311, publish(2)),
        ("5.0   PUBLISH QoS 0", V5, publish()),
        ("5.0   PUBLISH QoS 1", V5, publish(1)),
        ("5.0   PUBLISH QoS 2", V5, publish(2)),
        ("5.0   PUBLISH QoS 1, topic alias", V5, publish(1, alias=3)),
        ("5.0   PUBLISH QoS 1, two user properties", V5, publish(1, USER)),
        ("5.0   PUBACK", V5, PubAck(7)),
        ("5.0   PUBACK, reason code", V5, PubAck(7, 0x10)),
        ("5.0   PUBREL", V5, PubRel(7)),
        ("5.0   PINGREQ", V5, PingReq()),
        ("5.0   SUBSCRIBE, one filter", V5, Subscribe(1, [("a/+/c", SubscriptionOptions(1))])),
    ]
    for name, version, packet in streams:
        wire = encode(packet, version)
        us = received_us(version, wire)
        late = us > TARGET_RECEIVE_US and isinstance(packet, Publish) and not packet.properties
        late = late and packet.qos < 2 and not packet.topic_alias
        print(f"  {name:<44} {us:7.3f}{f'  above {TARGET_RECEIVE_US}' if late else ''}")
    for name, version, packet in streams[:5:4]:
        alone_us = received_us(version, encode(packet, version), 1)
        print(f"  {name + ', alone in its chunk':<44} {alone_us:7.3f}")


def report_decode() -> None:
    """Print what ``decode_packet`` spends on single packets."""
    print("decode_packet, us per packet")
    packets: list[tuple[str, ProtocolVersion, Packet]] = [
        ("3.1.1 PUBLISH QoS 1", V311, publish(1)),
        ("5.0   PUBLISH QoS 1", V5, publish(1)),
        ("5.0   PUBLISH QoS 1, two user properties", V5, publish(1, USER)),
        ("3.1.1 CONNECT", V311, Connect("c", V311)),
        ("5.0   CONNECT, will, user name, properties", V5, CONNECT),
        ("5.0   CONNACK", V5, ConnAck()),
        ("5.0   PUBACK", V5, PubAck(7)),
        ("5.0   SUBACK", V5, SubAck(7, [0, 1, 2])),
    ]
    for name, version, packet in packets:
        wire = encode(packet, version)
        at = 1
        while wire[at] & 0x80:
            at += 1
        first_byte, body = wire[0], wire[at + 1 :]
        us = best_us(lambda f=first_byte, b=body, v=version: decode_packet(f, b, v), 1)  # type: ignore[misc]  # defaults bind now
        print(f"  {name:<44} {us:7.3f}")


CONNECT = Connect(
    "client-1",
    username="user",
    password=b"secret",
    will=Will("gone/client-1", b"x", 1),
    properties=Properties(session_expiry_interval=3600, receive_maximum=100),
)


def report_encode() -> None:
    """Print what the encoders spend."""
    print("encode, us per packet")
    plain, user = publish(), publish(0, USER)
    cases: list[tuple[str, Callable[[], bytes]]] = [
        ("3.1.1 PUBLISH QoS 0", lambda: encode_publish(plain, 4, 0, False, False, 0)),
        ("3.1.1 PUBLISH QoS 1", lambda: encode_publish(plain, 4, 1, False, False, 7)),
        ("5.0   PUBLISH QoS 0", lambda: encode_publish(plain, 5, 0, False, False, 0)),
        ("5.0   PUBLISH QoS 1", lambda: encode_publish(plain, 5, 1, False, False, 7)),
        ("5.0   PUBLISH QoS 1, user properties", lambda: encode_publish(user, 5, 1, False, False, 7)),  # noqa: E501
        ("5.0   PUBLISH QoS 1, identifier and expiry", lambda: encode_publish(plain, 5, 1, False, False, 7, (3,), 60)),  # noqa: E501
        ("5.0   PUBLISH QoS 0, topic alias", lambda: encode_publish(plain, 5, 0, False, False, 0, (), None, 3, "")),  # noqa: E501
        ("      PUBACK, encode_ack", lambda: encode_ack(0x40, 7, 0, 5)),
        ("5.0   CONNACK", lambda: encode(ConnAck(), V5)),
        ("5.0   CONNECT, will, user name, properties", lambda: encode(CONNECT, V5)),
        ("5.0   SUBACK", lambda: encode(SubAck(7, [0, 1, 2]), V5)),
    ]  # fmt: skip
    for name, work in cases:
        print(f"  {name:<44} {best_us(work, 1):7.3f}")


if __name__ == "__main__":
    report_receive()
    report_decode()
    report_encode()
