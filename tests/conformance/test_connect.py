"""CONNECT and CONNACK: what is accepted, what is refused and how (chapters 3.1 and 3.2)."""

from __future__ import annotations

import string
import time

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V5, V311, Will
from support.peers import Peers, both_transports, both_versions
from support.raw_client import DEADLINE_S, RawClient

statement = pytest.mark.statement


@both_transports
@both_versions
@statement("MQTT-3.1.4-5", "MQTT-3.2.0-1", "MQTT-3.2.2-1", "MQTT-4.2.0-1")
@statement("MQTT311-3.1.4-4", "MQTT311-3.2.0-1", "MQTT311-7.1.1-1", "MQTT311-7.0.0-2")
async def test_valid_connect_is_answered_with_connack_0(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version)
    assert client.connack is not None
    assert client.connack.reason == 0
    await client.expect_nothing()


@both_versions
@pytest.mark.parametrize(
    "first",
    [
        mqtt_bytes.PINGREQ,
        mqtt_bytes.publish("t", b"x", version=V311),
        mqtt_bytes.subscribe(1, ["t"], version=V311),
        mqtt_bytes.disconnect(),
        mqtt_bytes.acknowledge("PUBACK", 1),
        mqtt_bytes.auth(0x18, [("auth_method", "m")]),
    ],
    ids=["PINGREQ", "PUBLISH", "SUBSCRIBE", "DISCONNECT", "PUBACK", "AUTH"],
)
@statement("MQTT-3.1.0-1", "MQTT-3.14.0-1", "MQTT-3.2.0-1", "MQTT311-3.1.0-1", "MQTT311-3.2.0-1")
async def test_anything_before_connect_closes_without_an_answer(
    peers: Peers, version: int, first: bytes
) -> None:
    client = await peers.open(version)
    await client.send(first)
    assert await client.receive_or_end() is None


@both_transports
@both_versions
@statement("MQTT-3.1.0-2", "MQTT-3.2.0-2", "MQTT311-3.1.0-2", "MQTT311-4.8.0-1")
async def test_second_connect_is_a_protocol_error(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version)
    await client.send(mqtt_bytes.connect(peers.client_id(), version=version))
    await client.expect_closed(reasons=[0x82])


async def _refusal(client: RawClient) -> bytes:
    """Everything up to the end: a client of no known version cannot be told anything in detail."""
    deadline = time.monotonic() + DEADLINE_S
    while not client.pipe.ended:
        await client.pipe.wait(deadline)
    return bytes(client.pipe.buffer)


@pytest.mark.parametrize("name", ["MQTX", "mqtt", "", "MQTTS", "HTTP"])
@both_versions
@statement("MQTT-3.1.2-1", "MQTT311-3.1.2-1")
async def test_wrong_protocol_name_is_refused(peers: Peers, version: int, name: str) -> None:
    client = await peers.open(version)
    await client.send(mqtt_bytes.connect("c", version=version, protocol_name=name))
    answer = await _refusal(client)
    assert not answer or (answer[0], answer[2], answer[3]) in {(0x20, 0, 0x84), (0x20, 0, 1)}


@pytest.mark.parametrize("level", [0, 2, 6, 7, 255])
@statement("MQTT-3.1.2-2", "MQTT311-3.1.2-2")
async def test_unknown_protocol_level_is_refused_with_that_reason(peers: Peers, level: int) -> None:
    client = await peers.open(V311)
    body = mqtt_bytes.string("MQTT") + bytes([level, 2, 0, 0]) + mqtt_bytes.string("c")
    await client.send(mqtt_bytes.packet(0x10, body))
    answer = await _refusal(client)
    assert (answer[0], answer[2], answer[3]) in {(0x20, 0, 0x84), (0x20, 0, 1)}


@both_versions
@statement("MQTT-3.1.2-3", "MQTT-3.1.4-1", "MQTT311-3.1.2-3", "MQTT311-3.1.4-1")
async def test_reserved_connect_flag_is_refused(peers: Peers, version: int) -> None:
    client = await peers.open(version)
    await client.send(mqtt_bytes.connect("c", version=version, flags=3))
    refusal = await client.expect_refused(reasons=[0x81] if version == V5 else None)
    assert version == V5 or refusal is None


