"""Right histories pass the checker, and each way to break one is named.

Inputs: histories of a model broker, from operations that Hypothesis draws, then broken in one of
the ways of ``support.broken_histories``. Observed: the rules that the checker names.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.broken_histories import BREAKS
from support.history import NO_CODE, Event
from support.history_check import Checker, Snapshot
from support.model_broker import ModelBroker

WILL = ("status/mortal", 1, True, 0.0)
DELAYED = ("parting/patient", 2, False, 3.0)
BRIEF_S = 2.0

OPERATIONS = (
    *("one", "two", "zero", "state", "state", "fresh", "group", "move"),
    *("durable away", "durable back", "clean back", "reader back", "reader again", "member away"),
    *("polite", "sudden", "over", "over", "patient away", "patient back", "brief", "watcher back"),
    *("kill", "wait", "wait"),
)


class _Play:
    """The cast, and what it does by the operations' names."""

    def __init__(self) -> None:
        self.broker = ModelBroker()
        broker = self.broker
        for client in ("durable", "watcher", "member-0", "member-1"):
            broker.connect(client, place="2")
        for topic_filter in ("load/#", "fresh/#"):
            broker.subscribe("durable", topic_filter)
        for topic_filter in ("status/#", "parting/#"):
            broker.subscribe("watcher", topic_filter)
        for member in ("member-0", "member-1"):
            broker.subscribe(member, "$share/g/group/#")
        broker.connect("pub", place="2")
        self._clean("clean", "load/#")
        self._clean("reader", "state/#")
        self.do("polite")
        self.do("patient back")
        broker.connect("brief", expiry_s=BRIEF_S, place="2")

    def _clean(self, client: str, topic_filter: str) -> None:
        self.broker.connect(client, clean=True, place="2")
        self.broker.subscribe(client, topic_filter)

    def do(self, operation: str) -> None:
        broker = self.broker
        match operation:
            case "one" | "two" | "zero":
                broker.publish("pub", f"load/{operation}", ("zero", "one", "two").index(operation))
            case "move":
                broker.publish("pub", "load/two", 2, moves=True)
            case "state":
                broker.publish("pub", "state/a", 2, retain=True)
                broker.publish("pub", "state/b", 0, retain=True)
            case "fresh":
                broker.publish("pub", "fresh/a", 1, expiry_s=3.0)
            case "group":
                broker.publish("pub", "group/a", 2)
            case "durable away":
                broker.end("durable")
            case "durable back":
                broker.connect("durable", place="2")
            case "clean back":
                self._clean("clean", "load/#")
            case "reader back":
                self._clean("reader", "state/#")
            case "reader again":
                broker.subscribe("reader", "state/#")
            case "member away":
                broker.end("member-0")
                broker.publish("pub", "group/a", 2)
                broker.connect("member-0", place="2")
            case "polite" | "sudden" | "over":
                if operation != "over":
                    broker.end("mortal", code=0 if operation == "polite" else NO_CODE)
                    broker.wait(0.5)
                broker.connect("mortal", clean=True, place="1", will=WILL)
            case "patient away":
                broker.end("patient")
            case "patient back":
                broker.connect("patient", place="1", will=DELAYED)
            case "brief":
                broker.end("brief")
                broker.wait(0.5)
                broker.connect("brief", expiry_s=BRIEF_S, place="2")
            case "watcher back":
                broker.connect("watcher", place="2")
            case "kill":
                broker.kill("1")
            case _:
                broker.wait(1.0)

    def end(self) -> list[Event]:
        """Do once what each way to break it needs; then everybody is back."""
        for operation in (
            *("wait",) * 40,
            *("durable back", "clean back", "one", "one", "two", "two", "fresh", "group", "group"),
            *("state", "state", "reader back", "state", "state", "durable back"),
            *("over", "over", "sudden", "polite", "over", "brief"),
        ):
            self.do(operation)
        self.broker.end("brief")
        self.broker.wait(BRIEF_S + 30.0)
        self.broker.connect("brief", expiry_s=BRIEF_S, place="2")
        self.do("patient back")
        self.broker.wait(30.0)
        self.broker.read("last", "state/#")
        return self.broker.events


def _history(operations: Sequence[str]) -> list[Event]:
    play = _Play()
    for operation in operations:
        play.do(operation)
    return play.end()


def _rules(events: Sequence[Event]) -> set[str]:
    checker = Checker(events, Snapshot())
    return {found.rule for found in (*checker.violations(), *checker.missing())}


courses = st.lists(st.sampled_from(OPERATIONS), min_size=8, max_size=50)


@given(courses)
def test_a_right_history_is_right(operations: list[str]) -> None:
    checker = Checker(_history(operations), Snapshot())
    found = [str(one) for one in (*checker.violations(), *checker.missing())]
    assert found == []


@pytest.mark.parametrize("rule", BREAKS)
@settings(max_examples=12)
@given(data=st.data())
def test_each_way_to_break_a_history_is_named(rule: str, data: st.DataObject) -> None:
    events = _history(data.draw(courses))
    broken = BREAKS[rule](events, lambda places: data.draw(st.sampled_from(places)))
    assert broken is not None, "the end of every history has what is needed"
    assert rule in _rules(broken)
