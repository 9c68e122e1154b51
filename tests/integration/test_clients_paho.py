"""paho-mqtt against the broker over every transport and in every protocol version.

Input: the client's own calls. Output: what its callbacks saw. What the broker keeps across a crash
is in test_clients_after_a_crash.py.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from support.broker import Server
from support.certificates import Certificates
from support.paho_client import V5, V31, V311, PahoClient, properties
from support.waiting import wait_for

TRANSPORTS = [
    "tcp",
    "tls",
    "ws",
    "wss",
    "unix",
    "auto-tcp",
    "auto-tls",
    "auto-ws",
    "auto-wss",
]
VERSIONS = [pytest.param(V31, id="3.1"), pytest.param(V311, id="3.1.1"), pytest.param(V5, id="5.0")]


def unique(name: str) -> str:
    """Return a client identifier or topic that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_message_of_every_qos_comes_back(
    broker: Server, certificates: Certificates, transport: str, version: Any
) -> None:
    if not broker.has(transport.partition("-")[0]):
        pytest.skip(f"{broker.product} has no such listener")
    topic = unique("round")
    with PahoClient(
        broker,
        unique("trip"),
        protocol=version,
        transport=transport,
        authority=certificates.authority,
    ) as client:
        assert client.reason == 0
        assert client.subscribe(topic, 2) == [2]
        for qos in range(3):
            client.publish(topic, b"%d" % qos, qos)
        got = client.expect(3)
        assert [(m.payload, m.qos, m.retain) for m in got] == [
            (b"0", 0, False),
            (b"1", 1, False),
            (b"2", 2, False),
        ]
        assert client.unsubscribe(topic) == ([0] if version == V5 else [])


@pytest.mark.parametrize("transport", ["tcp", "ws", "wss"])
def test_a_payload_of_half_a_mebibyte_comes_back_whole(
    broker: Server, certificates: Certificates, transport: str
) -> None:
    topic = unique("large")
    payload = bytes(range(256)) * 2048
    with PahoClient(
        broker, unique("large"), transport=transport, authority=certificates.authority
    ) as client:
        client.subscribe(topic, 1)
        client.publish(topic, payload, 1)
        assert client.payloads(1) == [payload]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_retained_message_greets_a_new_subscriber(broker: Server, version: Any, qos: int) -> None:
    topic = unique("retained")
    with PahoClient(broker, unique("writer"), protocol=version) as writer:
        writer.publish(topic, b"old", qos, retain=True)
        writer.publish(topic, b"kept", qos, retain=True)
        # The exchange of a QoS 1 message on the same connection orders the QoS 0 ones before it.
        writer.publish(unique("after"), b"", 1)
        with PahoClient(broker, unique("reader"), protocol=version) as reader:
            reader.subscribe(topic, 2)
            (message,) = reader.expect(1)
            assert (message.payload, message.qos, message.retain) == (b"kept", qos, True)
            writer.publish(topic, b"live", qos, retain=True)
            assert not reader.expect(2)[1].retain


@pytest.mark.parametrize("version", VERSIONS)
def test_a_will_is_published_when_the_connection_breaks_and_not_after_disconnect(
    broker: Server, version: Any
) -> None:
    topic = unique("will")
    will = {"topic": topic, "payload": b"gone", "qos": 1, "retain": True}
    with PahoClient(broker, unique("watcher"), protocol=version) as watcher:
        watcher.subscribe(topic, 1)
        polite = PahoClient(broker, unique("polite"), protocol=version, will=will)
        polite.disconnect()
        broken = PahoClient(
            broker, unique("broken"), protocol=version, will=will | {"payload": b"broke"}
        )
        broken.drop()
        assert watcher.payloads(1) == [b"broke"]
    with PahoClient(broker, unique("later"), protocol=version) as later:
        later.subscribe(topic, 1)
        assert later.expect(1)[0].retain