def _connect_body(version: int, flags: int, *fields: bytes) -> bytes:
    properties = b"\0" if version == V5 else b""
    head = mqtt_bytes.string("MQTT") + bytes([version, flags, 0, 0]) + properties
    return mqtt_bytes.packet(0x10, head, *fields)


_ID = mqtt_bytes.string("c")
_FIELD = mqtt_bytes.string("f")
_BAD = mqtt_bytes.string(b"\xc3\x28")
_NUL = mqtt_bytes.string(b"a\0b")


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        pytest.param(
            2,
            [],
            id="no client identifier",
            marks=statement("MQTT-3.1.3-3", "MQTT311-3.1.3-3"),
        ),
        pytest.param(
            2,
            [_BAD],
            id="client identifier not UTF-8",
            marks=statement("MQTT-3.1.3-4", "MQTT-1.5.4-1", "MQTT311-3.1.3-4", "MQTT311-1.5.3-1"),
        ),
        pytest.param(
            2,
            [_NUL],
            id="client identifier with U+0000",
            marks=statement("MQTT-1.5.4-2", "MQTT311-1.5.3-2"),
        ),
        pytest.param(
            2 | 4,
            [_ID],
            id="will flag without will",
            marks=statement("MQTT-3.1.2-9", "MQTT311-3.1.2-9"),
        ),
        pytest.param(
            2 | 8,
            [_ID],
            id="will QoS without will flag",
            marks=statement("MQTT-3.1.2-11", "MQTT311-3.1.2-11", "MQTT311-3.1.2-13"),
        ),
        pytest.param(
            2 | 32,
            [_ID],
            id="will retain without will flag",
            marks=statement("MQTT-3.1.2-13", "MQTT311-3.1.2-11", "MQTT311-3.1.2-15"),
        ),
        pytest.param(
            2,
            [_ID, _FIELD, _FIELD],
            id="will without will flag",
            marks=statement("MQTT311-3.1.2-11"),
        ),
        pytest.param(
            2,
            [_ID, _FIELD],
            id="user name without its flag",
            marks=statement("MQTT-3.1.2-16", "MQTT311-3.1.2-18"),
        ),
        pytest.param(
            2 | 128,
            [_ID],
            id="user name missing",
            marks=statement("MQTT-3.1.2-17", "MQTT311-3.1.2-19"),
        ),
        pytest.param(
            2 | 128,
            [_ID, _FIELD, _FIELD],
            id="password without its flag",
            marks=statement("MQTT-3.1.2-18", "MQTT311-3.1.2-20"),
        ),
        pytest.param(
            2 | 128 | 64,
            [_ID, _FIELD],
            id="password missing",
            marks=statement("MQTT-3.1.2-19", "MQTT311-3.1.2-21"),
        ),
        pytest.param(
            2 | 128,
            [_ID, _BAD],
            id="user name not UTF-8",
            marks=statement("MQTT-3.1.3-12", "MQTT311-3.1.3-11"),
        ),
    ],
)
@statement("MQTT-3.1.4-1", "MQTT-3.1.3-1", "MQTT311-3.1.4-1", "MQTT311-3.1.3-1")
@statement("MQTT311-3.2.2-6")
async def test_connect_that_does_not_match_its_flags_is_refused(
    peers: Peers, version: int, flags: int, fields: list[bytes]
) -> None:
    client = await peers.open(version)
    await client.send(_connect_body(version, flags, *fields))
    refusal = await client.expect_refused(reasons=[0x81, 0x82, 0x85] if version == V5 else None)
    if version == V311:
        assert refusal is None, "3.1.1 closes without CONNACK"


@both_versions
@pytest.mark.parametrize(
    "topic",
    [
        pytest.param(b"\xff\xfe", marks=statement("MQTT-3.1.3-11", "MQTT311-3.1.3-10")),
        pytest.param(b"will/#", marks=statement("MQTT-4.7.0-1", "MQTT311-4.7.1-1")),
        pytest.param(b"", marks=statement("MQTT-4.7.3-1", "MQTT311-4.7.3-1")),
    ],
    ids=["not UTF-8", "wildcard", "empty"],
)
async def test_bad_will_topic_is_refused(peers: Peers, version: int, topic: bytes) -> None:
    client = await peers.open(version)
    await client.send(mqtt_bytes.connect("c", version=version, will=Will(topic)))
    await client.expect_refused(reasons=[0x81, 0x82, 0x90] if version == V5 else None)


