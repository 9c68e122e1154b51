"""The fence of superseded connections keeps its promises in a model, and no rule of it is idle.

Inputs: courses of events in ``support.fence_model``: all of them, where the scheduler may do little
of each kind; drawn by Hypothesis, where it may do more. Observed: whether a promise is broken, with
every rule, and with each left out in turn.
"""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from support.fence_model import BUDGET, BrokenPromiseError, Budget, Model, Rules, explore

#: What the scheduler needs to break a promise where this rule is left out.
NEEDED: Final[dict[str, Budget]] = {
    "refuses": {"publish": 1, "connect": 1},
    "connack_waits": {"publish": 1, "connect": 1},
    "position_follows_writes": {"publish": 1, "connect": 1},
    "verifies": {"publish": 1, "connect": 1, "lose": 1},
    "opens_before_verifying": {"publish": 1, "connect": 1, "lose": 1},
    "stops_without_lease": {"publish": 1, "connect": 1, "expire": 1},
    "store_checks_lease": {"publish": 1, "connect": 1, "expire": 1},
    "fences_lost_router": {"publish": 2, "give up": 1},
    "forgets_old_stream": {"publish": 2, "lose": 1},
    "closes_after_pause": {"publish": 1, "leave": 1, "connect": 1, "give up": 1},
    "ends_when_confirmed": {"publish": 1, "leave": 1, "connect": 1},
}
#: More of everything, all of it tried: seconds each, and a minute for each of the widest.
WIDER: Final[list[Budget]] = [
    {"publish": 2, "restart": 1},
    {"publish": 1, "connect": 1, "give up": 1},
    {"publish": 1, "leave": 1, "connect": 1, "lose": 1},
]
WIDEST: Final[list[Budget]] = [
    {"publish": 2, "connect": 1, "lose": 1},
    {"publish": 1, "connect": 2, "lose": 1},
    {"publish": 2, "connect": 1, "expire": 1},
    {"publish": 2, "connect": 1, "give up": 1},
    {"publish": 2, "connect": 1, "restart": 1},
]
EACH: Final = list({str(one): one for one in (*NEEDED.values(), *WIDER)}.values())


def _without(name: str) -> Rules:
    return replace(Rules(), **{name: False})


def test_each_rule_is_tried() -> None:
    assert list(NEEDED) == [one.name for one in fields(Rules)]


@pytest.mark.parametrize("name", NEEDED)
def test_without_one_rule_some_course_breaks_a_promise(name: str) -> None:
    _, course = explore(_without(name), NEEDED[name])
    assert course is not None
    print("\n".join(course))


@pytest.mark.parametrize("budget", EACH, ids=str)
def test_with_all_rules_no_course_breaks_a_promise(budget: Budget) -> None:
    count, course = explore(Rules(), budget)
    assert course is None
    print(f"{count} states")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("budget", WIDEST, ids=str)
def test_nor_where_the_scheduler_may_do_more(budget: Budget) -> None:
    test_with_all_rules_no_course_breaks_a_promise(budget)


def _step(model: Model, choice: int) -> None:
    steps = list(model.steps())
    if steps:
        steps[choice % len(steps)][1]()


class Scheduler(RuleBasedStateMachine):
    """Draws one step after another."""

    @initialize(
        # Drawn, so that courses differ in what there is much of.
        budget=st.fixed_dictionaries({name: st.integers(0, most) for name, most in BUDGET.items()})
    )
    def begin(self, budget: Budget) -> None:
        self.model = Model(Rules(), budget)

    @rule(choice=st.integers(0, 999))
    def step(self, choice: int) -> None:
        _step(self.model, choice)


TestScheduler: Any = Scheduler.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=60)


@pytest.mark.parametrize("name", [name for name in NEEDED if name != "closes_after_pause"])
def test_random_courses_break_it_too(name: str) -> None:
    """The same courses at every run: where one in a thousand breaks it, luck decides otherwise.

    The one course of the rule that is left out here is too long to be met.
    """
    broken = 0
    for seed in range(6000):
        choices, model = random.Random(seed), Model(_without(name), NEEDED[name])
        try:
            for _ in range(30):
                _step(model, choices.randrange(1000))
        except BrokenPromiseError:
            broken += 1
    assert broken
