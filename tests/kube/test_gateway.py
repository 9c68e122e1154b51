"""Routes of the Gateway API on a real API server; a test says what a Gateway's controller would."""

from __future__ import annotations

from typing import Any

from support.brokers import spec_of
from support.kube import gateway_api
from support.kube.api import Object
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space

PARENT: Object = {"name": "public", "sectionName": "mqtt"}
NAMED: Object = {"parentRefs": [PARENT], "hostnames": ["mqtt.example.com"]}
LISTENERS: list[Object] = [
    {"name": "plain", "gateway": {"parentRefs": [PARENT]}},
    {"name": "tls", "protocol": "tls", "tls": {"selfSigned": True}, "gateway": NAMED},
    {"name": "web", "protocol": "ws", "gateway": NAMED},
]
ROUTES = {"plain": "TCPRoute", "tls": "TLSRoute", "web": "HTTPRoute"}


def shown(space: Space) -> dict[str, Any]:
    """Return what the status says of each listener's route."""
    listeners = space.broker("demo")["status"]["listeners"]
    return {one["name"]: one["route"]["accepted"] for one in listeners if "route" in one}


def answer(space: Space, kind: str, name: str, status: str) -> None:
    """Say what a Gateway's controller says."""
    route = space.get(kind, name)
    condition = {
        "type": "Accepted",
        "status": status,
        "reason": "Accepted" if status == "True" else "NoMatchingListenerHostname",
        "message": "",
        "observedGeneration": route["metadata"]["generation"],
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    parents = [
        {"parentRef": route["spec"]["parentRefs"][0], "controllerName": "example.com/gateway"}
        | {"conditions": [condition]}
    ]
    space.api.patch(kind, name, space.name, {"status": {"parents": parents}}, "status")


def test_routes_come_with_the_gateway_api_and_go_when_they_are_not_wanted(
    operator: OperatorProcess, space: Space
) -> None:
    space.put("demo", spec_of(listeners=LISTENERS))
    message = space.until("demo", "Degraded", "GatewayApiMissing", "True")["message"]
    assert "TCPRoute" in message
    space.until("demo", "Stalled", "GatewayApiMissing", "True")
    space.until("demo", "Ready", "Serving")
    with gateway_api.installed(space.api):
        # It would be noticed within a minute.
        operator.stop()
        operator.start()
        space.until_settled("demo")
        tls = space.get("TLSRoute", "demo-tls")
        assert tls["apiVersion"] == f"{gateway_api.GROUP}/v1"
        assert tls["spec"]["hostnames"] == ["mqtt.example.com"]
        assert tls["spec"]["parentRefs"][0]["kind"] == "Gateway"
        assert space.get("TCPRoute", "demo-plain")["spec"]["rules"][0]["backendRefs"][0]["port"]
        assert shown(space) == dict.fromkeys(ROUTES, "Unknown")

        mark = operator.plane.audit.mark()
        for listener, kind in ROUTES.items():
            answer(space, kind, f"demo-{listener}", "False" if kind == "HTTPRoute" else "True")
        refused = space.until("demo", "Degraded", "RouteNotAccepted", "True")["message"]
        assert "HTTPRoute demo-web of listener web" in refused
        assert "NoMatchingListenerHostname" in refused
        assert shown(space) == {"plain": "True", "tls": "True", "web": "False"}

        # What the Gateway's controller and the API server have added is no drift.
        written = operator.plane.audit.writes(mark, user=operator.user, namespace=space.name)
        assert not [one for one in written if "routes" in one]
        space.put("demo", spec_of(listeners=[{"name": "plain"}, *LISTENERS[1:2]]))
        space.until_settled("demo")
        space.wait(lambda: not space.listed("HTTPRoute"), "the HTTPRoute has gone")
        assert space.listed("TCPRoute") == []
        assert len(space.listed("TLSRoute")) == 1
        space.put("demo", spec_of())
        space.wait(lambda: not space.listed("TLSRoute"), "the TLSRoute has gone")
    operator.stop()