def test_a_delayed_will_waits_and_is_dropped_when_its_client_returns(broker: Server) -> None:
    topic, name = unique("will"), unique("late")
    will = {
        "topic": topic,
        "payload": b"late",
        "qos": 1,
        "properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=1),
    }
    with PahoClient(broker, unique("watcher"), protocol=V5) as watcher:
        watcher.subscribe(topic, 1)
        first = PahoClient(broker, name, protocol=V5, session_expiry_s=60, will=will)
        first.drop()
        second = PahoClient(broker, name, protocol=V5, clean=False, session_expiry_s=60, will=will)
        assert second.flags.session_present
        second.drop()
        assert watcher.payloads(1) == [b"late"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_offline_session_gets_its_queue_in_order(broker: Server, version: Any) -> None:
    topic, name = unique("queue"), unique("sleeper")
    options: dict[str, Any] = {"protocol": version, "session_expiry_s": 60}
    asleep = PahoClient(broker, name, clean=version == V5, **options)
    assert not asleep.flags.session_present
    asleep.subscribe(topic, 2)
    asleep.disconnect()
    with PahoClient(broker, unique("writer"), protocol=version) as writer:
        for number in range(30):
            writer.publish(topic, b"%d" % number, 1 + number % 2)
    with PahoClient(broker, name, clean=False, **options) as awake:
        # MQTT 3.1 has no session present flag.
        assert awake.flags.session_present or version == V31
        got = awake.expect(30)
        for qos in (1, 2):
            numbers = [int(m.payload) for m in got if m.qos == qos]
            assert numbers == [n for n in range(30) if 1 + n % 2 == qos]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_clean_start_forgets_the_session(broker: Server, version: Any) -> None:
    topic, name = unique("forget"), unique("forgetful")
    options: dict[str, Any] = {"protocol": version, "session_expiry_s": 60}
    first = PahoClient(broker, name, clean=False, **options)
    first.subscribe(topic, 1)
    first.disconnect()
    PahoClient(broker, name, protocol=version, clean=True).disconnect()
    with PahoClient(broker, unique("writer"), protocol=version) as writer:
        writer.publish(topic, b"for nobody", 1)
    with PahoClient(broker, name, clean=False, **options) as again:
        assert not again.flags.session_present
        again.subscribe(topic, 1)
        again.publish(topic, b"new", 1)
        assert again.payloads(1) == [b"new"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_second_connection_with_the_same_identifier_ends_the_first(
    broker: Server, version: Any
) -> None:
    name = unique("twice")
    first = PahoClient(broker, name, protocol=version)
    with PahoClient(broker, name, protocol=version):
        wait_for(lambda: first.disconnected is not None, 10, "the first connection ends")
        if version == V5:
            assert first.disconnected.value == 0x8E
    first.close()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_shared_subscription_gives_each_message_to_one_member(broker: Server, qos: int) -> None:
    topic, group = unique("shared"), unique("group")
    members = [PahoClient(broker, unique("member"), protocol=V5) for _ in range(3)]
    with PahoClient(broker, unique("outsider"), protocol=V5) as outsider:
        outsider.subscribe(topic, qos)
        for member in members:
            assert member.subscribe(f"$share/{group}/{topic}", qos) == [qos]
        for number in range(30):
            outsider.publish(topic, b"%d" % number, qos)
        outsider.expect(30)
        wait_for(
            lambda: sum(len(member.messages) for member in members) >= 30, 10, "30 shared messages"
        )
        shared = [int(m.payload) for member in members for m in member.messages]
        assert sorted(shared) == list(range(30))
        assert all(member.messages for member in members)
    for member in members:
        member.close()


def test_user_properties_and_the_request_response_properties_arrive_as_sent(
    broker: Server,
) -> None:
    topic = unique("properties")
    sent: Properties = properties(
        PacketTypes.PUBLISH,
        PayloadFormatIndicator=1,
        ContentType="text/plain",
        ResponseTopic="answers/here",
        CorrelationData=b"\x00\x01correlation",
        UserProperty=[("b", "1"), ("a", "2"), ("b", "3"), ("a", "2"), ("", "")],
    )
    with PahoClient(broker, unique("echo"), protocol=V5) as client:
        client.subscribe(topic, 1, options=None)
        client.publish(topic, b"text", 1, properties=sent)
        (message,) = client.expect(1)
        got = message.properties
        assert got is not None
        assert got.UserProperty == sent.UserProperty  # type: ignore[attr-defined]
        assert got.PayloadFormatIndicator == 1  # type: ignore[attr-defined]
        assert got.ContentType == "text/plain"  # type: ignore[attr-defined]
        assert got.ResponseTopic == "answers/here"  # type: ignore[attr-defined]
        assert got.CorrelationData == b"\x00\x01correlation"  # type: ignore[attr-defined]


def test_subscription_options_are_obeyed(broker: Server) -> None:
    topic = unique("options")
    with (
        PahoClient(broker, unique("self"), protocol=V5) as own,
        PahoClient(broker, unique("plain"), protocol=V5) as plain,
    ):
        own.publish(topic, b"before", 1, retain=True)
        own.subscribe(
            topic,
            options=SubscribeOptions(
                qos=1,
                noLocal=True,
                retainAsPublished=True,
                retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND,
            ),
        )
        plain.subscribe(topic, 1)
        assert plain.payloads(1) == [b"before"]
        own.publish(topic, b"mine", 1)
        plain.publish(topic, b"theirs", 1, retain=True)
        (message,) = own.expect(1)
        assert (message.payload, message.retain) == (b"theirs", True)


@pytest.mark.parametrize("version", VERSIONS)
def test_wildcards_reach_what_they_should_and_not_dollar_topics(
    broker: Server, version: Any
) -> None:
    base = unique("wild")
    with PahoClient(broker, unique("wild"), protocol=version) as client:
        client.subscribe(f"{base}/+/leaf", 0)
        client.subscribe(f"{base}/deep/#", 0)
        for topic in ("a/leaf", "a/b/leaf", "deep", "deep/1/2", "other"):
            client.publish(f"{base}/{topic}", topic.encode(), 0)
        client.subscribe(f"{base}-end", 0)
        client.publish(f"{base}-end", b"end", 0)
        assert client.payloads(4) == [b"a/leaf", b"deep", b"deep/1/2", b"end"]


@pytest.mark.parametrize("version", VERSIONS)
def test_two_hundred_messages_each_way_keep_their_order(broker: Server, version: Any) -> None:
    topic = unique("burst")
    with (
        PahoClient(broker, unique("in"), protocol=version) as reader,
        PahoClient(broker, unique("out"), protocol=version) as writer,
    ):
        reader.subscribe(topic, 2)
        waiting = [writer.paho.publish(topic, b"%d" % n, n % 3) for n in range(200)]
        for message in waiting:
            message.wait_for_publish(20)
        got = reader.expect(200, 20)
        for qos in range(3):
            assert [int(m.payload) for m in got if m.qos == qos] == list(range(qos, 200, 3))
