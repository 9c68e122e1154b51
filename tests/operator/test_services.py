"""Services of listeners: which there are, what each publishes, who may connect, what is said."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from support.brokers import UID, pick, rendered, secret_data, spec_of
from support.fake_cluster import FakeCluster
from support.operator_harness import harness
from tidegate_operator import smoke
from tidegate_operator.names import FIELD_MANAGER
from tidegate_operator.plan import ObjectRef, plan
from tidegate_operator.render import Manifest
from tidegate_operator.secrets.certificates import certificate_info
from tidegate_operator.spec.problems import SpecError, parse

PLAIN: dict[str, Any] = {"name": "plain"}
TLS: dict[str, Any] = {"name": "tls", "protocol": "tls", "tls": {"selfSigned": True}}
WEB: dict[str, Any] = {"name": "web", "protocol": "wss", "tls": {"selfSigned": True}}
PUBLIC: dict[str, Any] = {"type": "LoadBalancer", "name": "public"}


def listeners_of(*services: dict[str, Any] | None) -> dict[str, Any]:
    """Return a spec whose listeners have these Services."""
    listeners = [
        one if service is None else one | {"service": service}
        for one, service in zip((PLAIN, TLS, WEB), services, strict=False)
    ]
    return spec_of(listeners=listeners)


def published(manifests: list[Manifest]) -> dict[str, list[str]]:
    """Return the ports of the Services for clients."""
    return {
        one["metadata"]["name"]: [port["name"] for port in one["spec"]["ports"]]
        for one in manifests
        if one["kind"] == "Service" and one["spec"].get("clusterIP") != "None"
    }


@pytest.mark.parametrize(
    ("services", "wanted"),
    [
        ((None, None), {"demo": ["plain", "tls"]}),
        ((None, {"type": "LoadBalancer"}), {"demo": ["plain"], "demo-tls": ["tls"]}),
        (({"type": "None"}, None), {"demo": ["tls"]}),
        (({"type": "None"}, PUBLIC, PUBLIC), {"public": ["tls", "web"]}),
        (({}, None, {"name": "demo-plain"}), {"demo-plain": ["plain", "web"], "demo": ["tls"]}),
        (({"type": "None"},), {}),
    ],
)
def test_each_service_publishes_its_listeners_and_no_other(
    services: tuple[dict[str, Any] | None, ...], wanted: dict[str, list[str]]
) -> None:
    assert published(rendered(listeners_of(*services))) == wanted


def test_a_listener_takes_nothing_from_the_service_of_the_broker() -> None:
    own = {
        "type": "LoadBalancer",
        "class": "example.com/public",
        "annotations": {"example.com/zone": "public"},
        "labels": {"team": "iot", "app.kubernetes.io/instance": "other"},
        "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "externalTrafficPolicy": "Local",
        "ipFamilyPolicy": "PreferDualStack",
    }
    spec = listeners_of(None, own, {}) | {
        "service": {"type": "NodePort", "annotations": {"a": "b"}, "externalTrafficPolicy": "Local"}
    }
    manifests = rendered(spec)
    service = pick(manifests, "Service", "demo-tls")
    selector = service["spec"].pop("selector")
    assert service["spec"] == {
        "type": "LoadBalancer",
        "ports": [{"name": "tls", "port": 8883, "targetPort": 8883, "protocol": "TCP"}],
        "loadBalancerClass": "example.com/public",
        "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "externalTrafficPolicy": "Local",
        "ipFamilyPolicy": "PreferDualStack",
    }
    assert service["metadata"]["annotations"] == {"example.com/zone": "public"}
    assert service["metadata"]["labels"]["team"] == "iot"
    assert service["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo"
    assert selector == pick(manifests, "Service", "demo")["spec"]["selector"]
    assert set(pick(manifests, "Service", "demo-web")["spec"]) == {"type", "selector", "ports"}


def test_two_services_may_have_the_same_port() -> None:
    public = {"type": "LoadBalancer"}
    tls, web = ({**one, "servicePort": 443, "service": public} for one in (TLS, WEB))
    manifests = rendered(spec_of(listeners=[tls, web]))
    for name, port in (("demo-tls", 8883), ("demo-web", 8084)):
        (one,) = pick(manifests, "Service", name)["spec"]["ports"]
        assert (one["port"], one["targetPort"]) == (443, port)


# What cannot be


@pytest.mark.parametrize(
    ("services", "sentence"),
    [
        (
            (None, PUBLIC, PUBLIC | {"annotations": {"a": "b"}}),
            "spec.listeners[2].service: listener tls has the same Service (public), with other "
            "settings; give one of them another service.name",
        ),
        (
            (None, PUBLIC, {"name": "public", "type": "None"}),
            "spec.listeners[2].service: listener tls has the same Service (public)",
        ),
        (
            ({"type": "NodePort"}, {"name": "demo-plain"}),
            "spec.listeners[1].service: listener plain has the same Service (demo-plain)",
        ),
        (
            (None, {"name": "demo"}),
            "spec.listeners[1].service.name: demo is the name of another Service of the broker",
        ),
        (
            (None, {"name": "demo-routers"}),
            "spec.listeners[1].service.name: demo-routers is the name of another Service",
        ),
    ],
)
def test_what_is_wrong_with_services_is_said(
    services: tuple[dict[str, Any] | None, ...], sentence: str
) -> None:
    with pytest.raises(SpecError) as error:
        parse("demo", listeners_of(*services))
    assert [one for one in error.value.problems if one.startswith(sentence)]


def test_a_listener_without_a_service_takes_no_name() -> None:
    parse("demo", listeners_of({"type": "None"}, {"name": "demo-plain"}))


async def test_a_mistake_is_shown_and_ends_nothing() -> None:
    """Also one that the definition has no rule for; passwords and certificates go on."""
    it = await harness(**listeners_of(None, PUBLIC, PUBLIC))
    await it.settle()
    it.put_spec(listeners_of(None, PUBLIC, PUBLIC | {"labels": {"a": "b"}}))
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "InvalidSpec")
    assert it.conditions()["Ready"][0] == "True"
    assert published(it.fake.all()) == {"demo": ["plain"], "public": ["tls", "web"]}
    assert [one["service"] for one in it.status["listeners"]] == ["demo", "public", "public"]


async def test_a_refused_spec_publishes_nothing_that_was_not_public() -> None:
    """The ports run as before: without the password, for example, that is to come with the spec."""
    it = await harness(**listeners_of(None, PUBLIC))
    await it.settle()
    refused = listeners_of({"type": "NodePort"}, PUBLIC)
    it.put_spec(refused | {"auth": {"passwords": {"secretName": "nowhere"}}})
    for _ in range(3):
        await it.reconcile()
        assert it.conditions()["Degraded"] == ("True", "ReferenceMissing")
        assert published(it.fake.all()) == {"demo": ["plain"], "public": ["tls"]}
    # What was there is made again.
    it.fake.delete("Service", "public")
    await it.reconcile()
    assert published(it.fake.all()) == {"demo": ["plain"], "public": ["tls"]}


async def test_a_name_that_is_taken_is_traced_to_its_field() -> None:
    it = await harness(**listeners_of(None, PUBLIC))
    theirs = {"name": "public", "namespace": "iot"}
    it.fake.put({"apiVersion": "v1", "kind": "Service", "metadata": theirs, "spec": {"type": "x"}})
    await it.reconcile()
    (degraded,) = [one for one in it.status["conditions"] if one["type"] == "Degraded"]
    assert degraded["reason"] == "NameTaken"
    assert (
        "Service public. Delete them, or give the MqttBroker, or spec.listeners[1].service,"
        in (degraded["message"])
    )


# What is written


async def test_services_that_are_not_wanted_any_more_are_deleted() -> None:
    it = await harness(**listeners_of(None, None))
    await it.settle()
    for services, wanted in (
        ((None, PUBLIC), {"demo": ["plain"], "public": ["tls"]}),
        ((None, {"type": "NodePort"}), {"demo": ["plain"], "demo-tls": ["tls"]}),
        (({"type": "None"}, {"type": "NodePort"}), {"demo-tls": ["tls"]}),
        ((None, {"type": "None"}), {"demo": ["plain"]}),
        ((None, None), {"demo": ["plain", "tls"]}),
    ):
        it.put_spec(listeners_of(*services))
        await it.settle()
        assert published(it.fake.all()) == wanted
        it.fake.writes.clear()
        await it.reconcile()
        assert it.fake.writes == []


def moved(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return what is deleted first, and the Services that are applied, when a spec changes."""
    cluster = FakeCluster()
    for manifest in plan(rendered(old), [], UID).apply:
        cluster.apply(manifest, manager=FIELD_MANAGER)
    found = plan(rendered(new), cluster.all(), UID)
    applied = [one for one in found.apply if one["kind"] == "Service"]
    assert not {*found.release} & {*found.delete}
    return [str(one) for one in found.release], [one["metadata"]["name"] for one in applied]


