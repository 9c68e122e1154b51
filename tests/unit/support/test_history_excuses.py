"""What looks wrong and is right, and its neighbour that is wrong: rule by rule.

Inputs: short histories written by hand, with their times. Observed: the rules that the checker
names. That it names each rule at all is shown in tests/property/test_history_check.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import pytest

from support.history import NO_CODE, Event, Key, Kind
from support.history_check import Checker, Snapshot

WILL_TOPIC = "status/m"


class Story:
    """Events at times of their own: watcher ``w``, client with will ``m``, publisher ``p``."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.at(0.0).connect("w").add(Kind.SUBSCRIBED, "w", 1, topic="#", qos=2)
        self.connect("p")

    def at(self, seconds: float) -> Self:
        self.now = 1000.0 + seconds
        return self

    def add(self, kind: Kind, client: str, number: int = 0, **facts: Any) -> Self:
        self.events.append(Event(self.now, kind, client, number, **facts))
        return self

    def connect(self, client: str, number: int = 1, *, code: int = 0, **facts: Any) -> Self:
        self.add(Kind.CONNECT, client, number, **{"place": "1"} | facts)
        return self.add(Kind.CONNECTED, client, number, code=code)

    def mortal(self, number: int = 1, *, delay_s: float = 0.0, answer: bool = True) -> Self:
        """A client with a will connects, and says so."""
        self.add(Kind.CONNECT, "m", number, place="2", clean=True)
        key = Key.will("m", WILL_TOPIC, number)
        self.add(Kind.WILL, "m", number, key=key, qos=1, seconds=delay_s)
        return self.add(Kind.CONNECTED, "m", number) if answer else self

    def leaves(self, number: int = 1, *, code: int = NO_CODE, seconds: float = 0.0) -> Self:
        self.add(Kind.LEFT, "m", number, code=code, seconds=seconds)
        return self.add(Kind.ENDED, "m", number, code=NO_CODE)

    def will_comes(self, number: int = 1) -> Self:
        key = Key.will("m", WILL_TOPIC, number)
        return self.add(Kind.RECEIVED, "w", 1, key=key, qos=1, packet_id=number)

    def hurt(self, target: str, begin: float, end: float, place: str = "") -> Self:
        self.at(begin).add(Kind.FAULT, target, place=place)
        return self.at(end).add(Kind.HEALED, target, place=place)

    def publish(self, seq: int, *, qos: int = 1, topic: str = "s/p", **facts: Any) -> Self:
        about: dict[str, Any] = {"key": Key("p", topic, seq), "qos": qos, "packet_id": seq}
        self.add(Kind.SENT, "p", 1, **about, **facts)
        return self.add(Kind.ANSWERED, "p", 1, **about) if qos else self

    def receive(
        self, seq: int, client: str, *, number: int = 1, qos: int = 1, **facts: Any
    ) -> Self:
        key = Key("p", facts.pop("topic", "s/p"), seq)
        facts = {"packet_id": len(self.events)} | facts
        return self.add(Kind.RECEIVED, client, number, key=key, qos=qos, **facts)

    def reader(self, number: int = 1) -> Self:
        self.connect("r", number, clean=True)
        return self.subscribe(number)

    def subscribe(self, number: int = 1) -> Self:
        self.add(Kind.SUBSCRIBING, "r", number, topic="#")
        return self.add(Kind.SUBSCRIBED, "r", number, topic="#", qos=2)

    def rules(self, **announced: Any) -> set[str]:
        """Every rule that is broken, apart from what the watcher lacks of publishes."""
        limits = Snapshot(lease_s=2.0, sweep_s=0.5, margin_s=1.0, **announced)
        checker = Checker(self.events, limits)
        return {one.rule for one in (*checker.violations(), *checker.missing())} - {"lost"}


# --- wills --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ended", "is_wrong"), [(0x8D, False), (NO_CODE, True)])
def test_a_disconnect_may_meet_the_servers_after_the_keep_alive(ended: int, is_wrong: bool) -> None:
    story = Story().mortal().at(2).add(Kind.LEFT, "m", 1, code=0)
    story.at(2.01).add(Kind.ENDED, "m", 1, code=ended).at(2.5).will_comes()
    assert ("will unwanted" in story.rules()) is is_wrong


