"""Limits and rules that change under clients; a real edge, both ends faked.

Input: bytes of clients, ``Edge.reconfigure``, ``Edge.authorization_changed``, a router that answers
late. Output: whose socket is read, what clients are sent, what becomes of their wills.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V5, Will
from support.virtual_time import run_virtual, turns
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.config.model import Config


def _scenario(play: Callable[[LoneEdge], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def scenario() -> None:
        async with LoneEdge(**settings) as alone:
            await play(alone)

    run_virtual(scenario())


def _change(alone: LoneEdge, **limits: Any) -> None:
    settings = {"auth": {"allow_anonymous": True}, "listeners": [{}], "limits": limits}
    alone.edge.reconfigure(Config.model_validate(settings))


async def _connecting(alone: LoneEdge, client_id: str, **options: Any) -> EdgeClient:
    """A client whose session the router has not answered for yet."""
    alone.router.reachable.clear()
    fake = alone.accept()
    fake.send(mqtt_bytes.connect(client_id, **options))
    await turns()
    assert client_id in alone.edge.registry.attaching
    return fake


async def _answered(alone: LoneEdge) -> None:
    alone.router.reachable.set()
    await turns()


# Rates


def _overdraw(client: EdgeClient) -> None:
    client.send(*(client.publish(number) for number in range(21)))
    assert client.channel.is_paused


@pytest.mark.parametrize("limits", [{}, {"max_publish_rate": 1000}])
def test_a_client_goes_on_at_once_when_its_rate_is_raised_or_gone(limits: dict[str, Any]) -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c")
        _overdraw(client)
        _change(alone, **limits)
        assert not client.channel.is_paused
        await asyncio.sleep(60)  # whatever was to come of the old rate has come
        assert not client.channel.is_paused
        assert alone.counters.internal_errors == 0

    _scenario(play, limits={"max_publish_rate": 1})


def test_a_rate_that_stays_is_not_forgiven_by_another_change() -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c")
        _overdraw(client)
        _change(alone, max_publish_rate=1, max_subscriptions=7)
        assert client.channel.is_paused
        await asyncio.sleep(19)
        assert client.channel.is_paused
        await asyncio.sleep(2)
        assert not client.channel.is_paused

    _scenario(play, limits={"max_publish_rate": 1})


def test_the_end_of_an_old_wait_does_not_shorten_a_new_one() -> None:
    async def play(alone: LoneEdge) -> None:
        client = await alone.connect("c")
        _overdraw(client)  # until 20 s from now
        _change(alone, max_publish_rate=0.5)
        assert not client.channel.is_paused
        _overdraw(client)  # until 41 s from now
        await asyncio.sleep(30)
        assert client.channel.is_paused
        await asyncio.sleep(12)
        assert not client.channel.is_paused

    _scenario(play, limits={"max_publish_rate": 1})


# Rules


def _rules(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "rules").write_text("topic readwrite #\n")
    return {"allow_anonymous": True, "acl_file": str(tmp_path / "rules")}


def _forbid(alone: LoneEdge, tmp_path: Path, rules: str = "topic readwrite other\n") -> None:
    (tmp_path / "rules").write_text(rules)
    alone.edge.context.authorizer.reload(tmp_path / "rules")
    alone.edge.authorization_changed()


async def test_new_rules_count_for_a_client_that_waits_for_its_session(tmp_path: Path) -> None:
    async with LoneEdge(auth=_rules(tmp_path)) as alone:
        client = await _connecting(alone, "c", will=Will("t", b"gone"))
        _forbid(alone, tmp_path)
        await _answered(alone)
        assert client.kinds() == ["CONNACK"]
        client.send(client.publish(1, qos=1))
        assert [packet.reason for packet in client.received()] == [0x87]
        assert not alone.router.published
        client.lose()
        await turns()
        assert [request.publish_will for request in alone.router.detached] == [False]


async def test_the_will_of_a_client_that_left_early_follows_the_acl_when_its_session_comes(
    tmp_path: Path,
) -> None:
    async with LoneEdge(auth=_rules(tmp_path)) as alone:
        client = await _connecting(alone, "c", will=Will("t", b"gone"))
        client.lose()
        _forbid(alone, tmp_path)
        await _answered(alone)
        assert [request.publish_will for request in alone.router.detached] == [False]


@pytest.mark.parametrize("sends_disconnect", [False, True])
@pytest.mark.parametrize(("topic", "is_published"), [("t", False), ("other", True)])
async def test_a_will_is_published_only_if_it_still_may_be(
    tmp_path: Path, topic: str, is_published: bool, sends_disconnect: bool
) -> None:
    async with LoneEdge(auth=_rules(tmp_path)) as alone:
        client = await alone.connect("c", will=Will(topic, b"gone"))
        _forbid(alone, tmp_path)
        if sends_disconnect:
            client.send(mqtt_bytes.disconnect(0x04))
        else:
            client.lose()
        await turns()
        assert [request.publish_will for request in alone.router.detached] == [is_published]


async def test_the_rules_for_a_will_are_those_under_the_mount_point(tmp_path: Path) -> None:
    async with LoneEdge(auth=_rules(tmp_path), listeners=[{"mount_point": "m/"}]) as alone:
        client = await alone.connect("c", will=Will("t", b"gone"))
        _forbid(alone, tmp_path, "topic readwrite m/t\n")
        client.lose()
        await turns()
        assert [request.publish_will for request in alone.router.detached] == [True]


# Announced limits


async def test_connack_announces_the_limits_that_the_connection_began_with() -> None:
    limits = {"receive_maximum": 3, "max_packet_size_bytes": 2000, "max_topic_alias": 4}
    async with LoneEdge(limits=limits) as alone:
        client = alone.accept()
        _change(alone, receive_maximum=7, max_packet_size_bytes=900, max_topic_alias=9)
        client.send(mqtt_bytes.connect("c"))
        await turns()
        (connack,) = client.received()
        announced = [connack.get(name) for name in ("receive_maximum", "maximum_packet_size")]
        assert announced == [3, 2000]
        assert connack.get("topic_alias_maximum") == 4
        alone.router.answers_late = True
        client.send(*(client.publish(number, qos=1) for number in range(1, 4)))
        assert client.client.queue.halted


# How many


def _connects(alone: LoneEdge, client_id: str, **options: Any) -> EdgeClient:
    """A client whose CONNECT has been read, whatever becomes of it."""
    fake = alone.accept()
    fake.send(mqtt_bytes.connect(client_id, version=V5, **options))
    return fake


async def test_a_storm_brings_no_more_clients_than_may_be() -> None:
    """Those who wait for their session have their place; who is refused has lost nothing."""
    async with LoneEdge(limits={"max_connections": 2}) as alone:
        alone.router.reachable.clear()
        storm = [_connects(alone, f"c{number}", will=Will("t", b"gone")) for number in range(5)]
        await turns()
        assert [request.client_id for request in alone.router.attached] == ["c0", "c1"]
        await _answered(alone)
        reasons = [packet.reason for client in storm for packet in client.received()]
        assert reasons == [0, 0, 0x97, 0x97, 0x97]
        assert list(alone.edge.clients) == ["c0", "c1"]
        assert alone.counters.refused["quota_exceeded"] == 3
        assert [client.channel.is_closed for client in storm[2:]] == [True] * 3
        assert not alone.router.detached
        assert not alone.edge.registry.newcomers


@pytest.mark.parametrize("goes_by", ["kick", "loss"])
async def test_a_takeover_keeps_its_place_under_the_connection_limit(
    goes_by: str,
) -> None:
    async with LoneEdge(limits={"max_connections": 1}) as alone:
        old = await alone.connect("c")
        new = await _connecting(alone, "c", version=V5)
        if goes_by == "kick":
            alone.edge.kick("c", 1, ReasonCode.SESSION_TAKEN_OVER)
        else:
            old.lose()
        other = _connects(alone, "other")
        await turns()
        assert [packet.reason for packet in other.received()] == [0x97]
        await _answered(alone)
        assert [packet.reason for packet in new.received()] == [0]
        new.lose()
        await turns()
        await alone.connect("other")


async def test_two_that_wait_for_the_same_session_take_one_place() -> None:
    async with LoneEdge(limits={"max_connections": 2}) as alone:
        first, second = await _connecting(alone, "c"), await _connecting(alone, "c")
        other = await _connecting(alone, "other")
        await _answered(alone)
        assert [packet.reason for packet in first.received()] == [0, 0x8E]
        assert [packet.reason for packet in second.received()] == [0]
        assert [packet.reason for packet in other.received()] == [0]
        assert not alone.edge.registry.newcomers


@pytest.mark.parametrize("goes_by", ["loss", "no_router"])
async def test_a_client_that_leaves_while_connecting_frees_its_place(goes_by: str) -> None:
    async with LoneEdge(limits={"max_connections": 1}) as alone:
        gone = await _connecting(alone, "gone")
        if goes_by == "loss":
            gone.lose()
        else:
            alone.router.refuses_sessions = True
        await _answered(alone)
        alone.router.refuses_sessions = False
        await alone.connect("other")


async def test_a_refused_client_takes_no_place() -> None:
    async with LoneEdge(limits={"max_connections": 1}, auth={"allow_anonymous": False}) as alone:
        for number in range(3):
            refused = _connects(alone, f"c{number}")
            await turns()
            assert [packet.reason for packet in refused.received()] == [0x87]
        assert not alone.edge.registry.newcomers


async def test_a_client_takes_its_own_connection_over_where_no_more_may_come() -> None:
    async with LoneEdge(limits={"max_connections": 1}) as alone:
        old = await alone.connect("c")
        new = _connects(alone, "c")
        await turns()
        assert [packet.reason for packet in old.received()] == [0x8E]
        assert [packet.reason for packet in new.received()] == [0]
        other = _connects(alone, "other")
        await turns()
        assert [packet.reason for packet in other.received()] == [0x97]
        assert len(alone.edge.clients) == 1


# Topics


@pytest.mark.parametrize("rules", ["", "topic readwrite #"])
async def test_a_lower_limit_of_topics_counts_for_those_that_have_been_published_to(
    rules: str, tmp_path: Path
) -> None:
    """Also where the permission was found for a client that has left since."""
    auth: dict[str, Any] = {"allow_anonymous": True}
    if rules:
        (tmp_path / "acl").write_text(rules)
        auth["acl_file"] = str(tmp_path / "acl")
    async with LoneEdge(auth=auth) as alone:
        early, stays = await alone.connect("early"), await alone.connect("stays")
        for client in (early, stays):
            client.send(mqtt_bytes.publish("a/b/c", b""))
        assert len(alone.router.published) == 2
        early.lose()
        _change(alone, max_topic_levels=2)
        late = await alone.connect("late")
        for client in (stays, late):
            client.send(mqtt_bytes.publish("a/b", b""))
            assert client.kinds() == []
            client.send(mqtt_bytes.publish("a/b/c", b""))
            (packet,) = client.received()
            assert (packet.kind, packet.reason) == ("DISCONNECT", ReasonCode.TOPIC_NAME_INVALID)
        assert [message.topic for message in alone.router.published[2:]] == ["a/b"] * 2


async def test_rules_that_come_and_go_count_for_topics_that_have_been_published_to(
    tmp_path: Path,
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic write allowed/#")
    async with LoneEdge() as alone:
        client = await alone.connect("c")

        def published() -> list[str]:
            alone.router.published.clear()
            for topic in ("other/1", "allowed/1", "$SYS/1", "$share/1", "$other/1"):
                client.send(mqtt_bytes.publish(topic, b""))
            return [message.topic for message in alone.router.published]

        def change(**auth: Any) -> None:
            settings = {"auth": {"allow_anonymous": True, **auth}, "listeners": [{}]}
            config, edge = Config.model_validate(settings), alone.edge
            authorizer, connected = edge.context.authorizer, edge.listeners_in_use()
            loaded = authorizer.prepare(config.auth, config.listeners)
            assert authorizer.apply(config.auth, config.listeners, loaded, connected)
            edge.authorization_changed()

        for _ in range(2):
            assert published() == ["other/1", "allowed/1", "$other/1"]
            change(acl_file=str(rules))
            assert published() == ["allowed/1"]
            change()


@pytest.mark.parametrize(
    ("limit", "topic", "is_taken"),
    [
        ({"max_topic_bytes": 100}, "é" * 50, True),
        ({"max_topic_bytes": 100}, "é" * 51, False),
        ({"max_topic_levels": 3}, "a//", True),
        ({"max_topic_levels": 3}, "///", False),
    ],
)
async def test_limits_of_a_topic_count_bytes_and_levels(
    limit: dict[str, int], topic: str, is_taken: bool
) -> None:
    """Also for a client that has published, of which short topics are not looked at."""
    async with LoneEdge(limits=limit) as alone:
        client = await alone.connect("c")
        client.send(mqtt_bytes.publish("a", b""))
        client.send(mqtt_bytes.publish(topic, b""))
        assert len(alone.router.published) == 1 + is_taken


async def test_what_is_kept_of_topics_follows_its_limit() -> None:
    async with LoneEdge() as alone:
        context = alone.edge.context
        caches = (context.topic_names, alone.edge._index._cache)
        assert {cache.limit for cache in caches} == {100_000}
        _change(alone, max_cached_topics=2000)
        assert {cache.limit for cache in caches} == {2000}
        assert context.authorizer.cached_topics == 2000
