"""The judge of the cluster's tests, judged: each kind of violation is put in, and must be found.

Inputs: histories written by hand. Observed: the rules that the checker names.
"""

from __future__ import annotations

import random
from typing import Any, Self

import pytest

from support.history import NO_CODE, Event, History, Key, Kind
from support.history_check import Checker, Snapshot, matches


def key(seq: int, topic: str = "t/a", publisher: str = "p") -> Key:
    return Key(publisher, topic, seq)


class Record:
    """Writes a history down in few words: publisher ``p``, subscriber ``s``."""

    def __init__(self) -> None:
        self.history = History()
        self.connection = {"p": 0, "s": 0}
        self.connect("p", present=False).connect("s", present=False)

    def connect(self, client: str, *, present: bool = True) -> Self:
        self.connection[client] += 1
        self.history.add(Kind.CONNECTED, client, self.connection[client], code=int(present))
        return self

    def subscribe(self, topic_filter: str = "t/#", qos: int = 2) -> Self:
        self.history.add(Kind.SUBSCRIBED, "s", 1, topic=topic_filter, qos=qos)
        return self

    def send(self, seq: int, *, qos: int = 1, topic: str = "t/a", dup: bool = False) -> Self:
        self.history.add(
            Kind.SENT,
            "p",
            self.connection["p"],
            key=key(seq, topic),
            qos=qos,
            packet_id=seq,
            dup=dup,
        )
        return self

    def answer(self, seq: int, *, qos: int = 1, topic: str = "t/a", code: int = 0) -> Self:
        self.history.add(
            Kind.ANSWERED,
            "p",
            self.connection["p"],
            key=key(seq, topic),
            qos=qos,
            packet_id=seq,
            code=code,
        )
        return self

    def publish(self, seq: int, *, qos: int = 1, topic: str = "t/a") -> Self:
        return self.send(seq, qos=qos, topic=topic).answer(seq, qos=qos, topic=topic)

    def receive(
        self,
        seq: int,
        *,
        qos: int = 1,
        packet_id: int = 0,
        dup: bool = False,
        on: int = 0,
        topic: str = "t/a",
    ) -> Self:
        connection = on or self.connection["s"]
        packet_id = packet_id or seq
        facts: dict[str, Any] = {"key": key(seq, topic), "qos": qos, "packet_id": packet_id}
        self.history.add(Kind.RECEIVED, "s", connection, dup=dup, **facts)
        self.history.add(Kind.REPLIED, "s", connection, **facts)
        return self

    def release(self, packet_id: int) -> Self:
        self.history.add(Kind.RELEASED, "s", self.connection["s"], packet_id=packet_id)
        return self

    def end(self, code: int) -> Self:
        self.history.add(Kind.ENDED, "s", self.connection["s"], code=code)
        return self

    def rules(self, announced: Snapshot | None = None) -> list[str]:
        """Every rule that is broken at the end."""
        checker = Checker(self.history.events, announced)
        return [found.rule for found in (*checker.violations(), *checker.missing())]


def test_an_undisturbed_history_is_right() -> None:
    record = Record().subscribe()
    for seq in range(1, 5):
        record.publish(seq).receive(seq)
        record.publish(seq, qos=2, topic="t/b").receive(seq, qos=2, topic="t/b", packet_id=100)
        record.release(100)
    assert record.rules() == []


# --- loss -------------------------------------------------------------------------------------


def test_an_acknowledged_message_that_does_not_arrive_is_lost() -> None:
    assert Record().subscribe().publish(1).rules() == ["lost"]


def test_loss_is_seen_at_each_subscriber_by_itself() -> None:
    record = Record().subscribe().publish(1).receive(1)
    record.history.add(Kind.CONNECTED, "other", 1)
    assert record.rules() == []
    record.history.add(Kind.SUBSCRIBED, "other", 1, topic="t/a", qos=1)
    record.publish(2).receive(2)
    assert record.rules() == ["lost"]


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(Record().subscribe().send(1), id="not acknowledged"),
        pytest.param(Record().send(1).subscribe().answer(1), id="sent before SUBACK"),
        pytest.param(Record().subscribe("other/#").publish(1), id="another topic"),
        pytest.param(Record().subscribe("t/#", 0).publish(1), id="QoS 0 subscription"),
    ],
)
def test_what_was_not_promised_is_not_lost(record: Record) -> None:
    assert record.rules() == []


def test_a_message_sent_again_later_is_owed_since_it_was_first_sent() -> None:
    record = Record().send(1).subscribe().connect("p").send(1, dup=True).answer(1)
    assert record.rules() == []


# --- exactly once -----------------------------------------------------------------------------


def test_qos_2_twice_after_its_release_is_seen() -> None:
    record = Record().subscribe().publish(1, qos=2).receive(1, qos=2).release(1)
    assert record.receive(1, qos=2, packet_id=2).rules() == ["twice"]