def test_a_disconnect_to_an_edge_that_hangs_may_be_unheard() -> None:
    story = Story().mortal().at(1).add(Kind.FAULT, "edge-2", place="2")
    story.at(2).leaves(code=0)
    assert story.rules() == set()
    assert story.at(4).will_comes().rules() == set()


@pytest.mark.parametrize("hurt", [("edge-1", "1"), ("router-0", "")])
def test_a_fault_elsewhere_is_no_excuse_for_the_will_of_a_polite_client(
    hurt: tuple[str, str],
) -> None:
    target, place = hurt
    story = Story().mortal().at(1).add(Kind.FAULT, target, place=place).at(2).leaves(code=0)
    assert story.at(4).will_comes().rules() == {"will unwanted"}


def test_disconnect_with_will_publishes_it() -> None:
    story = Story().mortal().at(2).leaves(code=4)
    assert story.rules() == {"will missing"}
    assert story.at(3).will_comes().rules() == set()


@pytest.mark.parametrize(("seconds", "rules"), [(3.4, set()), (3.7, {"will late"})])
def test_a_will_may_take_lease_sweep_and_margin(seconds: float, rules: set[str]) -> None:
    story = Story().mortal().at(10).leaves()
    assert story.at(10 + seconds).will_comes().rules() == rules


@pytest.mark.parametrize(
    ("target", "rules"), [("store", set()), ("router-0", {"will late"}), ("edge-1", {"will late"})]
)
def test_while_the_store_is_away_no_will_can_come(target: str, rules: set[str]) -> None:
    story = Story().mortal().at(10).leaves().hurt(target, 11, 15, place="1"[: target[0] == "e"])
    assert story.at(16).will_comes().rules() == rules


def test_with_two_routers_hurt_at_once_no_will_can_come() -> None:
    story = Story().mortal().at(10).leaves().at(11).add(Kind.FAULT, "router-0")
    story.add(Kind.FAULT, "router-1").at(15).add(Kind.HEALED, "router-1")
    assert story.at(16).will_comes().rules() == set()


@pytest.mark.parametrize(("delay_s", "rules"), [(0.0, {"will missing"}), (5.0, set())])
def test_a_successor_within_the_delay_prevents_the_will(delay_s: float, rules: set[str]) -> None:
    story = Story().mortal(delay_s=delay_s).at(10).leaves().at(11).mortal(2, delay_s=delay_s)
    assert story.rules() == rules
    assert story.will_comes().rules() == ({"will unwanted"} if delay_s else set())


def test_a_successor_after_the_delay_is_too_late() -> None:
    story = Story().mortal(delay_s=5).at(10).leaves().at(30).mortal(2, delay_s=5)
    assert story.rules() == {"will missing"}


def test_a_will_with_delay_does_not_come_before_it() -> None:
    story = Story().mortal(delay_s=5).at(10).leaves()
    assert story.at(12).will_comes().rules() == {"will early"}


def test_an_edge_that_hangs_loses_its_connections_before_its_clients_see_it() -> None:
    story = Story().mortal().at(10).add(Kind.FAULT, "edge-2", place="2")
    assert story.at(14).will_comes().rules() == set()


def test_keep_alive_ends_a_connection_later_than_its_client() -> None:
    story = Story().mortal().at(10).leaves(seconds=3.0)
    story.events.pop()  # it is still open
    assert story.at(16).will_comes().add(Kind.ENDED, "m", 1, code=NO_CODE).rules() == set()


@pytest.mark.parametrize(("hurt", "rules"), [(False, {"will unwanted"}), (True, set())])
def test_a_connection_that_was_refused_has_no_will(hurt: bool, rules: set[str]) -> None:
    story = Story().at(1)
    if hurt:
        story.add(Kind.FAULT, "store")
    story.at(2).mortal(answer=False).add(Kind.REFUSED, "m", 1, code=0x88)
    assert story.at(3).will_comes().rules() == rules


def test_a_connect_that_nobody_answered_may_take_the_session_over_later() -> None:
    """It is read when its edge goes on: then the connection the client believes in ends."""
    story = Story().mortal(1, answer=False).at(3).add(Kind.ENDED, "m", 1, code=NO_CODE)
    story.at(4).mortal(2).at(5).will_comes(2)
    assert story.at(6).will_comes(1).add(Kind.ENDED, "m", 2, code=0x8E).rules() == set()