@both_versions
@statement("MQTT-3.1.2-12", "MQTT311-3.1.2-14")
async def test_will_qos_3_is_refused(peers: Peers, version: int) -> None:
    client = await peers.open(version)
    await client.send(mqtt_bytes.connect("c", version=version, will=Will("t", qos=3)))
    await client.expect_refused(reasons=[0x81] if version == V5 else None)


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@statement("MQTT-3.1.2-12", "MQTT311-3.1.2-14")
async def test_will_qos_0_1_and_2_are_accepted(peers: Peers, version: int, qos: int) -> None:
    client = await peers.connect(version=version, will=Will(peers.topic(), qos=qos))
    await client.expect_nothing()


@statement("MQTT311-3.1.2-22")
async def test_password_without_user_name_is_refused_in_311(peers: Peers) -> None:
    client = await peers.open(V311)
    await client.send(mqtt_bytes.connect("c", version=V311, password=b"secret"))
    assert await client.receive_or_end() is None


@both_versions
@pytest.mark.parametrize("length", [1, 23])
@statement("MQTT-3.1.3-5", "MQTT311-3.1.3-5")
async def test_client_identifiers_of_1_to_23_letters_and_digits_are_accepted(
    peers: Peers, version: int, length: int
) -> None:
    letters = string.digits + string.ascii_letters
    for start in range(0, len(letters), length if length > 1 else 31):
        client = await peers.open(version)
        await client.connect((letters[start : start + length] + letters)[:length])
        client.close()


@statement("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16")
async def test_empty_client_identifier_gets_a_new_one_each_time(peers: Peers) -> None:
    first, second = await peers.open(), await peers.open()
    names = {
        str((await client.connect("")).get("assigned_client_id")) for client in (first, second)
    }
    assert len(names) == 2
    assert all(names)


@statement("MQTT-3.1.3-7")
async def test_session_is_resumed_with_the_assigned_client_identifier(peers: Peers) -> None:
    first = await peers.open()
    connack = await first.connect("", clean=False, props=[("session_expiry", 60)])
    name = connack.get("assigned_client_id")
    assert isinstance(name, str)
    await first.disconnect()
    second = await peers.open()
    assert (await second.connect(name, clean=False)).session_present


@statement("MQTT311-3.1.3-6", "MQTT311-3.1.3-7")
async def test_empty_client_identifier_with_clean_session_is_served_in_311(peers: Peers) -> None:
    client = await peers.open(V311)
    await client.connect("")
    await client.subscribe(peers.topic())
    await client.publish(peers.topic(), b"own")
    await client.expect("PUBLISH", payload=b"own")


@statement("MQTT311-3.1.3-8", "MQTT311-3.1.3-9", "MQTT311-3.2.2-5", "MQTT311-3.2.2-4")
@statement("MQTT311-3.1.3-7")
async def test_empty_client_identifier_with_a_session_is_rejected_in_311(peers: Peers) -> None:
    client = await peers.open(V311)
    await client.send(mqtt_bytes.connect("", version=V311, clean=False))
    await client.expect_refused(reasons=[2])


@both_versions
@statement("MQTT-3.1.4-6", "MQTT311-3.1.4-5")
async def test_nothing_after_a_refused_connect_is_processed(peers: Peers, version: int) -> None:
    subscriber = await peers.subscriber(peers.topic("#"), version=version)
    client = await peers.open(version)
    await client.send(
        mqtt_bytes.connect("c", version=version, flags=3)
        + mqtt_bytes.publish(peers.topic("smuggled"), b"x", version=version)
    )
    await client.expect_refused()
    publisher = await peers.connect("publisher", version)
    await peers.assert_nothing_delivered(publisher, subscriber, qos=0)


@both_transports
@statement("MQTT-3.1.4-3", "MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.4-1", "MQTT-3.14.4-2")
async def test_takeover_disconnects_the_older_connection_with_0x8e(peers: Peers) -> None:
    first = await peers.connect("same")
    second = await peers.connect("same")
    await first.expect_closed(reasons=[0x8E])
    await second.expect_nothing()


@statement("MQTT311-3.1.4-2")
async def test_takeover_closes_the_older_connection_in_311(peers: Peers) -> None:
    first = await peers.connect("same", V311)
    second = await peers.connect("same", V311)
    assert await first.expect_closed() is None
    await second.expect_nothing()


