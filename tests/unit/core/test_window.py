"""Window, MemoryQueue and DurableFeed step by step; arbitrary interleavings are in property."""

from __future__ import annotations

import pytest

from tidegate.core.window import (
    PACKET_IDS,
    DeliveryState,
    DurableFeed,
    MemoryQueue,
    Window,
    packet_id_of,
)
from tidegate.mqtt.errors import ProtocolViolation


@pytest.mark.statement("MQTT-2.2.1-4")
def test_packet_identifiers_follow_the_seq_and_skip_zero() -> None:
    assert [packet_id_of(seq) for seq in (1, 65535, 65536, 131070, 131071)] == [
        1, 65535, 1, 65535, 1,
    ]  # fmt: skip


@pytest.mark.statement("MQTT-4.3.2-3", "MQTT-3.3.4-9", "MQTT-4.9.0-2")
def test_a_qos1_exchange_takes_a_place_until_puback() -> None:
    window: Window[str] = Window(2)
    assert window.start(1, 1, "a") == 1
    assert window.room() == 1
    assert window.start(2, 1, "b") == 2
    assert window.room() == 0
    assert window.on_puback(1) == 1
    assert window.on_puback(1) is None
    assert window.room() == 1
    assert window.unacknowledged() == [(2, DeliveryState.AWAITING_PUBACK, "b")]
    assert len(window) == 1


@pytest.mark.statement("MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.3-6")
def test_a_qos2_exchange_takes_a_place_until_pubcomp_and_forgets_the_message_at_pubrec() -> None:
    window: Window[str] = Window(1)
    window.start(1, 2, "a")
    assert window.unacknowledged() == [(1, DeliveryState.AWAITING_PUBREC, "a")]
    assert window.on_pubrec(1, 0) == ("release", 1)
    assert window.unacknowledged() == [(1, DeliveryState.AWAITING_PUBCOMP, None)]
    assert window.on_pubrec(1, 0) == ("release", 1)
    assert window.room() == 0
    assert window.on_pubcomp(1) == 1
    assert window.on_pubcomp(1) is None
    assert window.room() == 1


@pytest.mark.statement("MQTT-4.4.0-2")
def test_a_pubrec_with_an_error_ends_the_exchange() -> None:
    window: Window[str] = Window(2)
    window.start(1, 2, "a")
    assert window.on_pubrec(1, 0x97) == ("done", 1)
    window.start(2, 2, "b")
    window.on_pubrec(2, 0)
    assert window.on_pubrec(2, 0x80) == ("done", 2)
    assert window.on_pubrec(2, 0) is None
    assert len(window) == 0


def test_acknowledgements_of_the_wrong_kind_are_protocol_errors() -> None:
    window: Window[str] = Window(3)
    window.start(1, 1, "a")
    window.start(2, 2, "b")
    window.start_released(3)
    for packet_id in (2, 3):
        with pytest.raises(ProtocolViolation):
            window.on_puback(packet_id)
    with pytest.raises(ProtocolViolation):
        window.on_pubrec(1, 0)
    for packet_id in (1, 2):
        with pytest.raises(ProtocolViolation):
            window.on_pubcomp(packet_id)
    assert len(window) == 3


@pytest.mark.statement("MQTT-4.4.0-1")
def test_resumed_exchanges_keep_their_identifiers_and_count_as_in_flight() -> None:
    window: Window[str] = Window(2)
    assert window.start_released(70_000) == packet_id_of(70_000)
    assert window.start(69_998, 1, "a") == packet_id_of(69_998)
    assert window.room() == 0
    assert window.start_released(70_001) == packet_id_of(70_001)
    assert window.room() == 0  # never below
    assert [seq for seq, _, _ in window.unacknowledged()] == [69_998, 70_000, 70_001]
    assert window.on_pubcomp(packet_id_of(70_000)) == 70_000


@pytest.mark.parametrize("state", ["qos1", "qos2", "released"])
@pytest.mark.statement("MQTT-2.2.1-4")
def test_no_identifier_is_used_twice_while_the_oldest_exchange_is_stuck(state: str) -> None:
    window: Window[str] = Window(10)
    if state == "released":
        window.start_released(1)
    else:
        window.start(1, int(state[-1]), "stuck")
    for seq in range(2, PACKET_IDS + 1):
        assert window.room() == 9
        assert window.on_puback(window.start(seq, 1, "m")) == seq
    assert window.room() == 0
    assert window.room() == 0
    if state == "qos1":
        window.on_puback(1)
    else:
        if state == "qos2":
            window.on_pubrec(1, 0)
            assert window.room() == 0
        window.on_pubcomp(1)
    assert window.room() == 10
    assert window.start(PACKET_IDS + 1, 1, "m") == 1


