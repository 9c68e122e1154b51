"""Deliveries that edges have completed: gathered, forgotten by the store, and told of.

Inputs: completions while the store is slow, away, or knows a newer connection. Observed: what the
store is asked, when edges are told, which connections are ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest

from support.fake_link import MOMENT_S, FakeEdge
from support.virtual_time import in_virtual_time, turns
from tidegate.link.interfaces import RouterUnavailable, SessionFenced
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.packets import Publish
from tidegate.router.deliveries import Deliveries
from tidegate.router.edges import Edges
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.table import RoutingTable
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.lanes import StoreFault
from tidegate.store.records import encode_queued


class _Store:
    """Notes what is to be forgotten; ``newer`` are clients with a newer connection."""

    def __init__(self) -> None:
        self.forgotten: list[list[tuple[str, int, list[int]]]] = []
        self.newer: set[str] = set()
        #: Clients whose keys hold something else.
        self.foreign: set[str] = set()
        self.is_away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def _answer(self) -> None:
        if self.is_away:
            raise StoreUnavailable
        await self.answers.wait()

    async def complete_many(self, items: Sequence[tuple[str, int, list[int]]]) -> list[bool]:
        await self._answer()
        if any(client_id in self.foreign for client_id, _, _ in items):
            raise StoreFault("WRONGTYPE")
        self.forgotten.append(list(items))
        return [client_id not in self.newer for client_id, _, _ in items]

    async def fetch(self, *_arguments: Any) -> list[tuple[int, bytes]]:
        await self._answer()
        return [(4, encode_queued(Publish("t", b"x", 1), 1, False))]

    async def fetch_owned(
        self, client_id: str, epoch: int, *_page: int
    ) -> list[tuple[int, bytes]] | None:
        return None if client_id in self.newer else await self.fetch()

    async def release(self, client_id: str, epoch: int, seqs: Sequence[int]) -> bool:
        await self._answer()
        return client_id not in self.newer

    async def receipt(self, client_id: str, epoch: int, packet_id: int, value: int) -> bool:
        await self._answer()
        return client_id not in self.newer


class _Harness:
    def __init__(self) -> None:
        self.store = _Store()
        store: Any = self.store
        table = RoutingTable()
        edges = Edges(table)
        self.edge = FakeEdge()
        edges.attach_edge(self.edge)
        self.counters = Counters()
        queues = QueueWriter(store, self.counters, edges.by_id, lambda: None, lambda: 0)
        self.lost: set[str] = set()
        rollback: Any = self
        self.deliveries = Deliveries(store, table, queues, edges, rollback, self.counters)
        self.told: list[str] = []

    async def fenced(self, client_id: str, _epoch: int) -> bool:
        """See Rollback."""
        return client_id in self.lost

    async def refuse(self, client_id: str, _epoch: int) -> NoReturn:
        """See Rollback."""
        raise SessionFenced(client_id)

    def complete(self, client_id: str, *seqs: int) -> None:
        """An edge says that these are complete."""
        name = f"{client_id} {seqs}"
        self.deliveries.complete(client_id, 1, list(seqs), lambda: self.told.append(name))


@in_virtual_time
async def test_what_is_completed_while_the_store_works_goes_with_the_next_call() -> None:
    harness = _Harness()
    harness.store.answers.clear()
    harness.complete("a", 1)
    await turns()
    harness.complete("a", 2)
    harness.complete("b", 7, 8)
    harness.complete("a", 3)
    await turns()
    assert harness.told == []
    harness.store.answers.set()
    await harness.deliveries.idle()
    assert harness.store.forgotten == [[("a", 1, [1])], [("a", 1, [2, 3]), ("b", 1, [7, 8])]]
    assert harness.told == ["a (1,)", "a (2,)", "b (7, 8)", "a (3,)"]


@in_virtual_time
async def test_deliveries_are_forgotten_once_the_store_is_back() -> None:
    harness = _Harness()
    harness.store.is_away = True
    harness.complete("a", 1)
    await asyncio.sleep(10)
    assert harness.told == []
    harness.store.is_away = False
    await asyncio.sleep(5)
    assert harness.store.forgotten == [[("a", 1, [1])]]
    assert harness.told == ["a (1,)"]


@in_virtual_time
async def test_deliveries_that_the_store_calls_wrong_hold_no_others_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = _Harness()
    harness.store.foreign.add("bad")
    harness.store.newer.add("gone")
    with caplog.at_level(logging.CRITICAL):
        for client_id in ("a", "bad", "gone", "b"):
            harness.complete(client_id, 1)
        await asyncio.sleep(MOMENT_S)
        harness.complete("a", 2)
        await asyncio.sleep(MOMENT_S)
    forgotten = [item for items in harness.store.forgotten for item in items]
    assert forgotten == [("a", 1, [1]), ("gone", 1, [1]), ("b", 1, [1]), ("a", 1, [2])]
    assert [client_id for client_id, _, _ in harness.edge.kicked] == ["gone"]
    # Nobody asks for it again and again.
    assert len(harness.told) == 5
    assert harness.counters.internal_errors == 1


@in_virtual_time
async def test_a_connection_that_was_taken_over_is_ended_wherever_it_is() -> None:
    harness = _Harness()
    harness.store.newer.add("b")
    harness.complete("a", 1)
    harness.complete("b", 1)
    await asyncio.sleep(MOMENT_S)
    assert harness.edge.kicked == [("b", 1, ReasonCode.SESSION_TAKEN_OVER)]
    # The edge is told all the same: there is nothing left to do.
    assert len(harness.told) == 2


@in_virtual_time
async def test_steps_of_qos_2_are_refused_to_a_connection_that_was_taken_over() -> None:
    harness = _Harness()
    await harness.deliveries.release("a", 1, [1])
    await harness.deliveries.complete_receipt("a", 1, 1, 2)
    harness.store.newer.add("a")
    with pytest.raises(SessionFenced):
        await harness.deliveries.release("a", 1, [1])
    with pytest.raises(SessionFenced):
        await harness.deliveries.complete_receipt("a", 1, 1, 2)


@in_virtual_time
async def test_a_connection_that_was_taken_over_reads_nothing_of_the_queue() -> None:
    # Its successor could not know what it has sent, and would send that again without DUP.
    harness = _Harness()
    assert [seq for seq, _ in await harness.deliveries.fetch("a", 1, 1, 0, 10, 1000)] == [4]
    harness.store.newer.add("a")
    with pytest.raises(SessionFenced):
        await harness.deliveries.fetch("a", 1, 1, 0, 10, 1000)
    # An edge of an older version does not say which connection it is.
    assert [seq for seq, _ in await harness.deliveries.fetch("a", 0, 1, 0, 10, 1000)] == [4]


@in_virtual_time
async def test_a_release_fails_without_the_store_and_a_receipt_waits_for_it() -> None:
    harness = _Harness()
    harness.store.is_away = True
    with pytest.raises(RouterUnavailable):
        await harness.deliveries.release("a", 1, [1])
    receipt = asyncio.create_task(harness.deliveries.complete_receipt("a", 1, 1, 2))
    await asyncio.sleep(10)
    assert not receipt.done()
    harness.store.is_away = False
    await receipt