def test_a_polite_end_while_another_connect_is_unanswered_leaves_it_open() -> None:
    story = Story().mortal(1).at(3).mortal(2, answer=False).at(5).leaves(1, code=0)
    assert story.rules() == set()
    assert story.at(6).will_comes(1).rules() == set()


# --- retained -----------------------------------------------------------------------------------


def test_qos_1_values_may_come_again_in_order_if_the_newest_comes_last() -> None:
    story = Story().reader().publish(1, retain=True).publish(2, retain=True)
    story.publish(1, retain=True, dup=True).publish(2, retain=True, dup=True)
    story.receive(1, "r").receive(2, "r").receive(1, "r")
    assert story.rules() == set()
    assert story.add(Kind.READ, "r", 1).rules() == set()  # nothing was due at SUBSCRIBE
    story.events.pop()
    story.at(5).connect("r", 2, clean=True).subscribe(2)
    story.receive(2, "r", number=2, retain=True).receive(1, "r", number=2)
    assert "last value" in story.add(Kind.READ, "r", 2).rules()


def test_a_second_subscribe_brings_the_retained_value_again() -> None:
    story = Story().reader().publish(1, retain=True).receive(1, "r")
    assert story.subscribe().receive(1, "r", retain=True).rules() == set()
    assert story.receive(1, "r", retain=True).rules() == {"retained twice"}


def test_each_of_two_subscribes_at_once_brings_the_retained_value() -> None:
    """The second was sent before the SUBACK of the first: on a busy machine that takes long."""
    story = Story().publish(1, retain=True).connect("r", 1, clean=True)
    story.add(Kind.SUBSCRIBING, "r", 1, topic="#")
    story.publish(2, retain=True)
    story.add(Kind.SUBSCRIBING, "r", 1, topic="#")
    story.add(Kind.SUBSCRIBED, "r", 1, topic="#", qos=2).receive(1, "r", retain=True)
    story.publish(3, retain=True)
    story.add(Kind.SUBSCRIBED, "r", 1, topic="#", qos=2).receive(3, "r", retain=True)
    assert story.rules() == set()
    assert story.receive(3, "r", retain=True).rules() == {"retained twice"}


def test_a_value_that_was_not_acknowledged_may_be_missed() -> None:
    story = Story().publish(1, retain=True)
    story.add(Kind.SENT, "p", 1, key=Key("p", "s/p", 2), qos=1, packet_id=2, retain=True)
    assert story.reader().receive(1, "r", retain=True).rules() == set()


@pytest.mark.parametrize("repeated", [False, True])
def test_values_that_were_read_may_come_live_when_their_publisher_repeats_them(
    repeated: bool,
) -> None:
    story = Story().publish(1, retain=True).publish(2, retain=True)
    story.reader().receive(2, "r", retain=True)
    if repeated:
        story.publish(1, retain=True, dup=True).publish(2, retain=True, dup=True)
    story.receive(1, "r").receive(2, "r")
    assert ("older value" in story.rules()) is not repeated


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_repeated_message_may_be_late_where_the_first_one_has_expired(
    seconds: float, repeated: bool
) -> None:
    story = Story().publish(1, seconds=seconds).publish(2, seconds=seconds)
    story.at(1).receive(2, "w")
    if repeated:
        story.publish(1, seconds=seconds, dup=True)
    story.receive(1, "w")
    assert ("order" in story.rules()) is not (repeated and seconds > 0)


@pytest.mark.parametrize(
    ("target", "read", "rules"),
    [
        ("router-1", True, set()),
        ("router-1", False, {"older value"}),
        ("", True, {"retained twice"}),
    ],
)
def test_what_was_read_may_come_live_behind_a_newer_one_when_its_router_is_lost(
    target: str, read: bool, rules: set[str]
) -> None:
    story = Story()
    story.publish(1, qos=2, retain=True).reader()
    if read:
        story.receive(1, "r", qos=2, retain=True)
    story.publish(2, qos=2, retain=True).receive(2, "r", qos=2)
    if target:
        story.hurt(target, 1, 2)
    story.at(3).receive(1, "r", qos=2)
    found = story.rules() & {"older value", "retained twice"}
    assert found == rules