def test_a_stuck_exchange_in_the_middle_becomes_the_oldest() -> None:
    window: Window[str] = Window(10)
    window.start(1, 1, "a")
    window.start(5, 2, "b")
    window.start(6, 1, "c")
    window.start_released(4)
    assert not window.accepts(PACKET_IDS + 1)
    assert window.room() == 0
    window.on_puback(1)
    assert window.accepts(PACKET_IDS + 1)
    assert window.room() > 0
    assert not window.accepts(PACKET_IDS + 4)
    window.on_pubcomp(4)
    assert not window.accepts(PACKET_IDS + 5)
    window.on_pubrec(5, 0x80)
    assert not window.accepts(PACKET_IDS + 6)
    window.on_puback(6)
    assert window.accepts(PACKET_IDS * 9)


def test_an_older_message_that_is_sent_again_after_a_released_one_is_the_oldest() -> None:
    window: Window[str] = Window(10)
    window.start_released(900_000)
    assert window.room() == 9  # looks for the oldest
    window.start(850_000, 1, "a")
    assert not window.accepts(850_000 + PACKET_IDS)
    assert window.accepts(850_000 + PACKET_IDS - 1)


def _queue(policy: str = "drop_newest", messages: int = 3, size: int = 100) -> MemoryQueue[str]:
    assert policy in {"drop_newest", "drop_oldest"}
    return MemoryQueue(messages, size, policy)  # type: ignore[arg-type]  # asserted above


def _drain(queue: MemoryQueue[str]) -> list[str]:
    taken = []
    while (message := queue.take()) is not None:
        taken.append(message)
    return taken


def test_a_full_queue_refuses_the_newest() -> None:
    queue = _queue()
    assert [queue.offer(name, 10) for name in "abcd"] == [None, None, None, "queue_full"]
    assert queue.last_dropped_count == 1
    assert (len(queue), queue.size_bytes) == (3, 30)
    assert _drain(queue) == ["a", "b", "c"]
    assert (len(queue), queue.size_bytes) == (0, 0)


def test_a_queue_with_too_many_bytes_refuses_what_does_not_fit() -> None:
    queue = _queue()
    assert queue.offer("a", 60) is None
    assert queue.offer("b", 41) == "queue_bytes"
    assert queue.offer("c", 40) is None
    assert _drain(queue) == ["a", "c"]


def test_drop_oldest_makes_room_for_the_newest() -> None:
    queue = _queue("drop_oldest")
    assert [queue.offer(name, 10) for name in "abcd"] == [None, None, None, "queue_full"]
    assert queue.last_dropped_count == 1
    assert queue.offer("e", 85) == "queue_full"
    assert queue.last_dropped_count == 2
    assert _drain(queue) == ["d", "e"]


def test_drop_oldest_never_empties_the_queue_for_what_cannot_fit_at_all() -> None:
    queue = _queue("drop_oldest")
    queue.offer("a", 10)
    assert queue.offer("b", 101) == "queue_bytes"
    assert queue.last_dropped_count == 1
    assert queue.offer("c", 100) == "queue_bytes"
    assert _drain(queue) == ["c"]
    assert queue.offer("d", 1) is None
    assert queue.last_dropped_count == 0


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
@pytest.mark.statement("MQTT-3.3.2-5")
def test_expired_messages_leave_a_full_queue_before_anything_is_dropped(policy: str) -> None:
    queue = _queue(policy)
    for name, expires_at_ms in (("a", 0), ("b", 70), ("c", 50)):
        queue.offer(name, 30, expires_at_ms, 10)
    assert queue.offer("d", 30, 0, 50) is None
    assert (queue.last_expired, queue.last_dropped_count, queue.size_bytes) == (["c"], 0, 90)
    assert queue.offer("e", 40, 0, 70) is None
    assert (queue.last_expired, queue.size_bytes) == (["b"], 100)
    assert queue.offer("f", 1, 0, 1000) == "queue_full"
    assert queue.last_expired == []
    assert _drain(queue) == (["a", "d", "e"] if policy == "drop_newest" else ["d", "e", "f"])


def test_what_was_taken_does_not_expire() -> None:
    queue = _queue()
    queue.offer("a", 10, 50)
    queue.offer("b", 10, 50)
    assert queue.take() == "a"
    assert queue.remove_expired(49) == []
    assert queue.expires
    assert queue.remove_expired(50) == ["b"]
    assert (len(queue), queue.size_bytes, queue.take(), queue.expires) == (0, 0, None, False)


