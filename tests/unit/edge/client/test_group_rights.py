"""Subscriptions to what the ACL does not let a client read, and shared ones above all.

Input: SUBSCRIBE, an ACL file that changes, sessions that are resumed, messages from a router.
Output: SUBACK, which memberships the router is asked to begin and to end, messages that go to
another member. The same with real routers: ``integration/test_denied_subscriptions.py``.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V5, V31, V311
from support.virtual_time import run_virtual, turns
from tidegate.link.interfaces import AttachedSession
from tidegate.mqtt.packets import Publish, SubscriptionOptions

GROUP = "$share/g/t/#"


class _Ruled:
    """An edge with an ACL file that can be changed."""

    def __init__(self, directory: Path, rules: str, **settings: Any) -> None:
        self.file = directory / "acl"
        self.file.write_text(rules)
        auth = {"allow_anonymous": True, "acl_file": str(self.file)} | settings.pop("auth", {})
        self.alone = LoneEdge(auth=auth, **settings)
        self.router = self.alone.router

    def change(self, rules: str) -> None:
        """Another content, taken at once."""
        self.file.write_text(rules)
        self.alone.edge.context.authorizer.reload(self.file)
        self.alone.edge.authorization_changed()


async def _subscribe(client: EdgeClient, *filters: Any) -> list[int]:
    client.send(mqtt_bytes.subscribe(1, filters, version=client.version))
    await turns()
    (suback,) = client.received()
    return suback.codes


@pytest.mark.parametrize(("version", "code"), [(V5, 0x87), (V311, 0x80), (V31, 0)])
async def test_a_subscription_to_what_may_not_be_read_is_refused(
    tmp_path: Path, version: int, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ruled = _Ruled(tmp_path, "topic read t/#\ntopic write w/#\n")
    async with ruled.alone as alone:
        client = await alone.connect("c", version)
        filters = [("w/a", 1), ("t/a", 1), ("+/a", 1), ("$share/g/+/a", 1), (GROUP, 1)]
        assert await _subscribe(client, *filters) == [code, 1, 1, code, 1]
        assert ruled.router.subscribed == ["t/a", "+/a", GROUP]
        assert set(client.client.subscriptions) == {"t/a", "+/a", GROUP}
        assert alone.counters.acl_denied["subscribe"] == 2
        (line,) = [one for one in caplog.records if "not authorized" in one.message]
        assert line.message.startswith("subscription refused")
        assert (line.client_id, line.topic_filters) == ("c", "w/a, $share/g/+/a")  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", [V5, V311, V31])
async def test_denied_subscriptions_can_be_granted_without_membership(
    tmp_path: Path, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ruled = _Ruled(tmp_path, "topic read t/#\n", auth={"denied_subscribe": "grant"})
    async with ruled.alone as alone:
        client = await alone.connect("c", version)
        filters = [("w/a", 1), ("$share/g/+/a", 2), (GROUP, 1)]
        assert await _subscribe(client, *filters) == [1, 2, 1]
        assert ruled.router.subscribed == ["w/a", GROUP]
        assert any("granted without messages" in record.message for record in caplog.records)
        client.send(mqtt_bytes.unsubscribe(2, ["$share/g/+/a"], version=version))
        await turns()
        (unsuback,) = client.received()
        assert unsuback.codes == ([0] if version == V5 else [])
        assert set(client.client.subscriptions) == {"w/a", GROUP}
        ruled.change("topic read #\n")
        await turns()
        assert ruled.router.subscribed == ["w/a", GROUP], "it has unsubscribed"


async def test_rules_are_about_topics_under_the_mount_point(tmp_path: Path) -> None:
    listeners = [{"mount_point": "m/"}]
    ruled = _Ruled(tmp_path, "topic read m/t/#\ntopic read x\n", listeners=listeners)
    async with ruled.alone as alone:
        client = await alone.connect("c")
        assert await _subscribe(client, "t/#", "x", "$share/g/t/#", "$share/g/x") == [
            *(0, 0x87, 0, 0x87)
        ]
        assert ruled.router.subscribed == ["m/t/#", "$share/g/m/t/#"]


@pytest.mark.parametrize("incarnation", [0, 1])
@pytest.mark.parametrize("denied_subscribe", ["refuse", "grant"])
async def test_a_member_that_may_not_read_any_more_leaves_and_comes_back_when_it_may(
    tmp_path: Path, incarnation: int, denied_subscribe: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    auth = {"denied_subscribe": denied_subscribe}
    ruled = _Ruled(tmp_path, "topic read #\n", auth=auth)
    ruled.router.incarnation = incarnation
    async with ruled.alone as alone:
        client = await alone.connect("c")
        await _subscribe(client, (GROUP, 1), ("$share/g/other", 1), ("t/a", 1))
        ruled.change("topic read other\n")
        if not incarnation:
            assert ruled.router.left == [GROUP], "at once"
        await turns()
        assert ruled.router.left == ([] if incarnation else [GROUP])
        assert ruled.router.unsubscribed == ([GROUP] if incarnation else [])
        (line,) = [one for one in caplog.records if "removed from shared" in one.message]
        assert (line.client_id, line.topic_filter) == ("c", GROUP)  # type: ignore[attr-defined]
        ruled.change("topic read other\ntopic read t\n")
        await turns()
        assert ruled.router.left + ruled.router.unsubscribed == [GROUP], "once"
        ruled.router.subscribed.clear()
        ruled.change("topic read #\n")
        await turns()
        assert ruled.router.subscribed == [GROUP]
        ruled.change("topic read other\n")
        await turns()
        assert ruled.router.left + ruled.router.unsubscribed == [GROUP] * 2


async def test_a_removed_acl_file_lets_members_come_back(tmp_path: Path) -> None:
    ruled = _Ruled(tmp_path, "topic read #\n")
    async with ruled.alone as alone:
        client = await alone.connect("c")
        await _subscribe(client, (GROUP, 1))
        ruled.change("")
        await turns()
        ruled.router.subscribed.clear()
        auth = alone.config.auth.model_copy(update={"acl_file": None})
        assert alone.edge.context.authorizer.apply(auth, alone.config.listeners, {})
        alone.edge.authorization_changed()
        await turns()
        assert ruled.router.subscribed == [GROUP]


async def test_a_resumed_session_leaves_what_it_may_not_read_any_more(tmp_path: Path) -> None:
    ruled = _Ruled(tmp_path, "topic read other\n")
    options = SubscriptionOptions(1)
    subscriptions = [(GROUP, options), ("$share/g/other", options), ("t/a", options)]
    ruled.router.session = AttachedSession(7, 3, True, subscriptions=subscriptions)
    async with ruled.alone as alone:
        await alone.connect("c", clean=False)
        await turns()
        assert ruled.router.unsubscribed == [GROUP]


def test_the_end_of_a_membership_is_tried_until_it_is_stored(tmp_path: Path) -> None:
    async def scenario() -> None:
        ruled = _Ruled(tmp_path, "topic read #\n")
        ruled.router.incarnation = 1
        async with ruled.alone as alone:
            client = await alone.connect("c")
            await _subscribe(client, (GROUP, 1))
            ruled.router.refuses_sessions = True
            ruled.change("")
            await turns()
            # SUBSCRIBE and UNSUBSCRIBE wait for it: their order decides what is stored.
            client.send(mqtt_bytes.unsubscribe(2, [GROUP]))
            await turns()
            assert client.received() == []
            ruled.router.refuses_sessions = False
            rights = client.client.group_rights
            assert rights is not None
            await rights.settled()
            await turns()
            assert [packet.codes for packet in client.received()] == [[0]]
            assert ruled.router.unsubscribed == [GROUP, GROUP]

    run_virtual(scenario())


async def test_an_acl_that_changes_while_subscribe_waits_counts(tmp_path: Path) -> None:
    ruled = _Ruled(tmp_path, "topic read #\n")
    ruled.router.incarnation = 1
    async with ruled.alone as alone:
        client = await alone.connect("c")
        ruled.router.reachable.clear()
        client.send(mqtt_bytes.subscribe(1, [(GROUP, 1)]))
        await turns()
        ruled.change("")
        await turns()
        ruled.router.reachable.set()
        await turns()
        assert client.kinds() == ["SUBACK"]
        assert ruled.router.subscribed == [GROUP]
        assert ruled.router.unsubscribed == [GROUP]


# Messages that were under way to a member that may not read them any more


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_under_way_is_for_another_member(tmp_path: Path, qos: int) -> None:
    ruled = _Ruled(tmp_path, "topic read #\n")
    async with ruled.alone as alone:
        client = await alone.connect("c")
        await _subscribe(client, (GROUP, 2))
        ruled.change("")
        message = Publish("t/a", b"x", qos)
        arguments = ("c", 1, message, GROUP, SubscriptionOptions(2))
        assert not alone.edge.deliver_shared(*arguments)
        assert client.received() == []
        assert not alone.counters.published, "it counts where it ends"


async def test_a_qos_0_message_waits_until_a_durable_member_has_left(tmp_path: Path) -> None:
    ruled = _Ruled(tmp_path, "topic read #\n")
    ruled.router.incarnation = 1
    async with ruled.alone as alone:
        client = await alone.connect("c")
        await _subscribe(client, (GROUP, 1))
        ruled.router.reachable.clear()
        ruled.change("")
        message = Publish("t/a", b"x")
        arguments = ("c", 1, message, GROUP, SubscriptionOptions(1))
        assert alone.edge.deliver_shared(*arguments)
        await turns()
        assert not ruled.router.redispatched, "it would come back"
        ruled.router.reachable.set()
        await turns()
        assert ruled.router.redispatched == [(GROUP, message)]
        assert alone.edge.deliver_shared(*arguments)
        assert ruled.router.redispatched == [(GROUP, message)] * 2
        assert not alone.counters.published
        assert client.received() == []


async def test_messages_in_memory_go_to_members_that_may_read_them(tmp_path: Path) -> None:
    ruled = _Ruled(tmp_path, "topic read #\n")
    async with ruled.alone as alone:
        client = await alone.connect("c", props=[("receive_maximum", 1)])
        await _subscribe(client, (GROUP, 1), ("t/own", 1), ("u/own", 1))
        for topic in ("t/0", "t/1", "t/2"):
            message = Publish(topic, b"", 1)
            assert alone.edge.deliver_shared("c", 1, message, GROUP, SubscriptionOptions(1))
        for topic in ("t/own", "u/own"):
            alone.edge.deliver(Publish(topic, b"", 1), "p")
        ruled.change("topic read u/own\n")
        assert [message.topic for _, message in ruled.router.redispatched] == ["t/1", "t/2"]
        assert alone.counters.dropped["redispatched"] == 2
        assert alone.counters.dropped["not_authorized"] == 1
        (first,) = client.received()
        client.send(mqtt_bytes.acknowledge("PUBACK", first.packet_id))
        await turns()
        assert [packet.topic for packet in client.received()] == ["u/own"]
        assert alone.counters.unaccounted() == 0


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_entries_that_may_not_be_read_are_given_back_after_the_member_has_left(
    tmp_path: Path, is_resumed: bool
) -> None:
    ruled = _Ruled(tmp_path, "topic read #\n" if not is_resumed else "topic read u/own\n")
    router = ruled.router
    router.incarnation = 3
    topics = ["t/1", "u/own", "t/2"]
    queue = {seq: Publish(topic, b"", 1) for seq, topic in enumerate(topics, 1)}
    if is_resumed:
        router.queued = queue
        subscriptions = [(GROUP, SubscriptionOptions(1))]
        router.session = AttachedSession(1, 3, True, 1, False, 3, subscriptions=subscriptions)
    async with ruled.alone as alone:
        client = alone.accept()
        client.send(mqtt_bytes.connect("c", clean=not is_resumed))
        await turns()
        if not is_resumed:
            client.received()
            await _subscribe(client, (GROUP, 1))
            router.reachable.clear()
            ruled.change("topic read u/own\n")
            for seq, message in queue.items():
                alone.edge.push("c", 1, seq, message)
            await turns()
            assert router.returned == [], "they would come back"
            router.reachable.set()
            await turns()
        assert [packet.topic for packet in client.received() if packet.kind == "PUBLISH"] == [
            "u/own"
        ]
        assert router.unsubscribed == [GROUP]
        assert router.returned == [([1, 3], 1 if is_resumed else 0)]
        assert not router.completed, "who takes them deletes them"
        assert not alone.counters.dropped["not_authorized"]


async def test_a_new_session_without_shared_subscriptions_just_drops_them(tmp_path: Path) -> None:
    ruled = _Ruled(tmp_path, "topic read u\n")
    ruled.router.incarnation = 3
    async with ruled.alone as alone:
        await alone.connect("c")
        alone.edge.push("c", 1, 1, Publish("t", b"", 1))
        await turns()
        assert ruled.router.completed == [("c", 1, [1])]
        assert ruled.router.returned == []
        assert alone.counters.dropped["not_authorized"] == 1


def test_entries_are_given_back_until_the_router_has_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        ruled = _Ruled(tmp_path, "topic read #\n")
        ruled.router.incarnation = 3
        async with ruled.alone as alone:
            client = await alone.connect("c")
            await _subscribe(client, (GROUP, 1))
            ruled.change("")
            await turns()
            ruled.router.refuses_sessions = True
            for seq in range(1, 302):
                alone.edge.push("c", 1, seq, Publish("t/a", b"", 1))
            await turns()
            assert not ruled.router.returned
            ruled.router.refuses_sessions = False
            await asyncio.sleep(1)
            returned = [seq for seqs, _ in ruled.router.returned for seq in seqs]
            assert returned == list(range(1, 302))
            assert max(len(seqs) for seqs, _ in ruled.router.returned) == 200

    run_virtual(scenario())
