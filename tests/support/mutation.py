"""Mutated packets: valid ones with bytes changed, cut, repeated and lengths that lie."""

from __future__ import annotations

import random
from typing import Final

from support import mqtt_bytes
from support.mqtt_bytes import V5, V311, Will, acknowledge, packet

_INTERESTING: Final = b"\x00\x01\x02\x7f\x80\xff\xc0\x30\x82\xef"
_MOST_BYTES: Final = 4096


def connects(client_id: str) -> list[bytes]:
    """CONNECT packets to start from, of all versions."""
    will = Will(
        "will/topic", b"gone", 1, retain=True, props=[("will_delay", 1), ("user", ("a", "b"))]
    )
    plain = Will("will/topic", b"gone", 2)
    return [
        mqtt_bytes.connect(client_id),
        mqtt_bytes.connect(client_id, version=V311, keep_alive=60, will=plain),
        mqtt_bytes.connect(client_id, version=mqtt_bytes.V31, username="u", password=b"p"),
        mqtt_bytes.connect(
            client_id,
            keep_alive=10,
            will=will,
            username="user",
            password=b"secret",
            props=[
                ("session_expiry", 1),
                ("receive_maximum", 10),
                ("maximum_packet_size", 1000),
                ("topic_alias_maximum", 5),
                ("request_response", 1),
                ("user", ("k", "v")),
            ],
        ),
    ]


def packets(version: int) -> list[bytes]:
    """Packets of a connected client to start from."""
    found = [
        mqtt_bytes.publish("a/b", b"payload", version=version),
        mqtt_bytes.publish("a/b", b"payload", qos=1, packet_id=10, version=version),
        mqtt_bytes.publish("a/b", b"payload", qos=2, packet_id=11, retain=True, version=version),
        mqtt_bytes.subscribe(1, [("a/+", 1), ("b/#", 2), ("$share/g/c", 0)], version=version),
        mqtt_bytes.unsubscribe(2, ["a/+", "b/#"], version=version),
        acknowledge("PUBACK", 1),
        acknowledge("PUBREC", 1),
        acknowledge("PUBREL", 11),
        acknowledge("PUBCOMP", 1),
        mqtt_bytes.PINGREQ,
        mqtt_bytes.disconnect(),
    ]
    if version == V5:
        found += [
            mqtt_bytes.publish(
                "a/b",
                b"text",
                props=[
                    ("payload_format", 1),
                    ("message_expiry", 5),
                    ("content_type", "text/plain"),
                    ("response_topic", "r"),
                    ("correlation", b"\1\2"),
                    ("topic_alias", 1),
                    ("user", ("a", "b")),
                ],
            ),
            mqtt_bytes.subscribe(3, [("a/b", 0x2D)], props=[("subscription_identifier", 300)]),
            acknowledge("PUBACK", 1, reason=0x10, props=[("reason_string", "none")]),
            mqtt_bytes.auth(0x18, [("auth_method", "m"), ("auth_data", b"d")]),
            mqtt_bytes.disconnect(4, [("session_expiry", 0), ("user", ("a", "b"))]),
        ]
    return found


def mutate(rng: random.Random, raw: bytes) -> bytes:
    """Change a packet in one to four places; often mend its length, so that the rest is read."""
    body = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(7):
            case 0 if at < len(body):
                body[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(body):
                body[at] = rng.choice(_INTERESTING)
            case 2:
                body[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del body[at : at + rng.randint(1, 8)]
            case 4:
                body[at:at] = body[at : at + rng.randint(1, 16)]
            case 5:
                body[at:] = b""
            case _:
                body[at : at + 2] = rng.choice([b"\0\0", b"\xff\xff", b"\0\1", b"\x7f\xff"])
        if not body:
            body = bytearray([rng.randrange(256)])
    del body[_MOST_BYTES:]
    if rng.random() < 0.7:
        return _with_true_length(body)
    return bytes(body)


def _with_true_length(body: bytearray) -> bytes:
    """Put a remaining length in front that is what follows it."""
    end = 1
    while end < len(body) and end < 5 and body[end] & 0x80:
        end += 1
    return packet(body[0], bytes(body[end + 1 :]))
