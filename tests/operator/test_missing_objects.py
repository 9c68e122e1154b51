"""Autoscalers and routes that are deleted or changed while the newest spec is refused.

Input: a broker that serves, a spec that is refused, and what somebody does then. Output: the object
as it was applied with the spec before. ``test_upkeep`` has the other kinds.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.brokers import ALL_OPTIONAL, spec_of
from support.operator_harness import Harness

ROUTES = {
    "TLSRoute": "gateway.networking.k8s.io/v1alpha3",
    "TCPRoute": "gateway.networking.k8s.io/v1alpha2",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}
NEWER_ROUTES = ROUTES | {"TCPRoute": "gateway.networking.k8s.io/v1"}
GATEWAY = {"parentRefs": [{"name": "public"}]}
OTHER_GATEWAY = {"parentRefs": [{"name": "other"}]}
BASE = spec_of(
    "headline",
    listeners=[
        {"name": "mqtt", "gateway": GATEWAY},
        {"name": "web", "protocol": "ws", "gateway": GATEWAY},
    ],
    edge={"autoscaling": {"minReplicas": 3, "maxReplicas": 5}},
)
SCALED = {"edge": {"autoscaling": {"minReplicas": 7, "maxReplicas": 9}}}
UNSCALED = {"edge": {"replicas": 8}}
OTHER_ROUTES = {"listeners": [{"name": "mqtt", "gateway": OTHER_GATEWAY}]}
UNROUTED = {"listeners": [{"name": "mqtt"}]}
CONSOLE = {"console": {"enabled": True}}
ROUTERS = {"router": {"replicas": 5}}

#: What the spec changes, and what the API server rejects.
Refusal = tuple[dict[str, Any], tuple[str, str] | None]
REFUSALS: dict[str, Refusal] = {
    "invalid": (SCALED | OTHER_ROUTES | {"redis": {"external": {"url": "http://x"}}}, None),
    "wrong autoscaling": (
        OTHER_ROUTES | {"edge": {"autoscaling": {"minReplicas": 9, "maxReplicas": 7}}},
        None,
    ),
    "wrong gateway": (SCALED | {"listeners": [{"name": "mqtt", "gateway": {}}]}, None),
    "missing": (
        SCALED | OTHER_ROUTES | {"acl": {"source": {"configMapName": "nowhere"}}},
        None,
    ),
    "rejected": (SCALED | OTHER_ROUTES | ROUTERS, ("Deployment", "demo-router")),
    "without any": (UNSCALED | UNROUTED, ("Deployment", "demo-edge")),
}
OBJECTS = [
    ("HorizontalPodAutoscaler", "demo-edge"),
    ("TCPRoute", "demo-mqtt"),
    ("HTTPRoute", "demo-web"),
]


async def serving(base: dict[str, Any] = BASE) -> Harness:
    found = Harness(base)
    found.cluster.kinds = {**ALL_OPTIONAL, **ROUTES}
    found.put_contents(base)
    await found.settle()
    return found


async def refused(kind: str) -> Harness:
    changes, rejected = REFUSALS[kind]
    it = await serving()
    if rejected is not None:
        it.fake.refuse[rejected] = "no"
    it.put_spec(BASE | copy.deepcopy(changes))
    await it.reconcile()
    assert it.conditions()["Degraded"][0] == "True"
    return it


def refs(it: Harness) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in it.fake.all()}


async def is_quiet(it: Harness) -> bool:
    """Whether further looks write nothing."""
    it.fake.writes.clear()
    for _ in range(2):
        await it.reconcile()
    return not it.fake.writes


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize(("what", "name"), OBJECTS)
@pytest.mark.parametrize("is_new", [False, True], ids=["same operator", "new operator"])
async def test_what_is_deleted_comes_back_as_it_was_applied(
    what: str, name: str, kind: str, is_new: bool
) -> None:
    it = await refused(kind)
    if is_new:
        it.start_anew()
    before = copy.deepcopy(it.fake.get(what, name))
    it.fake.delete(what, name)
    await it.reconcile()
    after = it.fake.get(what, name)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert await is_quiet(it)


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize(
    ("what", "name", "field", "value"),
    [
        ("HorizontalPodAutoscaler", "demo-edge", "maxReplicas", 99),
        ("TCPRoute", "demo-mqtt", "parentRefs", []),
    ],
)
async def test_what_somebody_changes_is_put_back(
    what: str, name: str, field: str, value: object, kind: str
) -> None:
    it = await refused(kind)
    live = it.fake.get(what, name)
    before = copy.deepcopy(live["spec"])
    live["spec"][field] = value
    await it.reconcile()
    assert it.fake.get(what, name)["spec"] == before


@pytest.mark.parametrize("kind", REFUSALS)
async def test_the_replicas_that_the_autoscaler_has_set_stay(kind: str) -> None:
    it = await refused(kind)
    deployment = it.fake.get("Deployment", "demo-edge")
    deployment["spec"]["replicas"] = 4
    it.fake.delete("HorizontalPodAutoscaler", "demo-edge")
    await it.reconcile()
    assert it.fake.get("Deployment", "demo-edge")["spec"]["replicas"] == 4


@pytest.mark.parametrize("kind", ["invalid", "missing", "rejected"])
async def test_an_autoscaler_of_the_refused_spec_is_not_made(kind: str) -> None:
    changes, rejected = REFUSALS[kind]
    it = await serving(spec_of("headline"))
    if rejected is not None:
        it.fake.refuse[rejected] = "no"
    it.put_spec(spec_of("headline") | copy.deepcopy(changes))
    for _ in range(2):
        await it.reconcile()
    assert not {one for one in refs(it) if one[0] in {*ROUTES, "HorizontalPodAutoscaler"}}


async def test_an_autoscaler_does_not_come_back_to_pods_of_a_spec_without_it() -> None:
    """Their Deployment was applied before something else was rejected: two would scale it."""
    it = await serving()
    it.fake.refuse_late["Deployment", "demo-console"] = "no"
    it.put_spec(BASE | UNSCALED | CONSOLE)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "ApplyRefused")
    assert it.fake.get("Deployment", "demo-edge")["spec"]["replicas"] == 8
    it.fake.delete("HorizontalPodAutoscaler", "demo-edge")
    assert await is_quiet(it)
    assert OBJECTS[0] not in refs(it)


async def test_an_autoscaler_comes_back_to_pods_of_the_spec_before() -> None:
    """What is rejected after its dry run is the Deployment itself."""
    it = await serving()
    it.fake.refuse_late["Deployment", "demo-edge"] = "no"
    it.put_spec(BASE | UNSCALED)
    await it.reconcile()
    it.fake.delete("HorizontalPodAutoscaler", "demo-edge")
    await it.reconcile()
    assert it.fake.get("HorizontalPodAutoscaler", "demo-edge")["spec"]["maxReplicas"] == 5


@pytest.mark.parametrize("is_deleted", [False, True], ids=["changed", "deleted"])
async def test_what_the_newest_spec_has_reached_is_not_taken_back(is_deleted: bool) -> None:
    """A Service that was accepted before a Deployment was rejected: it used to be written twice in
    each look, as the newest spec says and as the one before."""
    it = await serving()
    it.fake.refuse_late["Deployment", "demo-router"] = "no"
    if is_deleted:
        it.fake.delete("Service", "demo")
    it.put_spec(BASE | ROUTERS | {"service": {"type": "NodePort"}})
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "ApplyRefused")
    assert it.fake.get("Service", "demo")["spec"]["type"] == "NodePort"
    assert await is_quiet(it)


async def test_a_route_of_a_version_that_the_cluster_has_no_more_is_left_out() -> None:
    it = await refused("missing")
    it.cluster.kinds = {**ALL_OPTIONAL, **NEWER_ROUTES}
    it.fake.delete("TCPRoute", "demo-mqtt")
    assert await is_quiet(it)
    assert "TCPRoute" not in it.message("Degraded")


async def test_a_route_that_was_reached_is_not_taken_back_while_it_is_not_listed() -> None:
    """Routes are listed only for brokers that ask for one: others are read by name."""
    it = await refused("without any")
    route = it.fake.get("TCPRoute", "demo-mqtt")
    del route["metadata"]["labels"]["app.kubernetes.io/instance"]
    route["metadata"]["annotations"]["tidegate.io/applied-hash"] = "of a newer spec"
    before = copy.deepcopy(route)
    assert await is_quiet(it)
    assert it.fake.get("TCPRoute", "demo-mqtt") == before