@statement("MQTT-4.12.0-4", "MQTT-3.1.4-2")
@statement("MQTT-4.12.0-1", "MQTT-3.2.2-7", "MQTT-3.2.2-6", "MQTT-3.2.2-8", "MQTT-4.13.2-1")
async def test_unknown_authentication_method_is_refused_with_0x8c(peers: Peers) -> None:
    client = await peers.open()
    props: list[mqtt_bytes.Property] = [("auth_method", "no-such-method"), ("auth_data", b"x")]
    await client.send(mqtt_bytes.connect(peers.client_id(), props=props))
    await client.expect_refused(reasons=[0x8C])


@statement("MQTT-4.12.0-6")
async def test_without_an_authentication_method_there_is_none_in_connack(peers: Peers) -> None:
    client = await peers.connect()
    assert client.connack is not None
    assert client.connack.get("auth_method") is None
    assert client.connack.get("auth_data") is None


@statement("MQTT-4.12.0-7")
async def test_auth_without_a_method_is_a_protocol_error(peers: Peers) -> None:
    client = await peers.connect()
    await client.send(mqtt_bytes.auth(0x19, [("auth_method", "m")]))
    await client.expect_closed(reasons=[0x82])


@pytest.mark.parametrize(
    "props",
    [
        [("receive_maximum", 0)],
        [("maximum_packet_size", 0)],
        [("request_problem", 2)],
        [("request_response", 2)],
        [("auth_data", b"without a method")],
        [("session_expiry", 1), ("session_expiry", 2)],
        [("receive_maximum", 1), ("receive_maximum", 1)],
    ],
    ids=lambda props: props[-1][0],
)
@statement("MQTT-3.1.4-1", "MQTT-4.13.1-1")
async def test_impossible_connect_property_is_a_protocol_error(
    peers: Peers, props: list[mqtt_bytes.Property]
) -> None:
    client = await peers.open()
    await client.send(mqtt_bytes.connect(peers.client_id(), props=props))
    await client.expect_refused(reasons=[0x82])


@pytest.mark.parametrize(
    "props",
    [b"\x7f\x01", b"\x11\x00", b"\x02\x00\x00\x00\x01", b"\x26\x00\x01a\x00\x02\xc3\x28"],
    ids=["unknown property", "cut short", "of another packet", "user property not UTF-8"],
)
@statement("MQTT-3.1.4-1", "MQTT-1.5.7-1")
async def test_malformed_connect_property_is_refused(peers: Peers, props: bytes) -> None:
    client = await peers.open()
    await client.send(mqtt_bytes.connect(peers.client_id(), props=props))
    await client.expect_refused(reasons=[0x81, 0x82])


async def test_limits_are_announced_in_connack(peers: Peers, is_tidegate: bool) -> None:
    if not is_tidegate:
        pytest.skip("our own limits")
    client = await peers.connect(keep_alive=30, props=[("session_expiry", 100)])
    assert client.connack is not None
    assert dict(client.connack.properties) == {
        "receive_maximum": 100,
        "maximum_packet_size": 1_048_576,
        "topic_alias_maximum": 10,
    }


async def test_session_expiry_above_the_cap_is_announced_lower(
    peers: Peers, is_tidegate: bool
) -> None:
    if not is_tidegate:
        pytest.skip("our own limits")
    client = await peers.connect(props=[("session_expiry", 0xFFFFFFFF)])
    assert client.connack is not None
    assert client.connack.get("session_expiry") == 604_800


@pytest.mark.parametrize("request_response", [None, 0, 1])
@statement("MQTT-3.1.2-28")
async def test_response_information_comes_only_when_asked_for(
    peers: Peers, request_response: int | None
) -> None:
    props = [] if request_response is None else [("request_response", request_response)]
    client = await peers.connect(props=props)
    assert client.connack is not None
    if not request_response:
        assert client.connack.get("response_information") is None


@statement("MQTT-3.2.2-19", "MQTT-3.2.2-20")
async def test_connack_fits_the_clients_maximum_packet_size(peers: Peers) -> None:
    client = await peers.connect(props=[("maximum_packet_size", 25)])
    assert client.connack is not None
    assert len(client.connack.raw) <= 25
