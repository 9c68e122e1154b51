"""Polls the pods of all brokers over their admin API, and keeps what they have reported.

``reconcile`` calls it after objects were written. It also acts on pods: it makes their kubelets
sync new configuration, and edges disconnect surplus clients. An unreachable pod is a report, not an
error. Never writes an object other than an annotation of pods.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from tidegate_operator.kube.interface import Cluster, KubeError
from tidegate_operator.live_state import Pod, Workload
from tidegate_operator.names import BrokerKey
from tidegate_operator.pods.config_state import DesiredConfig, Outdated, PodReport
from tidegate_operator.pods.config_tracker import PodConfigTracker
from tidegate_operator.pods.rebalance import Rebalancer
from tidegate_operator.replicas.servers import StoreServer
from tidegate_operator.spec.workloads import EdgeSpec

log = logging.getLogger(__name__)


class AdminApi(Protocol):
    """The admin API of pods. Nothing is raised: pods may be gone."""

    async def poll(self, pods: Iterable[Pod], token: bytes) -> dict[str, PodReport]:
        """Return the reports of pods, by key; pods that were not polled in time are left out."""

    async def shed(self, pod: Pod, token: bytes, connections: int) -> int | None:
        """Make an edge disconnect clients; return how many it will, None if it rejects that."""

    async def servers(self, pods: Iterable[Pod]) -> dict[str, StoreServer]:
        """Return the reports of a replicated store's servers, by the name of the pod."""


@dataclass(slots=True, frozen=True)
class PodSummary:
    """What is known of the pods of a broker."""

    #: Pods that do not use the desired configuration, by name.
    outdated: Mapping[str, Outdated]
    #: Names of pods that have rejected it for long.
    failing: Sequence[str]
    #: Clients of all edges, None if unknown.
    connections: int | None
    #: Whether pods have been polled just now.
    was_polled: bool
    #: Whether pods or desired configurations have changed recently, and when last.
    is_fresh: bool
    unchanged_s: float


@dataclass(slots=True)
class _Pods:
    """The memory of one broker's pods."""

    tracker: PodConfigTracker = field(default_factory=PodConfigTracker)
    rebalancer: Rebalancer = field(default_factory=Rebalancer)


class PodPoller:
    """See the module's docstring."""

    def __init__(self, cluster: Cluster, admin: AdminApi) -> None:
        self._cluster = cluster
        self._admin = admin
        self._brokers: dict[BrokerKey, _Pods] = {}

    def forget(self, broker: BrokerKey) -> None:
        """Remove a deleted broker."""
        self._brokers.pop(broker, None)

    async def poll(
        self,
        broker: BrokerKey,
        pods: Sequence[Pod],
        desired: Mapping[str, DesiredConfig],
        edges: Workload,
        token: bytes,
        now: datetime,
    ) -> PodSummary:
        """Poll pods, if a poll is due; return what is known of them."""
        known = self._brokers.setdefault(broker, _Pods())
        tracker = known.tracker
        tracker.update(pods, desired, now)
        known.rebalancer.update(tracker.edge_pods(), edges, now)
        to_poll = tracker.pods_to_poll(now)
        if to_poll:
            tracker.record(await self._admin.poll(to_poll, token), now)
        return PodSummary(
            outdated=tracker.outdated(),
            failing=tracker.failing(now),
            connections=tracker.connections,
            was_polled=bool(to_poll),
            is_fresh=tracker.is_fresh(now),
            unchanged_s=tracker.unchanged_s(now),
        )

    async def refresh(self, broker: BrokerKey, now: datetime) -> None:
        """Annotate outdated pods, so that their kubelets sync what they mount at once and not
        within a minute."""
        tracker = self._brokers[broker].tracker
        for pod, digest in tracker.pods_to_refresh(now):
            try:
                await self._cluster.annotate_pod(broker[0], pod.name, pod.uid, digest)
            except KubeError as error:
                # The pod is gone, or the operator lacks the right: the kubelet syncs later.
                log.info("pod annotation failed", extra={"pod": pod.name, "reason": str(error)})
            tracker.refreshed(pod, digest)

    async def rebalance(
        self, broker: BrokerKey, spec: EdgeSpec, token: bytes, now: datetime
    ) -> str:
        """Make overloaded edges disconnect clients; return a sentence for an event, "" if none do.

        Called right after a poll: the decision needs current numbers of connections.
        """
        known = self._brokers[broker]
        connections = known.tracker.current_connections(now)
        overloaded, mean = known.rebalancer.overloaded_edges(
            spec.rebalance, spec.drain.rate, connections, now
        )
        disconnecting = []
        for pod in known.tracker.edge_pods():
            if pod.key in overloaded:
                count = await self._admin.shed(pod, token, overloaded[pod.key])
                if count:
                    disconnecting.append(f"{pod.name} disconnects {count} clients")
        if not disconnecting:
            return ""
        return f"Rebalancing connections (mean {mean:.0f} per edge): {'; '.join(disconnecting)}."
