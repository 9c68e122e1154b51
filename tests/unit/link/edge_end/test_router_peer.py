"""One router as an edge sees it: what is not settled, what waits, and in which order it goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.fake_link import FakeOrigin
from support.virtual_time import in_virtual_time
from tidegate.link.edge_end.router_peer import (
    REPORT_BYTES,
    LinkLost,
    RouterPeer,
    State,
    Unconfirmed,
)
from tidegate.link.messages import size_of
from tidegate.link.outbox import Outbox
from tidegate.link.router_end.edge_peer import MIN_WINDOW_BYTES
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish


def _open(peer: RouterPeer, credit_bytes: int = 10_000) -> None:
    """A connection has come up."""
    peer.outbox = Outbox(pb.EdgeFrame)
    peer.credit_bytes = credit_bytes
    peer.state = State.OPEN
    peer.send_waiting()


def _peer() -> RouterPeer:
    peer = RouterPeer("r1", "r1:7000")
    _open(peer)
    return peer


class _Publisher(FakeOrigin):
    """Numbers what it publishes, as the router client does."""

    order = 0

    def sent(self, payload: bytes, qos: int = 1, order: int = 0) -> Unconfirmed:
        self.order = order or self.order + 1
        message = Publish("t", payload, qos, packet_id=7)
        sent = Unconfirmed(self.client_id, self.epoch, self.order, size_of(message))
        sent.origin, sent.message = self, message
        if qos == 2:
            sent.identity, sent.receipt = self.identity(message), self.receipt(message)
        return sent


def _of(peer: RouterPeer, kind: str) -> list[Any]:
    assert peer.outbox is not None
    return [
        getattr(operation, kind)
        for operation in peer.outbox.frame.operations
        if operation.WhichOneof("kind") == kind
    ]


def _payloads(peer: RouterPeer) -> list[bytes]:
    return [publish.message.payload for publish in _of(peer, "publish")]


def _settle(peer: RouterPeer, *numbers: int, code: int = 0, credit_bytes: int = 0) -> None:
    codes = [code] * len(numbers)
    peer.confirm(pb.RouterFrame(done_ids=numbers, done_codes=codes, credit_bytes=credit_bytes))


@in_virtual_time
async def test_an_answer_reaches_the_publisher_once() -> None:
    peer, publisher = _peer(), _Publisher()
    peer.publish(publisher.sent(b"a"))
    peer.publish(publisher.sent(b"b"))
    first, second = (publish.id for publish in _of(peer, "publish"))
    _settle(peer, second, code=0x10)
    _settle(peer, first)
    _settle(peer, first, second)
    assert publisher.answers == [(b"b", 0x10), (b"a", 0)]
    assert not peer.unconfirmed


@in_virtual_time
async def test_credit_is_used_up_by_what_is_not_confirmed() -> None:
    peer, publisher = _peer(), _Publisher()
    sent = publisher.sent(b"x" * 5000)
    peer.publish(sent)
    assert peer.has_credit()
    peer.publish(publisher.sent(b"x" * 5000))
    assert not peer.has_credit()
    _settle(peer, credit_bytes=sent.size)
    assert peer.has_credit()


@in_virtual_time
async def test_credit_that_was_never_used_is_not_given() -> None:
    peer, publisher = _peer(), _Publisher()
    _settle(peer, credit_bytes=1_000_000)
    peer.publish(publisher.sent(b"x" * 10_000))
    assert not peer.has_credit()


@in_virtual_time
async def test_publishes_without_an_answer_use_credit_too() -> None:
    peer = _peer()
    message = Publish("t", b"x" * 10_000)
    peer.publish_qos0(message, "publisher", 1)
    assert not peer.has_credit()
    peer.confirm(pb.RouterFrame(credit_bytes=size_of(message), unacknowledged_done=1))
    assert peer.has_credit()
    assert peer.disconnected() == 0


@in_virtual_time
async def test_publishes_wait_in_every_state_but_open() -> None:
    for state in (State.DOWN, State.GATED, State.LEAVING):
        peer, publisher = _peer(), _Publisher()
        peer.state = state
        peer.publish(publisher.sent(b"a"))
        assert not _payloads(peer), state
        assert peer.outstanding_bytes > 0
        peer.state = State.OPEN
        peer.send_waiting()
        assert _payloads(peer) == [b"a"], state


@in_virtual_time
async def test_what_has_waited_goes_in_the_order_in_which_it_was_asked_for() -> None:
    peer, publisher = _peer(), _Publisher()
    peer.state = State.DOWN
    for order in (3, 1, 2):
        peer.publish(publisher.sent(b"%d" % order, order=order))
    peer.state = State.OPEN
    peer.send_waiting()
    assert _payloads(peer) == [b"1", b"2", b"3"]


@in_virtual_time
async def test_what_was_not_confirmed_is_sent_again_before_what_has_come_since() -> None:
    peer, publisher = _peer(), _Publisher()
    for payload in (b"a", b"b", b"c"):
        peer.publish(publisher.sent(payload))
    _settle(peer, _of(peer, "publish")[1].id)
    assert peer.disconnected() == 0
    assert peer.state is State.DOWN
    peer.publish(publisher.sent(b"d"))
    _open(peer)
    assert _payloads(peer) == [b"a", b"c", b"d"]
    assert publisher.answers == [(b"b", 0)]


@in_virtual_time
async def test_a_publish_sent_again_is_the_same_exchange() -> None:
    peer, publisher = _peer(), _Publisher()
    peer.publish(publisher.sent(b"a", 2))
    (before,) = _of(peer, "publish")
    peer.disconnected()
    _open(peer)
    (after,) = _of(peer, "publish")
    assert after.identity == before.identity == "publisher/7"
    assert (after.receipt, after.packet_id, after.epoch) == (4, 7, 1)
    # Numbers are never used twice, so that an answer of the old connection settles nothing.
    assert after.id != before.id
    _settle(peer, before.id)
    assert publisher.answers == []


@in_virtual_time
async def test_an_exchange_that_is_sent_again_has_dup() -> None:
    """By the client, or by its edge: a router may have handled it."""
    peer, publisher = _peer(), _Publisher()
    first, repeated, other = (
        publisher.sent(b"%d" % number, qos) for number, qos in enumerate((2, 2, 1))
    )
    assert repeated.message is not None
    repeated.message.dup = True
    for one in (first, repeated, other):
        peer.publish(one)
    assert [publish.dup for publish in _of(peer, "publish")] == [False, True, False]
    left = peer.take_waiting()
    another = _peer()
    for one in left:
        another.publish(one)
    assert [publish.dup for publish in _of(another, "publish")] == [True, True, False]


@in_virtual_time
async def test_after_a_reconnection_credit_counts_what_waits_and_nothing_else() -> None:
    peer, publisher = _peer(), _Publisher()
    peer.publish_qos0(Publish("t", b"x" * 3000), "publisher", 1)
    kept = publisher.sent(b"x" * 1000)
    peer.publish(kept)
    assert peer.disconnected() == 1
    assert peer.outstanding_bytes == kept.size
    _open(peer)
    assert peer.outstanding_bytes == kept.size


@in_virtual_time
async def test_a_qos_0_publish_that_waited_is_counted_like_one_that_did_not() -> None:
    peer, publisher = _peer(), _Publisher()
    peer.state = State.GATED
    peer.publish(publisher.sent(b"a", 0))
    peer.state = State.OPEN
    peer.send_waiting()
    (publish,) = _of(peer, "publish")
    assert publish.id == 0
    assert peer.disconnected() == 1


@in_virtual_time
async def test_the_end_of_a_connection_fails_what_is_asked() -> None:
    peer = _peer()
    request = peer.request(pb.Request(barrier=pb.BarrierRequest()))
    sync = peer.sync()
    peer.disconnected()
    for future in (request, sync, peer.request(pb.Request()), peer.sync()):
        with pytest.raises(LinkLost):
            await future


@in_virtual_time
async def test_answers_find_their_requests_in_any_order() -> None:
    peer = _peer()
    requests = [peer.request(pb.Request(fence=pb.FenceRequest())) for _ in range(3)]
    numbers = [request.id for request in _of(peer, "request")]
    assert len(set(numbers)) == 3
    for number in reversed(numbers):
        peer.replied(pb.Reply(id=number, text=f"to {number}"))
    peer.replied(pb.Reply(id=99, text="nobody asked"))
    answers = [(await request).text for request in requests]
    assert answers == [f"to {number}" for number in numbers]


@in_virtual_time
async def test_a_reply_that_is_not_awaited_any_more_is_dropped() -> None:
    peer = _peer()
    request, sync = peer.request(pb.Request()), peer.sync()
    request.cancel()
    sync.cancel()
    peer.replied(pb.Reply(id=1))
    peer.applied(2)
    assert not peer.requests
    assert not peer.synced


@in_virtual_time
async def test_completions_wait_only_while_there_is_no_connection() -> None:
    peer, done = _peer(), []

    def complete(seq: int) -> Unconfirmed:
        sent = Unconfirmed("client", 4, seq, 0)
        sent.seqs, sent.done = [seq], lambda: done.append(seq)
        return sent

    peer.state = State.GATED
    peer.complete(complete(1))
    assert [list(one.seqs) for one in _of(peer, "complete")] == [[1]]
    peer.disconnected()
    peer.complete(complete(2))
    _open(peer)
    sent = _of(peer, "complete")
    assert [(one.client_id, one.epoch, list(one.seqs)) for one in sent] == [
        ("client", 4, [1]),
        ("client", 4, [2]),
    ]
    _settle(peer, *(one.id for one in sent))
    assert done == [1, 2]


@in_virtual_time
async def test_who_gives_a_router_up_gets_all_that_was_asked_of_it_in_order() -> None:
    peer, publisher = _peer(), _Publisher()
    for payload in (b"a", b"b"):
        peer.publish(publisher.sent(payload))
    peer.state = State.LEAVING
    peer.publish(publisher.sent(b"c"))
    found = [sent.message.payload for sent in peer.take_waiting() if sent.message]
    assert found == [b"a", b"b", b"c"]
    assert peer.outstanding_bytes == 0
    assert not peer.take_waiting()
    # What the router says of them now is about nobody's publishes.
    _settle(peer, *(publish.id for publish in _of(peer, "publish")))
    assert publisher.answers == []


@in_virtual_time
async def test_frames_are_reported_before_much_is_outstanding() -> None:
    peer = _peer()
    outbox = peer.outbox
    assert outbox is not None
    peer.frame_handled(REPORT_BYTES // 2)
    assert outbox.queued_bytes == 0
    assert outbox.frame.frames_taken == 1
    peer.frame_handled(REPORT_BYTES)
    assert outbox.queued_bytes > 0
    assert outbox.frame.frames_taken == 2
    peer.disconnected()
    peer.frame_handled(REPORT_BYTES)
    await asyncio.sleep(0)


@in_virtual_time
async def test_handled_frames_are_reported_long_before_the_router_has_to_wait_for_that() -> None:
    peer = _peer()
    assert peer.outbox is not None
    handled = 0
    while not peer.outbox.queued_bytes:
        peer.frame_handled(10_000)
        handled += 10_000
    assert handled <= MIN_WINDOW_BYTES / 4  # what the router sends without a report
