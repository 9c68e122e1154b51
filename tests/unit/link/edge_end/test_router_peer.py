"""One router as an edge sees it: what is not settled, what waits, and in which order it goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.played_link import PlayedOrigin, in_virtual_time
from tidegate.link.edge_end.router_peer import TELL_BYTES, LinkLost, RouterPeer, Sent, State
from tidegate.link.messages import size_of
from tidegate.link.outbox import Outbox
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish


def _open(channel: RouterPeer, credit_bytes: int = 10_000) -> None:
    """A connection has come up."""
    channel.outbox = Outbox(pb.EdgeFrame)
    channel.credit_bytes = credit_bytes
    channel.state = State.OPEN
    channel.flush_waiting()


def _channel() -> RouterPeer:
    channel = RouterPeer("r1", "r1:7000")
    _open(channel)
    return channel


class _Publisher(PlayedOrigin):
    """Numbers what it publishes, as the router client does."""

    order = 0

    def sent(self, payload: bytes, qos: int = 1, order: int = 0) -> Sent:
        self.order = order or self.order + 1
        message = Publish("t", payload, qos, packet_id=7)
        sent = Sent(self.client_id, self.epoch, self.order, size_of(message))
        sent.origin, sent.message = self, message
        if qos == 2:
            sent.identity, sent.receipt = self.identity(message), self.receipt(message)
        return sent


def _of(channel: RouterPeer, kind: str) -> list[Any]:
    assert channel.outbox is not None
    return [
        getattr(operation, kind)
        for operation in channel.outbox.frame.operations
        if operation.WhichOneof("kind") == kind
    ]


def _payloads(channel: RouterPeer) -> list[bytes]:
    return [publish.message.payload for publish in _of(channel, "publish")]


def _settle(channel: RouterPeer, *numbers: int, code: int = 0, credit_bytes: int = 0) -> None:
    codes = [code] * len(numbers)
    channel.settled(pb.RouterFrame(done_ids=numbers, done_codes=codes, credit_bytes=credit_bytes))


@in_virtual_time
async def test_an_answer_reaches_the_publisher_once() -> None:
    channel, publisher = _channel(), _Publisher()
    channel.publish(publisher.sent(b"a"))
    channel.publish(publisher.sent(b"b"))
    first, second = (publish.id for publish in _of(channel, "publish"))
    _settle(channel, second, code=0x10)
    _settle(channel, first)
    _settle(channel, first, second)
    assert publisher.answers == [(b"b", 0x10), (b"a", 0)]
    assert not channel.unsettled


@in_virtual_time
async def test_credit_is_used_up_by_what_is_not_settled() -> None:
    channel, publisher = _channel(), _Publisher()
    sent = publisher.sent(b"x" * 5000)
    channel.publish(sent)
    assert channel.has_credit()
    channel.publish(publisher.sent(b"x" * 5000))
    assert not channel.has_credit()
    _settle(channel, credit_bytes=sent.size)
    assert channel.has_credit()


@in_virtual_time
async def test_credit_that_was_never_used_is_not_given() -> None:
    channel, publisher = _channel(), _Publisher()
    _settle(channel, credit_bytes=1_000_000)
    channel.publish(publisher.sent(b"x" * 10_000))
    assert not channel.has_credit()


@in_virtual_time
async def test_publishes_without_an_answer_use_credit_too() -> None:
    channel = _channel()
    message = Publish("t", b"x" * 10_000)
    channel.publish_unanswered(message, "publisher")
    assert not channel.has_credit()
    channel.settled(pb.RouterFrame(credit_bytes=size_of(message), unacknowledged_done=1))
    assert channel.has_credit()
    assert channel.disconnected() == 0


@in_virtual_time
async def test_publishes_wait_in_every_state_but_open() -> None:
    for state in (State.DOWN, State.GATED, State.LEAVING):
        channel, publisher = _channel(), _Publisher()
        channel.state = state
        channel.publish(publisher.sent(b"a"))
        assert not _payloads(channel), state
        assert channel.outstanding_bytes > 0
        channel.state = State.OPEN
        channel.flush_waiting()
        assert _payloads(channel) == [b"a"], state


@in_virtual_time
async def test_what_has_waited_goes_in_the_order_in_which_it_was_asked_for() -> None:
    channel, publisher = _channel(), _Publisher()
    channel.state = State.DOWN
    for order in (3, 1, 2):
        channel.publish(publisher.sent(b"%d" % order, order=order))
    channel.state = State.OPEN
    channel.flush_waiting()
    assert _payloads(channel) == [b"1", b"2", b"3"]


@in_virtual_time
async def test_what_was_not_settled_is_sent_again_before_what_has_come_since() -> None:
    channel, publisher = _channel(), _Publisher()
    for payload in (b"a", b"b", b"c"):
        channel.publish(publisher.sent(payload))
    _settle(channel, _of(channel, "publish")[1].id)
    assert channel.disconnected() == 0
    assert channel.state is State.DOWN
    channel.publish(publisher.sent(b"d"))
    _open(channel)
    assert _payloads(channel) == [b"a", b"c", b"d"]
    assert publisher.answers == [(b"b", 0)]


@in_virtual_time
async def test_a_publish_sent_again_is_the_same_exchange() -> None:
    channel, publisher = _channel(), _Publisher()
    channel.publish(publisher.sent(b"a", 2))
    (before,) = _of(channel, "publish")
    channel.disconnected()
    _open(channel)
    (after,) = _of(channel, "publish")
    assert after.identity == before.identity == "publisher/7"
    assert (after.receipt, after.packet_id, after.epoch) == (4, 7, 1)
    # Numbers are never used twice, so that an answer of the old connection settles nothing.
    assert after.id != before.id
    _settle(channel, before.id)
    assert publisher.answers == []


@in_virtual_time
async def test_after_a_reconnection_credit_counts_what_waits_and_nothing_else() -> None:
    channel, publisher = _channel(), _Publisher()
    channel.publish_unanswered(Publish("t", b"x" * 3000), "publisher")
    kept = publisher.sent(b"x" * 1000)
    channel.publish(kept)
    assert channel.disconnected() == 1
    assert channel.outstanding_bytes == kept.size
    _open(channel)
    assert channel.outstanding_bytes == kept.size


@in_virtual_time
async def test_a_qos_0_publish_that_waited_is_counted_like_one_that_did_not() -> None:
    channel, publisher = _channel(), _Publisher()
    channel.state = State.GATED
    channel.publish(publisher.sent(b"a", 0))
    channel.state = State.OPEN
    channel.flush_waiting()
    (publish,) = _of(channel, "publish")
    assert publish.id == 0
    assert channel.disconnected() == 1


@in_virtual_time
async def test_the_end_of_a_connection_fails_what_is_asked() -> None:
    channel = _channel()
    request = channel.request(pb.Request(barrier=pb.BarrierRequest()))
    sync = channel.sync()
    channel.disconnected()
    for future in (request, sync, channel.request(pb.Request()), channel.sync()):
        with pytest.raises(LinkLost):
            await future


@in_virtual_time
async def test_answers_find_their_requests_in_any_order() -> None:
    channel = _channel()
    requests = [channel.request(pb.Request(fence=pb.FenceRequest())) for _ in range(3)]
    numbers = [request.id for request in _of(channel, "request")]
    assert len(set(numbers)) == 3
    for number in reversed(numbers):
        channel.replied(pb.Reply(id=number, text=f"to {number}"))
    channel.replied(pb.Reply(id=99, text="nobody asked"))
    answers = [(await request).text for request in requests]
    assert answers == [f"to {number}" for number in numbers]


@in_virtual_time
async def test_nobody_may_be_waiting_for_an_answer_any_more() -> None:
    channel = _channel()
    request, sync = channel.request(pb.Request()), channel.sync()
    request.cancel()
    sync.cancel()
    channel.replied(pb.Reply(id=1))
    channel.applied(2)
    assert not channel.requests
    assert not channel.synced


@in_virtual_time
async def test_completions_wait_only_while_there_is_no_connection() -> None:
    channel, done = _channel(), []

    def complete(seq: int) -> Sent:
        sent = Sent("client", 4, seq, 0)
        sent.seqs, sent.done = [seq], lambda: done.append(seq)
        return sent

    channel.state = State.GATED
    channel.complete(complete(1))
    assert [list(one.seqs) for one in _of(channel, "complete")] == [[1]]
    channel.disconnected()
    channel.complete(complete(2))
    _open(channel)
    sent = _of(channel, "complete")
    assert [(one.client_id, one.epoch, list(one.seqs)) for one in sent] == [
        ("client", 4, [1]),
        ("client", 4, [2]),
    ]
    _settle(channel, *(one.id for one in sent))
    assert done == [1, 2]


@in_virtual_time
async def test_who_gives_a_router_up_gets_all_that_was_asked_of_it_in_order() -> None:
    channel, publisher = _channel(), _Publisher()
    for payload in (b"a", b"b"):
        channel.publish(publisher.sent(payload))
    channel.state = State.LEAVING
    channel.publish(publisher.sent(b"c"))
    found = [sent.message.payload for sent in channel.take_waiting() if sent.message]
    assert found == [b"a", b"b", b"c"]
    assert channel.outstanding_bytes == 0
    assert not channel.take_waiting()
    # What the router says of them now is about nobody's publishes.
    _settle(channel, *(publish.id for publish in _of(channel, "publish")))
    assert publisher.answers == []


@in_virtual_time
async def test_a_router_is_told_what_was_taken_before_much_is_outstanding() -> None:
    channel = _channel()
    outbox = channel.outbox
    assert outbox is not None
    channel.taken(TELL_BYTES // 2)
    assert outbox.queued_bytes == 0
    assert outbox.frame.frames_taken == 1
    channel.taken(TELL_BYTES)
    assert outbox.queued_bytes > 0
    assert outbox.frame.frames_taken == 2
    channel.disconnected()
    channel.taken(TELL_BYTES)
    await asyncio.sleep(0)