def test_a_node_port_is_free_before_another_service_gets_it() -> None:
    node = {"type": "NodePort"}
    tls, plain = TLS | {"nodePort": 30883}, PLAIN | {"service": {"type": "None"}}

    def spec(service: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
        return spec_of(listeners=[tls | {"service": service}, *others])

    gone, stays = spec(node), spec(node | {"name": "other"})
    assert moved(gone, stays) == (["Service demo-tls"], ["other"])
    web = WEB | {"service": node | {"name": "other"}}
    assert moved(spec(node | {"name": "other"}, web), spec(node, web)) == (
        [],
        ["other", "demo-tls"],
    )
    # Nothing is deleted before its successor is there if that is possible.
    assert moved(gone, spec({"type": "None"}, plain)) == ([], [])


async def test_what_has_a_node_port_that_moves_is_deleted_first() -> None:
    listener = TLS | {"nodePort": 30883, "service": {"type": "NodePort"}}
    it = await harness(**spec_of(listeners=[listener]))
    await it.settle()
    it.fake.writes.clear()
    it.put_spec(spec_of(listeners=[listener | {"service": {"type": "NodePort", "name": "other"}}]))
    await it.reconcile()
    services = [one for one in it.fake.writes if one[1] == "Service"]
    assert services == [("delete", "Service", "demo-tls"), ("apply", "Service", "other")]
    assert ObjectRef("v1", "Service", "demo-tls") not in map(ObjectRef.of, it.fake.all())


# What is said


async def test_each_listener_has_the_addresses_of_its_service() -> None:
    it = await harness(**listeners_of(None, PUBLIC, {"type": "None"}))
    await it.settle()
    assert it.status["address"] == "demo.iot.svc:1883"
    shown = {one["name"]: (one["service"], one["port"]) for one in it.status["listeners"]}
    assert shown == {"plain": ("demo", 1883), "tls": ("public", 8883), "web": ("", 0)}
    addresses = [one["addresses"] for one in it.status["listeners"]]
    assert addresses == [["demo.iot.svc"], ["192.0.2.9"], []]


async def test_the_address_of_the_broker_is_of_a_listener_that_has_one() -> None:
    it = await harness(**listeners_of({"type": "None"}, PUBLIC))
    await it.settle()
    assert it.status["address"] == "192.0.2.9:8883"
    it.put_spec(listeners_of({"type": "None"}))
    await it.settle()
    assert it.status["address"] == ""
    assert it.conditions()["Ready"] == ("True", "Serving")


async def test_every_service_that_waits_for_an_address_is_named() -> None:
    it = await harness(**listeners_of(None, PUBLIC, {"type": "LoadBalancer"}))
    await it.settle()
    for name in ("public", "demo-web"):
        it.fake.get("Service", name)["status"] = {}
    it.now += datetime.timedelta(minutes=1)
    await it.reconcile()
    (ready,) = [one for one in it.status["conditions"] if one["type"] == "Ready"]
    assert ready["reason"] == "AddressPending"
    assert ready["message"] == (
        "Service public and demo-web have no load balancer address yet: check the events (kubectl "
        "describe service public demo-web)."
    )


async def test_a_certificate_is_for_the_service_of_its_listener() -> None:
    it = await harness(**listeners_of(None, PUBLIC, {"type": "None"}))
    await it.settle()
    await it.settle()
    data = secret_data(it.fake.get("Secret", "demo-edge"))
    public = certificate_info(data["listener.tls.crt"])
    assert "public.iot.svc" in public.names
    assert "demo.iot.svc" not in public.names
    assert "192.0.2.9" in public.names
    inside = certificate_info(data["listener.web.crt"])
    assert "192.0.2.9" not in inside.names


def test_the_smoke_test_connects_where_a_service_leads() -> None:
    spec = parse("demo", listeners_of({"type": "None"}, PUBLIC))
    listener = smoke.listener_of("demo", spec)
    assert listener is not None
    assert listener.name == "tls"
    assert smoke.listener_of("demo", parse("demo", listeners_of({"type": "None"}))) is None


# Who may connect


def client_rules(spec: dict[str, Any]) -> list[tuple[list[int], Any]]:
    """Return ports and peers of the rules for clients; the last rule is that of the admin port."""
    policy = pick(rendered(spec), "NetworkPolicy", "demo-edge")
    return [
        ([port["port"] for port in rule["ports"]], rule.get("from"))
        for rule in policy["spec"]["ingress"][:-1]
    ]


def test_each_listener_admits_its_peers() -> None:
    inside = [{"namespaceSelector": {"matchLabels": {"team": "iot"}}}]
    outside = [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    plain, web = PLAIN | {"networkPolicyPeers": inside}, WEB | {"networkPolicyPeers": inside}
    # Without peers, a rule admits everybody: it must not name the ports of others.
    assert client_rules(spec_of(listeners=[plain, TLS, web])) == [
        ([1883, 8084], inside),
        ([8883], None),
    ]
    assert client_rules(spec_of(listeners=[plain, TLS], networkPolicy={"clients": outside})) == [
        ([1883], inside),
        ([8883], outside),
    ]
    # Nor must there be a rule without ports, which would admit to all of them.
    assert client_rules(spec_of(listeners=[plain, web])) == [([1883, 8084], inside)]
