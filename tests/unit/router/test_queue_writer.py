"""A batch that some servers take at once and others later: who is pushed to, what is counted."""

from __future__ import annotations

from typing import Any

from support.fake_link import FakeEdge
from support.fake_store import FakeStore
from support.virtual_time import in_virtual_time
from tidegate.mqtt.packets import Publish
from tidegate.router.pending import Pending
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.table import DurableSession
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AppendOutcome, AppendReply


@in_virtual_time
async def test_what_is_stored_at_the_first_attempt_is_pushed_with_what_comes_later() -> None:
    store, edge, counters = FakeStore(), FakeEdge(), Counters()
    anything: Any = store
    writer = QueueWriter(anything, counters, {"edge-1": edge}, lambda: None, lambda: 0)
    store.append_replies = [
        AppendReply([11, AppendOutcome.UNAVAILABLE], {("first", 1): ("edge-1", 4)}),
        AppendReply([22], {("second", 1): ("edge-1", 5)}),
    ]
    finished = []
    pending = Pending(lambda: finished.append("finished"))
    for client_id in ("first", "second"):
        session = DurableSession(client_id, 1)
        writer.add(session, Publish("t", b"x", 1), 1, False, (), pending, "")
    pending.release()
    await writer.idle()
    assert [push[:3] for push in edge.pushed] == [("first", 4, 11), ("second", 5, 22)]
    assert [append.client_id for append in store.appends] == ["first", "second", "second"]
    assert (counters.published, counters.queued) == (2, 2)
    assert finished == ["finished"]


@in_virtual_time
async def test_drops_of_the_oldest_are_recorded_for_their_client_and_counted_once() -> None:
    store, counters = FakeStore(), Counters()
    anything: Any = store
    writer = QueueWriter(anything, counters, {}, lambda: None, lambda: 0)
    dropped = []
    writer.on_dropped = lambda *drop: dropped.append(drop)
    store.append_replies = [AppendReply([7], evicted={("client", 1): (3, "t/old")})]
    pending = Pending(lambda: None)
    session = DurableSession("client", 1)
    writer.add(session, Publish("t", b"x", 1), 1, False, (), pending, "")
    pending.release()
    await writer.idle()
    assert dropped == [("client", "queue_full", "t/old", 3)]
    # The store counts what its script has removed.
    assert (counters.queued, counters.dropped["queue_full"]) == (1, 0)
