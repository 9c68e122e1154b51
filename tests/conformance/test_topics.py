"""Topic names and filters: wildcards, levels, $-topics (chapter 4.7)."""

from __future__ import annotations

import pytest

from support import mqtt_bytes
from support.mqtt_bytes import V5
from support.peers import Peers, both_versions
from support.raw_client import RawClient

statement = pytest.mark.statement

#: filter, names that match, names that do not; all below the test's own first level
MATCHES = [
    ("sport/tennis/#", ["sport/tennis", "sport/tennis/", "sport/tennis/a/b"], ["sport", "sport/x"]),
    ("sport/+", ["sport/", "sport/a"], ["sport", "sport/a/b", "sport/a/"]),
    ("+/+", ["/", "a/b", "/b"], ["a", "a/b/c"]),
    ("+", ["a", ""], ["a/b", "/"]),
    ("a//b", ["a//b"], ["a/b", "a/x/b"]),
    ("a/+/b", ["a//b", "a/x/b"], ["a/b", "a/x/y/b"]),
    ("+/b/#", ["a/b", "a/b/c", "/b"], ["b", "a/c/b"]),
    ("/", ["/"], ["", "//"]),
    ("a b/É", ["a b/É"], ["a b/é", "a  b/É"]),
    ("$SYS/#", ["$SYS/a"], ["a"]),
]


@both_versions
@pytest.mark.parametrize(("topic_filter", "matching", "other"), MATCHES, ids=lambda v: str(v)[:20])
@statement("MQTT-3.3.2-3", "MQTT-4.7.3-4", "MQTT311-3.3.2-3", "MQTT311-4.7.3-4")
@statement("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT311-4.7.1-2", "MQTT311-4.7.1-3")
async def test_filter_matches_level_by_level(
    peers: Peers,
    version: int,
    publisher: RawClient,
    topic_filter: str,
    matching: list[str],
    other: list[str],
) -> None:
    subscriber = await peers.subscriber((peers.topic(topic_filter), 1), version=version)
    for name in other:
        await publisher.deliver(peers.topic(name), name.encode())
    for name in matching:
        await publisher.deliver(peers.topic(name), name.encode())
        received = await subscriber.expect("PUBLISH", topic=peers.topic(name))
        await subscriber.acknowledge(received)


@both_versions
@pytest.mark.parametrize("topic_filter", ["#", "+/{}", "+/#"])
@statement("MQTT-4.7.2-1", "MQTT311-4.7.2-1")
async def test_wildcard_at_the_start_does_not_match_dollar_topics(
    peers: Peers, version: int, publisher: RawClient, topic_filter: str
) -> None:
    wild = await peers.connect("wild", version)
    await wild.subscribe((topic_filter.format(peers.prefix), 0))
    exact = await peers.subscriber(f"$other/{peers.prefix}", version=version, name="exact")
    await publisher.publish(f"$other/{peers.prefix}", b"hidden")
    await exact.expect("PUBLISH", payload=b"hidden")
    await publisher.publish(f"{peers.prefix}/{peers.prefix}", b"seen")
    await publisher.publish(f"x/{peers.prefix}", b"seen")
    while (received := await wild.expect("PUBLISH")).payload != b"seen":
        assert not received.topic.startswith("$"), received


@both_versions
@pytest.mark.parametrize(
    "topic_filter",
    [
        pytest.param("a#", marks=statement("MQTT-4.7.1-1", "MQTT311-4.7.1-2")),
        pytest.param("a/#/b", marks=statement("MQTT-4.7.1-1", "MQTT311-4.7.1-2")),
        pytest.param("#/a", marks=statement("MQTT-4.7.1-1", "MQTT311-4.7.1-2")),
        pytest.param("a/b+", marks=statement("MQTT-4.7.1-2", "MQTT311-4.7.1-3")),
        pytest.param("+a/b", marks=statement("MQTT-4.7.1-2", "MQTT311-4.7.1-3")),
        pytest.param("##", marks=statement("MQTT-4.7.1-1", "MQTT311-4.7.1-2")),
        pytest.param("", marks=statement("MQTT-4.7.3-1", "MQTT311-4.7.3-1")),
    ],
)
async def test_invalid_filter_is_refused(peers: Peers, version: int, topic_filter: str) -> None:
    client = await peers.connect(version=version)
    await client.send(mqtt_bytes.subscribe(1, [topic_filter], version=version))
    answer = await client.receive_or_end()
    if answer is not None and answer.kind == "SUBACK":
        assert answer.codes == ([0x8F] if version == V5 else [0x80])
    elif answer is not None:
        assert answer.kind == "DISCONNECT"
        assert answer.reason in {0x81, 0x82, 0x8F}


@both_versions
async def test_invalid_filter_of_unsubscribe_harms_nobody(peers: Peers, version: int) -> None:
    client = await peers.connect(version=version)
    await client.send(mqtt_bytes.unsubscribe(1, ["a#"], version=version))
    answer = await client.receive_or_end()
    if answer is not None and answer.kind == "UNSUBACK":
        assert answer.codes in ([], [0x8F], [0x11])


@statement("MQTT-4.7.3-3", "MQTT311-4.7.3-3")
@both_versions
async def test_filter_of_65535_bytes_is_carried(
    peers: Peers, version: int, publisher: RawClient
) -> None:
    topic = peers.topic("x" * (65_535 - 9))
    client = await peers.subscriber(topic, version=version)
    await publisher.publish(topic, b"long")
    await client.expect("PUBLISH", topic=topic, payload=b"long")
