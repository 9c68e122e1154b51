"""Which entries of an offline member's queue are redelivered, and when it is checked again.

The store here has one queue; abandoned queues are tested with ``abandoned_queues``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from support.virtual_time import in_virtual_time, turns
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router import offline_members
from tidegate.router.offline_members import RECHECK_MS, OfflineMembers
from tidegate.router.table import RoutingTable, SharedMember
from tidegate.store.api import AbandonedQueue, OfflineMember, StoreUnavailable
from tidegate.store.records import encode_queued

NOW = 1000
AGAIN = NOW + RECHECK_MS


class _Store:
    """Has the queue of one member."""

    def __init__(self, entries: dict[int, bytes]) -> None:
        self.entries = entries
        self.aside: list[list[int]] = []
        self.again: list[int] = []
        self.reported: list[list[str]] = []
        self.is_back = False
        self.down = False

    async def fetch(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        if self.down:
            raise StoreUnavailable("down")
        return [pair for pair in self.entries.items() if pair[0] > after_seq][:max_count]

    async def abandon_entries(
        self, member: OfflineMember, seqs: Sequence[int], now_ms: int, next_check_ms: int
    ) -> int | None:
        if self.is_back:
            return None
        self.again.append(next_check_ms)
        if seqs:
            self.aside.append(list(seqs))
        return 100 + len(self.aside) if seqs else 0

    async def schedule_checks(self, client_ids: Sequence[str], now_ms: int) -> None:
        if self.down:
            raise StoreUnavailable("down")
        self.reported.append(list(client_ids))


class _AbandonedQueues:
    """Records what it is to redeliver."""

    def __init__(self) -> None:
        self.found: list[AbandonedQueue] = []
        self.refused = False
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def redispatch(self, lost: AbandonedQueue) -> bool:
        self.found.append(lost)
        await self.may_end.wait()
        return self.refused


class _Harness:
    """A member "c" of $share/g/t/#, offline, and others that connect."""

    def __init__(self, entries: dict[int, bytes]) -> None:
        self.store = _Store(entries)
        self.abandoned_queues = _AbandonedQueues()
        self.table = RoutingTable()
        self.clients_to_check: set[str] = set()
        session = self.session = self.table.session("c", 1)
        self.table.subscribe_durable(session, "$share/g/t/#", SubscriptionOptions(2))
        self.table.subscribe_durable(session, "$share/h/t/#", SubscriptionOptions(2))
        store: Any = self.store
        lost: Any = self.abandoned_queues
        self.members = OfflineMembers(store, self.table, lost, self.clients_to_check, lambda: NOW)

    def comes(self, share_name: str = "g") -> None:
        """Another member is connected."""
        edge: Any = object()
        member = SharedMember("x", SubscriptionOptions(1), None, edge, 1)
        self.table.shared.subscribe(share_name, "t/#", "x", member, True)

    async def redispatch(self, sent: int = 0, *, uncertain: bool = False) -> None:
        """What a sweep makes the router do."""
        await self.members.redispatch(OfflineMember("c", 1, 7, sent, uncertain))


def _entry(qos: int = 1, group: str = "g/t/#", expires_at_ms: int = 0) -> bytes:
    return encode_queued(Publish("t/1", b"m"), qos, False, (), expires_at_ms, group)


async def test_what_came_through_a_group_goes_to_others_and_nothing_else() -> None:
    harness = _Harness(
        {1: _entry(), 2: _entry(group=""), 3: _entry(expires_at_ms=NOW), 4: _entry()}
    )
    harness.comes()
    await harness.redispatch(3)
    assert harness.store.aside == [[1, 4]]
    assert harness.abandoned_queues.found == [AbandonedQueue("c", 101, 3, False)]
    # While it is given away another router may look again, in time; then there is nothing to see.
    assert harness.store.again == [AGAIN, 0]


@pytest.mark.parametrize(("uncertain", "expected"), [(False, [[1, 3]]), (True, [[1]])])
@pytest.mark.statement("MQTT-4.8.2-4")
async def test_qos_2_that_may_have_begun_waits_for_its_client(
    uncertain: bool, expected: list[list[int]]
) -> None:
    harness = _Harness({1: _entry(1), 2: _entry(2), 3: _entry(2)})
    harness.comes()
    await harness.redispatch(2, uncertain=uncertain)
    assert harness.store.aside == expected


