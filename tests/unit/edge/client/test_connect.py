"""CONNECT while its session is on its way: what ends it meanwhile, and what becomes of the will.

Input: bytes of a client, password files, a router that answers late. Output: what the client is
sent, what the router is asked. What is refused at once is in ``conformance/test_connect.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V31, V311, Property, Will
from support.virtual_time import turns
from tidegate.edge.auth.methods import Step
from tidegate.edge.auth.password_file import set_user
from tidegate.link.interfaces import AttachedSession
from tidegate.mqtt.enums import ReasonCode

statement = pytest.mark.statement

WILL = Will("state", b"offline")


async def _connecting(alone: LoneEdge, **options: Any) -> EdgeClient:
    """A client whose session the router has not answered for yet."""
    alone.router.reachable.clear()
    client = alone.accept()
    client.send(mqtt_bytes.connect("c", **options))
    await turns()
    return client


async def _answer(alone: LoneEdge) -> None:
    alone.router.reachable.set()
    await turns()


@statement("MQTT-3.14.4-3")
@pytest.mark.parametrize(
    ("reason_code", "publishes"),
    [(ReasonCode.SUCCESS, False), (ReasonCode.DISCONNECT_WITH_WILL, True)],
)
async def test_a_disconnect_behind_connect_decides_about_the_will(
    reason_code: ReasonCode, publishes: bool
) -> None:
    async with LoneEdge() as alone:
        client = await _connecting(alone, will=WILL)
        client.client.data_received(mqtt_bytes.disconnect(reason_code))
        client.lose()
        await _answer(alone)
        assert [request.publish_will for request in alone.router.detached] == [publishes]


async def test_a_connection_lost_before_connack_publishes_the_will() -> None:
    async with LoneEdge() as alone:
        client = await _connecting(alone, will=WILL)
        client.lose()
        await _answer(alone)
        assert [request.publish_will for request in alone.router.detached] == [True]
        assert not alone.edge.clients


async def test_a_user_removed_before_connack_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.touch()
    set_user(file, "alice", "secret", "sha512")
    async with LoneEdge(auth={"password_file": str(file)}) as alone:
        client = await _connecting(alone, username="alice", password=b"secret")
        assert "c" in alone.edge.registry.attaching
        file.write_text("")
        alone.edge.context.authenticator.reload(file)
        alone.edge.users_changed()
        await _answer(alone)
        refused = client.received()
        assert [(packet.kind, packet.reason) for packet in refused] == [("CONNACK", 0x87)]
        assert client.channel.is_closed
        assert [request.epoch for request in alone.router.detached] == [1]
        assert alone.counters.refused["not_authorized"] == 1


@pytest.mark.parametrize("kicked_epoch", [5, 6, 7])
async def test_an_epoch_that_was_kicked_before_its_answer_came_is_refused(
    kicked_epoch: int,
) -> None:
    async with LoneEdge() as alone:
        alone.router.session = AttachedSession(6, 0, False)
        client = await _connecting(alone)
        alone.edge.kick("c", kicked_epoch, ReasonCode.SESSION_TAKEN_OVER)
        await _answer(alone)
        is_refused = kicked_epoch >= 6  # otherwise it was an older connection's
        answer = ReasonCode.SERVER_BUSY if is_refused else ReasonCode.SUCCESS
        assert [packet.reason for packet in client.received()] == [answer]
        assert list(alone.edge.clients) == ([] if is_refused else ["c"])
        assert [request.epoch for request in alone.router.detached] == [6] * is_refused
        assert not alone.edge.registry.newcomers


@pytest.mark.parametrize(
    ("topic", "answer"), [("a/b/c", 0), ("a/b/c/d", ReasonCode.TOPIC_NAME_INVALID)]
)
async def test_a_wills_topic_has_as_many_levels_as_any(topic: str, answer: int) -> None:
    async with LoneEdge(limits={"max_topic_levels": 3}) as alone:
        client = alone.accept()
        client.send(mqtt_bytes.connect("c", will=Will(topic)))
        await turns()
        assert [packet.reason for packet in client.received()] == [answer]


# An answer that is larger than the client's Maximum Packet Size


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("size", [*range(1, 18), 33, 34, 35])
@statement("MQTT-3.2.0-1", "MQTT-3.1.2-24")
async def test_a_client_gets_connack_or_the_end_of_its_connection(size: int, clean: bool) -> None:
    async with LoneEdge() as alone:
        older = await alone.connect("c")
        client = alone.accept()
        client.send(
            mqtt_bytes.connect("c", clean=clean, props=[("maximum_packet_size", size)]),
            mqtt_bytes.PINGREQ,
        )
        await turns()
        kinds = client.kinds()
        # Receive Maximum, Maximum Packet Size and Topic Alias Maximum make it 16 bytes.
        assert kinds == (["CONNACK", "PINGRESP"] if size >= 16 else [])
        assert client.channel.is_closed == (size < 16)
        # Nothing is taken from the older connection, nor is the session touched.
        assert older.channel.is_closed == (size >= 16)
        assert len(alone.router.attached) == (2 if size >= 16 else 1)
        assert alone.counters.refused["answer_too_large"] == (size < 16)
        assert not alone.edge.registry.connecting


@statement("MQTT-3.2.0-1", "MQTT-3.2.2-16")
async def test_an_assigned_client_identifier_counts_for_the_size_of_connack() -> None:
    async with LoneEdge() as alone:
        size = 16 + 3 + len("auto-edge-1")
        for small in (1, 0):
            client = alone.accept()
            props: list[Property] = [("maximum_packet_size", size - small)]
            client.send(mqtt_bytes.connect("", props=props))
            await turns()
            assert client.kinds() == ([] if small else ["CONNACK"])
            assert client.channel.is_closed == bool(small)
        assert len(alone.router.attached) == 1


@pytest.mark.parametrize(("size", "kinds"), [(4, []), (5, ["CONNACK"])])
async def test_a_refusal_is_sent_if_it_is_small_enough(size: int, kinds: list[str]) -> None:
    async with LoneEdge(limits={"max_client_id_bytes": 23}) as alone:
        client = alone.accept()
        client.send(mqtt_bytes.connect("c" * 24, props=[("maximum_packet_size", size)]))
        await turns()
        assert client.kinds() == kinds
        assert client.channel.is_closed
        assert alone.counters.refused["client_identifier_not_valid"] == 1
        assert not alone.counters.refused["answer_too_large"]


@pytest.mark.parametrize("version", [V31, V311])
async def test_clients_before_mqtt_5_have_no_maximum_packet_size(version: int) -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c", version)
        client.send(mqtt_bytes.subscribe(1, ["a"] * 300, version=version))
        await turns()
        assert [len(packet.codes) for packet in client.received()] == [300]


@pytest.mark.parametrize("small", [0, 1])
@pytest.mark.parametrize("kind", ["SUBACK", "UNSUBACK"])
@statement("MQTT-3.8.4-1", "MQTT-3.10.4-4", "MQTT-3.1.2-24")
async def test_an_answer_that_is_too_large_ends_the_connection(kind: str, small: int) -> None:
    async with LoneEdge() as alone:
        client = await alone.connect("c", will=WILL, props=[("maximum_packet_size", 25 - small)])
        make = mqtt_bytes.subscribe if kind == "SUBACK" else mqtt_bytes.unsubscribe
        client.send(make(1, [f"t/{number}" for number in range(20)]))
        await turns()
        assert client.kinds() == ([] if small else [kind])
        assert client.channel.is_closed == bool(small)
        assert alone.counters.closed["answer_too_large"] == small
        assert [request.publish_will for request in alone.router.detached] == [True] * small
        # Nothing has been applied.
        assert len(alone.router.subscribed) == (20 if kind == "SUBACK" and not small else 0)


async def test_an_auth_that_is_too_large_ends_the_connection() -> None:
    async with LoneEdge() as alone:
        alone.edge.context.authentication_methods = {"LONG": lambda *_: _Challenge()}
        client = alone.accept()
        props: list[Property] = [("maximum_packet_size", 40), ("auth_method", "LONG")]
        client.send(mqtt_bytes.connect("c", props=props))
        await turns()
        assert client.kinds() == []
        assert client.channel.is_closed
        assert not alone.router.attached
        assert alone.counters.refused["answer_too_large"] == 1


class _Challenge:
    """A method whose first challenge is long."""

    async def step(self, data: bytes | None) -> Step:
        return Step(ReasonCode.CONTINUE_AUTHENTICATION, b"x" * 40)
