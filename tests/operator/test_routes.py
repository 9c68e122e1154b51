"""Routes of the Gateway API: of which kind, to what, what is said of them, and when they go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support.brokers import ALL_OPTIONAL, NAMESPACE, UID, spec_of
from support.fake_kube_api import FakeKubeApi
from support.operator_harness import Harness
from support.virtual_time import run_virtual
from tidegate_operator import names
from tidegate_operator.kube.cache import OPTIONAL_TTL_S, ROUTES_TTL_S, CachedCluster
from tidegate_operator.spec.problems import SpecError, parse

GROUP = "gateway.networking.k8s.io"
KINDS = {
    "TLSRoute": f"{GROUP}/v1alpha3",
    "TCPRoute": f"{GROUP}/v1alpha2",
    "HTTPRoute": f"{GROUP}/v1",
}
PARENT = {"name": "public", "namespace": "infra", "sectionName": "mqtt"}
NAMED = {"parentRefs": [PARENT], "hostnames": ["mqtt.example.com"]}
UNNAMED = {"parentRefs": [PARENT]}
SELF_SIGNED = {"selfSigned": True}
LISTENERS: list[dict[str, Any]] = [
    {"name": "plain", "gateway": UNNAMED},
    {"name": "tls", "protocol": "tls", "tls": SELF_SIGNED, "gateway": NAMED},
    {"name": "web", "protocol": "ws", "gateway": NAMED, "service": {"type": "ClusterIP"}},
    {"name": "other", "protocol": "wss", "tls": SELF_SIGNED},
]


async def harness(
    listeners: list[dict[str, Any]] = LISTENERS, kinds: dict[str, str] = KINDS
) -> Harness:
    spec = spec_of(listeners=listeners)
    found = Harness(spec)
    found.cluster.kinds = {**ALL_OPTIONAL, **kinds}
    found.put_contents(spec)
    await found.settle()
    return found


def routes(it: Harness) -> list[dict[str, Any]]:
    return [one for one in it.fake.all() if one["kind"].endswith("Route")]


def answer(it: Harness, kind: str, name: str, parent: dict[str, Any] = PARENT, **said: str) -> None:
    """Have a Gateway answer; ``said`` has the status of each type of condition."""
    route = it.fake.get(kind, name)
    conditions = [
        {
            "type": one,
            "status": status,
            "reason": "NotAllowedByListeners" if status == "False" else one,
            "message": "no listener takes it" if status == "False" else "",
            "observedGeneration": route["metadata"].get("generation", 0),
        }
        for one, status in said.items()
    ]
    route["status"] = {"parents": [{"parentRef": parent, "conditions": conditions}]}


def shown(it: Harness, listener: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in it.status["listeners"] if one["name"] == listener)[
        "route"
    ]
    return found


async def test_each_listener_has_the_route_of_its_protocol_in_the_clusters_version() -> None:
    it = await harness()
    found = {one["metadata"]["name"]: one for one in routes(it)}
    assert {name: (one["apiVersion"], one["kind"]) for name, one in found.items()} == {
        "demo-plain": (f"{GROUP}/v1alpha2", "TCPRoute"),
        "demo-tls": (f"{GROUP}/v1alpha3", "TLSRoute"),
        "demo-web": (f"{GROUP}/v1", "HTTPRoute"),
    }
    assert found["demo-plain"]["spec"] == {
        "parentRefs": [PARENT],
        "rules": [{"backendRefs": [{"name": "demo", "port": 1883}]}],
    }
    assert found["demo-tls"]["spec"]["hostnames"] == ["mqtt.example.com"]
    (rule,) = found["demo-web"]["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "demo-web", "port": 8083}]
    assert [one["path"]["value"] for one in rule["matches"]] == ["/mqtt", "/ws", "/"]
    assert rule["timeouts"] == {"request": "0s"}
    assert found["demo-web"]["metadata"]["ownerReferences"][0]["uid"] == UID


async def test_many_paths_fit_into_rules_of_eight() -> None:
    paths = [f"/{number}" for number in range(20)]
    it = await harness([{"name": "web", "protocol": "ws", "paths": paths, "gateway": UNNAMED}])
    (route,) = routes(it)
    assert [len(rule["matches"]) for rule in route["spec"]["rules"]] == [8, 8, 4]


async def test_a_route_that_is_not_wanted_any_more_goes() -> None:
    it = await harness()
    changed = [
        {"name": "plain"},
        LISTENERS[1] | {"gateway": UNNAMED},
        LISTENERS[2],
    ]
    it.put_spec(spec_of(listeners=changed))
    await it.reconcile()
    assert sorted((one["kind"], one["metadata"]["name"]) for one in routes(it)) == [
        ("HTTPRoute", "demo-web"),
        ("TCPRoute", "demo-tls"),
    ]
    it.put_spec(spec_of())
    await it.reconcile()
    assert routes(it) == []


async def test_a_kind_that_the_cluster_lacks_is_said_with_what_to_install() -> None:
    it = await harness(kinds={"HTTPRoute": KINDS["HTTPRoute"]})
    assert it.conditions()["Degraded"] == ("True", "GatewayApiMissing")
    assert it.conditions()["Stalled"] == ("True", "GatewayApiMissing")
    assert it.conditions()["ConfigApplied"] == ("False", "GatewayApiMissing")
    message = it.message("Degraded")
    assert "Listener plain has no route: the cluster does not have the kind TCPRoute" in message
    assert "standard channel of the Gateway API 1.5 or newer" in message
    assert it.conditions()["Ready"] == ("True", "Serving")
    assert shown(it, "tls")["accepted"] == "Unknown"
    # The CRDs have come.
    it.cluster.kinds = {**ALL_OPTIONAL, **KINDS}
    await it.reconcile()
    assert len(routes(it)) == 3
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_what_the_gateways_say_is_in_the_status() -> None:
    it = await harness()
    assert shown(it, "plain")["accepted"] == "Unknown"
    assert "no Gateway has answered" in shown(it, "plain")["message"]
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    answer(it, "TCPRoute", "demo-plain", Accepted="True", ResolvedRefs="True", Programmed="True")
    answer(it, "TLSRoute", "demo-tls", Accepted="True")
    answer(it, "HTTPRoute", "demo-web", Accepted="False")
    await it.reconcile()
    plain = shown(it, "plain")
    assert (plain["accepted"], plain["resolvedRefs"], plain["programmed"]) == ("True",) * 3
    assert plain["message"] == ""
    assert shown(it, "tls")["resolvedRefs"] == "Unknown"
    assert "programmed" not in shown(it, "tls")
    assert it.conditions()["Degraded"] == ("True", "RouteNotAccepted")
    assert it.conditions()["Stalled"][0] == "False"
    assert (
        "HTTPRoute demo-web of listener web: Gateway infra/public: Accepted is False "
        "(NotAllowedByListeners): no listener takes it" in it.message("Degraded")
    )
    assert "route" not in it.status["listeners"][3]


async def test_an_answer_about_an_earlier_route_or_another_gateway_is_none() -> None:
    it = await harness()
    answer(it, "TCPRoute", "demo-plain", Accepted="False")
    it.fake.get("TCPRoute", "demo-plain")["metadata"]["generation"] = 99
    answer(it, "TLSRoute", "demo-tls", PARENT | {"namespace": "elsewhere"}, Accepted="False")
    await it.reconcile()
    assert shown(it, "plain")["accepted"] == shown(it, "tls")["accepted"] == "Unknown"


async def test_all_parents_must_accept() -> None:
    here = {"name": "inside"}
    gateway = {"parentRefs": [PARENT, here]}
    it = await harness([{"name": "plain", "gateway": gateway}])
    answer(it, "TCPRoute", "demo-plain", Accepted="True")
    await it.reconcile()
    assert shown(it, "plain")["accepted"] == "Unknown"
    route = it.fake.get("TCPRoute", "demo-plain")
    second = {"parentRef": here | {"group": GROUP, "kind": "Gateway", "namespace": NAMESPACE}}
    route["status"]["parents"].append(
        second | {"conditions": [{"type": "Accepted", "status": "True"}]}
    )
    await it.reconcile()
    assert shown(it, "plain")["accepted"] == "True"


async def test_a_route_that_has_no_answer_is_looked_at_again_soon() -> None:
    it = await harness([{"name": "plain", "gateway": UNNAMED}])
    it.pass_time(31)
    assert (await it.reconcile()).requeue_after_s == 10
    answer(it, "TCPRoute", "demo-plain", Accepted="True", ResolvedRefs="True")
    assert (await it.reconcile()).requeue_after_s == 60


@pytest.mark.parametrize(
    ("listener", "wrong"),
    [
        ({"gateway": UNNAMED | {"kind": "TLSRoute"}}, "a TLSRoute requires gateway.hostnames"),
        ({"gateway": NAMED | {"kind": "TCPRoute"}}, "a TCPRoute has no hostnames"),
        ({"gateway": UNNAMED | {"kind": "HTTPRoute"}}, "an HTTPRoute requires protocol ws"),
        ({"gateway": UNNAMED, "service": {"type": "None"}}, "gateway requires a Service"),
        ({"gateway": {"parentRefs": []}}, "parentRefs"),
        ({"gateway": {"parentRefs": [PARENT], "hostnames": ["10.0.0.1/8"]}}, "hostnames"),
    ],
)
def test_a_route_that_cannot_be_is_refused(listener: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        parse("demo", spec_of(listeners=[{"name": "mqtt"} | listener]))


class Counting(FakeKubeApi):
    """Counts the lists of optional kinds, and whether routes were among them."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = {**ALL_OPTIONAL, **KINDS}
        self.lists: list[bool] = []

    async def optional_children(
        self, namespace: str, name: str, *, routes: bool = True
    ) -> list[dict[str, Any]]:
        self.lists.append(routes)
        return []


