"""Which messages of an abandoned queue are redelivered, and when they are deleted.

The store here has one queue; dispatching a message is recorded, and finished by the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support.build import sources_only
from support.virtual_time import in_virtual_time, turns
from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish
from tidegate.router import abandoned_queues
from tidegate.router.abandoned_queues import AbandonedQueues
from tidegate.router.groups import Page, RedispatchOrigin
from tidegate.router.pending import Pending
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AbandonedQueue
from tidegate.store.records import UnknownRecordVersion, encode_queued


class _Store:
    """Has one abandoned queue."""

    def __init__(self, entries: dict[int, bytes]) -> None:
        self.entries = entries
        self.fetches = 0

    async def fetch_abandoned(
        self, client_id: str, incarnation: int, after_seq: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        self.fetches += 1
        return [pair for pair in self.entries.items() if pair[0] > after_seq][:max_count]

    async def trim_abandoned(
        self, client_id: str, incarnation: int, through_seq: int, now_ms: int
    ) -> bool:
        self.entries = {seq: record for seq, record in self.entries.items() if seq > through_seq}
        return bool(self.entries)


class _Given:
    """What was given to groups."""

    def __init__(self) -> None:
        self.found: list[tuple[tuple[str, str], str, bytes]] = []
        self.held: list[Pending] = []
        self.wait = False
        #: Refuse everything.
        self.refuse = False

    def __call__(
        self,
        group: tuple[str, str],
        origin: Origin | None,
        message: Publish,
        pending: Pending,
    ) -> None:
        assert isinstance(origin, RedispatchOrigin)
        assert (origin.previous_client_id, origin.client_id, origin.receipt(message)) == (
            "c",
            "",
            -1,
        )
        assert message.subscription_identifiers == ()
        self.found.append((group, origin.identity(message), message.payload))
        pending.refused |= self.refuse
        if self.wait:
            pending.add()
            self.held.append(pending)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.found]


async def _once(call: Callable[[], Coroutine[Any, Any, Any]], _: str) -> Any:
    return await call()


def _queues(store: Any, given: _Given, counters: Counters | None = None) -> AbandonedQueues:
    return AbandonedQueues(store, given, _once, lambda: 1000, counters or Counters())


def _entry(payload: bytes, qos: int = 1, group: str = "g/t/#", expires_at_ms: int = 0) -> bytes:
    return encode_queued(Publish("t/1", payload), qos, False, (7,), expires_at_ms, group)


async def test_only_shared_messages_go_to_others() -> None:
    store = _Store({1: _entry(b"own", group=""), 2: _entry(b"shared")})
    given = _Given()
    await _queues(store, given).redispatch(AbandonedQueue("c", 9, 0, False))
    assert given.found == [(("g", "t/#"), "lost|c|9|2", b"shared")]
    assert store.entries == {}


@pytest.mark.parametrize(("uncertain", "expected"), [(False, [b"a", b"d"]), (True, [b"a"])])
@pytest.mark.statement("MQTT-4.8.2-5")
async def test_qos_2_that_may_have_begun_goes_to_nobody(
    uncertain: bool, expected: list[bytes]
) -> None:
    store = _Store({1: _entry(b"a", 1), 2: _entry(b"b", 2), 3: _entry(b"c", 2), 4: _entry(b"d", 2)})
    given = _Given()
    await _queues(store, given).redispatch(AbandonedQueue("c", 9, 3, uncertain))
    assert given.payloads == expected


async def test_what_has_expired_goes_to_nobody() -> None:
    store = _Store({1: _entry(b"a", expires_at_ms=1000), 2: _entry(b"b", expires_at_ms=1001)})
    given = _Given()
    await _queues(store, given).redispatch(AbandonedQueue("c", 9, 0, False))
    assert given.payloads == [b"b"]


async def test_a_long_queue_is_given_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_queues, "PAGE", 2)
    store = _Store({seq: _entry(b"%d" % seq) for seq in range(1, 6)})
    given = _Given()
    await _queues(store, given).redispatch(AbandonedQueue("c", 9, 0, False))
    assert given.payloads == [b"1", b"2", b"3", b"4", b"5"]
    assert store.fetches == 3


@in_virtual_time
async def test_a_page_is_forgotten_when_it_is_queued_elsewhere() -> None:
    store = _Store({1: _entry(b"a")})
    given = _Given()
    given.wait = True
    queues = _queues(store, given)
    task = asyncio.create_task(queues.redispatch(AbandonedQueue("c", 9, 0, False)))
    await turns()
    assert given.held, "the message is given"
    assert store.entries
    # The claim has run out and come back to the same router: it is still at it.
    await queues.redispatch(AbandonedQueue("c", 9, 0, False))
    assert given.payloads == [b"a"]
    given.held[0].release()
    await task
    assert not store.entries


@in_virtual_time
async def test_what_could_not_be_queued_is_left_for_the_next_claim() -> None:
    store = _Store({1: _entry(b"a")})
    given = _Given()
    given.wait = True
    queues = _queues(store, given)
    task = asyncio.create_task(queues.redispatch(AbandonedQueue("c", 9, 0, False)))
    await turns()
    assert given.held, "the message is given"
    given.held[0].failed = True
    given.held[0].release()
    await task
    assert store.entries


async def test_a_record_of_a_newer_version_stops_its_page_before_it_begins() -> None:
    store = _Store({1: _entry(b"a"), 2: b"\x12" + _entry(b"b")[1:]})
    given = _Given()
    with pytest.raises(UnknownRecordVersion):
        await _queues(store, given).redispatch(AbandonedQueue("c", 9, 0, False))
    assert (given.payloads, len(store.entries)) == ([], 2)


async def test_what_becomes_of_each_copy_is_counted() -> None:
    entries = {
        1: _entry(b"sent"),
        2: _entry(b"given"),
        3: _entry(b"old", expires_at_ms=1),
        4: _entry(b"own", group=""),
    }
    counters = Counters()
    counters.queued = 4
    await _queues(_Store(entries), _Given(), counters).redispatch(AbandonedQueue("c", 9, 1, False))
    found = {reason: count for reason, count in counters.dropped.items() if count}
    assert found == {"redispatched": 1, "expired": 1, "session_ended": 1}
    assert counters.queued == 0


@pytest.mark.parametrize("refuse", [False, True])
async def test_it_tells_whether_a_member_refused(refuse: bool) -> None:
    given = _Given()
    given.refuse = refuse
    lost = AbandonedQueue("c", 9, 0, False)
    assert await _queues(_Store({1: _entry(b"a")}), given).redispatch(lost) is refuse


@sources_only
@in_virtual_time
async def test_a_page_is_not_held_for_ever_by_a_member_that_does_not_acknowledge() -> None:
    store = _Store({1: _entry(b"a")})
    pages = []

    def dispatch(group: tuple[str, str], origin: Any, message: Publish, pending: Pending) -> None:
        assert isinstance(pending, Page)
        pages.append(pending)
        # What the groups would do with it does not matter: nothing comes back.
        assert pending.watch(None, group, origin, message) is not None  # type: ignore[arg-type]

    queues = AbandonedQueues(store, dispatch, _once, lambda: 1000, Counters())  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await queues.redispatch(AbandonedQueue("c", 9, 0, False))
    assert loop.time() - began_s == abandoned_queues.ACKNOWLEDGE_TIMEOUT_S
    assert not store.entries
    assert pages[0].closed


@in_virtual_time
async def test_a_redelivery_that_is_cancelled_can_be_repeated() -> None:
    given = _Given()
    given.wait = True
    queues = _queues(_Store({1: _entry(b"a")}), given)
    lost = AbandonedQueue("c", 9, 0, False)
    task = asyncio.create_task(queues.redispatch(lost))
    await turns()
    assert given.held, "the message is given"
    queues.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    given.wait = False
    await queues.redispatch(lost)
    assert given.payloads == [b"a", b"a"]


@in_virtual_time
async def test_more_queues_than_can_be_emptied_at_once_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(abandoned_queues, "MAX_CONCURRENT", 1)
    given = _Given()
    given.wait = True
    queues = _queues(_Store({1: _entry(b"a")}), given)
    first = asyncio.create_task(queues.redispatch(AbandonedQueue("c", 9, 0, False)))
    await turns()
    assert given.held, "the message is given"
    second = asyncio.create_task(queues.redispatch(AbandonedQueue("c", 10, 0, False)))
    given.wait = False
    given.held[0].release()
    await asyncio.gather(first, second)


@in_virtual_time
async def test_a_queue_that_has_no_turn_in_time_is_left_for_the_next_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(abandoned_queues, "MAX_CONCURRENT", 1)
    store, given = _Store({1: _entry(b"a")}), _Given()
    given.wait = True
    queues = _queues(store, given)
    first = asyncio.create_task(queues.redispatch(AbandonedQueue("c", 9, 0, False)))
    await turns()
    assert given.held, "the message is given"
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    assert not await queues.redispatch(AbandonedQueue("c", 10, 0, False))
    assert loop.time() - began_s == abandoned_queues.TURN_TIMEOUT_S
    assert len(given.found) == 1
    given.held[0].release()
    await first
