"""Which member of a group gets a message, and who gets it next: turns, refusals, returned ones.

The store here says what becomes of each append; edges are lists. Turns themselves are tested with
``core.shared``.
"""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.link.interfaces import SharedReceipt
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router.claims import Claims
from tidegate.router.groups import Groups, Page, RedispatchOrigin
from tidegate.router.pending import Pending
from tidegate.router.queue_writer import QueueWriter
from tidegate.router.table import DurableSession, RoutingTable, SharedMember
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Append, AppendOutcome, AppendReply, Claim, Holder

GROUP = ("g", "t/+")
FILTER = "$share/g/t/+"


class _Store:
    """Queues everything, except for the clients that have an outcome of their own."""

    def __init__(self) -> None:
        self.outcomes: dict[str, AppendOutcome] = {}
        self.appends: list[tuple[str, str]] = []
        self.connected: set[str] = set()
        self.claims: dict[str, Holder] = {}
        #: Who was asked for, and from whom it was to be moved.
        self.claimed: list[tuple[str, str]] = []

    async def claim(self, claims: list[Claim]) -> list[Holder]:
        for item in claims:
            self.claimed.append((item.holder[0], item.moved_from[0] if item.moved_from else ""))
            if self.claims.get(item.identity, item.moved_from) == item.moved_from:
                self.claims[item.identity] = item.holder
        return [self.claims[item.identity] for item in claims]

    async def append(self, appends: list[Append], now_ms: int) -> AppendReply:
        reply = AppendReply()
        for item in appends:
            self.appends.append((item.client_id, item.identity))
            reply.outcomes.append(self.outcomes.get(item.client_id, len(self.appends)))
            if item.client_id in self.connected:
                reply.locations[item.client_id, item.incarnation] = ("e", 1)
        return reply

    @property
    def asked(self) -> list[str]:
        """Whose queue was tried, in order."""
        return [client_id for client_id, _ in self.appends]