@pytest.mark.parametrize("newer", [False, True])
def test_a_will_may_be_read_and_come_live_if_nothing_newer_was_read(newer: bool) -> None:
    story = Story().mortal()
    will = Key.will("m", WILL_TOPIC, 1)
    story.events[-2] = replace(story.events[-2], retain=True, qos=0)
    story.at(1).leaves().at(2).reader()
    story.add(Kind.RECEIVED, "r", 1, key=will, retain=True)
    if newer:
        key = Key.online("m", WILL_TOPIC, 2)
        story.at(3).add(Kind.CONNECT, "m", 2, place="2", clean=True).add(Kind.CONNECTED, "m", 2)
        story.add(Kind.SENT, "m", 2, key=key, qos=0, retain=True)
        story.add(Kind.RECEIVED, "r", 1, key=key)
    story.at(4).add(Kind.RECEIVED, "r", 1, key=will)
    assert ("retained twice" in story.rules()) is newer


def test_live_copies_may_be_under_way_while_a_client_subscribes_again() -> None:
    story = Story().reader().publish(1, retain=True).publish(2, retain=True)
    story.add(Kind.SUBSCRIBING, "r", 1, topic="#").receive(1, "r").receive(2, "r")
    story.add(Kind.SUBSCRIBED, "r", 1, topic="#", qos=2)
    assert story.receive(2, "r", retain=True).rules() == set()
    story.events.pop()
    assert "stale retained" in story.receive(1, "r", retain=True).rules()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("target", ["router-1", "store", ""])
def test_a_router_may_be_lost_before_the_store_has_what_came_live(
    qos: int, acknowledged: bool, target: str
) -> None:
    story = Story().publish(1, retain=True).reader()
    if acknowledged:
        story.publish(2, qos=1, retain=True)
    else:
        key = Key("p", "s/p", 2)
        story.add(Kind.SENT, "p", 1, key=key, qos=qos, packet_id=2, retain=True)
    story.receive(2, "r")
    if target:
        story.hurt(target, 1, 2)
    story.at(3).subscribe().receive(1, "r", retain=True)
    excused = bool(target) and not acknowledged
    assert (story.rules() & {"older value", "stale retained"} == set()) is excused


@pytest.mark.parametrize(
    ("place", "retain", "rules"),
    [
        ("1", False, set()),
        ("1", True, {"stale retained"}),
        ("2", False, {"stale retained"}),
        ("", False, {"stale retained"}),
    ],
)
def test_a_live_copy_may_have_waited_in_the_edge_that_hung(
    place: str, retain: bool, rules: set[str]
) -> None:
    story = Story().at(1).add(Kind.FAULT, "hurt", place=place)
    story.publish(1, retain=True).publish(2, retain=True).reader()
    story.at(2).add(Kind.HEALED, "hurt", place=place)
    assert story.receive(1, "r", retain=retain).rules() == rules


@pytest.mark.parametrize(
    ("qos", "place", "rules"),
    [
        (1, "", set()),
        (2, "", {"clean order"}),
        (1, "1", set()),
        (2, "1", set()),
        (1, "2", {"clean order"}),
        (2, "2", {"clean order"}),
    ],
)
def test_a_repetition_may_be_the_first_copy_where_a_path_was_hurt(
    qos: int, place: str, rules: set[str]
) -> None:
    story = Story().reader().at(1).add(Kind.FAULT, "hurt", place=place)
    story.publish(1, qos=qos).at(2).add(Kind.HEALED, "hurt", place=place).publish(2, qos=qos)
    assert story.receive(2, "r", qos=qos).receive(1, "r", qos=qos).rules() == rules


# --- the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("qos", "rules"), [(0, {"clean twice"}), (1, set()), (2, {"clean twice"})])
def test_only_qos_1_comes_again_on_one_connection(qos: int, rules: set[str]) -> None:
    story = Story().reader().publish(1, qos=qos)
    assert story.receive(1, "r", qos=qos).receive(1, "r", qos=qos).rules() == rules


def test_a_qos_1_message_comes_to_two_members_and_qos_2_does_not() -> None:
    story = Story()
    for member in ("x", "y"):
        story.connect(member).add(Kind.SUBSCRIBED, member, 1, topic="$share/g/s/#", qos=2)
    story.publish(1).receive(1, "x").receive(1, "y")
    assert story.rules() == set()
    story.publish(2, qos=2).receive(2, "x", qos=2).receive(2, "y", qos=2)
    assert story.rules() == {"shared twice"}


