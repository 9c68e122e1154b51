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
from support.mqtt_bytes import Will
from support.virtual_time import turns
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
        alone.edge.context.authenticator.reload()
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