def test_a_queue_keeps_few_places_of_what_is_gone() -> None:
    taken_early, expired = _queue("drop_oldest"), _queue("drop_newest", 1000, 10_000)
    expired.offer("a", 1)
    for number in range(1000):
        taken_early.offer("a", 1, 10**9)
        expired.offer("b", 1, number + 1, number)
    for queue in (taken_early, expired):
        assert len(queue) <= 3
        assert len(queue._waiting) + len(queue._expiries) <= 4 * len(queue) + 2 * 64


def test_live_pushes_go_straight_out() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.begin(4)
    assert not feed.behind
    assert feed.pushed(5, "e", 1)
    assert feed.pushed(6, "f", 1)
    assert not feed.pushed(6, "f", 1)
    assert (feed.behind, feed.wants_fetch(9)) == (False, None)


def test_a_full_window_makes_the_feed_fetch_when_there_is_room() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.begin(0)
    assert not feed.pushed(1, "a", 0)
    assert not feed.pushed(2, "b", 1)  # 1 goes first
    assert feed.behind
    assert feed.wants_fetch(0) is None
    assert feed.wants_fetch(5) == 0
    feed.fetch_started()
    assert feed.wants_fetch(5) is None
    assert not feed.pushed(3, "c", 5)  # nor while the fetch is under way
    assert feed.fetched([(1, "a"), (2, "b")], True) == [(1, "a"), (2, "b")]
    assert feed.wants_fetch(3) == 2
    feed.fetch_started()
    assert feed.fetched([(3, "c")], True) == [(3, "c")]
    assert not feed.behind


def test_a_gap_in_a_fetch_is_real_and_an_empty_answer_proves_that_the_rest_is_gone() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.begin(4)
    assert not feed.pushed(9, "i", 5)
    assert feed.wants_fetch(5) == 4
    feed.fetch_started()
    assert feed.fetched([(7, "g")], True) == [(7, "g")]
    assert feed.wants_fetch(5) == 7  # a size limit may have cut the answer
    feed.fetch_started()
    assert feed.fetched([], True) == []
    assert feed.wants_fetch(5) is None
    assert feed.pushed(10, "j", 1)


def test_a_resumed_queue_whose_tail_is_gone_is_read_to_the_end() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.resume([], last_seq=9)
    assert feed.wants_fetch(5) == 0
    feed.fetch_started()
    assert feed.fetched([(7, "g")], True) == [(7, "g")]
    assert feed.wants_fetch(5) == 7
    feed.fetch_started()
    assert feed.fetched([], True) == []
    assert not feed.behind
    assert feed.pushed(10, "j", 1)


def test_an_answer_with_what_was_pushed_meanwhile_is_no_duplicate() -> None:
    feed: DurableFeed[str] = DurableFeed(max_held=5)
    feed.begin(0)
    feed.resync()
    assert feed.wants_fetch(5) == 0
    feed.fetch_started()
    assert not feed.pushed(1, "a", 5)
    assert feed.take(1) == [(1, "a")]
    assert feed.fetched([(1, "a"), (2, "b")], True, 4) == [(2, "b")]
    assert not feed.pushed(2, "b", 3)


def test_an_early_push_that_the_answer_has_too_is_discarded() -> None:
    feed: DurableFeed[str] = DurableFeed(max_held=5)
    feed.resume([])
    assert feed.wants_fetch(5) == 0
    feed.fetch_started()
    assert not feed.pushed(2, "b", 5, 7)
    assert feed._held_bytes == 7
    assert feed.fetched([(1, "a"), (2, "b")], True, 5) == [(1, "a"), (2, "b")]
    assert feed._held_bytes == 0


def test_a_push_that_overtakes_the_answer_is_not_declared_gone() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.resume([])
    assert feed.wants_fetch(5) == 0
    feed.fetch_started()
    assert not feed.pushed(1, "a", 5)  # queued after the store was read
    assert feed.fetched([], True) == []
    assert feed.wants_fetch(5) == 0
    feed.fetch_started()
    assert feed.fetched([(1, "a")], True) == [(1, "a")]
    assert not feed.behind


def test_a_failed_fetch_is_wanted_again() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.resume([])
    assert feed.wants_fetch(1) == 0
    feed.fetch_started()
    feed.fetch_failed()
    assert feed.wants_fetch(1) == 0


