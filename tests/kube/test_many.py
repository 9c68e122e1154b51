"""Many brokers: what the operator asks and writes, how long it takes, and how much it needs.

``TIDEGATE_BROKERS`` says how many (24; 500 is the long form). What was counted is printed, which
``pytest -rP`` shows, and is written as a line of JSON to the file that ``TIDEGATE_FIGURES`` names.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from support.brokers import spec_of
from support.kube.api import Object, path_of
from support.kube.audit import Request
from support.kube.control_plane import ControlPlane
from support.kube.fake_kubelet import FakeKubelet
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space
from support.waiting import wait_for
from tidegate_operator import names
from tidegate_operator.reconcile.interval import PROGRESSING_S

BROKERS: Final = int(os.environ.get("TIDEGATE_BROKERS", "24"))
IS_LONG: Final = BROKERS > 100
#: How long load is watched.
WINDOW_S: Final = 60.0 if IS_LONG else 4.0
DEADLINE_S: Final = 60.0 + 2.0 * BROKERS
#: By what a look at a broker begins.
LOOK: Final = ("get", names.PLURAL)
#: What is written to say how it is.
SAYING: Final = frozenset({f"{names.PLURAL}/status", "events"})
#: The chart's own value; the other tests' operator looks more often.
RESYNC_S: Final = 60

pytestmark = [pytest.mark.timeout(120 + 8 * BROKERS), *([pytest.mark.slow] if IS_LONG else [])]


#: Reading what is not there (404) is no fault.
REFUSALS: Final = {*range(400, 500)} - {404, 429}


class Meter:
    """What the operator asks, writes and uses from a moment on, for brokers of one namespace.

    Namespaces of earlier tests may still be on their way out, and refuse what is written there.
    """

    def __init__(self, operator: OperatorProcess, namespace: str) -> None:
        self._operator = operator
        self._namespaces = {"", namespace}
        self.again()

    def again(self) -> None:
        self._mark = self._operator.plane.audit.mark()
        self.began_s = time.monotonic()
        self._cpu_s = self._operator.cpu_s()

    def figures(self) -> Object:
        found = self._operator.plane.audit.since(self._mark, user=self._operator.user)
        asked = [one for one in found if one.namespace in self._namespaces]
        took_s = time.monotonic() - self.began_s
        writes = Counter(_what(one) for one in asked if one.is_write)
        return {
            "seconds": round(took_s, 1),
            "cpu_s": round(self._operator.cpu_s() - self._cpu_s, 1),
            "requests": len(asked),
            "requests_per_minute": round(60 * len(asked) / took_s),
            "looks": len([one for one in asked if (one.verb, one.resource) == LOOK]),
            "requests_per_broker": round(len(asked) / BROKERS, 1),
            "reads": sum(one.verb in {"get", "list"} for one in asked),
            "dry_runs": sum(one.is_dry_run for one in asked),
            "writes": sum(writes.values()),
            "objects_written": sum(
                count for what, count in writes.items() if what.split()[1] not in SAYING
            ),
            "written": dict(writes.most_common(30)),
            # What the server refuses is our fault; what it cannot serve in time (429, 5xx) is not.
            "refused": _by_status(one for one in asked if one.status in REFUSALS),
            "not_served": _by_status(one for one in asked if one.status in {429, *range(500, 600)}),
            "rss_mib": self._operator.rss_bytes() >> 20,
        }


def _by_status(requests: Iterable[Request]) -> dict[str, int]:
    return dict(Counter(f"{one.status} {_what(one)}" for one in requests))


def _what(one: Request) -> str:
    return f"{one.verb} {one.resource}"


def metric(operator: OperatorProcess, name: str) -> float:
    """Return the sum of a metric of the operator, whatever its labels."""
    lines = operator.page("/metrics").splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name
    )


def brokers_of(space: Space) -> list[Object]:
    found: list[Object] = space.api.request("GET", path_of("MqttBroker", space.name))["items"]
    return found


def reasons(space: Space, kind: str) -> Counter[str]:
    """Return how often each reason of a condition is there; "" where there is none yet."""
    return Counter(
        next(
            (
                one["reason"]
                for one in broker.get("status", {}).get("conditions") or []
                if one["type"] == kind
            ),
            "",
        )
        for broker in brokers_of(space)
    )


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what is costly to ask: not more than about once in a second."""
    asked_s = 0.0

    def look() -> bool:
        nonlocal asked_s
        if time.monotonic() - asked_s < 0.002 * BROKERS:
            return False
        found = condition()
        asked_s = time.monotonic()
        return found

    wait_for(look, DEADLINE_S, what)


