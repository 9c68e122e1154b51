"""What is there after ``kill -9`` of the broker and a restart: everything that was acknowledged.

Input: paho clients before the crash, SIGKILL to the broker's process alone (its children are left
behind as a real crash leaves them) or to all of them. Output: what the same clients find
afterwards.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes

from support.broker import Server, StartBroker, wait_until_gone
from support.paho_client import V5, V31, V311, PahoClient, properties
from support.waiting import wait_for

VERSIONS = [pytest.param(V31, id="3.1"), pytest.param(V311, id="3.1.1"), pytest.param(V5, id="5.0")]


@pytest.fixture
def broker(start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Start a broker that writes to the disk before it acknowledges."""
    data = tmp_path_factory.mktemp("data")
    return start_broker(store={"data_dir": str(data), "durability": "always"})


@pytest.fixture(params=["store-survives", "store-dies-too"])
def crash(request: pytest.FixtureRequest) -> Any:
    """Return what kills the broker, with or without the store it started, and starts it again."""

    def act(broker: Server) -> None:
        children = broker.descendants()
        broker.kill()
        if request.param == "store-dies-too":
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            for pid in children:
                wait_until_gone(pid)
        broker.start()

    return act


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_subscriptions_and_queued_messages_survive(
    broker: Server, crash: Any, version: Any
) -> None:
    options: dict[str, Any] = {"protocol": version, "session_expiry_s": 600}
    sleeper = PahoClient(broker, "sleeper", clean=version == V5, **options)
    sleeper.subscribe("q/#", 2)
    sleeper.disconnect()
    with PahoClient(broker, "writer", protocol=version) as writer:
        for number in range(20):
            writer.publish("q/1", b"%d" % number, 1 + number % 2)
    crash(broker)
    with PahoClient(broker, "writer", protocol=version) as writer:
        # The subscription itself is there, not only what it had gathered.
        writer.publish("q/2", b"after", 1)
    with PahoClient(broker, "sleeper", clean=False, **options) as awake:
        assert awake.flags.session_present or version == V31
        got = awake.expect(21)
        for qos in (1, 2):
            before = [int(m.payload) for m in got if m.topic == "q/1" and m.qos == qos]
            assert before == [n for n in range(20) if 1 + n % 2 == qos]
        assert [m.payload for m in got if m.topic == "q/2"] == [b"after"]
        awake.publish("q/3", b"live", 2)
        assert awake.payloads(22)[-1] == b"live"


def test_retained_messages_survive_and_removed_ones_stay_removed(
    broker: Server, crash: Any
) -> None:
    with PahoClient(broker, "writer", protocol=V5) as writer:
        for number in range(10):
            writer.publish(f"r/{number}", b"kept %d" % number, number % 3, retain=True)
        writer.publish("r/3", b"", 1, retain=True)
        properties_kept = properties(
            PacketTypes.PUBLISH, UserProperty=[("a", "1"), ("a", "2")], ContentType="x"
        )
        writer.publish("r/4", b"kept 4", 1, retain=True, properties=properties_kept)
    crash(broker)
    with PahoClient(broker, "reader", protocol=V5) as reader:
        reader.subscribe("r/#", 2)
        wait_for(lambda: len(reader.messages) >= 9, 10, "nine retained messages")
        reader.publish("r/end", b"", 1)
        got = {m.topic: m for m in reader.expect(10)}
        assert sorted(got) == [*(f"r/{n}" for n in range(10) if n != 3), "r/end"]
        assert got["r/5"].payload == b"kept 5"
        assert got["r/4"].properties.UserProperty == [  # type: ignore[union-attr]
            ("a", "1"),
            ("a", "2"),
        ]


@pytest.mark.parametrize("delay_s", [0, 2])
def test_the_will_of_a_client_that_was_connected_is_published_once_the_broker_is_back(
    broker: Server, crash: Any, delay_s: int
) -> None:
    watcher = PahoClient(broker, "watcher", protocol=V5, session_expiry_s=600)
    watcher.subscribe("will", 1)
    watcher.disconnect()
    will = {
        "topic": "will",
        "payload": b"it died",
        "qos": 1,
        "properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=delay_s),
    }
    victim = PahoClient(broker, "victim", protocol=V5, session_expiry_s=600, will=will)
    crash(broker)
    victim.close()
    with PahoClient(broker, "watcher", protocol=V5, clean=False, session_expiry_s=600) as again:
        assert again.payloads(1, 45) == [b"it died"]


def test_a_will_that_was_already_waiting_survives(broker: Server, crash: Any) -> None:
    watcher = PahoClient(broker, "watcher", protocol=V5, session_expiry_s=600)
    watcher.subscribe("will", 1)
    will = {
        "topic": "will",
        "payload": b"late",
        "qos": 1,
        "properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=4),
    }
    PahoClient(broker, "victim", protocol=V5, session_expiry_s=600, will=will).drop()
    # The next exchange of the same client identifier would cancel it; another one's shows order.
    watcher.disconnect()
    crash(broker)
    with PahoClient(broker, "watcher", protocol=V5, clean=False, session_expiry_s=600) as again:
        assert again.payloads(1, 45) == [b"late"]


def test_a_message_in_flight_is_sent_again_as_a_duplicate(broker: Server, crash: Any) -> None:
    options: dict[str, Any] = {"protocol": V5, "session_expiry_s": 600}
    reader = PahoClient(broker, "reader", **options)
    reader.paho.manual_ack_set(True)
    reader.subscribe("t", 1)
    with PahoClient(broker, "writer", protocol=V5) as writer:
        writer.publish("t", b"once", 1)
    (first,) = reader.expect(1)
    crash(broker)
    reader.close()
    with PahoClient(broker, "reader", clean=False, **options) as again:
        (second,) = again.expect(1)
        assert (second.payload, second.dup, second.mid) == (b"once", True, first.mid)


def test_a_clean_stop_keeps_the_same_things(broker: Server) -> None:
    sleeper = PahoClient(broker, "sleeper", clean=False)
    sleeper.subscribe("t", 1)
    sleeper.disconnect()
    with PahoClient(broker, "writer") as writer:
        writer.publish("t", b"queued", 1)
    children = broker.descendants()
    assert broker.stop() == 0
    for pid in children:
        wait_until_gone(pid)
    broker.start()
    with PahoClient(broker, "sleeper", clean=False) as awake:
        assert awake.payloads(1) == [b"queued"]