@pytest.mark.parametrize(("dup", "rules"), [(False, {"expired"}), (True, set())])
def test_a_delivery_that_had_begun_in_time_may_end_later(dup: bool, rules: set[str]) -> None:
    story = Story().publish(1, seconds=2).at(9)
    assert story.receive(1, "w", dup=dup).rules() == rules


def test_an_edge_that_hangs_delivers_late_what_it_had_written() -> None:
    story = Story().publish(1, seconds=2).hurt("edge-1", 0.5, 8, place="1")
    assert story.receive(1, "w").rules() == set()


@pytest.mark.parametrize(
    ("away_s", "present", "rules"),
    [
        (1, 1, set()),
        (1, 0, {"session lost"}),
        (4, 1, set()),
        (4, 0, set()),
        (9, 1, {"session kept"}),
    ],
)
def test_a_session_ends_between_its_expiry_and_a_lease_later(
    away_s: float, present: int, rules: set[str]
) -> None:
    story = Story().at(1).connect("e", seconds=2).at(2).add(Kind.ENDED, "e", 1, code=NO_CODE)
    assert story.at(2 + away_s).connect("e", 2, code=present, seconds=2).rules() == rules


@pytest.mark.parametrize(
    ("again", "rules"),
    [({"dup": True}, set()), ({}, {"re-delivery"}), ({"packet_id": 8}, {"twice"})],
)
def test_an_exchange_goes_on_after_a_store_has_gone_back(
    again: dict[str, Any], rules: set[str]
) -> None:
    story = Story().at(1).connect("d")
    story.add(Kind.SUBSCRIBED, "d", 1, topic="#", qos=2)
    story.at(5).add(Kind.WENT_BACK, "store", seconds=2.0)
    # The broker has noticed it after 10 seconds.
    story.at(14.9).add(Kind.CONNECT, "d", 2, place="1")
    story.at(15.2).publish(1, qos=2).receive(1, "d", qos=2, packet_id=7)
    story.at(15.4).add(Kind.CONNECTED, "d", 2, code=1)
    story.receive(1, "d", number=2, qos=2, **{"packet_id": 7} | again)
    assert story.rules() == rules


def test_what_a_clean_session_misses_is_counted_and_no_more() -> None:
    story = Story().publish(1).reader().publish(2).publish(3).receive(3, "r")
    story.add(Kind.ENDED, "r", 1, code=NO_CODE)
    assert story.rules() == set()
    checker = Checker(story.events)
    checker.violations()
    assert checker.missed_count == 1
    assert checker.played()["messages to clean sessions"] == 1


@pytest.mark.parametrize(("answered", "rules"), [(True, {"lost"}), (False, set())])
def test_a_connect_that_nobody_answered_may_have_begun_another_session(
    answered: bool, rules: set[str]
) -> None:
    story = Story().at(1).connect("e", seconds=2).add(Kind.SUBSCRIBED, "e", 1, topic="s/#", qos=1)
    story.publish(1).receive(1, "w").add(Kind.ENDED, "e", 1, code=NO_CODE)
    story.at(2).add(Kind.CONNECT, "e", 2, seconds=2)
    if answered:
        story.add(Kind.REFUSED, "e", 2, code=0x88)
    story.at(2.5).connect("e", 3, code=1, seconds=2)
    checker = Checker(story.events)
    assert {one.rule for one in (*checker.violations(), *checker.missing())} == rules


@pytest.mark.parametrize(("target", "rules"), [("router-0", set()), ("edge-2", {"retained twice"})])
def test_a_qos_2_value_that_was_read_may_come_live_once_its_router_is_lost(
    target: str, rules: set[str]
) -> None:
    """Another router routes it once more, and the reader was not there when it came first."""
    story = Story().at(1).publish(1, qos=2, retain=True).reader().receive(1, "r", retain=True)
    story.hurt(target, 1, 3, "2").receive(1, "r", qos=2)
    assert story.rules() == rules