def until_idle(operator: OperatorProcess, looked: float) -> None:
    """Wait until so many looks have ended, and nobody waits for one."""

    def is_idle() -> bool:
        waiting = metric(operator, "tidegate_operator_queue_waiting")
        working = metric(operator, "tidegate_operator_queue_working")
        done = metric(operator, "tidegate_operator_reconciles_total")
        return done >= looked and waiting == working == 0

    wait_for(is_idle, DEADLINE_S, "the operator has looked at all brokers")


@pytest.fixture(scope="module")
def figures(plane: ControlPlane) -> Iterator[dict[str, Any]]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    found: dict[str, Any] = {
        "command": f"TIDEGATE_BROKERS={BROKERS} pytest tests/kube/test_many.py",
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "kopf": importlib.metadata.version("kopf"),
        "kubernetes": plane.api.request("GET", "/version")["gitVersion"],
        "machine": f"{os.cpu_count()} x {platform.machine()}",
        "brokers": BROKERS,
    }
    yield found
    file = os.environ.get("TIDEGATE_FIGURES")
    if file:
        with Path(file).open("a") as lines:
            lines.write(json.dumps(found) + "\n")


@pytest.fixture
def many(
    plane: ControlPlane, operator_away: OperatorProcess, space: Space
) -> Iterator[OperatorProcess]:
    """Yield the operator as the chart's own values have it, with nobody else to look after."""
    operator_away.start(f"--resync-s={RESYNC_S}")
    wait_for(
        lambda: metric(operator_away, "tidegate_operator_brokers") == 0,
        DEADLINE_S,
        "the brokers of other tests have gone",
    )
    yield operator_away
    operator_away.stop()
    operator_away.check()


def test_many_brokers(
    many: OperatorProcess, space: Space, kubelet: FakeKubelet, figures: dict[str, Any]
) -> None:
    operator = many
    kubelet.fail(space.name, "", "unstarted")
    meter = Meter(operator, space.name)

    def say(phase: str) -> Object:
        found = figures[phase] = meter.figures()
        print(phase, json.dumps(found))
        meter.again()
        return found

    # All are made at once; their pods do not start.
    for number in range(BROKERS):
        space.api.create(space.broker_of(f"b{number}", spec_of()))
    until(lambda: reasons(space, "Ready") == {"StoreNotReady": BROKERS}, "all have a status")
    made = say("made")
    assert made["refused"] == {}
    assert made["requests_per_broker"] < 80
    # 23 objects, and what is said of them.
    assert made["writes"] < 32 * BROKERS

    calm(meter, lambda found: found["objects_written"] == 0)
    waiting = say("no pod starts")
    # The status of those that were made last says a moment later how many pods there are.
    looks = waiting["seconds"] / PROGRESSING_S + 2
    assert waiting["requests"] - waiting["writes"] < BROKERS * looks

    kubelet.heal(space.name, "")
    until(lambda: reasons(space, "ConfigApplied") == {"Applied": BROKERS}, "all serve")
    until_idle(operator, BROKERS)
    come = say("pods start")
    assert come["refused"] == {}

    calm(meter, lambda found: found["writes"] == 0)
    quiet = say("nothing happens")
    # Clients are counted twice a minute, and a late event may cost a look.
    assert quiet["requests"] < BROKERS * (quiet["seconds"] / 30 + 2)

    operator.stop()
    operator.start(f"--resync-s={RESYNC_S}", wait=False)
    meter = Meter(operator, space.name)
    operator.wait_until_ready()
    until_idle(operator, BROKERS)
    started = say("started again")
    assert started["objects_written"] == started["dry_runs"] == 0
    # A pod that answers late costs a status.
    assert started["writes"] < BROKERS / 4
    assert started["requests"] < 5 * BROKERS + 60


def calm(meter: Meter, is_calm: Callable[[Object], bool]) -> None:
    """Wait for a window in which nothing else happens: the last pods may be counted late."""

    def passed() -> bool:
        if time.monotonic() - meter.began_s < WINDOW_S:
            return False
        if is_calm(meter.figures()):
            return True
        meter.again()
        return False

    wait_for(passed, DEADLINE_S, "a window in which nothing is written")
