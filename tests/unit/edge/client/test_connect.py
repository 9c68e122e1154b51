"""CONNECT while its session is on its way: what ends it meanwhile, and what becomes of the will.

Input: bytes of a client, password files, a router that answers late. Output: what the client is
sent, what the router is asked. What is refused at once is in ``conformance/test_connect.py``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V31, V311, Property, Will
from support.virtual_time import in_virtual_time, turns
from tidegate.edge.auth.methods import Step
from tidegate.edge.auth.password_file import set_user
from tidegate.edge.client.connect import OWNER_RETRY_S
from tidegate.edge.client.state import CLOSED, CONNECTED
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    SessionOwned,
)
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


@statement("MQTT311-3.1.2-8")
@pytest.mark.parametrize("reason_code", [ReasonCode.SERVER_SHUTTING_DOWN, ReasonCode.BANNED])
async def test_a_connect_that_is_refused_meanwhile_publishes_no_will(
    reason_code: ReasonCode,
) -> None:
    async with LoneEdge() as alone:
        client = await _connecting(alone, will=WILL)
        if reason_code is ReasonCode.BANNED:
            client.client.refuse(reason_code)
        else:
            client.client.shut_down(reason_code)
        assert [packet.kind for packet in client.received()] == ["CONNACK"]
        await _answer(alone)
        assert [request.publish_will for request in alone.router.detached] == [False]


async def test_a_user_removed_before_connack_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.touch()
    set_user(file, "alice", "secret", "sha512")
    async with LoneEdge(auth={"password_file": str(file)}) as alone:
        client = await _connecting(alone, username="alice", password=b"secret", will=WILL)
        assert "c" in alone.edge.registry.attaching
        file.write_text("")
        alone.edge.context.authenticator.reload(file)
        alone.edge.users_changed()
        await _answer(alone)
        refused = client.received()
        assert [(packet.kind, packet.reason) for packet in refused] == [("CONNACK", 0x87)]
        assert client.channel.is_closed
        ends = [(request.epoch, request.publish_will) for request in alone.router.detached]
        assert ends == [(1, False)]
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


async def test_connect_and_the_end_take_no_task_on_their_usual_way() -> None:
    async with LoneEdge() as alone:
        loop = asyncio.get_running_loop()
        attached: asyncio.Future[AttachedSession] = loop.create_future()
        detached: asyncio.Future[DetachedSession] = loop.create_future()
        router: Any = alone.router
        router.attach, router.detach = lambda *_: attached, lambda _: detached
        tasks = asyncio.all_tasks()
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"))
        assert asyncio.all_tasks() == tasks
        attached.set_result(AttachedSession(1, 0, False))
        await turns()
        assert client.kinds() == ["CONNACK"]
        client.lose()
        assert list(alone.edge.registry.detaching) == ["c"]
        assert asyncio.all_tasks() == tasks
        detached.set_result(DetachedSession())
        await turns()
        assert not alone.edge.registry.detaching


@pytest.mark.parametrize("is_free", [True, False])
@in_virtual_time
async def test_a_session_of_another_user_is_looked_at_once_more(is_free: bool) -> None:
    async with LoneEdge() as alone:
        outcomes = [SessionOwned("another"), SessionOwned("another")]
        requests: list[AttachSession] = []

        async def attach(_edge_id: str, request: AttachSession) -> AttachedSession:
            requests.append(request)
            if is_free and len(requests) == 2:
                return AttachedSession(1, 0, False)
            raise outcomes[len(requests) - 1]

        router: Any = alone.router
        router.attach = attach
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"), mqtt_bytes.PINGREQ)
        await turns()
        assert len(requests) == 1
        assert alone.edge.registry.attaching["c"].count == 1, "it waits all the time"
        await asyncio.sleep(OWNER_RETRY_S + 0.01)
        await turns()
        assert len(requests) == 2
        assert not alone.edge.registry.attaching
        expected = ["CONNACK", "PINGRESP"] if is_free else ["CONNACK"]
        assert client.kinds() == expected
        assert alone.counters.refused["session_owner"] == (0 if is_free else 1)


async def test_the_edge_stops_when_no_session_is_on_its_way() -> None:
    """What came for a client that has gone is given back before that."""
    async with LoneEdge() as alone:
        attached: asyncio.Future[AttachedSession] = asyncio.get_running_loop().create_future()
        router: Any = alone.router
        router.attach = lambda *_: attached
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"))
        client.lose()
        stopping = asyncio.create_task(alone.edge.stop())
        await turns()
        assert not stopping.done()
        attached.set_result(AttachedSession(5, 0, False))
        await stopping
        assert [request.epoch for request in alone.router.detached] == [5]


async def test_a_fault_of_the_router_ends_the_connection() -> None:
    async with LoneEdge() as alone:
        attached: asyncio.Future[AttachedSession] = asyncio.get_running_loop().create_future()
        router: Any = alone.router
        router.attach = lambda *_: attached
        client = alone.accept()
        client.send(mqtt_bytes.connect("c"))
        attached.set_exception(LookupError("a fault"))
        await turns()
        (answer,) = client.received()
        assert answer.reason == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        assert alone.counters.internal_errors == 1
        assert not alone.edge.registry.attaching


def _answers_at_once(alone: LoneEdge, *epochs: int) -> list[AttachSession]:
    """Have the router give sessions that are not stored, at once."""
    router: Any = alone.router
    left, asked = list(epochs), []

    def attach(_edge_id: str, request: AttachSession) -> asyncio.Future[AttachedSession]:
        asked.append(request)
        attached = asyncio.get_running_loop().create_future()
        attached.set_result(AttachedSession(left.pop(0), 0, False, is_stored=False))
        return attached

    router.attach = attach
    return asked


async def test_a_session_that_is_not_stored_is_there_at_once() -> None:
    async with LoneEdge() as alone:
        _answers_at_once(alone, 7, 8)
        older, newer = alone.accept(), alone.accept()
        older.send(mqtt_bytes.connect("c"), mqtt_bytes.PINGREQ)
        assert older.client.state is CONNECTED
        assert alone.edge.connections() == []  # nothing that a router could verify
        newer.send(mqtt_bytes.connect("c"))
        await turns()
        assert older.kinds() == ["CONNACK", "PINGRESP", "DISCONNECT"]
        assert newer.kinds() == ["CONNACK"]
        newer.lose()
        await turns()
        assert not alone.router.detached  # the router has nothing of them


@pytest.mark.parametrize("checks", [True, False])
@in_virtual_time
async def test_nor_does_another_user_get_a_session_that_is_not_stored(checks: bool) -> None:
    auth = {"allow_anonymous": True, "session_owner": "user" if checks else "any"}
    async with LoneEdge(auth=auth) as alone:
        asked = _answers_at_once(alone, 7, 8, 9)
        older, newer = alone.accept(), alone.accept()
        older.send(mqtt_bytes.connect("c"))
        older.client.username = "another"
        newer.send(mqtt_bytes.connect("c"))
        await asyncio.sleep(2 * OWNER_RETRY_S)
        assert older.client.state is (CONNECTED if checks else CLOSED)
        assert len(asked) == (1 if checks else 2)
        assert alone.counters.refused["session_owner"] == (1 if checks else 0)
        again = alone.accept()
        again.send(mqtt_bytes.connect("c"))
        older.lose()
        await asyncio.sleep(2 * OWNER_RETRY_S)
        assert again.client.state is CONNECTED


@pytest.mark.parametrize(
    ("sent", "outcomes"),
    [
        (mqtt_bytes.connect("c"), ["accepted"]),
        (mqtt_bytes.connect("c", username="nobody", password=b"x"), ["failed"]),
        (mqtt_bytes.connect("c")[:-1], ["failed"]),
        (b"\x00\x00", ["failed"]),
        (b"", ["failed"]),
    ],
)
async def test_the_channel_learns_once_whether_a_connection_came_to_something(
    tmp_path: Path, sent: bytes, outcomes: list[str]
) -> None:
    """What most connections come to decides how many there are at a time (docs/adr/0056)."""
    file = tmp_path / "users"
    set_user(file, "ann", "secret", "sha512", create=True)
    async with LoneEdge(auth={"allow_anonymous": True, "password_file": file}) as alone:
        client = alone.accept()
        if sent:
            client.send(sent)
        await turns()
        client.client.connection_lost("peer_closed")
        await turns()
        assert client.channel.outcomes == outcomes