def test_qos_2_twice_with_another_identifier_is_seen() -> None:
    record = Record().subscribe().publish(1, qos=2).receive(1, qos=2).connect("s")
    assert record.receive(1, qos=2, packet_id=2, dup=True).rules() == ["twice"]


def test_qos_2_re_delivered_before_its_release_is_the_same_delivery() -> None:
    record = Record().subscribe().publish(1, qos=2).receive(1, qos=2).connect("s")
    assert record.receive(1, qos=2, dup=True).release(1).rules() == []


def test_qos_2_re_delivered_without_dup_is_seen() -> None:
    record = Record().subscribe().publish(1, qos=2).receive(1, qos=2).connect("s")
    assert record.receive(1, qos=2).rules() == ["re-delivery"]


def test_qos_2_re_delivered_on_the_same_connection_is_seen() -> None:
    record = Record().subscribe().publish(1, qos=2).receive(1, qos=2)
    assert record.receive(1, qos=2, dup=True).rules() == ["re-delivery"]


def test_an_identifier_used_for_another_message_is_seen() -> None:
    record = Record().subscribe().publish(1, qos=2).publish(2, qos=2).receive(1, qos=2)
    assert record.receive(2, qos=2, packet_id=1).rules() == ["identifier"]


def test_a_release_on_a_connection_that_is_over_releases_nothing() -> None:
    record = Record().subscribe().publish(1, qos=2).receive(1, qos=2).connect("s")
    record.history.add(Kind.RELEASED, "s", 1, packet_id=1)
    assert record.receive(1, qos=2, dup=True).rules() == []


# --- at least once ----------------------------------------------------------------------------


def test_qos_1_may_come_again_with_dup_on_a_later_connection() -> None:
    record = Record().subscribe().publish(1).receive(1).connect("s")
    assert record.receive(1, dup=True).rules() == []


def test_qos_1_re_delivered_without_dup_is_seen() -> None:
    record = Record().subscribe().publish(1).receive(1).connect("s")
    assert record.receive(1).rules() == ["re-delivery"]


@pytest.mark.parametrize(("packet_id", "later"), [(2, True), (2, False), (1, False)])
def test_qos_1_may_not_come_again_otherwise(packet_id: int, later: bool) -> None:
    record = Record().subscribe().publish(1).receive(1)
    if later:
        record.connect("s")
    assert record.receive(1, packet_id=packet_id, dup=True).rules() == ["repeated"]


def test_where_repeats_are_allowed_they_are_counted_and_qos_2_may_still_not() -> None:
    record = Record().subscribe(qos=1).publish(1).receive(1).receive(1, packet_id=2)
    record.publish(1, qos=2, topic="t/b").receive(1, topic="t/b", packet_id=3)
    checker = Checker(record.history.events, Snapshot(repeats=True))
    assert checker.violations() == []
    assert checker.repeated_count == 1
    record.receive(1, topic="t/b", packet_id=4)
    assert [found.rule for found in checker.violations()] == ["repeated"]


def test_re_deliveries_of_a_message_published_twice_are_told_apart() -> None:
    record = Record().subscribe().send(1).connect("p").send(1, dup=True).answer(1)
    record.receive(1).receive(1, packet_id=2).connect("s")
    assert record.receive(1, dup=True).receive(1, packet_id=2, dup=True).rules() == []


def test_qos_1_may_come_as_often_as_it_was_published() -> None:
    record = Record().subscribe().send(1).connect("p").send(1, dup=True).answer(1)
    assert record.receive(1).receive(1, packet_id=2).rules() == []
    assert record.receive(1, packet_id=3).rules() == ["repeated"]


def test_qos_2_at_a_qos_1_subscriber_counts_once_however_often_it_was_sent() -> None:
    record = Record().subscribe(qos=1).send(1, qos=2).connect("p").send(1, qos=2, dup=True)
    record.answer(1, qos=2).receive(1).receive(1, packet_id=2)
    assert record.rules() == ["repeated"]


# --- order ------------------------------------------------------------------------------------


def test_a_first_arrival_behind_a_later_message_is_out_of_order() -> None:
    record = Record().subscribe().publish(1).publish(2).publish(3)
    assert record.receive(1).receive(3).receive(2).rules() == ["order"]


def test_order_is_kept_per_topic_and_quality_of_service() -> None:
    record = Record().subscribe().publish(1).publish(2).publish(1, topic="t/b")
    assert record.receive(2).receive(1, topic="t/b", packet_id=9).rules() == ["lost"]


def test_a_repetition_of_older_messages_is_not_out_of_order() -> None:
    record = Record().subscribe().publish(1).publish(2).receive(1).receive(2).connect("s")
    assert record.receive(1, dup=True).receive(2, dup=True).rules() == []


