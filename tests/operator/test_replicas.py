"""A replicated store: which pod is replaced next, the steps to one server, the condition."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from support.brokers import NAMESPACE, NOW, spec_of
from support.operator_harness import Harness, harness
from tidegate_operator import names
from tidegate_operator.live_state import Pod, Workload
from tidegate_operator.replicas.condition import PATIENCE, lasting_problem, store_replicated
from tidegate_operator.replicas.phase import phase
from tidegate_operator.replicas.rollout import replacement
from tidegate_operator.replicas.servers import StoreServer, parse_server
from tidegate_operator.spec.problems import parse
from tidegate_operator.spec.status import Reason

PRIMARY = StoreServer("primary", is_confirmed=True, in_sync=2, replicas=2)
REPLICA = StoreServer("replica", link_up=True, replicas=2)
SERVERS = {"demo-redis-0": REPLICA, "demo-redis-1": PRIMARY, "demo-redis-2": REPLICA}


def pods(*revisions: str, **changes: Any) -> list[Pod]:
    base = Pod("", "redis", "hash", True, False, "", revision="new", has_admin_port=True)
    return [
        replace(base, name=f"demo-redis-{number}", revision=revision, node=f"n{number}", **changes)
        for number, revision in enumerate(revisions)
    ]


def stateful_set(replicas: int = 3, observed: int = 1) -> dict[str, Any]:
    labels = {names.METRICS_LABEL: "true"}
    return {
        "metadata": {"name": "demo-redis", "generation": 1},
        "spec": {
            "replicas": replicas,
            "updateStrategy": {"type": "OnDelete"},
            "template": {
                "metadata": {"labels": labels, "annotations": {names.RESTART_HASH: "hash"}}
            },
        },
        "status": {"observedGeneration": observed, "updateRevision": "new"},
    }


def next_of(
    own: list[Pod], servers: dict[str, StoreServer] | None = None, *, is_last: bool = True
) -> tuple[list[str], str]:
    found = replacement(
        stateful_set(), own, SERVERS if servers is None else servers, is_last=is_last
    )
    return [pod.name for pod in found.pods], found.waits


# Replacing pods


def test_replicas_are_replaced_first_and_the_primary_last() -> None:
    assert next_of(pods("old", "old", "old")) == (["demo-redis-2"], "")
    assert next_of(pods("old", "old", "new")) == (["demo-redis-0"], "")
    assert next_of(pods("new", "old", "new")) == (["demo-redis-1"], "")
    assert next_of(pods("new", "new", "new")) == ([], "")


def test_nothing_is_replaced_while_another_pod_is_not_in_step() -> None:
    own = pods("old", "old", "new")
    own[2] = replace(own[2], is_ready=False)
    assert next_of(own) == ([], "the next pod of the store waits until demo-redis-2 is in step")
    own[2] = replace(own[2], is_ready=True, is_terminating=True)
    assert next_of(own)[0] == []
    assert next_of(pods("old", "old"))[0] == []


def test_a_pod_that_serves_nothing_is_replaced_first() -> None:
    own = pods("old", "old", "new")
    own[0] = replace(own[0], is_ready=False)
    own[2] = replace(own[2], is_ready=False)
    assert next_of(own) == (["demo-redis-0"], "")
    # But not the primary, not ready as it may be.
    own = pods("new", "old", "new")
    own[1] = replace(own[1], is_ready=False)
    assert next_of(own)[0] == []


def test_the_store_is_last() -> None:
    found, waits = next_of(pods("old", "old", "old"), is_last=False)
    assert (found, "until edges and routers serve" in waits) == ([], True)


def test_the_primary_waits_until_every_replica_can_be_promoted() -> None:
    servers = SERVERS | {"demo-redis-2": replace(REPLICA, replicas=1)}
    found, waits = next_of(pods("new", "old", "new"), servers)
    assert (found, "Sentinel knows all replicas" in waits) == ([], True)


def test_a_single_server_that_got_replicas_is_replaced_by_one_with_sentinel() -> None:
    """It reports nothing, and is what the replicas follow."""
    own = pods("old", "new", "new")
    own[0] = replace(own[0], has_admin_port=False, restart_hash="of a single server")
    servers = {"demo-redis-1": REPLICA, "demo-redis-2": REPLICA}
    assert next_of(own, servers) == (["demo-redis-0"], "")
    assert next_of(own, servers, is_last=False)[0] == []


def test_a_new_password_replaces_all_at_once() -> None:
    own = pods("old", "old", "old", restart_hash="other")
    assert len(next_of(own, is_last=False)[0]) == 3


def test_a_controller_that_is_behind_is_waited_for() -> None:
    found = replacement(stateful_set(observed=0), pods("old"), {}, is_last=True)
    assert not found.pods
    assert not replacement(None, pods("old"), {}, is_last=True).pods


# From three servers to one


def step(
    servers: dict[str, StoreServer], own: list[Pod], live: int, **bundled: Any
) -> tuple[int, int | None, str]:
    """Return how many servers are rendered, how many pods, and who is to be the primary."""
    spec = parse("demo", spec_of(redis={"bundled": bundled}))
    found = phase("demo", NAMESPACE, spec, stateful_set(live), own, servers)
    assert found.spec.redis.own is not None
    return found.spec.redis.own.replicas, found.pods, found.wanted_primary


HOST = "demo-redis-0.demo-redis.iot.svc"
FIRST = {"demo-redis-0": PRIMARY, "demo-redis-1": REPLICA, "demo-redis-2": REPLICA}
ALONE = {"demo-redis-0": replace(PRIMARY, in_sync=0)}


@pytest.mark.parametrize(
    ("servers", "count", "live", "wanted"),
    [
        # The first one is to become the primary; it may not report at the moment.
        (SERVERS, 3, 3, (3, 3, HOST)),
        ({}, 3, 3, (3, 3, HOST)),
        # It is: the others end, and nothing else is changed meanwhile.
        (FIRST, 3, 3, (3, 1, HOST)),
        (FIRST, 3, 1, (3, 1, HOST)),
        ({}, 1, 1, (3, 1, HOST)),
        # They have ended.
        (ALONE, 1, 1, (1, None, "")),
        # A failover came in between: they must come back.
        ({"demo-redis-0": REPLICA}, 1, 1, (3, 3, HOST)),
    ],
)
def test_a_store_is_reduced_in_steps(
    servers: dict[str, StoreServer], count: int, live: int, wanted: tuple[int, int | None, str]
) -> None:
    assert step(servers, pods(*["new"] * count), live) == wanted


def test_what_is_to_have_three_servers_is_rendered_so() -> None:
    assert step(SERVERS, pods("new", "new", "new"), 3, replicas=3) == (3, None, "")


# What an operator does


async def replicated(**changes: Any) -> Harness:
    it = await harness("minimal", redis={"bundled": {"replicas": 3}}, **changes)
    it.admin.store = dict(SERVERS)
    await it.reconcile()
    serve(it)
    await it.reconcile()
    return it


def serve(it: Harness) -> None:
    """Let all pods be ready, each on a node of its own, of the revisions that they had."""
    before = {one["metadata"]["name"]: one for one in it.cluster.pods_there}
    it.make_ready()
    it.fake.get("StatefulSet", "demo-redis")["status"]["updateRevision"] = "r"
    for one in it.cluster.pods_there:
        name = one["metadata"]["name"]
        one["spec"]["nodeName"] = f"node-{name}"
        old = before.get(name, {"metadata": {"labels": {}}})["metadata"]["labels"]
        one["metadata"]["labels"]["controller-revision-hash"] = old.get(
            "controller-revision-hash", "r"
        )


def shape(it: Harness) -> tuple[int, set[str]]:
    """Return how many pods the store has, and their containers."""
    spec = it.fake.get("StatefulSet", "demo-redis")["spec"]
    containers = spec["template"]["spec"]["containers"]
    return spec["replicas"], {one["name"] for one in containers if "name" in one}


async def test_a_replicated_store_says_so() -> None:
    it = await replicated()
    assert it.conditions()["StoreReplicated"] == ("True", "Replicated")
    assert "2 replicas are in step with the primary demo-redis-1" in it.message("StoreReplicated")
    router = it.fake.get("ConfigMap", "demo-router")["data"][names.CONFIG_FILE]
    assert "redis+sentinel://" in router
    assert "durability: replicated" in router


async def test_pods_of_an_old_template_are_deleted_one_by_one() -> None:
    it = await replicated()
    it.fake.get("StatefulSet", "demo-redis")["status"]["updateRevision"] = "newer"
    it.fake.writes.clear()
    await it.reconcile()
    assert [one for one in it.fake.writes if one[0] == "delete"] == [
        ("delete", "Pod", "demo-redis-2")
    ]
    assert "pod demo-redis-2 of the store is replaced" in it.message("Progressing")


@pytest.mark.parametrize("windows", [[], [{"schedule": "0 2 * * *"}]])
async def test_the_steps_to_one_server(windows: list[dict[str, Any]]) -> None:
    """All of them are the user's change: none waits for a maintenance window."""
    maintenance = {"windows": windows}
    it = await replicated(maintenance=maintenance)
    it.put_spec(spec_of("minimal", maintenance=maintenance))
    await it.reconcile()
    config = it.fake.get("ConfigMap", "demo-redis")["data"][names.STORE_MEMBER_FILE]
    assert f'"wanted_primary": "{HOST}"' in config
    assert it.fake.get("StatefulSet", "demo-redis")["spec"]["replicas"] == 3
    assert "once pod demo-redis-0 is the primary" in it.message("Progressing")
    it.admin.store = dict(FIRST)
    await it.reconcile()
    assert shape(it) == (1, {"tidegate", "sentinel"})
    it.admin.store = dict(ALONE)
    serve(it)
    before = it.hashes()[1]
    # The StatefulSet is created again around its pod.
    for _ in range(2):
        await it.reconcile()
    assert it.cluster.orphaned == ["demo-redis"]
    assert shape(it) == (1, {"tidegate"})
    # Routers are replaced, because they go to another store.
    assert it.hashes()[1] != before
    assert "updateStrategy" not in it.fake.get("StatefulSet", "demo-redis")["spec"]
    assert ("PodDisruptionBudget", "demo-redis") not in {
        (kind, name) for _, kind, _, name in it.fake.objects
    }


