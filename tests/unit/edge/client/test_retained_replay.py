"""Retained messages of a SUBSCRIBE: in order with live ones, at the client's pace; virtual time.

Inputs: an edge with a fake router, whose reads wait or fail when the test says so; live messages.
Observed: what the client gets, and in which order.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import EdgeClient, LoneEdge
from support.mqtt_bytes import V5, V311
from support.virtual_time import in_virtual_time, turns
from tidegate.edge.client import retained_replay
from tidegate.edge.client.delivery import MAX_REPLAYS
from tidegate.edge.client.retained_replay import RETRY_S, TRIES
from tidegate.link.interfaces import AttachedSession, RetainedPage, RouterUnavailable
from tidegate.mqtt.packets import Publish, SubscriptionOptions


def _retain(edge: LoneEdge, topic: str, payload: bytes, qos: int = 0) -> None:
    """Publish with RETAIN: as a router does, in one step."""
    message = Publish(topic, payload, qos, True)
    edge.edge.deliver(message, "publisher")
    if payload:
        edge.router.retained[topic] = message
    else:
        edge.router.retained.pop(topic, None)


def _keep(edge: LoneEdge, *topics: str, qos: int = 0) -> None:
    """Have messages retained before anybody looks."""
    for topic in topics:
        edge.router.retained[topic] = Publish(topic, b"kept", qos, True)


async def _subscribe(client: EdgeClient, *filters: tuple[str, Any], number: int = 1) -> None:
    client.send(mqtt_bytes.subscribe(number, list(filters), version=client.version))
    await turns()


def _got(client: EdgeClient) -> list[Any]:
    """What has come: SUBACK, or payload and RETAIN of a message."""
    return [
        (packet.payload, packet.retain) if packet.kind == "PUBLISH" else packet.kind
        for packet in client.received()
    ]


def _acknowledge(client: EdgeClient, count: int, first: int = 1) -> None:
    for packet_id in range(first, first + count):
        client.send(mqtt_bytes.acknowledge("PUBACK", packet_id))


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1])
@in_virtual_time
async def test_what_comes_during_the_read_is_retained_and_what_comes_after_suback_is_live(
    version: int, qos: int
) -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c", version)
        _keep(edge, "t")
        edge.router.readable.clear()
        await _subscribe(client, ("t", qos))
        _retain(edge, "t", b"1", qos)
        _retain(edge, "t", b"2", qos)
        assert _got(client) == []
        edge.router.readable.set()
        await turns()
        _retain(edge, "t", b"3", qos)
        assert _got(client) == ["SUBACK", (b"2", True), (b"3", False)]


@in_virtual_time
async def test_what_was_noted_goes_before_what_an_earlier_version_read() -> None:
    """It leaves out what is written meanwhile; the answer was on its way when that came."""
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        _keep(edge, "t", "removed")
        read = edge.router.read_retained

        async def late(filters: Any, last: Any = None, on_read: Any = None) -> Any:
            page = await read(filters, last)
            await asyncio.sleep(0.1)
            return page

        edge.router.read_retained = late  # type: ignore[method-assign]
        await _subscribe(client, ("#", 0))
        _retain(edge, "t", b"newer")
        _retain(edge, "removed", b"")
        _retain(edge, "first", b"of its topic")
        await asyncio.sleep(0.2)
        assert _got(client) == ["SUBACK", (b"of its topic", True), (b"newer", True)]


@in_virtual_time
async def test_what_was_on_its_way_for_an_earlier_subscriber_gives_way_to_what_is_read() -> None:
    """The last one left before the newer messages, so routers did not send these to this edge."""
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        edge.router.readable.clear()
        await _subscribe(client, ("#", 0))
        for topic in ("changed", "removed"):
            edge.edge.deliver(Publish(topic, b"older", 0, True), "publisher")
        _keep(edge, "changed")
        edge.router.readable.set()
        await turns()
        _retain(edge, "changed", b"live")
        assert _got(client) == ["SUBACK", (b"kept", True), (b"live", False)]


@in_virtual_time
async def test_what_comes_behind_a_reply_is_newer_than_it() -> None:
    """Though the replay goes on only when all that came with the reply has been handled."""
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        _keep(edge, "t", "removed")
        read = edge.router.read_retained

        async def together(*arguments: Any, **options: Any) -> Any:
            page = await read(*arguments, **options)
            _retain(edge, "t", b"newer")
            _retain(edge, "removed", b"")
            return page

        edge.router.read_retained = together  # type: ignore[method-assign]
        await _subscribe(client, ("#", 0))
        assert _got(client) == ["SUBACK", (b"newer", True)]


@in_virtual_time
async def test_a_message_without_retain_before_the_moment_of_effect_is_not_sent() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        edge.router.readable.clear()
        await _subscribe(client, ("t", 0))
        edge.edge.deliver(Publish("t", b"passes"), "publisher")
        edge.router.readable.set()
        await turns()
        assert _got(client) == ["SUBACK"]


@in_virtual_time
async def test_a_payload_too_large_to_be_retained_is_not_taken_for_the_retained_one() -> None:
    async with LoneEdge(limits={"max_retained_payload_bytes": 4}) as edge:
        client = await edge.connect("c")
        _keep(edge, "t")
        edge.router.readable.clear()
        await _subscribe(client, ("t", 0))
        edge.edge.deliver(Publish("t", b"12345", 0, True), "publisher")
        edge.router.readable.set()
        await turns()
        assert _got(client) == ["SUBACK", (b"kept", True)]


@in_virtual_time
async def test_an_older_subscription_goes_on_during_the_read() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        await _subscribe(client, ("t", 0))
        edge.router.readable.clear()
        await _subscribe(client, ("+", 0), number=2)
        _retain(edge, "t", b"1")
        edge.router.readable.set()
        await turns()
        _retain(edge, "t", b"2")
        got = _got(client)
        assert got[:4] == ["SUBACK", (b"1", False), "SUBACK", (b"1", True)]
        assert {*got[4:]} == {(b"2", False)}


@in_virtual_time
async def test_one_request_reads_for_all_filters_that_want_it() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        _keep(edge, "a", "b", "c")
        await _subscribe(client, ("a", 0), ("b", 0x20), ("c", 0x10))
        assert [filters for filters, _ in edge.router.reads] == [["a", "c"]]
        assert _got(client) == ["SUBACK", (b"kept", True), (b"kept", True)]
        await _subscribe(client, ("c", 0x10), ("b", 0x20), number=2)
        assert len(edge.router.reads) == 1
        assert _got(client) == ["SUBACK"]


@in_virtual_time
async def test_overlapping_filters_send_a_retained_message_each_with_their_qos() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        _keep(edge, "a/b", qos=1)
        await _subscribe(client, ("a/b", 0), ("a/+", 1))
        found = [packet for packet in client.received() if packet.kind == "PUBLISH"]
        assert sorted(packet.qos for packet in found) == [0, 1]


@in_virtual_time
async def test_the_rest_follows_at_the_clients_pace() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c", props=[("receive_maximum", 2)])
        _keep(edge, *"abcdef", qos=1)
        edge.router.page_size = 4
        await _subscribe(client, ("#", 1))
        got = client.received()
        assert [packet.kind for packet in got] == ["SUBACK", "PUBLISH", "PUBLISH"]
        topics = [packet.topic for packet in got[1:]]
        for number in range(1, 5):
            _acknowledge(client, 1, number)
            await turns()
            topics += [packet.topic for packet in client.received()]
        assert topics == [*"abcdef"]
        assert len(edge.router.reads) == 2
        assert not edge.edge.registry.observers.all


@in_virtual_time
async def test_a_retained_message_that_waits_goes_out_before_a_newer_live_one() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c", props=[("receive_maximum", 1)])
        _keep(edge, *"ab", qos=1)
        await _subscribe(client, ("#", 1))
        edge.edge.deliver(Publish("b", b"live", 1), "publisher")
        _acknowledge(client, 2)
        await turns()
        _acknowledge(client, 1, 2)
        await turns()
        assert _got(client) == [
            "SUBACK", (b"kept", True), (b"kept", True), (b"live", False),
        ]  # fmt: skip


@in_virtual_time
async def test_a_topic_that_came_live_is_not_read_again_in_a_later_page() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c", props=[("receive_maximum", 1)])
        _keep(edge, *"abc", qos=1)
        edge.router.page_size = 1
        await _subscribe(client, ("#", 1))
        _retain(edge, "c", b"live", 1)
        got = _got(client)
        for number in range(1, 4):
            _acknowledge(client, 1, number)
            await turns()
            got += _got(client)
        assert got == ["SUBACK", (b"kept", True), (b"kept", True), (b"live", False)]


@in_virtual_time
async def test_a_store_that_is_away_delays_suback_a_little_and_retained_messages_until_it_is_back(
) -> None:  # fmt: skip
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        _keep(edge, "t", "u")
        edge.router.failing_reads = 10
        await _subscribe(client, ("#", 0))
        assert _got(client) == []
        await asyncio.sleep(RETRY_S * TRIES)
        assert _got(client) == ["SUBACK"]
        _retain(edge, "t", b"live")
        await asyncio.sleep(RETRY_S * 10)
        assert _got(client) == [(b"live", False), (b"kept", True)]


@pytest.mark.parametrize("readable", [True, False])
@in_virtual_time
async def test_a_connection_that_ends_leaves_no_interest_and_no_replay(readable: bool) -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c", props=[("receive_maximum", 1)])
        _keep(edge, *"abc", qos=1)
        if not readable:
            edge.router.readable.clear()
        await _subscribe(client, ("#", 1), ("b/+", 1))
        assert edge.edge.registry.observers.all
        client.lose()
        edge.router.readable.set()
        await turns()
        registry = edge.edge.registry
        assert (edge.router.interest, registry.observers.all) == ({}, set())
        assert not registry.observers.match("a")


@in_virtual_time
async def test_what_the_client_may_not_read_is_not_sent(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read a\ntopic read c\n")
    async with LoneEdge(auth={"allow_anonymous": True, "acl_file": str(acl)}) as edge:
        client = await edge.connect("c")
        _keep(edge, *"abc")
        await _subscribe(client, ("#", 0))
        topics = [packet.topic for packet in client.received() if packet.kind == "PUBLISH"]
        assert topics == ["a", "c"]


@in_virtual_time
async def test_more_messages_during_a_read_than_are_noted_repeat_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retained_replay, "MAX_NOTED", 3)
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        edge.router.readable.clear()
        await _subscribe(client, ("#", 0))
        for number in range(5):
            _retain(edge, f"t{number}", b"%d" % number)
        edge.router.readable.set()
        await asyncio.sleep(RETRY_S * 2)
        got = _got(client)
        assert len(edge.router.reads) == 2
        assert [one[0] for one in got[1:]] == [b"0", b"1", b"2", b"3", b"4"]


@in_virtual_time
async def test_a_client_that_subscribes_and_does_not_read_keeps_few_replays() -> None:
    """What one client makes others pay for is bounded; all of it arrives in the end."""
    async with LoneEdge() as edge:
        client = await edge.connect("c", props=[("receive_maximum", 1)])
        _keep(edge, *"abc", qos=1)
        for number in range(1, 20):
            await _subscribe(client, ("#" if number % 2 else "+", 1), number=number)
        assert len(edge.edge.registry.observers.all) == MAX_REPLAYS + 1
        topics = [packet.topic for packet in client.received() if packet.kind == "PUBLISH"]
        for number in range(1, 20):
            _acknowledge(client, 1, number)
            await turns()
            topics += [packet.topic for packet in client.received() if packet.kind == "PUBLISH"]
        # Of two SUBSCRIBEs, and of all others together: both filters.
        assert sorted(topics) == sorted(4 * "abc")


@in_virtual_time
async def test_a_qos_2_message_that_comes_again_after_it_was_sent_as_retained_is_not_sent_again(
) -> None:  # fmt: skip
    """Its router died before it was confirmed."""
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        edge.router.readable.clear()
        await _subscribe(client, ("t", 2))
        for number in range(2):
            message = edge.router.retained["t"] = Publish("t", b"%d" % number, 2, True)
            edge.edge.deliver(message, "publisher", f"identity-{number}")
        edge.router.readable.set()
        await turns()
        for number in range(3):
            message = Publish("t", b"%d" % number, 2, True)
            edge.edge.deliver(message, "publisher", f"identity-{number}")
        assert _got(client) == ["SUBACK", (b"1", True), (b"2", False)]


@in_virtual_time
async def test_unsubscribe_ends_what_is_still_to_be_sent() -> None:
    async with LoneEdge() as edge:
        client = await edge.connect("c", props=[("receive_maximum", 1)])
        _keep(edge, *"abcd", qos=1)
        await _subscribe(client, ("#", 1))
        client.send(mqtt_bytes.unsubscribe(2, ["#"]))
        await turns()
        _acknowledge(client, 2)
        await turns()
        got = [packet.kind for packet in client.received()]
        # Two had been given to the client's queue before.
        assert sorted(got) == ["PUBLISH", "PUBLISH", "SUBACK", "UNSUBACK"]
        assert not edge.edge.registry.observers.all


# Durable sessions


async def _durable(edge: LoneEdge, **session: Any) -> EdgeClient:
    edge.router.incarnation = 1
    if session:
        edge.router.session = AttachedSession(5, 1, True, **session)
    return await edge.connect("c", clean=False, props=[("session_expiry", 100)])


@in_virtual_time
async def test_routers_queue_retained_messages_before_suback_and_qos_0_comes_from_the_edge(
) -> None:  # fmt: skip
    async with LoneEdge() as edge:
        client = await _durable(edge)
        _keep(edge, "a", "c", qos=1)
        _keep(edge, "b")
        await _subscribe(client, ("#", 1), ("a", 0))
        assert edge.router.generations == [("1.1", [])]
        assert edge.router.enqueued == [("#", "a"), ("#", "c")]
        # "a" comes through two subscriptions, with QoS 0 through one of them.
        assert sorted(packet.topic for packet in client.received() if packet.kind == "PUBLISH") == [
            "b"
        ]
        assert sorted(edge.router.replays) == [("#", "1.1", ""), ("a", "1.1", "")]
        await _subscribe(client, ("#", 1), number=2)
        assert edge.router.generations[1:] == [("1.2", ["#"])]


@in_virtual_time
async def test_the_store_has_how_far_a_durable_session_has_got(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retained_replay, "CHUNK", 2)
    async with LoneEdge() as edge:
        client = await _durable(edge)
        _keep(edge, *"abcdefg", qos=1)
        edge.router.page_size = 5
        await _subscribe(client, ("#", 1))
        assert _got(client) == ["SUBACK"]
        assert edge.router.enqueued == [("#", topic) for topic in "abcdefg"]
        assert edge.router.replays == [("#", "1.1", topic) for topic in ["d", "e", ""]]


@in_virtual_time
async def test_another_connection_goes_on_from_there() -> None:
    async with LoneEdge() as edge:
        _keep(edge, *"abcdef", qos=1)
        subscriptions = [("#", SubscriptionOptions(1)), ("+", SubscriptionOptions(1))]
        replays = [("#", "2.1", "c"), ("+", "3.1", ""), ("gone", "3.1", "")]
        client = await _durable(edge, subscriptions=subscriptions, replays=replays)
        await turns()
        assert edge.router.enqueued == [
            *(("#", topic) for topic in "def"),
            *(("+", topic) for topic in "abcdef"),
        ]
        assert edge.router.replays[-1] == ("+", "3.1", "")
        assert ("#", "2.1", "") in edge.router.replays
        assert _got(client) == []


@pytest.mark.parametrize("comes_back", [False, True])
@in_virtual_time
async def test_a_replay_is_shown_live_messages_of_every_qos_as_long_as_it_lasts(
    comes_back: bool,
) -> None:
    """What comes live of a topic is not followed by what it retained before."""
    async with LoneEdge() as edge:
        _keep(edge, *"ab", qos=1)
        edge.router.failing_queues = 1000
        if comes_back:
            client = await _durable(
                edge, subscriptions=[("#", SubscriptionOptions(1))], replays=[("#", "2.1", "")]
            )
        else:
            client = await _durable(edge)
            await _subscribe(client, ("#", 1))
        assert edge.router.interest == {"#": False}
        edge.router.failing_queues = 0
        await asyncio.sleep(RETRY_S * 4)
        assert edge.router.interest == {"#": True}
        await _subscribe(client, ("#", 0), number=2)
        await asyncio.sleep(RETRY_S * 4)
        assert edge.router.interest == {"#": False}
        client.lose()
        await turns()
        assert not edge.router.interest


@in_virtual_time
async def test_routers_that_are_away_queue_later_and_nothing_twice() -> None:
    async with LoneEdge() as edge:
        client = await _durable(edge)
        _keep(edge, *"abc", qos=1)
        edge.router.failing_queues = 3
        await _subscribe(client, ("#", 1))
        assert _got(client) == ["SUBACK"]
        await asyncio.sleep(RETRY_S * 4)
        assert edge.router.enqueued == [("#", topic) for topic in "abc"]
        assert edge.router.replays == [("#", "1.1", "")]


@in_virtual_time
async def test_it_ends_with_the_connection_while_no_router_queues() -> None:
    async with LoneEdge() as edge:
        client = await _durable(edge)
        _keep(edge, *"abc", qos=1)
        edge.router.failing_queues = 1000
        await _subscribe(client, ("#", 1))
        client.lose()
        await asyncio.sleep(RETRY_S * 2)
        assert not edge.edge.registry.observers.all
        assert edge.router.replays == []


@in_virtual_time
async def test_a_durable_subscription_with_nothing_retained_costs_one_write() -> None:
    async with LoneEdge() as edge:
        client = await _durable(edge)
        await _subscribe(client, ("#", 1))
        assert _got(client) == ["SUBACK"]
        assert edge.router.generations == [("", [])]
        assert (edge.router.enqueued, edge.router.replays) == ([], [])


@in_virtual_time
async def test_what_is_retained_while_a_durable_subscription_is_stored_is_queued() -> None:
    async with LoneEdge() as edge:
        client = await _durable(edge)
        subscribe = edge.router.subscribe

        async def slow(*arguments: Any, **more: Any) -> None:
            if not edge.router.generations:
                _retain(edge, "t", b"new", 1)
            await subscribe(*arguments, **more)

        edge.router.subscribe = slow  # type: ignore[method-assign]
        await _subscribe(client, ("#", 0x11))
        assert _got(client) == ["SUBACK"]
        assert edge.router.generations == [("", []), ("1.1+", [])]
        assert edge.router.enqueued == [("#", "t")]
        assert edge.router.replays == [("#", "1.1+", "")]


class _Reads:
    """Reads of retained messages that end when the test says so."""

    def __init__(self, edge: LoneEdge) -> None:
        self.pending: list[asyncio.Future[RetainedPage]] = []
        edge.router.read_retained = self._read  # type: ignore[method-assign]

    async def _read(self, *_arguments: Any, **_options: Any) -> RetainedPage:
        self.pending.append(asyncio.get_running_loop().create_future())
        return await self.pending[-1]

    async def found(self, number: int, payload: bytes) -> None:
        self.pending[number].set_result(RetainedPage([Publish("t", payload, 0, True)], None))
        await turns()

    async def fail(self, number: int) -> None:
        self.pending[number].set_exception(RouterUnavailable("none is there"))
        await asyncio.sleep(RETRY_S)
        await turns()


async def _subscribe_unread(client: EdgeClient, reads: _Reads) -> None:
    """Subscribe while nothing can be read: the third read goes on after SUBACK."""
    await _subscribe(client, ("t", 0))
    for number in range(TRIES):
        await reads.fail(number)
    await asyncio.sleep(RETRY_S)
    assert _got(client) == ["SUBACK"]
    assert len(reads.pending) == TRIES + 1


@pytest.mark.parametrize("order", ["second first", "first first", "one after the other"])
@in_virtual_time
async def test_two_subscribes_never_bring_an_older_value_after_a_newer_one(order: str) -> None:
    """What the first SUBSCRIBE could not read follows when the second one has been read."""
    async with LoneEdge() as edge:
        client = await edge.connect("c")
        reads = _Reads(edge)
        await _subscribe_unread(client, reads)
        await _subscribe(client, ("t", 0), number=2)
        if order == "second first":
            await reads.found(3, b"1")
            await reads.found(2, b"2")
            await reads.found(4, b"2")
        elif order == "first first":
            await reads.found(2, b"2")
            await reads.found(3, b"1")
            await reads.found(4, b"2")
        else:
            await reads.found(3, b"1")
            await reads.fail(2)
            await reads.found(4, b"2")
        got = _got(client)
        assert sorted(got, key=str) == sorted(["SUBACK", (b"2", True), (b"2", True)], key=str)
