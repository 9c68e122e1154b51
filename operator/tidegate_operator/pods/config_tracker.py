"""What the pods of one broker have reported, when to poll them again, and which to refresh.

``poller`` owns one tracker per broker. Nothing is persisted: after a restart of the operator all
pods are polled again, and all periods start again. Pure but for its memory; the time is an
argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from tidegate_operator.live_state import Pod
from tidegate_operator.pods.config_state import (
    DesiredConfig,
    Outdated,
    PodReport,
    PollResult,
    has_config,
    outdated_pods,
    outdated_reason,
)
from tidegate_operator.pods.elapsed import has_elapsed, not_after

#: Interval of polling all pods (which also counts their clients).
COUNT_S: Final = 30.0
#: Interval of polling outdated pods: shortly after a change, and later.
FRESH_POLL_S: Final = 1.0
LATER_POLL_S: Final = 10.0
#: How long after a change it counts as recent.
FRESH_S: Final = 120.0
#: How long a pod may reject its configuration before it counts as failing.
PATIENCE_S: Final = 90.0
#: How long an up-to-date pod may be unreachable before that is reported: single timeouts are
#: normal.
SILENCE_S: Final = 90.0
#: How long after a change pods are not refreshed yet: it may not have reached all kubelets.
SETTLED_S: Final = 1.0
#: How many pods are refreshed in one reconcile.
MAX_REFRESHES: Final = 50


class PodConfigTracker:
    """See the module's docstring. Pods are identified by their key (uid)."""

    __slots__ = (
        "_changed",
        "_counted",
        "_desired",
        "_desired_digests",
        "_last_poll",
        "_last_poll_of_all",
        "_pods",
        "_pods_at_change",
        "_refreshed",
        "_rejecting_since",
        "_reported_at",
        "_reports",
        "_seen",
        "_silent_since",
        "connections",
    )

    def __init__(self) -> None:
        self._pods: Sequence[Pod] = ()
        self._desired: Mapping[str, DesiredConfig] = {}
        self._reports: dict[str, PodReport] = {}
        self._reported_at: dict[str, datetime] = {}
        #: When any pod was polled, and when all were.
        self._last_poll: datetime | None = None
        self._last_poll_of_all: datetime | None = None
        self._counted: datetime | None = None
        #: Clients of all edges, None until an edge has reported; updated every ``COUNT_S``.
        self.connections: int | None = None
        #: The pods and desired configurations, and since when they are the same.
        self._seen: frozenset[tuple[str, str, bool]] = frozenset()
        self._desired_digests: dict[str, tuple[str, str]] = {}
        self._changed: datetime | None = None
        #: Pods that existed at the last change: later ones have started with it.
        self._pods_at_change: frozenset[str] = frozenset()
        #: Since when pods have been unreachable.
        self._silent_since: dict[str, datetime] = {}
        #: Since when pods have rejected the desired configuration.
        self._rejecting_since: dict[str, datetime] = {}
        #: Which configuration (digest) pods were refreshed for.
        self._refreshed: dict[str, str] = {}

    def update(
        self, pods: Sequence[Pod], desired: Mapping[str, DesiredConfig], now: datetime
    ) -> None:
        """Take in the pods of the broker and their desired configurations; call this first."""
        self._pods, self._desired = pods, desired
        keys = {pod.key for pod in pods}
        for memory in (
            self._reports,
            self._reported_at,
            self._rejecting_since,
            self._refreshed,
            self._silent_since,
        ):
            for key in memory.keys() - keys:
                del memory[key]
        self._detect_change(frozenset(keys), now)
        self._limit_to_now(now)
        if not self.edge_pods() and self.connections is not None:
            self._counted, self.connections = None, 0

    def _detect_change(self, keys: frozenset[str], now: datetime) -> None:
        seen = frozenset(
            (pod.key, pod.address, pod.is_ready) for pod in self._pods if has_config(pod)
        )
        digests = {
            component: (config.restart_hash, config.digest)
            for component, config in self._desired.items()
        }
        if digests != self._desired_digests:
            # Earlier reports may be of another configuration with the same digest.
            self._last_poll_of_all = None
            self._pods_at_change = keys
        if (seen, digests) != (self._seen, self._desired_digests):
            self._seen, self._desired_digests, self._changed = seen, digests, now

    def _limit_to_now(self, now: datetime) -> None:
        """Move moments after now to now: else a clock that was set back would suspend polling."""
        self._last_poll = not_after(self._last_poll, now)
        self._last_poll_of_all = not_after(self._last_poll_of_all, now)
        self._counted = not_after(self._counted, now)
        self._changed = not_after(self._changed, now)
        for memory in (self._rejecting_since, self._silent_since):
            for key, since in memory.items():
                memory[key] = min(since, now)

    def edge_pods(self) -> list[Pod]:
        """Return the edges that are not terminating."""
        return [pod for pod in self._pods if pod.component == "edge" and not pod.is_terminating]

    def is_fresh(self, now: datetime) -> bool:
        """Whether something has changed recently."""
        return self._changed is None or now - self._changed < timedelta(seconds=FRESH_S)

    def unchanged_s(self, now: datetime) -> float:
        """Return for how many seconds nothing has changed."""
        return 0.0 if self._changed is None else max(0.0, (now - self._changed).total_seconds())

    # Polling

    def pods_to_poll(self, now: datetime) -> list[Pod]:
        """Return the pods to poll now, if a poll is due; the longest unheard ones come first.

        All pods every ``COUNT_S``, and outdated ones in between.
        """
        pods = [pod for pod in self._pods if has_config(pod) and pod.address]
        if self._last_poll_of_all is None or has_elapsed(self._last_poll_of_all, COUNT_S, now):
            if pods:
                self._last_poll = self._last_poll_of_all = now
        else:
            interval_s = FRESH_POLL_S if self.is_fresh(now) else LATER_POLL_S
            if not has_elapsed(self._last_poll, interval_s, now):
                return []
            outdated = self.outdated()
            pods = [
                pod
                for pod in pods
                if pod.name in outdated
                and pod.restart_hash == self._desired[pod.component].restart_hash
            ]
            if pods:
                self._last_poll = now
        never = datetime.min.replace(tzinfo=now.tzinfo)
        return sorted(pods, key=lambda pod: self._reported_at.get(pod.key, never))

    def record(self, reports: Mapping[str, PodReport], now: datetime) -> None:
        """Take in reports by the pods' key; pods that were not polled in time are not in it."""
        for pod in self._pods:
            report = reports.get(pod.key)
            if report is not None:
                self._record_report(pod, report, now)
        self._reported_at |= dict.fromkeys(reports, now)
        self._count_connections(now)
        for pod in self._pods:
            outdated = self._outdated_reason(pod)
            if outdated is not None and outdated.is_rejected:
                self._rejecting_since.setdefault(pod.key, now)
            else:
                self._rejecting_since.pop(pod.key, None)

    def _record_report(self, pod: Pod, report: PodReport, now: datetime) -> None:
        if report.result is not PollResult.UNREACHABLE:
            self._silent_since.pop(pod.key, None)
        else:
            since = self._silent_since.setdefault(pod.key, now)
            is_up_to_date = pod.key in self._reports and self._outdated_reason(pod) is None
            if is_up_to_date and not has_elapsed(since, SILENCE_S, now):
                return
        self._reports[pod.key] = report

    def _count_connections(self, now: datetime) -> None:
        counts = [
            report.connections
            for pod in self.edge_pods()
            if pod.is_ready
            for report in (self._reports.get(pod.key),)
            if report is not None and report.connections is not None
        ]
        is_due = self._counted is None or now - self._counted >= timedelta(seconds=COUNT_S)
        if counts and is_due:
            self._counted, self.connections = now, sum(counts)

    # Results

    def outdated(self) -> dict[str, Outdated]:
        """Return by name which pods do not use the desired configuration."""
        return outdated_pods(self._pods, self._reports, self._desired)

    def failing(self, now: datetime) -> list[str]:
        """Return the names of pods that have rejected their configuration for ``PATIENCE_S``."""
        return [
            pod.name
            for pod in self._pods
            if has_elapsed(self._rejecting_since.get(pod.key), PATIENCE_S, now)
        ]

    def current_connections(self, now: datetime) -> dict[str, int]:
        """Return the clients of edges, by key, as far as they have been reported just now."""
        return {
            pod.key: report.connections
            for pod in self.edge_pods()
            for report in (self._reports.get(pod.key),)
            if report is not None
            and report.result is PollResult.REPORTED
            and report.connections is not None
            and self._reported_at[pod.key] == now
            and pod.key not in self._silent_since
        }

    def pods_to_refresh(self, now: datetime) -> list[tuple[Pod, str]]:
        """Return pods whose kubelet should sync what they mount, each with the digest of its
        desired configuration; every pod once for each configuration."""
        refreshes: list[tuple[Pod, str]] = []
        if not has_elapsed(self._changed, SETTLED_S, now):
            return refreshes
        for pod in self._pods:
            outdated = self._outdated_reason(pod)
            if outdated is None or not outdated.needs_refresh:
                continue
            if pod.key in self._silent_since and pod.key not in self._pods_at_change:
                continue
            digest = self._desired[pod.component].digest
            if pod.configuration != digest and self._refreshed.get(pod.key) != digest:
                refreshes.append((pod, digest))
        return refreshes[:MAX_REFRESHES]

    def refreshed(self, pod: Pod, digest: str) -> None:
        """Note that a pod was refreshed for a configuration."""
        self._refreshed[pod.key] = digest

    def _outdated_reason(self, pod: Pod) -> Outdated | None:
        if not has_config(pod):
            return None
        return outdated_reason(pod, self._reports.get(pod.key), self._desired[pod.component])