async def test_a_single_server_gets_replicas_before_its_own_pod_is_replaced() -> None:
    """Routers of the new image need Sentinels to be ready: the store must not wait for them."""
    it = await harness("minimal")
    await it.settle()
    it.put_spec(
        spec_of("minimal", redis={"bundled": {"replicas": 3}}, image="registry.example/t:2")
    )
    await it.reconcile()
    assert it.cluster.orphaned == ["demo-redis"]
    await it.reconcile()
    assert shape(it) == (3, {"tidegate", "sentinel"})
    it.fake.writes.clear()
    await it.reconcile()
    assert "Pod" not in {kind for verb, kind, _ in it.fake.writes if verb == "delete"}


# The condition


def value(servers: dict[str, StoreServer] | None, own: list[Pod]) -> tuple[str, Reason, str] | None:
    return store_replicated(Workload(desired=3, exists=True), own, servers)


def test_what_the_condition_says() -> None:
    own = pods("new", "new", "new")
    assert value(None, own) is None
    reduced = store_replicated(Workload(desired=1, exists=True), own[:1], ALONE)
    assert reduced is not None
    assert reduced[2] == "The store is being reduced to one server."
    late = SERVERS | {
        "demo-redis-1": replace(PRIMARY, in_sync=1),
        "demo-redis-2": replace(REPLICA, link_up=False),
    }
    for servers, there, status, reason, words in (
        (SERVERS, own, "True", Reason.REPLICATED, "bytes behind"),
        ({}, own, "Unknown", Reason.NOT_REPORTED, "port 18083"),
        ({"demo-redis-0": REPLICA}, own, "False", Reason.NO_PRIMARY, "durable publishes wait"),
        (late, own, "False", Reason.NOT_REPLICATED, "(not demo-redis-2). Clients are served"),
        (ALONE, own, "False", Reason.NOT_REPLICATED, "wait unacknowledged"),
        (SERVERS, [replace(pod, node="n") for pod in own], "False", Reason.SHARED_NODE, "node n"),
    ):
        found = value(servers, there)
        assert found is not None
        assert found[:2] == (status, reason)
        assert words in found[2]