async def test_nothing_is_read_while_no_member_is_connected() -> None:
    harness = _Harness({1: _entry()})
    harness.store.down = True
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again) == ([], [AGAIN])


async def test_what_came_through_a_group_without_others_waits() -> None:
    harness = _Harness({1: _entry(group="h/t/#"), 2: _entry()})
    harness.comes("g")
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again) == ([[2]], [AGAIN, AGAIN])


async def test_a_member_that_is_unknown_here_is_left_to_others() -> None:
    harness = _Harness({1: _entry()})
    harness.comes()
    harness.table.drop_session("c", 1)
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again) == ([], [AGAIN])


async def test_a_member_that_is_thought_to_be_connected_gets_nothing_back() -> None:
    harness = _Harness({1: _entry()})
    edge: Any = object()
    harness.table.set_connected(
        harness.session, edge, 6
    )  # its edge is lost, and that is not known yet
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again) == ([], [AGAIN])
    assert harness.session.edge is None
    harness.comes()
    await harness.redispatch()
    assert harness.store.aside == [[1]]


async def test_a_member_that_is_known_to_be_back_is_left_alone() -> None:
    harness = _Harness({1: _entry()})
    edge: Any = object()
    harness.table.set_connected(harness.session, edge, 8)
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again, harness.session.edge) == ([], [], edge)


async def test_a_long_queue_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_members, "PAGE", 2)
    harness = _Harness({seq: _entry(group="" if seq == 3 else "g/t/#") for seq in range(1, 7)})
    harness.comes()
    await harness.redispatch()
    assert harness.store.aside == [[1, 2], [4], [5, 6]]
    assert [lost.incarnation for lost in harness.abandoned_queues.found] == [101, 102, 103]


async def test_it_stops_when_the_client_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_members, "PAGE", 1)
    harness = _Harness({1: _entry(), 2: _entry()})
    harness.comes()
    harness.store.is_back = True
    await harness.redispatch()
    assert (harness.store.aside, harness.abandoned_queues.found) == ([], [])


async def test_it_stops_for_now_when_others_cannot_take_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offline_members, "PAGE", 1)
    harness = _Harness({1: _entry(), 2: _entry()})
    harness.comes()
    harness.abandoned_queues.refused = True
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again[-1]) == ([[1]], AGAIN)


async def test_a_record_of_a_newer_version_is_left_to_newer_routers() -> None:
    harness = _Harness({1: b"\x12" + _entry()[1:], 2: _entry()})
    harness.comes()
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again[-1]) == ([[2]], AGAIN)


async def test_when_the_store_is_away_the_claim_runs_out() -> None:
    harness = _Harness({1: _entry()})
    harness.comes()
    harness.store.down = True
    await harness.redispatch()
    assert (harness.store.aside, harness.store.again) == ([], [])
    harness.store.down = False
    await harness.redispatch()
    assert harness.store.aside == [[1]]


@in_virtual_time
async def test_a_member_is_not_looked_at_twice_at_a_time() -> None:
    harness = _Harness({1: _entry()})
    harness.comes()
    harness.abandoned_queues.may_end.clear()
    first = asyncio.create_task(harness.redispatch())
    await turns()
    assert harness.abandoned_queues.found, "its messages are given away"
    await harness.redispatch()
    harness.abandoned_queues.may_end.set()
    await first
    assert harness.store.aside == [[1]]


async def test_members_of_a_group_with_a_first_connected_member_are_checked_once() -> None:
    harness = _Harness({})
    await harness.members.schedule_checks()
    harness.comes()
    harness.clients_to_check.add("m")
    harness.store.down = True
    with pytest.raises(StoreUnavailable):
        await harness.members.schedule_checks()
    harness.store.down = False
    await harness.members.schedule_checks()
    await harness.members.schedule_checks()
    assert [sorted(names) for names in harness.store.reported] == [["c", "m"]]
    assert not harness.clients_to_check


async def test_checks_are_scheduled_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_members, "REPORT_BATCH", 2)
    harness = _Harness({})
    harness.clients_to_check.update("abc")
    await harness.members.schedule_checks()
    await harness.members.schedule_checks()
    assert sorted(map(len, harness.store.reported)) == [1, 2]