class _Edge:
    """Takes what it is given for its clients."""

    edge_id = "e"

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self.receipts: list[SharedReceipt | None] = []
        self.refuses: set[str] = set()

    def push(self, *_: object) -> None:
        pass

    def deliver_shared(
        self,
        client_id: str,
        epoch: int,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        assert group == FILTER
        if client_id in self.refuses:
            return False
        self.taken.append((client_id, message.payload))
        self.receipts.append(receipt)
        return True


class _Harness:
    """Groups with a table, a queue writer and one edge."""

    def __init__(self) -> None:
        self.store = _Store()
        self.edge: Any = _Edge()
        self.counters = Counters()
        self.table = RoutingTable()
        store: Any = self.store
        edges: dict[str, Any] = {"e": self.edge}
        self.queues = QueueWriter(store, self.counters, edges, _never, lambda: 0)
        self.claims = Claims(store, self.counters, _never)
        self.groups = Groups(self.table.shared, self.queues, self.claims, self.counters)
        self.finished = 0

    def durable(self, *names: str, connected: bool = True, qos: int = 2) -> list[DurableSession]:
        """Add durable members."""
        sessions = []
        for name in names:
            session = self.table.session(name, 1)
            self.table.subscribe_durable(session, FILTER, SubscriptionOptions(qos))
            self.table.set_connected(session, self.edge if connected else None, 1)
            if connected:
                self.store.connected.add(name)
            sessions.append(session)
        return sessions

    def ephemeral(self, *names: str, qos: int = 2) -> None:
        """Add members without a session in the store."""
        for name in names:
            member = SharedMember(name, SubscriptionOptions(qos), None, self.edge, 1)
            self.table.shared.subscribe(*GROUP, name, member, True)

    async def dispatch(
        self, pending: Pending | None = None, origin: Any = None, qos: int = 1
    ) -> Pending:
        """Give one message; return when all is decided that the store decides."""
        pending = pending or Pending(self._finish)
        self.groups.dispatch(GROUP, origin, Publish("t/1", b"m", qos), pending)
        while self.claims.is_busy or self.queues.is_busy:
            await self.claims.idle()
            await self.queues.idle()
        return pending

    def _finish(self) -> None:
        self.finished += 1

    def page(self) -> Page:
        """A page that counts as ``give``'s own pending does."""
        return Page(self._finish)

    def drops(self) -> dict[str, int]:
        """What was dropped, by reason."""
        return {reason: count for reason, count in self.counters.dropped.items() if count}


def _never() -> None:
    raise AssertionError("nobody is fenced here")


async def test_a_member_whose_session_has_ended_is_passed_over() -> None:
    harness = _Harness()
    harness.durable("a", "b")
    harness.store.outcomes["a"] = AppendOutcome.NO_SESSION
    pending = await harness.dispatch(qos=2)
    assert harness.store.asked == ["a", "b"]
    pending.release()
    assert (harness.finished, pending.failed, pending.refused) == (1, False, True)
    assert (harness.counters.published, harness.counters.queued, harness.drops()) == (1, 1, {})


async def test_a_message_that_no_session_takes_goes_to_a_member_without_one() -> None:
    harness = _Harness()
    harness.durable("a", "b")
    harness.store.outcomes = dict.fromkeys("ab", AppendOutcome.NO_SESSION)
    harness.ephemeral("x")
    await harness.dispatch()
    assert harness.store.asked == ["a", "b"]
    assert harness.edge.taken == [("x", b"m")]


async def test_a_message_that_nobody_takes_is_dropped_for_the_last_reason() -> None:
    harness = _Harness()
    harness.durable("a", "b")
    harness.store.outcomes = {"a": AppendOutcome.QUEUE_FULL, "b": AppendOutcome.NO_SESSION}
    pending = await harness.dispatch()
    pending.release()
    assert (harness.finished, harness.counters.published) == (1, 1)
    assert harness.drops() == {"no_session": 1}
    empty = _Harness()
    await empty.dispatch()
    assert empty.drops() == {"no_subscriber": 1}


async def test_full_queues_are_tried_a_few_only() -> None:
    harness = _Harness()
    harness.durable(*"abcdefgh")
    harness.store.outcomes = dict.fromkeys("abcdefgh", AppendOutcome.QUEUE_FULL)
    await harness.dispatch()
    assert harness.store.asked == list("abcd")
    assert (harness.counters.published, harness.drops()) == (1, {"queue_full": 1})


async def test_a_message_that_a_session_has_seen_stays_there() -> None:
    harness = _Harness()
    harness.durable("a", "b")
    harness.store.outcomes["a"] = AppendOutcome.DUPLICATE
    pending = await harness.dispatch(qos=2)
    assert (harness.store.asked, harness.drops(), pending.refused) == (
        ["a"],
        {"duplicate": 1},
        False,
    )


async def test_a_message_goes_back_home_before_it_is_dropped() -> None:
    harness = _Harness()
    harness.durable("a", "b")
    harness.durable("home", connected=False)
    harness.store.outcomes = dict.fromkeys("ab", AppendOutcome.QUEUE_FULL)
    pending = await harness.dispatch(origin=RedispatchOrigin("lost|1", "home"))
    assert harness.store.appends == [("a", "lost|1|g/t/+"), ("home", "lost|1|g/t/+")]
    assert (pending.refused, harness.counters.queued, harness.drops()) == (True, 1, {})
    harness.store.outcomes["home"] = AppendOutcome.QUEUE_FULL
    await harness.dispatch(origin=RedispatchOrigin("lost|2", "home"))
    assert harness.store.asked[2:] == ["b", "home", "a"]
    assert harness.drops() == {"queue_full": 1}


async def test_an_edge_that_has_not_the_member_is_passed_over() -> None:
    harness = _Harness()
    harness.ephemeral("x", "y")
    harness.edge.refuses.add("x")
    pending = await harness.dispatch()
    assert (harness.edge.taken, pending.refused) == ([("y", b"m")], True)


async def test_an_offline_member_with_a_message_is_checked_while_others_are_connected() -> None:
    harness = _Harness()
    (gone,) = harness.durable("gone")
    harness.store.connected.clear()  # the store knows better than this router
    await harness.dispatch()
    assert harness.groups.clients_to_check == set()  # nobody else is here
    harness.durable("b", connected=False)
    await harness.dispatch()
    assert harness.groups.clients_to_check == set()
    harness.ephemeral("x")
    harness.table.shared.pick(*GROUP, ("gone",))
    await harness.dispatch()
    assert harness.groups.clients_to_check == {"gone"}
    harness.groups.clients_to_check.clear()
    harness.table.set_connected(gone, None, 1)
    harness.edge.refuses.add("x")
    await harness.dispatch()  # it has been offered to those who are here
    assert harness.groups.clients_to_check == set()


async def test_a_page_waits_for_the_acknowledgement_of_a_member_without_a_session() -> None:
    harness = _Harness()
    harness.ephemeral("x", "y")
    page = harness.page()
    await harness.dispatch(page)
    page.release()
    assert harness.finished == 0
    first = harness.edge.receipts[0]
    first.returned()  # the member has gone
    assert [name for name, _ in harness.edge.taken] == ["x", "y"]
    assert harness.finished == 0
    second = harness.edge.receipts[1]
    second.done()
    second.done()
    assert harness.finished == 1


@pytest.mark.parametrize(("granted", "qos"), [(0, 1), (2, 2)])
async def test_a_page_does_not_wait_where_nothing_comes_back(granted: int, qos: int) -> None:
    harness = _Harness()
    harness.ephemeral("x", qos=granted)
    page = harness.page()
    await harness.dispatch(page, qos=qos)
    page.release()
    assert (harness.edge.receipts, harness.finished) == ([None], 1)


async def test_a_closed_page_waits_no_longer_and_messages_still_find_others() -> None:
    harness = _Harness()
    harness.ephemeral("x", "y")
    page = harness.page()
    await harness.dispatch(page)
    page.release()
    page.close()
    assert harness.finished == 1
    harness.edge.receipts[0].returned()
    assert [name for name, _ in harness.edge.taken] == ["x", "y"]
    assert harness.edge.receipts[1] is None  # the edge gives it back by itself


async def test_what_an_edge_refuses_is_not_waited_for() -> None:
    harness = _Harness()
    harness.ephemeral("x")
    harness.edge.refuses.add("x")
    page = harness.page()
    await harness.dispatch(page)
    page.release()
    assert (harness.finished, harness.drops()) == (1, {"no_subscriber": 1})


IDENTITY = "p|1|7|0"
CLAIM = f"{IDENTITY}|g/t/+"


def _publish() -> RedispatchOrigin:
    return RedispatchOrigin(IDENTITY, "nobody")


async def test_a_qos_2_message_is_claimed_for_the_member_that_gets_it() -> None:
    harness = _Harness()
    harness.durable("a", "b")
    pending = await harness.dispatch(origin=_publish(), qos=2)
    assert harness.store.claims == {CLAIM: ("a", 1)}
    assert harness.store.appends == [("a", CLAIM)]
    pending.release()
    assert (harness.finished, harness.counters.queued) == (1, 1)


async def test_a_qos_1_message_and_one_without_an_identity_pay_for_no_claim() -> None:
    harness = _Harness()
    harness.durable("a")
    await harness.dispatch(origin=_publish(), qos=1)
    await harness.dispatch(qos=2)
    harness.ephemeral("x")
    harness.table.shared.unsubscribe(*GROUP, "a")
    await harness.dispatch(origin=_publish(), qos=2)
    assert (harness.store.claimed, len(harness.store.appends)) == ([], 2)


async def test_the_member_that_another_router_has_chosen_gets_the_message() -> None:
    harness = _Harness()
    harness.durable("a", "b")
    harness.store.claims[CLAIM] = ("b", 1)
    harness.store.outcomes["b"] = AppendOutcome.DUPLICATE
    pending = await harness.dispatch(origin=_publish(), qos=2)
    assert (harness.store.asked, pending.refused) == (["b"], False)
    assert harness.drops() == {"duplicate": 1}


@pytest.mark.parametrize("holder", [("gone", 1), ("a", 2)])
async def test_a_member_that_is_unknown_here_may_have_the_message(holder: Holder) -> None:
    """The store knows: another router has, perhaps, queued it there."""
    harness = _Harness()
    harness.durable("a", "b")
    harness.store.claims[CLAIM] = holder
    await harness.dispatch(origin=_publish(), qos=2)
    assert harness.store.asked == [holder[0]]
    harness.store.outcomes[holder[0]] = AppendOutcome.NO_SESSION
    await harness.dispatch(origin=_publish(), qos=2)
    first, second, other = harness.store.asked
    assert first == second == holder[0] != other
    assert harness.store.claims == {CLAIM: (other, 1)}


async def test_the_claim_moves_with_the_message_when_queues_are_full() -> None:
    harness = _Harness()
    harness.durable("a", "b", "c")
    harness.store.outcomes = dict.fromkeys("ab", AppendOutcome.QUEUE_FULL)
    await harness.dispatch(origin=_publish(), qos=2)
    assert harness.store.claimed == [("a", ""), ("b", "a"), ("c", "b")]
    assert harness.store.appends == [("a", CLAIM), ("b", CLAIM), ("c", CLAIM)]
    assert harness.store.claims == {CLAIM: ("c", 1)}