def test_what_lasts_is_a_problem() -> None:
    found = ("False", Reason.NOT_REPLICATED, "one is missing")
    last = {"status": "False", "lastTransitionTime": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")}
    assert lasting_problem(found, last, NOW + PATIENCE) == "one is missing"
    assert not lasting_problem(found, last, NOW + PATIENCE - datetime.timedelta(seconds=1))
    assert not lasting_problem(found, {}, NOW + PATIENCE)
    assert not lasting_problem(("False", Reason.SHARED_NODE, "x"), last, NOW + PATIENCE)


async def test_a_replica_that_stays_away_degrades_the_broker() -> None:
    it = await replicated()
    it.admin.store = {"demo-redis-0": REPLICA, "demo-redis-1": replace(PRIMARY, in_sync=1)}
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert it.conditions()["StoreReplicated"] == ("False", "NotReplicated")
    it.pass_time(PATIENCE.total_seconds())
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "StoreNotReplicated")


@pytest.mark.parametrize("body", [None, [], {}, {"role": 1}, "primary"])
def test_what_is_no_report_is_none(body: object) -> None:
    assert parse_server(body) is None


def test_a_report_of_another_version_is_read_as_far_as_it_goes() -> None:
    body = {"role": "primary", "host": "a", "primary": "a", "in_sync": "many", "extra": 1}
    assert parse_server(body) == StoreServer("primary", is_confirmed=True)
