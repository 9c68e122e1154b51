"""A cluster with one broker, and an operator without a process: what ``reconcile`` is tried on."""

from __future__ import annotations

import copy
import datetime
from typing import Any

from support.brokers import NAMESPACE, NOW, UID, contents_for, spec_of
from support.fake_cluster import FakeCluster
from support.fake_kube_api import FakeKubeApi
from support.fake_pods import FakePods
from tidegate_operator import names
from tidegate_operator.names import RESTART_HASH
from tidegate_operator.reconcile.reconciler import Outcome, Reconciler
from tidegate_operator.render.inputs import Settings, encoded
from tidegate_operator.rollout.gate import RolloutGate
from tidegate_operator.spec.problems import parse


class Harness:
    """A cluster with one broker, and an operator with a clock of its own."""

    def __init__(self, spec: dict[str, Any], name: str = "demo") -> None:
        self.cluster = FakeKubeApi()
        self.now = NOW
        self.name = name
        self.admin = FakePods(self.cluster.fake)
        self.start_anew()
        self.put_spec(spec)

    def start_anew(
        self, gate: RolloutGate | None = None, image: str = "registry.example/tidegate:1"
    ) -> None:
        """Have an operator that remembers nothing."""
        self.reconciler = Reconciler(
            self.cluster, Settings(image), lambda: self.now, self.admin, gate=gate
        )

    @property
    def fake(self) -> FakeCluster:
        return self.cluster.fake

    def put_spec(self, spec: dict[str, Any]) -> None:
        key = (names.API_VERSION, names.KIND, NAMESPACE, self.name)
        metadata = {"name": self.name, "namespace": NAMESPACE, "uid": UID}
        old = self.fake.objects.get(key, {})
        generation = old.get("metadata", {}).get("generation", 0) + 1
        self.fake.objects[key] = {
            **old,
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": metadata | {"generation": generation},
            "spec": copy.deepcopy(spec),
        }

    def put_contents(self, spec: dict[str, Any]) -> None:
        """Make whatever a spec refers to."""
        for (kind, name), data in contents_for(parse(self.name, spec), self.name).items():
            self.put_data(kind, name, data)

    def put_data(self, kind: str, name: str, data: dict[str, bytes]) -> None:
        values = (
            encoded(data)
            if kind == "Secret"
            else {key: value.decode() for key, value in data.items()}
        )
        key = ("v1", kind, NAMESPACE, name)
        metadata = {"name": name, "namespace": NAMESPACE}
        self.fake.objects[key] = {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": metadata,
            "data": values,
        }

    def make_ready(self) -> None:
        """Do what the controllers and kubelets of a cluster do."""
        self.cluster.pods_there = []
        for one in self.fake.objects.values():
            if one["kind"] == "Service" and one["spec"]["type"] == "LoadBalancer":
                one["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
            if one["kind"] not in {"Deployment", "StatefulSet"}:
                continue
            count, metadata = one["spec"]["replicas"], one["metadata"]
            one["status"] = {
                "observedGeneration": metadata["generation"],
                "replicas": count,
                "readyReplicas": count,
                "updatedReplicas": count,
            }
            template = one["spec"]["template"]["metadata"]
            grace_s = one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            kind = metadata["name"]
            for number in range(count):
                self.cluster.pods_there.append(
                    {
                        "metadata": copy.deepcopy(template)
                        | {"name": f"{metadata['name']}-{number}", "uid": f"uid-{number}-{kind}"},
                        "spec": {"terminationGracePeriodSeconds": grace_s},
                        "status": {
                            "conditions": [{"type": "Ready", "status": "True"}],
                            "podIP": "10.0.0.1",
                        },
                    }
                )

    async def reconcile(self) -> Outcome:
        return await self.reconciler.reconcile(NAMESPACE, self.name)

    async def settle(self) -> Outcome:
        await self.reconcile()
        self.make_ready()
        return await self.reconcile()

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.fake.get(names.KIND, self.name)["status"]
        return found

    def conditions(self) -> dict[str, tuple[str, str]]:
        return {one["type"]: (one["status"], one["reason"]) for one in self.status["conditions"]}

    def message(self, condition: str) -> str:
        """Return what a condition says."""
        found = {one["type"]: one["message"] for one in self.status["conditions"]}
        return str(found[condition])

    def pass_time(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)

    def hashes(self) -> list[str]:
        return [
            self.fake.get("Deployment", f"{self.name}-{one}")["spec"]["template"]["metadata"][
                "annotations"
            ][RESTART_HASH]
            for one in ("edge", "router")
        ]


async def harness(name: str = "minimal", **changes: Any) -> Harness:
    spec = spec_of(name, **changes)
    found = Harness(spec)
    found.put_contents(spec)
    return found
