"""What runs stays as it was while the newest spec is refused, whatever somebody does to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from support.brokers import spec_of
from support.kube.api import Object
from support.kube.control_plane import ControlPlane
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space

pytestmark = pytest.mark.usefixtures("operator")

BASE = spec_of(
    auth={"passwords": {"secretName": "users"}},
    service={"type": "LoadBalancer", "annotations": {"ours.example/a": "1"}},
    edge={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}},
)
#: Of what is looked at below, all is to be another one.
OTHER = {
    "service": {"type": "NodePort"},
    "networkPolicy": {"clients": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
    "edge": {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}},
}
REFUSED: dict[str, Object] = {
    "InvalidSpec": {"redis": {"external": {"url": "http://elsewhere"}}},
    "ReferenceMissing": {"acl": {"source": {"configMapName": "nowhere"}}},
    "ApplyRefused": {"router": {"podTemplate": {"spec": {"hostNetwrok": True}}}},
}
POLICIES = ("demo-edge", "demo-router", "demo-redis")
OPENED: list[Object] = [{}]


@pytest.fixture(scope="module", params=REFUSED)
def refused(
    request: pytest.FixtureRequest, plane: ControlPlane, installed: OperatorProcess
) -> Iterator[Space]:
    """A broker that serves, and whose newest spec is refused."""
    if not installed.is_running:
        installed.start()
    space = Space(plane.api, "kept")
    space.provide(BASE)
    space.put("demo", BASE)
    space.until_settled("demo")
    space.put("demo", BASE | OTHER | REFUSED[request.param])
    space.until("demo", "Degraded", request.param, "True")
    yield space
    space.delete()


def chosen(one: Object) -> dict[str, Any]:
    """Return of an object what the operator has chosen."""
    spec = copy.deepcopy(one["spec"])
    if one["kind"] == "Service":
        ports = [(port["name"], port["port"], port["targetPort"]) for port in spec["ports"]]
        spec = {"type": spec["type"], "selector": spec["selector"], "ports": ports}
    metadata = one["metadata"]
    return {"spec": spec, "labels": metadata["labels"], "annotations": metadata["annotations"]}


def comes_back(space: Space, kind: str, name: str, before: Object) -> None:
    """Wait until an object that was deleted is there as it was."""

    def is_back() -> bool:
        found = space.api.get(kind, name, space.name)
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    space.wait(is_back, f"{kind} {name} is there again")
    assert chosen(space.get(kind, name)) == chosen(before)
    assert space.condition("demo", "Degraded")["status"] == "True"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("NetworkPolicy", name) for name in POLICIES),
        ("Service", "demo"),
        ("Service", "demo-routers"),
        ("HorizontalPodAutoscaler", "demo-edge"),
    ],
)
def test_what_somebody_deletes_comes_back_as_it_was(kind: str, name: str, refused: Space) -> None:
    before = refused.get(kind, name)
    refused.api.delete(kind, name, refused.name)
    comes_back(refused, kind, name, before)


def test_a_new_operator_knows_what_was_applied(refused: Space, operator: OperatorProcess) -> None:
    objects = [
        ("NetworkPolicy", "demo-edge"),
        ("Service", "demo"),
        ("HorizontalPodAutoscaler", "demo-edge"),
    ]
    before = {ref: refused.get(*ref) for ref in objects}
    operator.stop()
    for kind, name in objects:
        refused.api.delete(kind, name, refused.name)
    operator.start()
    for ref in objects:
        comes_back(refused, *ref, before[ref])


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_that_somebody_opens_is_closed_again(name: str, refused: Space) -> None:
    before = chosen(refused.get("NetworkPolicy", name))
    opened = {"spec": {"ingress": OPENED}}
    damaged = refused.api.patch("NetworkPolicy", name, refused.name, opened)
    assert damaged["spec"]["ingress"] == OPENED
    refused.wait(
        lambda: chosen(refused.get("NetworkPolicy", name)) == before, f"{name} is as before"
    )
