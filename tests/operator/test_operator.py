"""The whole operator with kopf, against a cluster behind HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import functools
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import kopf
import pytest

from support.brokers import NAMESPACE, UID, spec_of
from support.fake_api import FakeApi
from support.fake_cluster import FakeCluster, Object
from support.waiting import wait_for_async
from tidegate_operator import handlers, names
from tidegate_operator.spec import crd

DEADLINE_S = 20.0
#: Sooner than brokers are looked at without a reason.
SEEN_S = 6.0


class Run:
    """A running operator and its cluster."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.cluster = api.cluster

    def put(self, name: str, spec: dict[str, Any], *, tell: bool = True) -> Object:
        """Write a broker as kubectl does."""
        key = (names.API_VERSION, names.KIND, NAMESPACE, name)
        there = self.cluster.objects.get(key)
        if there is None:
            metadata = {"name": name, "namespace": NAMESPACE, "uid": f"{UID}-{name}"}
            there = {"apiVersion": key[0], "kind": key[1], "metadata": metadata}
        metadata = there["metadata"]
        metadata["generation"] = metadata.get("generation", 0) + 1
        metadata["resourceVersion"] = str(metadata["generation"])
        there["spec"] = copy.deepcopy(spec)
        self.cluster.objects[key] = there
        if tell:
            self.api.changed(there)
        return there

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        found = self.cluster.get(names.KIND, name).get("status", {}).get("conditions", [])
        return next(
            ((one["status"], one["reason"]) for one in found if one["type"] == kind), ("", "")
        )

    async def until(self, name: str, kind: str, reason: str) -> None:
        await wait_for_async(
            lambda: self.condition(name, kind)[1] == reason, DEADLINE_S, f"{kind} {reason}"
        )

    def make_ready(self) -> None:
        """Do what controllers do."""
        for one in self.cluster.objects.values():
            if one["kind"] in {"Deployment", "StatefulSet"}:
                count = one["spec"]["replicas"]
                one["status"] = {
                    "observedGeneration": one["metadata"]["generation"],
                    "replicas": count,
                    "readyReplicas": count,
                    "updatedReplicas": count,
                }
                self.api.changed(one)


@contextlib.asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, *before: str
) -> AsyncIterator[Run]:
    api = FakeApi(cluster)
    await api.start()
    run = Run(api)
    for name in before:
        run.put(name, spec_of(), tell=False)

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=api.url)

    monkeypatch.setattr(handlers, "log_in", log_in)
    operator = handlers.Operator(handlers.Options("image:1", "system", resync_s=3600))
    ready, stop = threading.Event(), threading.Event()
    # In a loop of its own, as kopf waits at its end for every task that there is.
    thread = threading.Thread(
        target=lambda: asyncio.run(
            kopf.operator(
                registry=handlers.register(operator),
                standalone=True,
                clusterwide=True,
                ready_flag=ready,
                stop_flag=stop,
            )
        )
    )
    thread.start()
    try:
        await wait_for_async(ready.is_set, DEADLINE_S, "the operator is ready")
        yield run
        assert not api.unknown
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, DEADLINE_S)
        assert not thread.is_alive()
        await api.stop()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


async def test_a_broker_comes_changes_and_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, FakeCluster()) as run:
        definition = run.cluster.get("CustomResourceDefinition", names.CRD_NAME)
        assert definition["metadata"]["annotations"][names.CRD_REVISION] == str(crd.REVISION)

        run.put("demo", spec_of())
        await run.until("demo", "Progressing", "RollingOut")
        run.make_ready()
        await run.until("demo", "Ready", "Serving")

        before = run.api.asked.copy()
        generation = run.put("demo", spec_of())["metadata"]["generation"]
        await wait_for_async(
            lambda: (
                run.cluster.get(names.KIND, "demo")["status"]["observedGeneration"] == generation
            ),
            DEADLINE_S,
            "it has been looked at",
        )
        # Nobody has touched anything that was made, so nobody asks for it.
        assert {kind for _, kind in run.api.asked - before} <= {names.KIND, "Event"}

        run.put("demo", spec_of(edge={"replicas": 7}))
        await wait_for_async(
            lambda: run.cluster.get("Deployment", "demo-edge")["spec"]["replicas"] == 7,
            DEADLINE_S,
            "seven edges",
        )
        run.put("demo", spec_of(listeners=[]))
        await run.until("demo", "Degraded", "InvalidSpec")
        run.put("demo", spec_of())
        await run.until("demo", "Degraded", "AsExpected")

        broken = run.cluster.get("Deployment", "demo-router")
        broken["spec"]["replicas"] = 0
        run.api.changed(broken)
        await wait_for_async(
            lambda: run.cluster.get("Deployment", "demo-router")["spec"]["replicas"] == 2,
            DEADLINE_S,
            "the routers are back",
        )
        broker = run.cluster.get(names.KIND, "demo")
        # kopf would put both there for other kinds of handlers.
        assert "finalizers" not in broker["metadata"]
        assert "annotations" not in broker["metadata"]


async def test_an_operator_that_starts_again_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FakeCluster()
    async with running(monkeypatch, cluster, "one", "two") as run:
        for name in ("one", "two"):
            await run.until(name, "Progressing", "RollingOut")
        run.make_ready()
        for name in ("one", "two"):
            await run.until(name, "Ready", "Serving")
    cluster.writes.clear()
    async with running(monkeypatch, cluster) as run:
        await wait_for_async(
            lambda: run.api.asked[("GET", names.KIND)] >= 2, DEADLINE_S, "both are looked at"
        )
        run.put("three", spec_of())
        await run.until("three", "Progressing", "RollingOut")
    assert {name.partition("-")[0] for _, _, name in cluster.writes} == {"three"}


def has_passwords(cluster: FakeCluster, wanted: dict[str, str]) -> bool:
    found = cluster.objects.get(("v1", "Secret", NAMESPACE, "demo-edge"), {"data": {}})
    return bool(found["data"].get("passwords") == wanted["passwords"])


async def test_what_a_spec_refers_to_is_looked_at_when_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def passwords(text: str) -> Object:
        metadata = {"name": "users", "namespace": NAMESPACE, "resourceVersion": text}
        data = {"passwords": base64.b64encode(text.encode()).decode()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}

    async with running(monkeypatch, FakeCluster()) as run:
        # The resync is an hour away: only what is seen can be the reason to look.
        run.put("demo", spec_of(auth={"passwords": {"secretName": "users"}}))
        await run.until("demo", "Degraded", "ReferenceMissing")
        for text in ("alice:1", "alice:2"):
            users = passwords(text)
            run.cluster.objects["v1", "Secret", NAMESPACE, "users"] = users
            run.api.changed(users)
            await wait_for_async(
                functools.partial(has_passwords, run.cluster, users["data"]),
                SEEN_S,
                f"pods get {text}",
            )
        await run.until("demo", "Degraded", "AsExpected")
