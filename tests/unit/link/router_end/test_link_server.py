"""The router's end of the link: frames of edges become calls, and their outcomes become frames.

Inputs: frames of edges that the test plays (``support.fake_link``), a router that the test plays.
Observed: calls of the router, frames to the edges. Real gRPC: tests/integration/link.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support import fake_link
from support.fake_link import MOMENT_S, FakeService, FakeStream, NoListener, until
from support.virtual_time import in_virtual_time
from tidegate.core.standing import Standing
from tidegate.link.edge_id import new_edge_id
from tidegate.link.interfaces import (
    FENCED,
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    PendingWill,
    RetainedForQueue,
    RetainedPage,
    RetainedRequest,
    RouterUnavailable,
    SessionFenced,
)
from tidegate.link.messages import (
    read_replays,
    size_of,
    write_attach,
    write_detach,
    write_message,
    write_options,
    write_subscriptions,
)
from tidegate.link.records import decode, encode_completion, encode_message, message_of
from tidegate.link.router_end import link_server as module
from tidegate.link.router_end.attached_edges import MAX_READS
from tidegate.link.router_end.edge_peer import EdgePeer
from tidegate.link.router_end.link_server import HELLO_TIMEOUT_S, LinkServer
from tidegate.link.router_end.request_handler import MAX_CURSORS
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import RECORDS_VERSION
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will
from tidegate.runtime.config.model import LinkConfig
from tidegate.runtime.process.clock import BrokerClock
from tidegate.runtime.telemetry.counters import Counters

QOS1 = SubscriptionOptions(1)


class Harness:
    """A link server on a fake router, and its edges."""

    def __init__(self, **config: Any) -> None:
        self.service = FakeService()
        self.counters = Counters()
        self.link_server = LinkServer(self.service, "router-1", LinkConfig(**config), self.counters)
        self.streams: list[FakeStream] = []
        self._beating: asyncio.Task[None] | None = None

    async def edge(self, edge_id: str = "edge-1", *filters: str) -> FakeStream:
        """Attach an edge that is interested in these topics."""
        stream = FakeStream(self.link_server, edge_id)
        self.streams.append(stream)
        await stream.attach()
        stream.say(interest=pb.Interest(added=filters))
        await asyncio.sleep(MOMENT_S)
        return stream

    def keep_alive(self, *streams: FakeStream) -> None:
        """Let edges that take nothing say that they live."""

        async def beat() -> None:
            while True:
                for stream in streams:
                    stream.send(pb.EdgeFrame())
                await asyncio.sleep(0.5)

        self._beating = asyncio.create_task(beat())

    def peer(self, edge_id: str = "edge-1") -> EdgePeer:
        """What the link server has of an edge."""
        return next(peer for peer in self.link_server.edges if peer.edge_id == edge_id)

    async def stop(self) -> None:
        """End everything."""
        if self._beating is not None:
            self._beating.cancel()
        for stream in self.streams:
            stream.task.cancel()
        await self.link_server.stop()
        await asyncio.gather(*(one.task for one in self.streams), return_exceptions=True)


Test = Callable[[Harness], Coroutine[Any, Any, None]]


def _harness(**config: Any) -> Callable[[Test], Callable[[pytest.MonkeyPatch], None]]:
    """Run a test in virtual time on a scene of its own."""

    def decorate(test: Test) -> Callable[[pytest.MonkeyPatch], None]:
        def run(monkeypatch: pytest.MonkeyPatch) -> None:
            monkeypatch.setattr(module, "make_listener", NoListener)

            @in_virtual_time
            async def play() -> None:
                harness = Harness(**config)
                try:
                    await test(harness)
                finally:
                    await harness.stop()

            play()

        functools.update_wrapper(run, test)
        del run.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for its arguments
        return run

    return decorate


def _publish(payload: bytes, number: int = 0, topic: str = "t", **more: Any) -> pb.Publish:
    publish = pb.Publish(id=number, client_id="p", epoch=4, **more)
    write_message(publish.message, Publish(topic, payload, 1 if number else 0))
    return publish


def _payloads(stream: FakeStream) -> list[bytes]:
    return [one.message.payload for one in stream.of("deliver")]


def _size(payload: bytes) -> int:
    return size_of(Publish("t", payload))


# Hello


@_harness()
async def test_an_edge_is_welcomed_with_what_it_must_know(harness: Harness) -> None:
    stream = FakeStream(harness.link_server)
    harness.streams.append(stream)
    welcome = await stream.attach()
    assert (welcome.name, welcome.instance) == ("router-1", "router-1.a")
    assert (welcome.version, welcome.refusal) == (fake_link.spoken_version, pb.REFUSAL_NONE)
    assert welcome.credit_bytes == LinkConfig().credit_bytes
    assert harness.service.named("attach_edge") == [("edge-1",)]


@pytest.mark.parametrize(
    ("oldest", "newest", "spoken"),
    [(0, 1, 1), (1, 1, 1), (1, 2, 2), (1, 99, 4), (2, 3, 3), (5, 9, 0), (0, 0, 0), (99, 99, 0)],
)
def test_the_newest_version_that_both_speak_is_used(
    monkeypatch: pytest.MonkeyPatch, oldest: int, newest: int, spoken: int
) -> None:
    @_harness()
    async def greet(harness: Harness) -> None:
        stream = FakeStream(harness.link_server)
        harness.streams.append(stream)
        stream.hello(oldest, newest)
        await until(lambda: stream.frames, "an answer")
        welcome = stream.frames[0].welcome
        assert welcome.version == spoken
        if spoken:
            assert not welcome.refusal
        else:
            assert welcome.refusal == pb.REFUSAL_VERSION
            assert f"edge {oldest} to {newest}" in welcome.text
            await stream.task
            assert not harness.service.calls

    greet(monkeypatch)


@_harness()
async def test_a_stream_that_does_not_begin_with_a_hello_is_refused(harness: Harness) -> None:
    for frame in (
        pb.EdgeFrame(operations=[pb.EdgeOperation(publish=_publish(b"x", 1))]),
        pb.EdgeFrame(hello=pb.Hello(oldest_version=1, newest_version=2)),
    ):
        stream = FakeStream(harness.link_server)
        stream.send(frame)
        await stream.task
        assert stream.frames[0].welcome.refusal == pb.REFUSAL_PROTOCOL
        assert stream.frames[0].welcome.text
    assert not harness.service.published


@_harness()
async def test_a_stream_that_says_nothing_is_ended(harness: Harness) -> None:
    began_s = asyncio.get_running_loop().time()
    silent, half = FakeStream(harness.link_server), FakeStream(harness.link_server)
    half.hello()
    await asyncio.gather(silent.task, half.task)
    assert asyncio.get_running_loop().time() - began_s == HELLO_TIMEOUT_S
    assert not harness.service.calls


@_harness()
async def test_an_edge_that_comes_again_takes_the_place_of_its_first_stream(
    harness: Harness,
) -> None:
    first = await harness.edge("edge-1", "t")
    second = await harness.edge("edge-1", "t")
    await first.task
    assert [peer.edge_id for peer in harness.link_server.edges] == ["edge-1"]
    # What the old stream still says is about nothing any more.
    first.say(publish=_publish(b"late", 9))
    second.say(publish=_publish(b"new", 1))
    await until(lambda: second.done, "the new stream's publish is settled")
    assert harness.service.payloads == [b"new"]
    assert _payloads(second) == [b"new"]
    assert _payloads(first) == []


@_harness()
async def test_a_second_stream_that_goes_no_further_leaves_the_first_alone(
    harness: Harness,
) -> None:
    first = await harness.edge()
    second = FakeStream(harness.link_server)
    second.hello()
    await until(lambda: second.frames, "it is welcomed")
    second.end()
    await second.task
    first.say(publish=_publish(b"x", 1))
    await until(lambda: first.done, "the first one is served")
    assert len(harness.service.named("attach_edge")) == 1


@_harness()
async def test_an_edge_that_was_welcomed_before_the_router_leaves_is_not_kept(
    harness: Harness,
) -> None:
    stream = FakeStream(harness.link_server)
    stream.hello()
    await until(lambda: stream.frames, "it is welcomed")
    await harness.link_server.leave(0.1)
    stream.say(synced=pb.Synced(id=1))
    await stream.task
    assert not harness.service.calls


# Pauses


@_harness(heartbeat_s=1.0, timeout_s=5.0)
@pytest.mark.statement("MQTT-4.6.0-6")
async def test_what_came_while_the_router_did_not_run_is_not_read(harness: Harness) -> None:
    """Edges have given it up after ``timeout_s``; their newer messages went to another router."""
    now_s = [0.0]
    harness.link_server.pauses.now_s = lambda: now_s[0]
    first, second = await harness.edge("edge-1", "t"), await harness.edge("edge-2", "t")
    now_s[0] += 4.0
    first.say(publish=_publish(b"within the timeout", 1))
    await until(lambda: first.done, "it is settled")
    now_s[0] += 4.1
    first.say(publish=_publish(b"late", 2))
    second.say(publish=_publish(b"late", 1))
    await asyncio.gather(first.task, second.task)
    assert harness.service.payloads == [b"within the timeout"]
    again = await harness.edge("edge-1", "t")
    again.say(publish=_publish(b"new", 2))
    await until(lambda: again.done, "the new stream is served")
    assert harness.service.payloads == [b"within the timeout", b"new"]


@_harness(heartbeat_s=1.0, timeout_s=5.0)
async def test_a_stream_that_begins_after_a_pause_ends_those_before_it(harness: Harness) -> None:
    now_s = [0.0]
    harness.link_server.pauses.now_s = lambda: now_s[0]
    first = await harness.edge("edge-1", "t")
    now_s[0] += 4.1
    second = await harness.edge("edge-2", "t")
    first.say(publish=_publish(b"late", 1))
    await first.task
    assert not harness.service.payloads
    assert [peer.edge_id for peer in harness.link_server.edges] == ["edge-2"]
    assert not second.task.done()


@_harness(heartbeat_s=1.0, timeout_s=5.0)
async def test_a_router_without_frames_is_not_one_that_stood_still(harness: Harness) -> None:
    loop = asyncio.get_running_loop()
    harness.link_server.pauses.now_s = loop.time
    stream = await harness.edge()
    harness.keep_alive(stream)
    await asyncio.sleep(60.0)
    assert not stream.task.done()


# Frames of another version


@_harness()
async def test_what_a_newer_edge_says_beyond_our_knowledge_is_skipped(harness: Harness) -> None:
    stream = await harness.edge()
    unknown = pb.EdgeOperation.FromString(b"\xfa\x06\x03abc")  # field 111
    frame = pb.EdgeFrame()
    frame.operations.add().publish.CopyFrom(_publish(b"a", 1))
    frame.operations.add().CopyFrom(unknown)
    frame.operations.add().publish.CopyFrom(_publish(b"b", 2))
    stream.send(pb.EdgeFrame.FromString(frame.SerializeToString() + b"\xfa\x06\x03abc"))
    await until(lambda: len(stream.done) == 2, "both are settled")
    assert harness.service.payloads == [b"a", b"b"]


@_harness()
async def test_a_request_that_is_not_known_is_answered_so(harness: Harness) -> None:
    stream = await harness.edge()
    stream.say(request=pb.Request.FromString(b"\x08\x07\xfa\x06\x03abc"))  # id 7, field 111
    reply = await stream.reply(7)
    assert reply.failure == pb.FAILURE_UNSUPPORTED
    assert reply.text


# Publishes


@_harness()
async def test_a_publish_arrives_whole_and_its_answer_goes_back(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.answers_late = True
    publish = _publish(b"x", 7, identity="p/5", receipt=4, packet_id=5)
    stream.say(publish=publish)
    await until(lambda: harness.service.open, "it is published")
    ((origin, message),) = harness.service.open
    assert (origin.client_id, origin.epoch) == ("p", 4)
    assert (origin.identity(message), origin.receipt(message)) == ("p/5", 3)
    assert (message.payload, message.qos, message.packet_id) == (b"x", 1, 5)
    assert not stream.done
    harness.service.answer(code=0x10)
    await until(lambda: stream.done, "it is settled")
    assert stream.done == {7: 0x10}


@_harness()
async def test_a_publish_that_may_have_been_handled_before_arrives_with_dup(
    harness: Harness,
) -> None:
    stream = await harness.edge()
    for number, dup in enumerate((True, False), 1):
        stream.say(publish=_publish(b"x", number, identity=f"p/{number}", dup=dup))
    await until(lambda: len(harness.service.published) == 2, "they are published")
    assert [message.dup for _, message in harness.service.published] == [True, False]


@_harness()
async def test_a_publish_without_receipt_asks_for_none(harness: Harness) -> None:
    stream = await harness.edge()
    stream.say(publish=_publish(b"x", 7))
    await until(lambda: harness.service.published, "it is published")
    ((origin, message),) = harness.service.published
    assert (origin.identity(message), origin.receipt(message)) == ("", -1)


@_harness(credit_bytes=65_536)
async def test_credit_comes_back_only_for_what_is_confirmed(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.answers_late = True
    payload = b"x" * 20_000
    for number in (1, 2):
        stream.say(publish=_publish(payload, number))
    stream.say(publish=_publish(payload))
    await until(lambda: stream.credit_bytes, "the one that needs no answer is paid for")
    await asyncio.sleep(MOMENT_S)
    assert stream.credit_bytes == _size(payload)
    assert sum(frame.unacknowledged_done for frame in stream.frames) == 1
    harness.service.answer()
    await until(lambda: stream.credit_bytes == 3 * _size(payload), "all are")


@_harness(heartbeat_s=1.0)
async def test_credit_is_sent_with_the_next_heartbeat_at_the_latest(harness: Harness) -> None:
    stream = await harness.edge()
    stream.say(publish=_publish(b"x"))
    await asyncio.sleep(1 + MOMENT_S)
    assert stream.credit_bytes == _size(b"x")
    assert sum(frame.unacknowledged_done for frame in stream.frames) == 1


# Edges that take little or nothing


SMALL_MAILBOX: dict[str, Any] = {"mailbox_bytes": 65_536, "credit_bytes": 65_536}
LARGE = b"x" * 60_000


@_harness(**SMALL_MAILBOX, stall_s=2.0)
async def test_publishers_wait_for_an_edge_that_takes_slowly(harness: Harness) -> None:
    publisher, slow = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    slow.takes.clear()
    for _ in range(3):
        publisher.say(publish=_publish(LARGE))
    await asyncio.sleep(0.5)
    assert publisher.credit_bytes == _size(LARGE)  # one fits the mailbox
    slow.takes.set()
    await until(lambda: publisher.credit_bytes == 3 * _size(LARGE), "the credit is back")
    await until(lambda: len(_payloads(slow)) == 3, "everything has come")
    assert harness.counters.dropped["mailbox_full"] == 0


@_harness(**SMALL_MAILBOX, stall_s=2.0, heartbeat_s=0.5)
async def test_no_publisher_waits_for_an_edge_that_takes_nothing(harness: Harness) -> None:
    publisher, stuck = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    stuck.takes.clear()
    for _ in range(2):
        publisher.say(publish=_publish(LARGE))
    harness.keep_alive(publisher, stuck)
    await asyncio.sleep(1)
    assert publisher.credit_bytes == _size(LARGE)
    await asyncio.sleep(2)
    assert harness.peer("edge-2").stalled
    assert publisher.credit_bytes == 2 * _size(LARGE)
    # From now on what would be too much for its mailbox is dropped, and counted.
    for _ in range(3):
        publisher.say(publish=_publish(LARGE))
    await asyncio.sleep(1)
    assert publisher.credit_bytes == 5 * _size(LARGE)
    assert harness.counters.dropped["mailbox_full"] == harness.counters.published == 3
    stuck.takes.set()
    await asyncio.sleep(1)
    assert len(_payloads(stuck)) == 2
    assert not harness.peer("edge-2").stalled


@_harness(**SMALL_MAILBOX, stall_s=2.0, heartbeat_s=1.0)
async def test_credit_comes_back_as_soon_as_an_edge_is_found_to_take_nothing(
    harness: Harness,
) -> None:
    publisher, stuck = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    stuck.takes.clear()
    for _ in range(2):
        publisher.say(publish=_publish(LARGE))
    await asyncio.sleep(1)
    assert publisher.credit_bytes == _size(LARGE)
    await until(lambda: harness.peer("edge-2").stalled, "that is noticed")
    await asyncio.sleep(MOMENT_S)  # and not with the next heartbeat only
    assert publisher.credit_bytes == 2 * _size(LARGE)


@_harness(**SMALL_MAILBOX, stall_s=1.0, heartbeat_s=0.5)
async def test_pushes_that_do_not_fit_are_made_up_for_later(harness: Harness) -> None:
    stuck = await harness.edge("edge-1")
    stuck.takes.clear()
    harness.keep_alive(stuck)
    peer = harness.peer()
    for seq in range(5):
        peer.push("c", 3, seq, Publish("t", LARGE, 1))
        await asyncio.sleep(1)
    assert peer.stalled
    stuck.takes.set()
    await until(lambda: stuck.of("pushes_lost"), "it is told to look into its queues")
    seqs = [push.seq for push in stuck.of("push")]
    assert seqs == [0, 1]
    assert harness.counters.dropped["mailbox_full"] == 0  # they are in the store
    kinds = [one.WhichOneof("kind") for frame in stuck.frames for one in frame.operations]
    assert kinds.index("pushes_lost") > max(
        place for place, kind in enumerate(kinds) if kind == "push"
    )


@_harness(**SMALL_MAILBOX)
async def test_a_member_whose_edge_has_no_place_does_not_get_the_message(harness: Harness) -> None:
    stuck = await harness.edge("edge-1")
    stuck.takes.clear()
    peer = harness.peer()
    peer.stalled = True
    message = Publish("t", LARGE, 1)
    taken = [peer.deliver_shared("c", 3, message, "$share/g/t", QOS1) for _ in range(4)]
    assert taken == [True, True, False, False]
    peer.closed = True
    assert not peer.deliver_shared("c", 3, Publish("t", b"", 1), "$share/g/t", QOS1)
    peer.closed = False


@_harness(heartbeat_s=1.0, timeout_s=5.0)
async def test_an_edge_that_is_not_heard_of_is_dropped(harness: Harness) -> None:
    stream = await harness.edge()
    stream.confirms = False
    await asyncio.sleep(4)
    assert harness.link_server.edges
    await asyncio.sleep(3)
    assert not harness.link_server.edges
    assert harness.service.named("detach_edge") == [("edge-1",)]
    await stream.task


@_harness(heartbeat_s=1.0, timeout_s=3.0)
async def test_a_router_sends_heartbeats(harness: Harness) -> None:
    stream = await harness.edge()
    before = len(stream.frames)
    await asyncio.sleep(10)  # its answers keep it alive, too
    assert len(stream.frames) - before in {9, 10, 11}
    assert harness.link_server.edges


@_harness()
async def test_copies_that_never_got_to_a_lost_edge_are_counted(harness: Harness) -> None:
    publisher, lost = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    lost.takes.clear()
    for payload in (b"a", b"b", b"c"):
        publisher.say(publish=_publish(payload))
    harness.peer("edge-2").push("c", 3, 1, Publish("t", b"queued", 1))
    await asyncio.sleep(MOMENT_S)
    lost.end()
    await until(lambda: len(harness.link_server.edges) == 1, "it is gone")
    assert harness.counters.dropped["link_lost"] == harness.counters.published == 3


@_harness()
async def test_replies_for_an_edge_that_is_gone_are_dropped(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.answers_late = True
    harness.service.may_answer.clear()
    stream.say(publish=_publish(b"x", 7))
    stream.say(complete=pb.Complete(id=8, client_id="c", epoch=1, seqs=[1]))
    stream.ask(9, catch_up=pb.CatchUpRequest())
    await until(lambda: harness.service.completed and harness.service.open, "all has come")
    stream.end()
    await until(lambda: not harness.link_server.edges, "it is gone")
    frames = len(stream.frames)
    harness.service.answer()
    (done,) = harness.service.completed
    assert done is not None
    done()
    harness.service.may_answer.set()
    await asyncio.sleep(MOMENT_S)
    assert len(stream.frames) == frames
    assert harness.counters.internal_errors == 0


@_harness()
async def test_a_fault_in_one_operation_takes_nothing_from_the_others(harness: Harness) -> None:
    # The edge says them again when its connection ends: if it ended for them, it would never stop.
    stream = await harness.edge()
    harness.service.results = {
        "redispatch": ZeroDivisionError("a fault"),
        "complete": ZeroDivisionError("a fault"),
    }
    frame = pb.EdgeFrame()
    write_message(frame.operations.add().redispatch.message, Publish("t", b"x", 1))
    frame.operations.add().complete.id = 8
    frame.operations.add().publish.CopyFrom(_publish(b"y", 9))
    stream.send(frame)
    await until(lambda: 9 in stream.done, "the rest is acted on")
    assert harness.service.payloads == [b"y"]
    assert harness.link_server.edges
    assert harness.counters.internal_errors == 2


@_harness()
async def test_an_edge_whose_interest_could_not_be_noted_has_to_reconnect(harness: Harness) -> None:
    stream = await harness.edge()
    del harness.service.interest["edge-1"]
    stream.say(interest=pb.Interest(added=["t"]))
    with pytest.raises(KeyError):
        await stream.task
    assert not harness.link_server.edges


# Barriers


@_harness()
async def test_a_barrier_waits_for_what_was_published_before_it_only(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.answers_late = True
    stream.say(publish=_publish(b"before", 1))
    stream.ask(2, barrier=pb.BarrierRequest())
    await asyncio.sleep(MOMENT_S)
    stream.say(publish=_publish(b"after", 3))
    await until(lambda: len(harness.service.open) == 2, "both are published")
    await asyncio.sleep(1)
    assert not stream.of("reply")
    harness.service.answer(1)
    await stream.reply(2)
    assert stream.done == {1: 0}
    harness.service.answer(1)
    await until(lambda: stream.done == {1: 0, 3: 0}, "the rest is settled")


@_harness()
async def test_a_barrier_waits_for_what_earlier_ones_wait_for(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.answers_late = True
    stream.say(publish=_publish(b"a", 1))
    stream.ask(2, barrier=pb.BarrierRequest())
    await asyncio.sleep(MOMENT_S)
    stream.say(publish=_publish(b"b", 3))
    stream.ask(4, barrier=pb.BarrierRequest())
    await until(lambda: len(harness.service.open) == 2, "both are published")
    first, second = harness.service.open
    second[0].published(second[1], 0)
    await asyncio.sleep(1)
    assert not stream.of("reply")
    first[0].published(first[1], 0)
    await stream.reply(4)
    await stream.reply(2)


async def _barrier_with_another(harness: Harness, *, has_gone: bool) -> None:
    stream, other = await harness.edge("edge-1"), await harness.edge("edge-2")
    harness.service.answers_late = True
    other.say(publish=_publish(b"x", 1))
    await until(lambda: harness.service.open, "it is published")
    if has_gone:
        other.end()
        await until(lambda: len(harness.link_server.edges) == 1, "it has gone")
    stream.ask(2, barrier=pb.BarrierRequest())
    await asyncio.sleep(20)
    assert not stream.of("reply")
    harness.service.answer(1)
    await stream.reply(2)


@_harness()
async def test_a_barrier_waits_for_what_another_edge_published_before_it(harness: Harness) -> None:
    """A client of that one may have connected at this one, and must not overtake itself."""
    await _barrier_with_another(harness, has_gone=False)


@_harness()
async def test_a_barrier_waits_for_what_an_edge_published_that_has_gone(harness: Harness) -> None:
    await _barrier_with_another(harness, has_gone=True)


@_harness()
async def test_what_a_fenced_router_leaves_unconfirmed_is_not_waited_for(harness: Harness) -> None:
    """Edges send it again, to its next instance or to another router."""
    stream = await harness.edge()
    harness.service.answers_late = True
    stream.say(publish=_publish(b"x", 1))
    await until(lambda: harness.service.open, "it is published")
    harness.link_server.fenced()
    await until(lambda: not harness.link_server.edges, "the streams are closed")
    stream = await harness.edge()
    stream.ask(2, barrier=pb.BarrierRequest())
    await stream.reply(2)


@_harness(stall_s=2.0, heartbeat_s=0.5)
async def test_a_barrier_waits_until_every_edge_has_what_it_was_sent(harness: Harness) -> None:
    publisher, other = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    other.takes.clear()
    publisher.say(publish=_publish(b"x", 1))
    publisher.ask(2, barrier=pb.BarrierRequest())
    await asyncio.sleep(1)
    assert publisher.done
    assert not publisher.of("reply")
    other.takes.set()
    await publisher.reply(2)
    assert _payloads(other) == [b"x"]


@_harness(stall_s=1.0, heartbeat_s=0.5, timeout_s=60.0)
async def test_a_barrier_waits_for_an_edge_that_is_slow_but_alive(harness: Harness) -> None:
    # What it was sent before must not be overtaken by what another router sends it after.
    publisher, slow = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    slow.confirms = False
    publisher.say(publish=_publish(b"x", 1))
    publisher.ask(2, barrier=pb.BarrierRequest())
    for _ in range(10):
        slow.send(pb.EdgeFrame())
        await asyncio.sleep(0.5)
        assert not publisher.of("reply")
    slow.say(echo=pb.Echo(id=slow.of("echo")[0].id))
    await publisher.reply(2)


@_harness(stall_s=1.0, heartbeat_s=0.5, timeout_s=60.0)
async def test_a_barrier_waits_for_an_edge_that_is_not_heard_of_for_a_while(
    harness: Harness,
) -> None:
    """Only the path to it may be silent: what it was sent on it comes when that heals."""
    publisher, silent = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    silent.takes.clear()
    silent.confirms = False
    publisher.say(publish=_publish(b"x", 1))
    publisher.ask(2, barrier=pb.BarrierRequest())
    await asyncio.sleep(10)
    assert not publisher.of("reply")
    silent.takes.set()
    await until(lambda: silent.of("echo"), "the path has healed")
    assert _payloads(silent) == [b"x"]
    assert not publisher.of("reply")
    silent.say(echo=pb.Echo(id=silent.of("echo")[0].id))
    await publisher.reply(2)


@_harness(stall_s=1.0, heartbeat_s=0.5, timeout_s=6.0)
async def test_a_barrier_does_not_wait_for_an_edge_longer_than_for_a_heartbeat(
    harness: Harness,
) -> None:
    publisher, silent = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    silent.confirms = False
    silent.takes.clear()
    publisher.say(publish=_publish(b"x", 1))
    publisher.ask(2, barrier=pb.BarrierRequest())
    began_s = asyncio.get_running_loop().time()
    await publisher.reply(2)
    assert 6.0 <= asyncio.get_running_loop().time() - began_s <= 7.0 + MOMENT_S


@_harness()
async def test_a_barrier_of_an_edge_that_is_gone_ends(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.answers_late = True
    stream.say(publish=_publish(b"x", 1))
    stream.ask(2, barrier=pb.BarrierRequest())
    await until(lambda: harness.service.open, "it is published")
    stream.end()
    await until(lambda: not harness.link_server.tasks, "nothing waits any more")


# Leaving


@_harness()
async def test_a_router_that_leaves_waits_until_every_edge_has_gone(harness: Harness) -> None:
    first, second = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    leaving = asyncio.create_task(harness.link_server.leave(60))
    await until(lambda: first.of("leaving") and second.of("leaving"), "both are asked")
    listener: Any = harness.link_server._listener
    assert listener.serving == [False]
    first.ask(2, barrier=pb.BarrierRequest(last=True))
    await asyncio.sleep(MOMENT_S)
    # The other edge still publishes here, and the first one's clients must get it.
    assert not first.of("reply")
    second.say(publish=_publish(b"x", 1))
    second.ask(2, barrier=pb.BarrierRequest(last=True))
    await first.reply(2)
    await second.reply(2)
    assert not leaving.done()
    first.end()
    second.end()
    await leaving
    assert not harness.link_server.edges


@_harness(stall_s=1.0)
async def test_an_edge_that_cannot_leave_does_not_keep_the_others(harness: Harness) -> None:
    first, second = await harness.edge("edge-1"), await harness.edge("edge-2", "t")
    leaving = asyncio.create_task(harness.link_server.leave(60))
    await until(lambda: first.of("leaving") and second.of("leaving"), "both are asked")
    first.ask(2, barrier=pb.BarrierRequest(last=True))
    await first.reply(2)
    first.end()
    await asyncio.sleep(5)
    assert not leaving.done()
    second.end()
    await leaving


@_harness()
async def test_leaving_ends_in_time(harness: Harness) -> None:
    await harness.edge("edge-1")
    began_s = asyncio.get_running_loop().time()
    await harness.link_server.leave(3)
    assert asyncio.get_running_loop().time() - began_s == 3
    assert harness.link_server.edges


@_harness()
async def test_an_edge_that_comes_while_the_router_leaves_is_refused(harness: Harness) -> None:
    await harness.link_server.leave(1)
    stream = FakeStream(harness.link_server)
    stream.hello()
    await stream.task
    assert stream.frames[0].welcome.refusal == pb.REFUSAL_STOPPING
    assert stream.frames[0].welcome.text


@_harness()
async def test_edges_are_named_once_they_have_sent_their_interest(harness: Harness) -> None:
    first = await harness.edge("edge-1")
    half = FakeStream(harness.link_server, "edge-2")
    harness.streams.append(half)
    half.hello()
    half.say(interest=pb.Interest(added=["t"]))
    await until(lambda: len(harness.link_server.edges) == 2, "it is attached")
    first.ask(2, edges=pb.EdgesRequest())
    assert list((await first.reply(2)).edges.edge_ids) == ["edge-1"]
    half.say(synced=pb.Synced(id=1))
    await until(lambda: half.of("applied"), "it has told all")
    first.ask(3, edges=pb.EdgesRequest())
    reply = (await first.reply(3)).edges
    assert sorted(reply.edge_ids) == ["edge-1", "edge-2"]
    assert not reply.living
    harness.service.edges_with_lease = ["edge-1", "edge-3"]
    first.ask(4, edges=pb.EdgesRequest(living=True))
    assert list((await first.reply(4)).edges.living) == ["edge-1", "edge-3"]


@_harness()
async def test_an_edge_that_was_started_again_is_not_waited_for_under_its_former_instance(
    harness: Harness,
) -> None:
    former, other = new_edge_id("pod-1"), new_edge_id("pod-2")
    first = await harness.edge(new_edge_id("pod-1"))
    here = first.edge_id
    harness.service.edges_with_lease = [former, here, other, "pod-3"]
    first.ask(2, edges=pb.EdgesRequest(living=True))
    assert list((await first.reply(2)).edges.living) == [here, other, "pod-3"]
    # Names that are given twice say nothing of who came after whom.
    await harness.edge(new_edge_id("pod-1"))
    first.ask(3, edges=pb.EdgesRequest(living=True))
    assert list((await first.reply(3)).edges.living) == [former, here, other, "pod-3"]


# Shared subscriptions


@_harness()
async def test_shared_messages_that_a_lost_edge_had_are_given_to_others(harness: Harness) -> None:
    stream = await harness.edge()
    peer = harness.peer()
    for payload in (b"done", b"returned", b"lost"):
        message = Publish("t", payload, 1)
        assert peer.deliver_shared("c", 3, message, "$share/g/t", SubscriptionOptions(2))
    # QoS 0 is over when it is sent; QoS 2 must not go to anybody else [MQTT-4.8.2-5].
    peer.deliver_shared("c", 3, Publish("t", b"zero", 1), "$share/g/t", SubscriptionOptions(0))
    peer.deliver_shared("c", 3, Publish("t", b"two", 2), "$share/g/t", SubscriptionOptions(2))
    await until(lambda: len(stream.of("shared")) == 5, "all are sent")
    numbers = [shared.id for shared in stream.of("shared")]
    assert len(set(numbers[:3])) == 3
    assert numbers[3:] == [0, 0]
    stream.send(pb.EdgeFrame(shared_done=[numbers[0], 99]))
    stream.say(shared_returned=pb.SharedReturned(id=numbers[1]))
    stream.say(shared_returned=pb.SharedReturned(id=numbers[1]))
    stream.end()
    await until(lambda: not harness.link_server.edges, "it is gone")
    given = [(group, message.payload) for group, message in harness.service.named("redispatch")]
    assert given == [("$share/g/t", b"returned"), ("$share/g/t", b"lost")]


class _Receipt:
    def __init__(self) -> None:
        self.ends: list[str] = []

    def done(self) -> None:
        self.ends.append("done")

    def returned(self) -> None:
        self.ends.append("returned")


@_harness()
async def test_the_receipt_of_a_shared_message_is_called(harness: Harness) -> None:
    stream = await harness.edge()
    peer = harness.peer()
    receipts = [_Receipt() for _ in range(4)]
    for receipt in receipts[:3]:
        peer.deliver_shared("c", 3, Publish("t", b"x", 1), "$share/g/t", QOS1, receipt)
    peer.deliver_shared("c", 3, Publish("t", b"x", 2), "$share/g/t", QOS1, receipts[3])
    await until(lambda: len(stream.of("shared")) == 4, "all are sent")
    numbers = [shared.id for shared in stream.of("shared")]
    stream.send(pb.EdgeFrame(shared_done=numbers[:1]))
    stream.say(shared_returned=pb.SharedReturned(id=numbers[1]))
    stream.end()
    await until(lambda: not harness.link_server.edges, "it is gone")
    ends = [receipt.ends for receipt in receipts[:3]]
    assert ends == [["done"], ["returned"], ["returned"]]
    assert not harness.service.named("redispatch")


# What an edge says of itself


@_harness()
async def test_interest_is_in_what_was_said_last(harness: Harness) -> None:
    """An edge of an earlier version says nothing of QoS: it is sent everything."""
    stream = await harness.edge()
    frame = pb.EdgeFrame()
    operations = [
        pb.Interest(added=["old", "a", "b"]),
        pb.Interest(added=["a", "c"], only_qos0=True),
        pb.Interest(added=["c"]),
    ]
    for operation in operations:
        frame.operations.add().interest.CopyFrom(operation)
    frame.operations.add().synced.id = 5
    stream.send(frame)
    await until(lambda: any(one.id == 5 for one in stream.of("applied")), "all is applied")
    assert harness.service.interest["edge-1"] == {"old": False, "a": True, "b": False, "c": False}


@_harness()
async def test_interest_holds_and_members_reach_the_router_in_order(harness: Harness) -> None:
    stream = await harness.edge()
    frame = pb.EdgeFrame()
    frame.operations.add().interest.CopyFrom(pb.Interest(added=["a", "b"], removed=["b"]))
    frame.operations.add().hold.CopyFrom(pb.Hold(client_id="c", epoch=3, incarnation=4))
    member = frame.operations.add().shared_member
    member.client_id, member.epoch = "c", 3
    write_subscriptions(member, [("$share/g/a", QOS1)])
    leave = frame.operations.add().leave_groups
    leave.client_id, leave.epoch = "c", 3
    leave.topic_filters.append("$share/g/a")
    frame.operations.add().hold.CopyFrom(pb.Hold(client_id="c", epoch=3, incarnation=4, ended=True))
    redispatch = frame.operations.add().redispatch
    redispatch.topic_filter = "$share/g/a"
    write_message(redispatch.message, Publish("a", b"x", 1))
    frame.operations.add().synced.id = 5
    stream.send(frame)
    await until(lambda: any(one.id == 5 for one in stream.of("applied")), "all is applied")
    assert harness.service.interest["edge-1"] == {"a": False}
    assert [call for call in harness.service.calls if call[0] != "attach_edge"] == [
        ("set_session_location", ("edge-1", "c", 3, 4, False)),
        ("join_groups", ("edge-1", "c", 3, [("$share/g/a", QOS1)])),
        ("leave_groups", ("c", 3, ["$share/g/a"])),
        ("set_session_location", ("edge-1", "c", 3, 4, True)),
        ("redispatch", ("$share/g/a", Publish("a", b"x", 1))),
    ]


@_harness()
async def test_completed_deliveries_are_confirmed_when_the_router_has_them(
    harness: Harness,
) -> None:
    stream = await harness.edge()
    stream.say(complete=pb.Complete(id=8, client_id="c", epoch=3, seqs=[1, 5]))
    await until(lambda: harness.service.completed, "it is told")
    assert harness.service.named("complete") == [("c", 3, [1, 5])]
    assert not stream.done
    (done,) = harness.service.completed
    assert done is not None
    done()
    await until(lambda: stream.done == {8: 0}, "it is confirmed")


# Requests


@_harness()
async def test_every_request_reaches_the_router_whole(harness: Harness) -> None:
    stream = await harness.edge()
    service = harness.service
    numbers = iter(range(10, 100))
    will = Will("w", b"x", 1, True, b"\x01\x01", 5, 6)
    attach = AttachSession("c", True, 60, will, "user", number=7, tries=2)
    detach = DetachSession("c", 3, True, None, 17)
    wanted = pb.AttachRequest()
    write_attach(wanted, attach)
    wanted.number, wanted.tries = 7, 2  # as the edge's end of the link does
    ending = pb.DetachRequest()
    write_detach(ending, detach)
    change: Any = {"client_id": "c", "epoch": 3, "incarnation": 4, "told": ["r1", "r2"]}
    change |= {"number": 8, "tries": 1}
    subscribing = pb.SubscribeRequest(**change)
    write_subscriptions(subscribing, [("a", QOS1)])
    queued = pb.EnqueueRequest(client_id="c", incarnation=4)
    write_message(queued.messages.add(), Publish("a", b"x", 1))
    for_queue = pb.QueueRetainedRequest(client_id="c", incarnation=4)
    of_a = for_queue.items.add(topic="a").subscription
    of_a.topic_filter = "#"
    write_options(of_a.options, QOS1)
    requests: list[tuple[dict[str, Any], tuple[str, tuple[Any, ...]]]] = [
        ({"attach": wanted}, ("attach", ("edge-1", attach))),
        ({"detach": ending}, ("detach", (detach,))),
        (
            {"subscribe": subscribing},
            ("subscribe", ("edge-1", "c", 3, 4, [("a", QOS1)], ["r1", "r2"], (8, 1))),
        ),
        (
            {"unsubscribe": pb.UnsubscribeRequest(topic_filters=["a", "b"], **change)},
            ("unsubscribe", ("edge-1", "c", 3, 4, ["a", "b"], ["r1", "r2"], (8, 1))),
        ),
        (
            {
                "fetch": pb.FetchRequest(
                    client_id="c", epoch=3, incarnation=4, after_seq=7, max_count=8, max_bytes=9
                )
            },
            ("fetch", ("c", 3, 4, 7, 8, 9)),
        ),
        (
            {"release": pb.ReleaseRequest(client_id="c", epoch=3, seqs=[1, 2])},
            ("release", ("c", 3, [1, 2])),
        ),
        (
            {"receipt": pb.ReceiptRequest(client_id="c", epoch=3, packet_id=5, value=6)},
            ("complete_receipt", ("c", 3, 5, 6)),
        ),
        (
            {
                "return_entries": pb.ReturnEntriesRequest(
                    client_id="c", epoch=3, incarnation=4, seqs=[5, 6], sent_seq=7
                )
            },
            ("return_entries", ("c", 3, 4, [5, 6], 7)),
        ),
        ({"enqueue": queued}, ("enqueue", ("c", 4, [Publish("a", b"x", 1)]))),
        ({"get_retained": pb.GetRetainedRequest(topics=["a"])}, ("get_retained", (["a"],))),
        (
            {
                "read_retained": pb.ReadRetainedRequest(
                    topic_filters=["#"], after="a", list_number=3, name="r1", names=["r1", "r2"]
                )
            },
            ("retained_page", (RetainedRequest(["#"], "a", 3, "r1", ["r1", "r2"]),)),
        ),
        (
            {"verify": pb.VerifyRequest(client_ids=["c", "d"], epochs=[3, 4])},
            ("verify", ([("c", 3), ("d", 4)],)),
        ),
        (
            {"verify_wills": pb.VerifyWillsRequest(will_ids=["3:c", "4:d"])},
            ("verify_wills", ("edge-1", ["3:c", "4:d"])),
        ),
        ({"fence": pb.FenceRequest(instance="r9")}, ("fence", ("r9",))),
        ({"catch_up": pb.CatchUpRequest()}, ("catch_up", ())),
        (
            {"catch_up": pb.CatchUpRequest(client_id="c", topic_filters=["t"])},
            ("replay_again", ("c", ["t"])),
        ),
        (
            {
                "replayed": pb.ReplayedRequest(
                    client_id="c",
                    epoch=3,
                    replays=[pb.Replay(topic_filter="#", generation="1.1", topic="a")],
                )
            },
            ("replayed", ("c", 3, [("#", "1.1", "a")])),
        ),
        (
            {"queue_retained": for_queue},
            ("queue_retained", ("c", 4, [RetainedForQueue("#", QOS1, Publish("a"))])),
        ),
        (
            {
                "withdraw_connects": pb.WithdrawConnectsRequest(
                    client_ids=["c", "d"], numbers=[7, 8], tries=[1, 2]
                )
            },
            ("withdraw_connects", ("edge-1", [("c", (7, 1)), ("d", (8, 2))])),
        ),
        ({"lease": pb.LeaseRequest()}, ("heartbeat", ("edge-1",))),
        ({"end_lease": pb.EndLeaseRequest()}, ("end_lease", ("edge-1",))),
    ]
    for request, call in requests:
        number = next(numbers)
        stream.ask(number, **request)
        reply = await stream.reply(number)
        assert not reply.failure, request
        assert service.calls[-1] == call


@_harness()
async def test_what_the_router_returns_goes_back_whole(harness: Harness) -> None:
    stream, results = await harness.edge(), harness.service.results
    results["attach"] = AttachedSession(
        9, 4, True, 12, True, 15, [13], b"\1", {3: 2}, replays=[("#", "1.1", "a")]
    )
    results["fetch"] = [(5, Publish("t", b"x", 2)), (6, Publish("t", b"y", 1))]
    results["verify"] = [True, False]
    results["heartbeat"] = False
    harness.service.living = ["r1.a", "r2.b"]
    stream.ask(1, attach=pb.AttachRequest(client_id="c"))
    reply = await stream.reply(1)
    assert (reply.attach.epoch, reply.attach.incarnation, reply.attach.last_seq) == (9, 4, 15)
    assert read_replays(reply.attach.replays) == [("#", "1.1", "a")]
    stream.ask(2, fetch=pb.FetchRequest())
    found = (await stream.reply(2)).fetch
    if stream.version < RECORDS_VERSION:
        entries = [(one.seq, one.message.payload) for one in found.entries]
    else:
        records = found.records
        entries = [(one[1], message_of(records, one).payload) for one in decode(records)]
    assert entries == [(5, b"x"), (6, b"y")]
    results["fetch"] = [(5, Publish("t", b"x", 2)), (6, Publish("t", b"y", 1, trace=b"trace"))]
    stream.ask(20, fetch=pb.FetchRequest())
    found = (await stream.reply(20)).fetch
    assert [(one.seq, one.message.trace) for one in found.entries] == [(5, b""), (6, b"trace")]
    stream.ask(3, verify=pb.VerifyRequest(client_ids=["a", "b"], epochs=[1, 2]))
    assert list((await stream.reply(3)).verify.live) == [True, False]
    results["verify"] = list(Standing)
    names, epochs = [standing.name for standing in Standing], range(len(Standing))
    stream.ask(30, verify=pb.VerifyRequest(client_ids=names, epochs=epochs))
    verified = (await stream.reply(30)).verify
    assert [name for name, one in zip(names, verified.live, strict=True) if one] == ["OWNED"]
    assert [name for name, one in zip(names, verified.lost, strict=True) if one] == ["LOST"]
    stream.ask(4, lease=pb.LeaseRequest())
    lease = (await stream.reply(4)).lease
    assert lease.was_lost
    assert list(lease.routers) == ["r1.a", "r2.b"]
    stream.ask(5, get_retained=pb.GetRetainedRequest(topics=["a", "b"]))
    messages = (await stream.reply(5)).get_retained.messages
    assert [(one.topic, one.payload) for one in messages] == [("a", b"a"), ("b", b"b")]
    results["retained_page"] = RetainedPage([Publish("t", b"x", 1, True)], "t", {"r1": 3})
    stream.ask(6, read_retained=pb.ReadRetainedRequest(name="r1"))
    page = (await stream.reply(6)).read_retained
    assert [(one.topic, one.payload) for one in page.messages] == [("t", b"x")]
    assert (page.after, page.list_number) == ("t", 3)


@_harness()
async def test_failures_are_answered_by_their_kind(harness: Harness) -> None:
    stream, results = await harness.edge(), harness.service.results
    for number, error, failure in (
        (1, SessionFenced("newer"), pb.FAILURE_FENCED),
        (2, RouterUnavailable("away"), pb.FAILURE_UNAVAILABLE),
        (3, ZeroDivisionError("a fault"), pb.FAILURE_INTERNAL),
    ):
        results["release"] = error
        stream.ask(number, release=pb.ReleaseRequest())
        reply = await stream.reply(number)
        assert reply.failure == failure
        assert "a fault" not in reply.text or failure == pb.FAILURE_INTERNAL
    assert harness.counters.internal_errors == 1
    del results["release"]
    stream.ask(4, release=pb.ReleaseRequest())
    assert not (await stream.reply(4)).failure


@_harness()
async def test_requests_do_not_wait_for_each_other(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.may_answer.clear()
    stream.ask(1, release=pb.ReleaseRequest())
    stream.ask(2, edges=pb.EdgesRequest())
    stream.say(publish=_publish(b"x", 3))
    await stream.reply(2)
    await until(lambda: stream.done == {3: 0}, "the publish is settled")
    assert [reply.id for reply in stream.of("reply")] == [2]
    harness.service.may_answer.set()
    await stream.reply(1)


@_harness()
async def test_few_large_answers_are_under_way_at_the_same_time(harness: Harness) -> None:
    # All clients of an edge may look into their queues at once, after a loss.
    stream, service = await harness.edge(), harness.service
    service.may_answer.clear()
    for number in range(100):
        stream.ask(number + 1, fetch=pb.FetchRequest(client_id="c", after_seq=number))
    stream.ask(101, get_retained=pb.GetRetainedRequest(topics=["t"]))
    stream.ask(102, release=pb.ReleaseRequest())
    await until(lambda: service.named("release"), "what is small does not wait")
    assert len(service.named("fetch")) == MAX_READS
    assert not service.named("get_retained")
    service.may_answer.set()
    await stream.reply(101)
    assert [asked[3] for asked in service.named("fetch")] == list(range(100))


@_harness(**SMALL_MAILBOX)
async def test_queues_are_read_when_there_is_place_for_what_is_in_them(harness: Harness) -> None:
    stream = await harness.edge()
    stream.takes.clear()
    harness.keep_alive(stream)
    for seq in range(2):
        harness.peer().push("c", 3, seq, Publish("t", LARGE, 1))
    stream.ask(7, fetch=pb.FetchRequest(client_id="c"))
    stream.ask(8, get_retained=pb.GetRetainedRequest(topics=["t"]))
    await asyncio.sleep(1)
    assert not harness.service.named("fetch") + harness.service.named("get_retained")
    stream.takes.set()
    await stream.reply(7)
    await stream.reply(8)


@_harness(**SMALL_MAILBOX)
async def test_no_reply_waits_for_room_at_an_edge_that_is_gone(harness: Harness) -> None:
    stream = await harness.edge()
    stream.takes.clear()
    for seq in range(2):
        harness.peer().push("c", 3, seq, Publish("t", LARGE, 1))
    stream.ask(7, fetch=pb.FetchRequest(client_id="c"))
    await asyncio.sleep(MOMENT_S)
    stream.end()
    await until(lambda: not harness.link_server.tasks, "nothing waits any more")


# Retained messages


@_harness()
async def test_lists_of_retained_topics_are_read_page_by_page(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.pages = [["a", "b"], ["c"]]
    found, cursor, number = [], 0, 10
    while True:
        stream.ask(number, match_retained=pb.MatchRetainedRequest(topic_filter="#", cursor=cursor))
        reply = (await stream.reply(number)).match_retained
        found += reply.topics
        cursor, number = reply.cursor, number + 1
        if not cursor:
            break
    assert found == ["a", "b", "c"]
    assert harness.service.named("match_retained") == [("#",)]


@_harness()
async def test_lists_that_are_not_read_on_are_dropped(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.pages = [["a"], ["b"], ["c"]]
    frame = pb.EdgeFrame()
    for number in range(1, MAX_CURSORS + 3):
        request = frame.operations.add().request
        request.id, request.match_retained.topic_filter = number, "#"
    stream.send(frame)
    await stream.reply(MAX_CURSORS + 2)
    cursors = [reply.match_retained.cursor for reply in stream.of("reply")]
    (attached,) = harness.link_server.attached.by_id.values()
    assert len(attached.cursors) == MAX_CURSORS
    stream.ask(9001, match_retained=pb.MatchRetainedRequest(topic_filter="#", cursor=cursors[0]))
    reply = await stream.reply(9001)
    assert reply.failure == pb.FAILURE_UNAVAILABLE
    assert "start again" in reply.text
    stream.ask(9002, match_retained=pb.MatchRetainedRequest(topic_filter="#", cursor=cursors[-1]))
    assert list((await stream.reply(9002)).match_retained.topics) == ["b"]


@_harness()
async def test_a_list_that_ends_leaves_nothing_behind(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.pages = []
    stream.ask(1, match_retained=pb.MatchRetainedRequest(topic_filter="#"))
    reply = (await stream.reply(1)).match_retained
    assert (list(reply.topics), reply.cursor) == ([], 0)
    (attached,) = harness.link_server.attached.by_id.values()
    assert not attached.cursors


# Ending


@_harness()
async def test_a_fenced_router_closes_every_stream(harness: Harness) -> None:
    streams = [await harness.edge("edge-1", "t"), await harness.edge("edge-2", "t")]
    harness.service.instance = "router-1.b"
    harness.link_server.drop_all()
    assert not harness.link_server.edges
    # Their calls end as calls end: gRPC would say nothing of one whose task was cancelled.
    await asyncio.gather(*(stream.task for stream in streams))
    assert sorted(harness.service.named("detach_edge")) == [("edge-1",), ("edge-2",)]
    again = FakeStream(harness.link_server)
    harness.streams.append(again)
    assert (await again.attach()).instance == "router-1.b"


@_harness()
async def test_the_end_of_a_router_ends_what_it_was_asked(harness: Harness) -> None:
    stream = await harness.edge()
    harness.service.may_answer.clear()
    stream.ask(1, release=pb.ReleaseRequest())
    await until(lambda: harness.service.named("release"), "it is asked")
    await harness.link_server.stop()
    assert not harness.link_server.tasks
    assert not harness.link_server.edges


@_harness()
async def test_a_kick_and_a_push_are_sent_as_they_are(harness: Harness) -> None:
    stream = await harness.edge()
    peer = harness.peer()
    peer.push("c", 3, 17, Publish("t", b"x", 2, properties=b"\x01\x01"))
    peer.kick("c", 2, ReasonCode.SESSION_TAKEN_OVER)
    await until(lambda: stream.of("kick"), "it is sent")
    (push,), (kick,) = stream.of("push"), stream.of("kick")
    assert (push.client_id, push.epoch, push.seq) == ("c", 3, 17)
    assert (push.message.payload, push.message.flags) == (b"x", 2)
    assert (kick.client_id, kick.epoch, kick.reason_code) == ("c", 2, 0x8E)


# Fences


def _old_and_new(qos: int) -> list[pb.Publish]:
    publishes = []
    for number, epoch in enumerate((4, 5, 6), start=1):
        publish = pb.Publish(id=number if qos else 0, client_id="p", epoch=epoch)
        write_message(publish.message, Publish("t", b"%d" % epoch, qos))
        publishes.append(publish)
    return publishes


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_older_than_a_fence_is_refused(qos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """[MQTT-3.1.4-3]. Also QoS 0; other clients, and the newer connection, are not concerned."""

    @_harness()
    async def play(harness: Harness) -> None:
        stream = await harness.edge("edge-1", "t")
        other = await harness.edge("edge-2")
        harness.peer("edge-1").fence("p", 5)
        for publish in _old_and_new(qos):
            stream.say(publish=publish)
        other.say(publish=_old_and_new(qos)[0])
        elsewhere = _publish(b"q", topic="t")
        elsewhere.client_id, elsewhere.epoch = "q", 1
        stream.say(publish=elsewhere)
        await asyncio.sleep(MOMENT_S)
        assert sorted(_payloads(stream)) == [b"4", b"5", b"6", b"q"]
        if qos:
            assert stream.done == {1: FENCED, 2: 0, 3: 0}
        dropped = harness.counters.dropped["superseded"]
        assert dropped == (0 if qos else 1)  # who was not acknowledged sends it again
        # Its credit is returned: it does not count as under way.
        assert stream.credit_bytes + harness.peer("edge-1").credit_due_bytes > 0

    play(monkeypatch)


@_harness()
async def test_a_fence_is_kept_until_the_edge_has_applied_it(harness: Harness) -> None:
    stream = await harness.edge("edge-1")
    peer = harness.peer("edge-1")
    peer.fence("p", 5)
    peer.fence("p", 5)
    peer.fence("p", 4)
    await asyncio.sleep(MOMENT_S)
    assert [(one.client_id, one.epoch) for one in stream.of("fence")] == [("p", 5)]
    peer.fence("p", 9)
    stream.say(fenced=pb.Fenced(client_id="p", epoch=5))
    await asyncio.sleep(MOMENT_S)
    assert peer.fences == {"p": 9}
    stream.say(fenced=pb.Fenced(client_id="p", epoch=9))
    await asyncio.sleep(MOMENT_S)
    assert peer.fences == {}


@_harness()
async def test_what_an_edge_sends_again_is_superseded_on_its_former_stream(
    harness: Harness,
) -> None:
    stream = await harness.edge("edge-1")
    harness.service.answers_late = True
    stream.say(publish=_publish(b"x", 1))
    await until(lambda: harness.service.open, "it is published")
    ((origin, _),) = harness.service.open
    assert not origin.is_superseded
    stream.end()
    await until(lambda: not harness.link_server.edges, "the stream has ended")
    assert origin.is_superseded


@_harness()
async def test_an_edge_of_an_older_version_is_fenced_by_what_it_sends(harness: Harness) -> None:
    """It sends no epoch at QoS 0, and takes neither fences nor wills."""
    stream = FakeStream(harness.link_server, "edge-1")
    harness.streams.append(stream)
    stream.hello(newest=2)
    stream.say(synced=pb.Synced(id=1))
    stream.say(interest=pb.Interest(added=["t"]))
    await asyncio.sleep(MOMENT_S)
    peer = harness.peer("edge-1")
    peer.fence("p", 5)
    unknown = _publish(b"qos 0")
    unknown.epoch = 0
    stream.say(publish=unknown)
    stream.say(publish=_publish(b"old", 1))
    await asyncio.sleep(MOMENT_S)
    assert _payloads(stream) == [b"qos 0"]
    assert stream.of("fence") == []
    assert not peer.publish_will(PendingWill("4:p", "p", 4, Publish("t", b"will")))
    will = PendingWill("4:p", "p", 4, Publish("t", b"will"))
    harness.service.results["attach"] = AttachedSession(6, 0, False, wills=[will])
    harness.service.results["detach"] = DetachedSession([will])
    stream.ask(2, attach=pb.AttachRequest(client_id="p"))
    stream.ask(3, detach=pb.DetachRequest(client_id="p"))
    await asyncio.sleep(MOMENT_S)
    assert harness.service.named("publish_will") == [(will,)] * 2
    assert [len(reply.attach.wills) + len(reply.detach.wills) for reply in stream.of("reply")] == [
        0,
        0,
    ]


@_harness()
async def test_a_lease_comes_with_broker_time(harness: Harness) -> None:
    """A router without a clock leaves it out."""
    stream = await harness.edge("edge-1")
    for number, (now_ms, wall_ms) in enumerate([(0, 0), (5000, 9000)], 1):
        if now_ms:
            clock = BrokerClock(lambda: 1_000_000_000)
            clock.set(now_ms, wall_ms)
            harness.link_server.share_time(clock)
        stream.ask(number, lease=pb.LeaseRequest())
        lease = (await stream.reply(number)).lease
        assert (lease.broker_time_ms, lease.wall_time_ms) == (now_ms, wall_ms)


@_harness()
async def test_an_edge_that_has_lost_its_lease_must_attach_again(harness: Harness) -> None:
    stream = await harness.edge("edge-1", "t")
    harness.peer("edge-1").give_up()
    await asyncio.wait_for(stream.task, 1)
    assert harness.link_server.edges == []
    assert harness.service.named("detach_edge") == [("edge-1",)]


@_harness()
async def test_wills_that_edges_publish_have_an_identity_at_every_qos(harness: Harness) -> None:
    stream = await harness.edge("edge-1", "t")
    publish = _publish(b"will")
    publish.identity, publish.id = "will|4:p", 8
    stream.say(publish=publish)
    stream.say(publish=_publish(b"plain", 9))
    stream.ask(2, wills_published=pb.WillsPublishedRequest(will_ids=["4:p"]))
    await asyncio.sleep(MOMENT_S)
    assert [origin.is_will for origin, _ in harness.service.published] == [True, False]
    assert stream.done == {8: 0, 9: 0}
    assert harness.service.named("wills_published") == [(["4:p"],)]


@_harness()
async def test_a_takeover_learns_of_wills_that_the_other_edge_has_withdrawn(
    harness: Harness,
) -> None:
    """[MQTT-3.14.4-3]. It waits for that edge, but not for one that hangs."""
    old, new = await harness.edge("edge-1"), await harness.edge("edge-2")
    harness.peer("edge-1").fence("p", 5)
    new.ask(7, withdrawn=pb.WithdrawnRequest(client_id="p", will_ids=["4:p", "3:p"]))
    await asyncio.sleep(MOMENT_S)
    assert new.of("reply") == []
    old.say(fenced=pb.Fenced(client_id="p", epoch=5, withdrawn=4))
    assert list((await new.reply(7)).withdrawn.will_ids) == ["4:p"]
    assert harness.service.named("withdraw_wills") == [(["4:p"],)]
    harness.peer("edge-1").fence("p", 6)
    new.ask(8, withdrawn=pb.WithdrawnRequest(client_id="p", will_ids=["5:p"]))
    assert list((await new.reply(8)).withdrawn.will_ids) == []


# Packed records


@_harness()
async def test_records_are_forwarded_unread_where_only_edges_want_them(harness: Harness) -> None:
    """Between operations and records the order stays; what must be published is."""
    first, second = await harness.edge("edge-1"), await harness.edge("edge-2")
    peers = [harness.peer("edge-1"), harness.peer("edge-2")]
    harness.service.live["t"] = [*peers]
    frame = pb.EdgeFrame()
    frame.operations.add().records = encode_message(Publish("t", b"a", 1), "p", 1, 4)
    traced = frame.operations.add().publish
    traced.CopyFrom(_publish(b"b", 2))
    traced.message.trace = b"trace"
    records = frame.operations.add()
    records.records = encode_message(Publish("t", b"c", expires_at_ms=7), "p", 0, 4)
    records.records += encode_message(Publish("elsewhere", b"d"), "p", 0, 4)
    first.send(frame)
    await until(lambda: len(first.done) == 2, "both are confirmed")
    assert first.done == {1: 0, 2: 0}
    assert harness.service.payloads == [b"b", b"d"]
    for stream in (first, second):
        found = [(one.message.payload, one.publisher_id) for one in stream.of("deliver")]
        assert found == [(b"a", "p"), (b"c", "p")]
        assert stream.of("deliver")[1].message.expires_at_ms == 7
    peer = peers[0]
    sizes = sum(size_of(one) for one in (Publish("t", b"a"), Publish("t", b"b")))
    sizes += size_of(Publish("t", b"c")) + size_of(Publish("elsewhere", b"d"))
    assert first.credit_bytes + peer.credit_due_bytes == sizes


@pytest.mark.parametrize("message", [Publish("t", b"x", 0, True), Publish("t", b"x", 2)])
def test_retained_and_qos_2_records_are_published(
    message: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    @_harness()
    async def play(harness: Harness) -> None:
        stream = await harness.edge("edge-1")
        harness.service.live["t"] = [harness.peer()]
        stream.say(records=encode_message(message, "p", 1, 4))
        await until(lambda: stream.done, "it is confirmed")
        ((origin, published),) = harness.service.published
        assert published == message
        assert (origin.client_id, origin.epoch) == ("p", 4)

    play(monkeypatch)


@_harness()
async def test_records_of_a_superseded_connection_are_not_forwarded(harness: Harness) -> None:
    """[MQTT-3.1.4-3]."""
    stream = await harness.edge("edge-1")
    peer = harness.peer()
    harness.service.live["t"] = [peer]
    peer.fence("p", 5)
    stream.say(
        records=encode_message(Publish("t", b"old", 1), "p", 1, 4)
        + encode_message(Publish("t", b"new", 1), "p", 2, 5)
        + encode_message(Publish("t", b"old"), "p", 0, 4)
    )
    await until(lambda: len(stream.done) == 2, "both are answered")
    assert stream.done == {1: FENCED, 2: 0}
    assert harness.service.payloads == [b"new"]
    assert harness.counters.dropped["superseded"] == 1


@_harness()
async def test_an_edge_of_an_older_version_is_sent_operations(harness: Harness) -> None:
    old = FakeStream(harness.link_server, "edge-2")
    harness.streams.append(old)
    old.hello(newest=RECORDS_VERSION - 1)
    old.say(synced=pb.Synced(id=1))
    stream = await harness.edge("edge-1")
    harness.service.live["t"] = [harness.peer("edge-2")]
    stream.say(records=encode_message(Publish("t", b"x", 1), "p", 1, 4))
    harness.peer("edge-2").push("c", 3, 8, Publish("t", b"y", 1))
    await until(lambda: old.of("push"), "it is sent both")
    assert [one.message.payload for one in old.of("deliver")] == [b"x"]
    assert [one.message.payload for one in old.of("push")] == [b"y"]
    assert "records" not in old.kinds


@_harness()
async def test_records_that_are_not_complete_end_the_connection(harness: Harness) -> None:
    stream = await harness.edge("edge-1")
    stream.say(records=encode_message(Publish("t", b"x"), "p")[:-1])
    await asyncio.wait([stream.task])
    assert not harness.link_server.edges


@_harness()
async def test_a_fault_in_one_record_spoils_no_other(harness: Harness) -> None:
    stream = await harness.edge("edge-1")
    harness.service.results["complete"] = ZeroDivisionError("a fault")
    stream.say(
        records=encode_completion("p", 1, 4, [7])
        + encode_message(Publish("t", b"good", 1), "p", 2, 4)
    )
    await until(lambda: 2 in stream.done, "the other one is confirmed")
    assert harness.service.payloads == [b"good"]
    assert harness.counters.internal_errors == 1


@_harness(**SMALL_MAILBOX)
async def test_forwarded_records_that_were_not_sent_are_counted(harness: Harness) -> None:
    """published = delivered + queued + dropped (G7)."""
    stuck = await harness.edge("edge-1")
    stuck.takes.clear()
    peer = harness.peer()
    for _ in range(3):
        peer.forward(encode_message(Publish("t", b"x"), "p"), size_of(Publish("t", b"x")))
    peer.push("c", 3, 1, Publish("t", b"y", 1))
    peer.close()
    assert harness.counters.dropped["link_lost"] == 3
    peer.stalled = True
    for _ in range(9):
        peer.forward(encode_message(Publish("t", LARGE), "p"), size_of(Publish("t", LARGE)))
    assert harness.counters.dropped["mailbox_full"] > 0