# --- sessions and owners ----------------------------------------------------------------------


@pytest.mark.parametrize("client", ["p", "s"])
def test_a_session_that_is_not_present_any_more_is_seen(client: str) -> None:
    assert Record().connect(client, present=False).rules() == ["session"]


def test_an_answer_that_counted_on_an_old_connection_is_seen() -> None:
    record = Record().subscribe().connect("s").publish(1).receive(1, on=1)
    assert sorted(record.rules()) == ["lost", "two owners"]


def test_an_answer_that_did_not_count_on_an_old_connection_is_right() -> None:
    record = Record().subscribe().connect("s").publish(1).receive(1, on=1)
    assert record.receive(1).rules() == []


def test_what_came_before_the_newer_connection_has_arrived() -> None:
    record = Record().subscribe().publish(1).receive(1).connect("s").receive(1, on=1)
    assert record.rules() == []


# --- codes, answers, nonsense -----------------------------------------------------------------


@pytest.mark.parametrize(("code", "rules"), [(0x8B, []), (NO_CODE, []), (0x83, ["reason code"])])
def test_a_disconnect_that_was_not_announced_is_seen(code: int, rules: list[str]) -> None:
    assert Record().end(code).rules() == rules


def test_which_codes_are_announced_is_the_scenarios_choice() -> None:
    assert Record().end(0x8B).rules(Snapshot(disconnect=frozenset({0x9C}))) == ["reason code"]


@pytest.mark.parametrize(("code", "rules"), [(0x88, []), (3, []), (0x87, ["reason code"])])
def test_a_refusal_that_was_not_announced_is_seen(code: int, rules: list[str]) -> None:
    record = Record()
    record.history.add(Kind.REFUSED, "s", 2, code=code)
    assert record.rules() == rules


def test_a_refused_publish_is_seen_and_owed_to_nobody() -> None:
    assert Record().subscribe().send(1).answer(1, code=0x97).rules() == ["reason code"]


def test_answers_out_of_order_are_seen() -> None:
    record = Record().send(1).send(2).answer(2).answer(1)
    assert record.rules() == ["order of answers"]


def test_answers_are_in_order_on_each_connection_by_itself() -> None:
    record = Record().send(1).send(2).connect("p").send(1, dup=True).send(2, dup=True)
    assert record.answer(1).answer(2).rules() == []


def test_a_message_that_nobody_published_is_seen() -> None:
    assert Record().subscribe().receive(7).rules() == ["phantom"]


def test_a_broken_rule_of_the_protocol_is_seen() -> None:
    record = Record()
    record.history.add(Kind.BROKEN, "s", 1, note="PUBLISH before CONNACK")
    assert record.rules() == ["protocol"]


# --- as a tool --------------------------------------------------------------------------------


def test_a_history_may_grow_between_two_looks() -> None:
    record = Record().subscribe().publish(1)
    checker = Checker(record.history.events)
    assert [found.rule for found in checker.missing()] == ["lost"]
    record.receive(1)
    assert checker.missing() == checker.violations() == []
    record.publish(2).receive(2).receive(2)
    assert [found.rule for found in checker.violations()] == ["repeated"]
    assert checker.acknowledged_count() == 2


def test_a_story_has_the_message_its_clients_and_the_faults_around_it() -> None:
    record = Record().subscribe().publish(1)
    record.history.fault("edge-0", "kill")
    record.receive(1).publish(2).connect("s").end(0x8B)
    told = record.history.story(key(1), "s")
    assert "edge-0 fault (kill)" in told
    assert "p:t/a:1" in told
    assert "p:t/a:2" not in told
    assert "s #2 was accepted session present" in told


def test_an_event_at_random_taken_away_or_repeated_does_not_break_the_checker() -> None:
    """Whatever the clients record, there is an answer and no exception."""
    record = Record().subscribe()
    for seq in range(1, 20):
        record.publish(seq).receive(seq)
        record.publish(seq, qos=2, topic="t/b").receive(seq, qos=2, topic="t/b", packet_id=99)
        record.release(99)
    events = record.history.events
    chance = random.Random(7)
    for _ in range(200):
        changed: list[Event] = list(events)
        places = [place for place, event in enumerate(changed) if event.kind is not Kind.SENT]
        place = chance.choice(places)
        if chance.random() < 0.5:
            del changed[place]
        else:
            changed.insert(place, changed[place])
        checker = Checker(changed)
        checker.violations()
        checker.missing()


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("#", "a/b", True),
        ("a/#", "a", True),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/b", "a/b", True),
        ("a", "b", False),
        ("$share/g/a", "a", False),
    ],
)
def test_filters_match_as_the_specification_says(
    topic_filter: str, topic: str, expected: bool
) -> None:
    assert matches(topic_filter, topic) is expected
