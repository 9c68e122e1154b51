"""Services of listeners on a real API server: published where the spec says, moved, taken away."""

from __future__ import annotations

from functools import partial

import pytest

from support.brokers import spec_of
from support.kube.api import Object
from support.kube.kubectl import Kubectl
from support.kube.space import Space

pytestmark = pytest.mark.usefixtures("operator")

PLAIN: Object = {"name": "plain"}
TLS: Object = {
    "name": "tls",
    "protocol": "tls",
    "nodePort": 31883,
    "tls": {"selfSigned": True},
}
PUBLIC: Object = {
    "type": "LoadBalancer",
    "name": "public",
    "annotations": {"example.com/zone": "public"},
    "loadBalancerSourceRanges": ["203.0.113.0/24"],
    "externalTrafficPolicy": "Local",
}


def spec(plain: Object | None, tls: Object | None) -> Object:
    """Return a spec whose listeners have these Services."""
    listeners = [
        one if service is None else one | {"service": service}
        for one, service in ((PLAIN, plain), (TLS, tls))
    ]
    return spec_of(listeners=listeners)


def published(space: Space) -> dict[str, tuple[str, list[str]]]:
    """Return type and ports of the Services for clients."""
    return {
        one["metadata"]["name"]: (
            one["spec"]["type"],
            [port["name"] for port in one["spec"]["ports"]],
        )
        for one in space.listed("Service", "demo")
        if one["spec"].get("clusterIP") != "None"
    }


def is_published(space: Space, wanted: dict[str, tuple[str, list[str]]]) -> bool:
    return published(space) == wanted


def test_a_public_port_does_not_publish_the_plain_one(space: Space) -> None:
    space.put("demo", spec(None, PUBLIC))
    status = space.until_settled("demo")["status"]
    assert published(space) == {
        "demo": ("ClusterIP", ["plain"]),
        "public": ("LoadBalancer", ["tls"]),
    }
    public = space.get("Service", "public")
    assert public["spec"]["loadBalancerSourceRanges"] == ["203.0.113.0/24"]
    assert public["metadata"]["annotations"]["example.com/zone"] == "public"
    plain, tls = status["listeners"]
    assert (plain["service"], plain["addresses"]) == ("demo", [f"demo.{space.name}.svc"])
    assert (tls["service"], tls["port"]) == ("public", 8883)
    assert tls["addresses"][0].startswith("203.0.113.")
    assert status["address"] == f"demo.{space.name}.svc:1883"


def test_a_listener_moves_with_its_node_port(space: Space) -> None:
    """Kubernetes gives a node port to one Service only, so the old one is deleted first."""
    node: Object = {"type": "NodePort"}
    for services, wanted in (
        ((None, node), {"demo": ("ClusterIP", ["plain"]), "demo-tls": ("NodePort", ["tls"])}),
        ((None, PUBLIC), {"demo": ("ClusterIP", ["plain"]), "public": ("LoadBalancer", ["tls"])}),
        (({"type": "None"}, node), {"demo-tls": ("NodePort", ["tls"])}),
        (({"type": "None"}, {"type": "None"}), {}),
    ):
        space.put("demo", spec(*services))
        space.wait(partial(is_published, space, wanted), str(wanted))
        space.until_settled("demo")
    space.put("demo", spec(None, None) | {"service": node})
    space.until_settled("demo")
    assert published(space) == {"demo": ("NodePort", ["plain", "tls"])}
    # A Service that stays gives its port away before the other one gets it.
    space.put("demo", spec(None, PUBLIC) | {"service": node})
    space.until_settled("demo")
    assert published(space)["public"] == ("LoadBalancer", ["tls"])


def test_two_ideas_of_a_service_are_refused(space: Space, kubectl: Kubectl) -> None:
    """What the definition has no rule for, the operator says."""
    space.put("demo", spec(None, PUBLIC))
    space.until_settled("demo")
    space.put("demo", spec(PUBLIC | {"annotations": {}}, PUBLIC))
    message = space.until("demo", "Degraded", "InvalidSpec")["message"]
    assert "spec.listeners[1].service: listener plain has the same Service (public)" in message
    assert space.condition("demo", "Ready")["status"] == "True"
    assert published(space)["public"] == ("LoadBalancer", ["tls"])
    row = kubectl("get", "mqb", "demo", "-n", space.name, "-o", "wide", "--no-headers").split()
    assert row[-1] == "InvalidSpec"
    space.put("demo", spec(PUBLIC, PUBLIC))
    space.until_settled("demo")
    assert published(space) == {"public": ("LoadBalancer", ["plain", "tls"])}


def test_a_name_that_is_taken_is_not_taken_over(space: Space) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "public", "namespace": space.name},
        "spec": {"ports": [{"port": 80}]},
    }
    space.api.apply(theirs)
    space.put("demo", spec(None, PUBLIC))
    message = space.until("demo", "Degraded", "NameTaken")["message"]
    assert "Service public" in message
    assert "spec.listeners[1].service" in message
    assert [port["port"] for port in space.get("Service", "public")["spec"]["ports"]] == [80]
    space.api.delete("Service", "public", space.name)
    space.until_settled("demo")


def test_each_listener_admits_its_peers(space: Space) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "iot"}}}]
    listeners = [PLAIN | {"networkPolicyPeers": peers}, TLS]
    space.put("demo", spec_of(listeners=listeners))
    space.until_settled("demo")
    rules = space.get("NetworkPolicy", "demo-edge")["spec"]["ingress"]
    shown = [([port["port"] for port in rule["ports"]], rule.get("from")) for rule in rules[:-1]]
    assert shown == [([1883], peers), ([8883], None)]
    space.until_at_rest("demo")
