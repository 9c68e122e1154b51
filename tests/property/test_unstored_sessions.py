"""A clean session that is not stored leaves the store as if it had been, whatever happens.

Inputs: courses of CONNECTs, ends, replies, lost replies, restarts and sweeps on
``support.session_model``, drawn by Hypothesis and at random. Observed: that a connection is
accepted without the store only where the store has nothing of its client, that no number is given
out twice, that the newest connection of a client stays; and that each condition is needed for it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.build import sources_only
from support.session_model import BrokenPromiseError, SessionModel
from tidegate.router.router import Router
from tidegate.router.unstored import UnstoredSessions

#: The model has parts of a router only.
pytestmark = sources_only

CLIENTS: Final = ("a", "b")


class _Blind(dict[str, Any]):
    """Remembers, but does not say so."""

    def __contains__(self, key: object) -> bool:
        return False


def _open(router: Router) -> None:
    router.unstored._is_open = True


def _ignore_attaching(router: Router) -> None:
    router.unstored._attaching = _Blind()


def _ignore_stored(router: Router) -> None:
    router.unstored._stored = _Blind()


def _ignore_durable(router: Router) -> None:
    router.table.sessions = _Blind(router.table.sessions)


CHANGES: Final[list[Callable[[Router], None]]] = [
    _open,
    _ignore_attaching,
    _ignore_stored,
    _ignore_durable,
]


def _forget_unknown(_unstored: UnstoredSessions, _client_id: str) -> None:
    """It is not noted of whom the store may have something."""


_numbers = itertools.count(1)


def _invent_number(unstored: UnstoredSessions, _partition: int) -> int:
    return next(_numbers)


METHODS: Final[dict[str, Callable[..., Any]]] = {
    "_note_unknown": _forget_unknown,
    "_next_number": _invent_number,
}


class Courses(RuleBasedStateMachine):
    """Draws one step after another."""

    @initialize()
    def begin(self) -> None:
        self.model = SessionModel()
        self.model.sweep(all_wills=False)

    def teardown(self) -> None:
        self.model.close()

    @rule(
        client_id=st.sampled_from(CLIENTS),
        clean=st.booleans(),
        expiry_s=st.sampled_from([0, 0, 60]),
        has_will=st.booleans(),
    )
    def connect(self, client_id: str, clean: bool, expiry_s: int, has_will: bool) -> None:
        self.model.connect(client_id, clean=clean, expiry_s=expiry_s, has_will=has_will)

    @rule(number=st.integers(0, 9))
    @precondition(lambda self: self.model.clients)
    def disconnect(self, number: int) -> None:
        names = sorted(self.model.clients)
        self.model.disconnect(names[number % len(names)])

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.model.step()

    @rule(is_run=st.booleans())
    def lose(self, is_run: bool) -> None:
        self.model.lose(is_run=is_run)

    @rule(all_wills=st.booleans())
    def sweep(self, all_wills: bool) -> None:
        self.model.sweep(all_wills=all_wills)

    @rule()
    def restart(self) -> None:
        self.model.restart()

    @invariant()
    def nobody_is_overlooked(self) -> None:
        if hasattr(self, "model"):
            self.model.check()


TestCourses: Any = Courses.TestCase
TestCourses.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def _course(model: SessionModel, choices: random.Random, steps: int = 80) -> None:
    """Take steps, more of those that get on."""
    for _ in range(steps):
        drawn = choices.random()
        if drawn < 0.3:
            model.connect(
                choices.choice(CLIENTS),
                clean=choices.random() < 0.7,
                expiry_s=choices.choice([0, 0, 0, 60]),
                has_will=choices.random() < 0.2,
            )
        elif drawn < 0.5:
            if model.clients:
                model.disconnect(choices.choice(sorted(model.clients)))
        elif drawn < 0.85:
            for _ in range(choices.randrange(1, 5)):
                model.step()
        elif drawn < 0.87:
            model.lose(is_run=choices.random() < 0.5)
        elif drawn < 0.99:
            model.sweep(all_wills=choices.random() < 0.5)
        else:
            model.restart()
        model.check()


def _play(seed: int, change: Callable[[Router], None] | None = None) -> int:
    model = SessionModel(change)
    try:
        _course(model, random.Random(seed))
    finally:
        model.close()
    return model.unstored_count


def test_courses_have_connections_that_are_not_stored() -> None:
    counts = [_play(seed) for seed in range(40)]
    assert sum(counts) > 40, counts


@pytest.mark.parametrize("name", METHODS)
def test_each_step_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below."""
    monkeypatch.setattr(UnstoredSessions, name, METHODS[name])
    test_each_condition_is_needed(lambda router: None)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_condition_is_needed(change: Callable[[Router], None]) -> None:
    """The same courses at every run."""
    for seed in range(400):
        try:
            _play(seed, change)
        except BrokenPromiseError as error:
            print(seed, error)
            return
    pytest.fail("no course breaks a promise")
