"""Pods as the operator asks them: by default all of them use what is in the cluster."""

from __future__ import annotations

from collections.abc import Iterable

from support.fake_cluster import FakeCluster, Object
from tidegate.runtime.config.file_version import digest_of
from tidegate_operator import names
from tidegate_operator.live_state import Pod
from tidegate_operator.pods.config_state import PodReport, PollResult, ReportedConfig, ReportedFile
from tidegate_operator.render.inputs import decoded
from tidegate_operator.replicas.servers import StoreServer


class FakePods:
    """``Admin`` in memory. ``answers`` (by name of the pod) are instead of the usual ones."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self.answers: dict[str, PodReport] = {}
        #: Clients of an edge, by name; of all others there are ``connections``.
        self.clients: dict[str, int] = {}
        self.connections = 0
        #: Names of the pods that were asked, round by round, and with which tokens.
        self.rounds: list[list[str]] = []
        self.tokens: list[bytes] = []
        self.shedding: list[tuple[str, int]] = []
        #: Reports of the store's servers, by name of the pod.
        self.store: dict[str, StoreServer] = {}
        #: Whether edges know how to let clients go.
        self.can_shed = True

    async def poll(self, pods: Iterable[Pod], token: bytes) -> dict[str, PodReport]:
        found = list(pods)
        self.rounds.append([pod.name for pod in found])
        self.tokens.append(token)
        return {pod.key: self.answers.get(pod.name) or self.usual(pod) for pod in found}

    async def shed(self, pod: Pod, token: bytes, connections: int) -> int | None:
        self.shedding.append((pod.name, connections))
        return connections if self.can_shed else None

    async def servers(self, pods: Iterable[Pod]) -> dict[str, StoreServer]:
        return {pod.name: self.store[pod.name] for pod in pods if pod.name in self.store}

    def usual(self, pod: Pod) -> PodReport:
        """Return what a pod says that uses everything as it is in the cluster now."""
        workload = pod.name.rpartition("-")[0]
        config = usual_report(
            self._cluster.get("ConfigMap", workload), self._cluster.get("Secret", workload)
        )
        count = self.clients.get(pod.name, self.connections)
        return PodReport(PollResult.REPORTED, count if pod.component == "edge" else None, config)


def usual_report(config_map: Object, secret: Object) -> ReportedConfig:
    """Return what a pod says that uses all of a ConfigMap and a Secret."""
    files = {
        f"{names.FILES_DIR}/{name}": ReportedFile(digest_of(content))
        for name, content in decoded(secret).items()
    }
    config = config_map["data"][names.CONFIG_FILE].encode()
    return ReportedConfig(ReportedFile(digest_of(config)), files=files)
