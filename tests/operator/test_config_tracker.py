"""When what pods report, or do not, is said: not at once, and not later than the operator promises.

Inputs: pods, what they should use, reports, the time. Observed: who is outdated, failing, or
refreshed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tidegate_operator.live_state import Pod
from tidegate_operator.pods.config_state import (
    UNREACHABLE,
    DesiredConfig,
    PodReport,
    PollResult,
    ReportedConfig,
    ReportedFile,
)
from tidegate_operator.pods.config_tracker import PodConfigTracker

BEGIN: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
#: How long a pod may be unreachable, or reject its configuration, before that is a fault.
PATIENCE_S: Final = 90
EDGE: Final = Pod("edge-1", "edge", "hash", True, False, "", "10.0.0.1", "uid-1")
GOOD: Final = PodReport(PollResult.REPORTED, 3, ReportedConfig(ReportedFile("new")))
REJECTS: Final = PodReport(
    PollResult.REPORTED, 3, ReportedConfig(ReportedFile("old", "a port is in use"))
)
OLD: Final = PodReport(PollResult.REPORTED, 3, ReportedConfig(ReportedFile("old")))


def _desired(digest: str = "new") -> dict[str, DesiredConfig]:
    return {"edge": DesiredConfig("hash", digest, {}, f"all {digest}")}


class _Harness:
    """A tracker of one edge, and the time."""

    def __init__(self) -> None:
        self.tracker = PodConfigTracker()
        self.desired = _desired()

    def at(self, seconds: float, report: PodReport | None = None) -> datetime:
        """Let it be so many seconds after the beginning; the edge reports."""
        now = BEGIN + timedelta(seconds=seconds)
        self.tracker.update([EDGE], self.desired, now)
        if report is not None:
            self.tracker.record({EDGE.key: report}, now)
        return now


def test_an_up_to_date_pod_may_be_unreachable_for_a_while() -> None:
    harness = _Harness()
    harness.at(0, GOOD)
    harness.at(10, UNREACHABLE)
    harness.at(10 + PATIENCE_S - 1, UNREACHABLE)
    assert not harness.tracker.outdated()
    harness.at(10 + PATIENCE_S, UNREACHABLE)
    assert list(harness.tracker.outdated()) == ["edge-1"]


def test_a_pod_that_answers_in_between_may_be_unreachable_once_more() -> None:
    harness = _Harness()
    harness.at(0, GOOD)
    harness.at(10, UNREACHABLE)
    harness.at(50, GOOD)
    harness.at(60, UNREACHABLE)
    harness.at(60 + PATIENCE_S - 1, UNREACHABLE)
    assert not harness.tracker.outdated()


def test_a_pod_may_reject_its_configuration_for_a_while() -> None:
    """Two listeners that change places do, until the first one is gone."""
    harness = _Harness()
    now = harness.at(0, REJECTS)
    assert list(harness.tracker.outdated()) == ["edge-1"]
    assert harness.tracker.failing(now) == []
    assert harness.tracker.failing(harness.at(PATIENCE_S - 1, REJECTS)) == []
    assert harness.tracker.failing(harness.at(PATIENCE_S, REJECTS)) == ["edge-1"]
    assert harness.tracker.failing(harness.at(PATIENCE_S + 1, GOOD)) == []


def test_pods_are_refreshed_once_and_when_kubelets_can_have_what_has_changed() -> None:
    harness = _Harness()
    harness.at(0, GOOD)
    harness.desired = _desired("newer")
    now = harness.at(100, OLD)
    assert harness.tracker.pods_to_refresh(now) == []
    now = harness.at(101, OLD)
    assert harness.tracker.pods_to_refresh(now) == [(EDGE, "all newer")]
    harness.tracker.refreshed(EDGE, "all newer")
    assert harness.tracker.pods_to_refresh(harness.at(110, OLD)) == []
