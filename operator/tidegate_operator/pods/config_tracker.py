"""What the pods of one broker have said, when they are asked again, and what is done about it.

``reconcile`` owns one for each broker. Nothing here is written down anywhere: an operator that
starts anew asks everybody again, and waits anew before it calls something stable or stubborn. Pure
but for its memory; the time is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from tidegate_operator.live_state import Pod, Workload
from tidegate_operator.pods.config_state import (
    Answer,
    Heard,
    Lag,
    Wanted,
    is_counted,
    lag_of,
    lagging,
)
from tidegate_operator.pods.rebalance import pause_s, surplus
from tidegate_operator.spec.workloads import RebalanceSpec

#: How often pods are asked while all is as it should be (their clients are counted then).
COUNT_S: Final = 30.0
#: The same while not all pods have what is wanted: often at first, then less.
SOON_S: Final = 1.0
LATER_S: Final = 10.0
#: How long after a change it is asked often.
FRESH_S: Final = 120.0
#: How long a pod may say that it cannot use its configuration before that is a fault.
PATIENCE_S: Final = 90.0
#: How long a pod that had what is wanted may be silent before that is said: one answer that does
#: not come in time is no news.
SILENCE_S: Final = 90.0
#: What was written just now may not have come to all kubelets yet.
SETTLED_S: Final = 1.0
#: How many pods are told in one go that there is something new.
TOLD_AT_ONCE: Final = 50


class PodConfigTracker:
    """See the module's docstring. Pods are known by their key (uid)."""

    __slots__ = (
        "_answers",
        "_asked",
        "_asked_all",
        "_balanced",
        "_changed",
        "_counted",
        "_heard",
        "_pause_s",
        "_problems",
        "_same_edges",
        "_silent",
        "_stable",
        "_surplus",
        "_there",
        "_told",
        "_wanted",
        "_were_there",
        "connections",
    )

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._heard: dict[str, datetime] = {}
        #: When anybody was asked, and when everybody was.
        self._asked: datetime | None = None
        self._asked_all: datetime | None = None
        self._counted: datetime | None = None
        #: Clients of all edges together, None as long as nobody has said; changes twice a minute.
        self.connections: int | None = None
        #: Who is there and what is wanted, and since when it has been so.
        self._there: frozenset[tuple[str, str, bool]] = frozenset()
        self._wanted: dict[str, tuple[str, str]] = {}
        self._changed: datetime | None = None
        #: Who was there when what is wanted changed: those that came later have it.
        self._were_there: frozenset[str] = frozenset()
        #: Since when a pod has not answered.
        self._silent: dict[str, datetime] = {}
        #: Since when a pod has said that it cannot use what is wanted.
        self._problems: dict[str, datetime] = {}
        #: Which configuration a pod was told to look at.
        self._told: dict[str, str] = {}
        #: Edges that have been complete, and since when.
        self._same_edges: set[str] = set()
        self._stable: datetime | None = None
        self._balanced: datetime | None = None
        self._pause_s = 0.0
        self._surplus = 0

    # Asking

    def look(
        self,
        pods: Sequence[Pod],
        standard: Mapping[str, Wanted],
        edges: Workload,
        now: datetime,
    ) -> None:
        """Take in who is there and what is wanted, before everything else."""
        keys = {pod.key for pod in pods}
        for memory in (self._answers, self._heard, self._problems, self._told, self._silent):
            for key in memory.keys() - keys:
                del memory[key]
        there = frozenset((pod.key, pod.address, pod.is_ready) for pod in pods if is_counted(pod))
        wanted = {name: (one.restart_hash, one.digest) for name, one in standard.items()}
        if wanted != self._wanted:
            # What was said before may be of another configuration that was the same.
            self._asked_all = None
            self._were_there = frozenset(keys)
        if (there, wanted) != (self._there, self._wanted):
            self._there, self._wanted, self._changed = there, wanted, now
        self._mind_the_clock(now)
        edge_pods = [pod for pod in pods if pod.component == "edge" and not pod.is_ending]
        if not edge_pods and self.connections is not None:
            # Nobody is left who could say it.
            self._counted, self.connections = None, 0
        keys = {pod.key for pod in edge_pods}
        is_stable = edges.is_complete and all(pod.is_ready for pod in edge_pods)
        if not is_stable:
            self._stable = None
        elif self._stable is None or keys != self._same_edges:
            self._same_edges, self._stable = keys, now

    def _mind_the_clock(self, now: datetime) -> None:
        """Let nothing be later than now: when a clock is set back, nobody would be asked before it
        has made up for it."""
        self._asked = _not_after(self._asked, now)
        self._asked_all = _not_after(self._asked_all, now)
        self._counted = _not_after(self._counted, now)
        self._balanced = _not_after(self._balanced, now)
        self._changed = _not_after(self._changed, now)
        self._stable = _not_after(self._stable, now)
        self._problems = {key: min(since, now) for key, since in self._problems.items()}
        self._silent = {key: min(since, now) for key, since in self._silent.items()}

    def whom_to_ask(
        self, pods: Sequence[Pod], standard: Mapping[str, Wanted], now: datetime
    ) -> list[Pod]:
        """Return the pods to ask now, if it is time; who was heard longest ago comes first.

        All of them from time to time, and in between those whose answer is waited for.
        """
        there = [pod for pod in pods if is_counted(pod) and pod.address]
        if self._asked_all is None or _is_over(self._asked_all, COUNT_S, now):
            if there:
                self._asked = self._asked_all = now
        else:
            wait_s = SOON_S if self.is_fresh(now) else LATER_S
            if not _is_over(self._asked, wait_s, now):
                return []
            late = lagging(there, self._answers, standard)
            there = [
                pod
                for pod in there
                if pod.name in late and pod.restart_hash == standard[pod.component].restart_hash
            ]
            if there:
                self._asked = now
        never = datetime.min.replace(tzinfo=now.tzinfo)
        return sorted(there, key=lambda pod: self._heard.get(pod.key, never))

    def is_fresh(self, now: datetime) -> bool:
        """Whether something has changed a short time ago."""
        return self._changed is None or now - self._changed < timedelta(seconds=FRESH_S)

    def quiet_s(self, now: datetime) -> float:
        """Return for how many seconds nothing has changed."""
        return 0.0 if self._changed is None else max(0.0, (now - self._changed).total_seconds())

    def take(
        self,
        answers: Mapping[str, Answer],
        pods: Sequence[Pod],
        standard: Mapping[str, Wanted],
        now: datetime,
    ) -> None:
        """Take in what pods have said; who is not in ``answers`` was not asked in time."""
        self._take_in(answers, pods, standard, now)
        self._heard |= dict.fromkeys(answers, now)
        counts = [
            answer.connections
            for pod in pods
            if pod.component == "edge" and pod.is_ready and is_counted(pod)
            for answer in (self._answers.get(pod.key),)
            if answer is not None and answer.connections is not None
        ]
        is_due = self._counted is None or now - self._counted >= timedelta(seconds=COUNT_S)
        if counts and is_due:
            self._counted, self.connections = now, sum(counts)
        for pod in pods:
            lag = self._lag(pod, standard)
            if lag is not None and lag.is_problem:
                self._problems.setdefault(pod.key, now)
            else:
                self._problems.pop(pod.key, None)

    def _take_in(
        self,
        answers: Mapping[str, Answer],
        pods: Iterable[Pod],
        standard: Mapping[str, Wanted],
        now: datetime,
    ) -> None:
        for pod in pods:
            answer = answers.get(pod.key)
            if answer is None:
                continue
            if answer.heard is not Heard.NOTHING:
                self._silent.pop(pod.key, None)
            else:
                since = self._silent.setdefault(pod.key, now)
                has_it = pod.key in self._answers and self._lag(pod, standard) is None
                if has_it and not _is_over(since, SILENCE_S, now):
                    continue
            self._answers[pod.key] = answer

    def _lag(self, pod: Pod, standard: Mapping[str, Wanted]) -> Lag | None:
        if not is_counted(pod):
            return None
        return lag_of(pod, self._answers.get(pod.key), standard[pod.component])

    # What they said

    def lagging(self, pods: Sequence[Pod], standard: Mapping[str, Wanted]) -> dict[str, Lag]:
        """Return by name which pods do not have what is wanted."""
        return lagging(pods, self._answers, standard)

    def stubborn(self, pods: Iterable[Pod], now: datetime) -> list[str]:
        """Return the names of pods that have had a problem for long."""
        return [pod.name for pod in pods if _is_over(self._problems.get(pod.key), PATIENCE_S, now)]

    def whom_to_tell(
        self, pods: Iterable[Pod], standard: Mapping[str, Wanted], now: datetime
    ) -> list[tuple[Pod, str]]:
        """Return pods that should look at what they mount, with what they shall find; each pod
        once for each configuration."""
        found: list[tuple[Pod, str]] = []
        if not _is_over(self._changed, SETTLED_S, now):
            return found
        for pod in pods:
            lag = self._lag(pod, standard)
            if lag is None or not lag.is_told:
                continue
            if pod.key in self._silent and pod.key not in self._were_there:
                continue
            wanted = standard[pod.component].digest
            if pod.configuration != wanted and self._told.get(pod.key) != wanted:
                found.append((pod, wanted))
        return found[:TOLD_AT_ONCE]

    def told(self, pod: Pod, digest: str) -> None:
        """A pod was told to look at this configuration."""
        self._told[pod.key] = digest

    # Evening out

    def unbalanced(
        self,
        spec: RebalanceSpec,
        rate: float,
        pods: Sequence[Pod],
        now: datetime,
    ) -> list[tuple[Pod, int, float]]:
        """Return which edges have to let how many clients go, and the mean; empty if all is even,
        or it is not the time. ``rate`` is the clients per second that an edge lets go at most.

        Called right after pods were asked: what is decided on must be what they said last.
        """
        if not spec.enabled or not _is_over(self._stable, spec.stabilization_s, now):
            return []
        if self._balanced is not None and not _is_over(
            self._balanced, max(self._pause_s, spec.interval_s), now
        ):
            return []
        there = [pod for pod in pods if pod.key in self._same_edges]
        counts = self._counts(there, now)
        if counts is None:
            return []
        # What is told should be done before the next round.
        most = int(rate * spec.interval_s)
        found = surplus(counts, spec.excess_percent, spec.minimum_excess, most)
        total = sum(found.values())
        if not total:
            self._surplus, self._pause_s = 0, 0.0
            return []
        self._pause_s = pause_s(spec.interval_s, self._pause_s, self._surplus, total)
        self._surplus, self._balanced = total, now
        mean = sum(counts.values()) / len(counts)
        return [(pod, found[pod.key], mean) for pod in there if pod.key in found]

    def _counts(self, edges: Sequence[Pod], now: datetime) -> dict[str, int] | None:
        """Return the clients of each edge, if all of them have said it just now."""
        counts = {}
        for pod in edges:
            answer = self._answers.get(pod.key)
            if answer is None or answer.heard is not Heard.ANSWER:
                return None
            is_old = self._heard[pod.key] != now or pod.key in self._silent
            if is_old or answer.connections is None:
                return None
            counts[pod.key] = answer.connections
        return counts or None


def _not_after(moment: datetime | None, now: datetime) -> datetime | None:
    return None if moment is None else min(moment, now)


def _is_over(since: datetime | None, length_s: float, now: datetime) -> bool:
    """Whether so many seconds have gone by; never, if it has not begun."""
    return since is not None and now - since >= timedelta(seconds=length_s)