@pytest.mark.statement("MQTT-4.3.3-6")
def test_released_entries_are_not_sent_again() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.resume([2, 3])
    assert not feed.pushed(2, "b", 5)
    feed.wants_fetch(5)
    feed.fetch_started()
    assert feed.fetched([(1, "a"), (2, "b"), (3, "c")], False) == [(1, "a")]
    assert feed.wants_fetch(4) == 3
    feed.fetch_started()
    assert feed.fetched([(4, "d")], True) == [(4, "d")]
    assert not feed.behind


def test_entries_whose_identifier_is_in_use_stay_in_the_store() -> None:
    window: Window[str] = Window(10)
    window.start(1, 1, "stuck")
    feed: DurableFeed[str] = DurableFeed()
    feed.begin(1)
    feed.resync()
    assert feed.wants_fetch(window.room()) == 1
    feed.fetch_started()
    far = PACKET_IDS + 1
    assert feed.fetched([(2, "b"), (far, "x")], True, 9, window.accepts) == [(2, "b")]
    assert feed.wants_fetch(window.room()) is None
    window.on_puback(1)
    assert feed.wants_fetch(window.room()) == 2
    feed.fetch_started()
    assert feed.fetched([(far, "x")], True, 9, window.accepts) == [(far, "x")]


def test_held_pushes_wait_for_room_in_memory() -> None:
    feed: DurableFeed[str] = DurableFeed(max_held=2)
    feed.begin(0)
    assert not feed.pushed(1, "a", 0)
    assert not feed.pushed(2, "b", 1)
    assert feed.behind
    assert feed.wants_fetch(5) is None
    assert feed.take(1) == [(1, "a")]
    assert not feed.pushed(3, "c", 0)
    assert not feed.pushed(4, "d", 0)  # no place
    assert not feed.pushed(4, "d", 0)
    assert feed.wants_fetch(2) is None  # what is held fills the room
    assert feed.take(5) == [(2, "b"), (3, "c")]
    assert not feed.pushed(5, "e", 5)  # behind 4 there is no use in it
    assert feed.wants_fetch(5) == 3
    feed.fetch_started()
    assert not feed.pushed(6, "f", 5)  # this one the answer may not have
    assert feed.fetched([(4, "d"), (5, "e")], True, 5) == [(4, "d"), (5, "e"), (6, "f")]
    assert not feed.behind


def test_held_bytes_are_bounded() -> None:
    feed: DurableFeed[str] = DurableFeed(max_held=10, max_held_bytes=100)
    feed.begin(0)
    assert not feed.pushed(1, "a", 0, 90)
    assert not feed.pushed(2, "b", 0, 20)
    assert feed.take(5) == [(1, "a")]
    assert feed.wants_fetch(5) == 1


def test_a_gap_is_fetched_at_once() -> None:
    feed: DurableFeed[str] = DurableFeed(max_held=5)
    feed.begin(0)
    assert not feed.pushed(2, "b", 5)
    assert not feed._early
    assert feed.wants_fetch(5) == 0
    feed.fetch_started()
    assert not feed.pushed(4, "d", 5)
    assert feed.fetched([(1, "a"), (2, "b")], True, 5) == [(1, "a"), (2, "b")]
    assert feed.wants_fetch(3) == 2  # 3 has not come, and 4 will not wait for it
    feed.fetch_started()
    assert feed.fetched([(3, "c")], True, 3) == [(3, "c"), (4, "d")]
    assert feed.wants_fetch(3) is None


def test_reading_up_to_what_was_pushed_is_enough_unless_pushes_may_be_lost() -> None:
    feed: DurableFeed[str] = DurableFeed()
    feed.begin(0)
    feed.pushed(1, "a", 0)
    feed.fetch_started()
    assert feed.fetched([(1, "a")], False) == [(1, "a")]
    assert feed.wants_fetch(5) is None
    feed.resync()
    feed.fetch_started()
    assert feed.fetched([(2, "b")], False) == [(2, "b")]
    assert feed.wants_fetch(5) == 2


def test_messages_that_are_not_wanted_any_more_leave_their_place_in_a_queue() -> None:
    queue: MemoryQueue[int] = MemoryQueue(4, 40)
    for number in range(4):
        assert queue.offer(number, 10) is None
    assert queue.remove(lambda number: number % 2 == 1) == [1, 3]
    assert (len(queue), queue.size_bytes) == (2, 20)
    assert queue.offer(4, 20) is None
    assert [queue.take() for _ in range(4)] == [0, 2, 4, None]
    assert queue.size_bytes == 0