def test_a_filter_that_is_subscribed_again_brings_live_values_before_suback() -> None:
    story = Story().reader().add(Kind.SUBSCRIBING, "r", 1, topic="#").publish(1, retain=True)
    story.receive(1, "r").add(Kind.SUBSCRIBED, "r", 1, topic="#", qos=2)
    assert story.receive(1, "r", retain=True).rules() == set()
    assert story.receive(1, "r", retain=True).rules() == {"retained twice"}


@pytest.mark.parametrize(("target", "rules"), [("store", set()), ("edge-2", {"retained twice"})])
def test_a_filter_that_is_subscribed_again_brings_live_values_late_where_it_was_hurt(
    target: str, rules: set[str]
) -> None:
    story = Story().reader().hurt(target, 1, 2, "2" if target == "edge-2" else "")
    story.add(Kind.SUBSCRIBING, "r", 1, topic="#").publish(1, retain=True)
    story.add(Kind.SUBSCRIBED, "r", 1, topic="#", qos=2).receive(1, "r")
    assert story.receive(1, "r", retain=True).rules() == rules


def test_a_value_that_came_live_is_not_retained_for_a_first_subscribe() -> None:
    story = Story().connect("r", clean=True).hurt("store", 1, 2)
    story.add(Kind.SUBSCRIBING, "r", 1, topic="#").publish(1, retain=True)
    story.add(Kind.SUBSCRIBED, "r", 1, topic="#", qos=2).receive(1, "r")
    assert story.receive(1, "r", retain=True).rules() == {"retained twice"}


@pytest.mark.parametrize(("target", "rules"), [("store", set()), ("edge-2", {"retained twice"})])
def test_the_value_of_a_subscribe_may_come_with_that_of_the_next(
    target: str, rules: set[str]
) -> None:
    story = Story().publish(1, retain=True).hurt(target, 1, 2, "2" if target == "edge-2" else "")
    story.reader().subscribe().receive(1, "r", retain=True).receive(1, "r", retain=True)
    assert story.rules() == rules
    assert story.receive(1, "r", retain=True).rules() == {"retained twice"}


@pytest.mark.parametrize(("target", "rules"), [("edge-1", set()), ("edge-2", {"retain flag"})])
def test_a_value_that_could_not_come_live_may_be_read(target: str, rules: set[str]) -> None:
    story = Story().at(1).reader().publish(1, retain=True)
    story.hurt(target, 1, 2, "1" if target == "edge-1" else "2").receive(1, "r", retain=True)
    assert story.rules() == rules


@pytest.mark.parametrize(("late", "rules"), [(True, set()), (False, {"order"})])
def test_a_qos_1_message_that_is_sent_again_may_be_new_to_who_subscribed_since(
    late: bool, rules: set[str]
) -> None:
    story = Story()
    if late:
        story.publish(1, topic="t")
    story.connect("s").add(Kind.SUBSCRIBED, "s", 1, topic="t", qos=1)
    if not late:
        story.publish(1, topic="t")
    story.publish(2, topic="t").receive(2, "s", topic="t")
    story.publish(1, topic="t", dup=True).receive(1, "s", topic="t")
    assert story.rules() == rules


@pytest.mark.parametrize(("repeated", "rules"), [(True, set()), (False, {"order"})])
def test_nobody_knows_when_a_subscribe_without_suback_took_effect(
    repeated: bool, rules: set[str]
) -> None:
    story = Story().connect("s").add(Kind.SUBSCRIBING, "s", 1, topic="t")
    story.publish(1, topic="t").publish(2, topic="t")
    story.add(Kind.ENDED, "s", 1, code=NO_CODE).connect("s", 2, code=1)
    story.receive(2, "s", number=2, topic="t")
    if repeated:
        story.publish(1, topic="t", dup=True)
    story.receive(1, "s", number=2, topic="t")
    assert story.rules() == rules


@pytest.mark.parametrize(
    ("note", "target", "rules"),
    [
        ("SUBACK 0x80 for s/#", "store", set()),
        ("SUBACK 0x80 for s/#", "", {"protocol"}),
        ("PUBACK for nothing", "store", {"protocol"}),
    ],
)
def test_a_subscribe_may_be_refused_while_the_store_is_away(
    note: str, target: str, rules: set[str]
) -> None:
    story = Story().reader()
    if target:
        story.hurt(target, 1, 2)
    assert story.at(3).add(Kind.BROKEN, "r", 1, note=note).rules() == rules
