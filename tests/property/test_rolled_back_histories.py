"""What a store that has gone back excuses, and what not: histories made by hand.

Inputs: one publisher and one durable subscriber of the model broker; the store has a copy from some
moment, and goes back to it. Observed: the rules that the checker names when a message is lost or
comes again, before the copy, between copy and return, and after all have noticed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.history import Event, Kind
from support.history_check import Checker, Snapshot
from support.model_broker import ModelBroker

_AGE_S = 5.0
#: Number of the message, and when it was published.
BEFORE, BETWEEN, AFTER = 1, 2, 3


def _history() -> list[Event]:
    """A message before the copy, one that the store loses, and one after it has been noticed."""
    broker = ModelBroker()
    broker.connect("subscriber")
    broker.subscribe("subscriber", "load/#")
    broker.connect("reader", clean=True)
    broker.connect("publisher")
    broker.publish("publisher", "load/two", 2, retain=True)
    broker.wait(_AGE_S)
    broker.publish("publisher", "load/two", 2, retain=True)
    broker.wait(1.0)
    broker.events.append(Event(broker.now, Kind.WENT_BACK, "store", seconds=_AGE_S))
    broker.wait(Snapshot().notice_s + 2.0)
    broker.connect("subscriber")
    broker.publish("publisher", "load/two", 2, retain=True)
    broker.wait(60.0)
    return broker.events


def _rules(events: list[Event]) -> set[str]:
    checker = Checker(events, Snapshot())
    return {found.rule for found in (*checker.violations(), *checker.missing())}


def _arrivals(events: list[Event], number: int) -> list[Event]:
    return [
        event
        for event in events
        if event.client == "subscriber" and event.key is not None and event.key.seq == number
    ]


def _without(events: list[Event], number: int) -> list[Event]:
    gone = _arrivals(events, number)
    return [event for event in events if event not in gone]


def _again_at_the_end(events: list[Event], number: int) -> list[Event]:
    arrival = next(one for one in _arrivals(events, number) if one.kind is Kind.RECEIVED)
    return [*events, replace(arrival, at=events[-1].at, connection=2, packet_id=77)]


def test_a_history_with_a_rollback_is_right() -> None:
    assert _rules(_history()) == set()


@pytest.mark.parametrize("number", [BEFORE, AFTER])
def test_what_the_copy_has_and_what_is_new_must_not_be_lost(number: int) -> None:
    assert "lost" in _rules(_without(_history(), number))


def test_what_came_after_the_copy_may_be_lost() -> None:
    assert _rules(_without(_history(), BETWEEN)) == set()


@pytest.mark.parametrize("number", [BEFORE, BETWEEN])
def test_what_was_delivered_before_the_return_may_come_again_after_it(number: int) -> None:
    assert _rules(_again_at_the_end(_history(), number)) == set()


def test_what_is_new_must_not_come_twice() -> None:
    assert "twice" in _rules(_again_at_the_end(_history(), AFTER))


def test_what_came_twice_before_the_return_is_wrong() -> None:
    events = _history()
    arrival = next(one for one in _arrivals(events, BEFORE) if one.kind is Kind.RECEIVED)
    place = events.index(arrival)
    again = replace(arrival, packet_id=77)
    assert "twice" in _rules([*events[: place + 1], again, *events[place + 1 :]])


def test_a_session_that_the_copy_has_must_be_present() -> None:
    events = [
        replace(event, code=0)
        if event.kind is Kind.CONNECTED and event.client == "subscriber" and event.connection == 2
        else event
        for event in _history()
    ]
    assert "session" in _rules(events)


def test_a_session_made_after_the_copy_may_be_gone() -> None:
    events = [
        replace(event, code=0)
        if event.kind is Kind.CONNECTED and event.client == "subscriber" and event.connection == 2
        else event
        for event in _history()
    ]
    back = next(place for place, event in enumerate(events) if event.kind is Kind.WENT_BACK)
    events[back] = replace(events[back], seconds=events[back].at - events[0].at + 1.0)
    assert "session" not in _rules(events)