@pytest.mark.parametrize(
    ("change", "is_listed"),
    [
        (lambda broker: None, False),
        (lambda broker: broker["spec"]["listeners"][0].update(gateway=UNNAMED), True),
        (lambda broker: broker.update(status={"listeners": [{"route": {}}]}), True),
        (lambda broker: broker["spec"].update(console={"gateway": UNNAMED}), True),
        (lambda broker: broker.update(status={"console": {"route": {}}}), True),
    ],
)
def test_routes_are_listed_only_of_brokers_that_ask_for_them_or_had_some(
    change: Callable[[dict[str, Any]], None], *, is_listed: bool
) -> None:
    async def play() -> None:
        double = Counting()
        cluster = CachedCluster(double, [])
        broker: dict[str, Any] = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": "demo", "namespace": NAMESPACE},
            "spec": spec_of(),
        }
        change(broker)
        double.fake.put(broker)
        for _ in range(2):
            await cluster.broker(NAMESPACE, "demo")
            await cluster.children(NAMESPACE, "demo")
        assert double.lists == [is_listed]
        await asyncio.sleep((ROUTES_TTL_S if is_listed else OPTIONAL_TTL_S) + 1)
        await cluster.children(NAMESPACE, "demo")
        assert double.lists == [is_listed] * 2

    run_virtual(play())
