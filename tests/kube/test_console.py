"""The console of an MqttBroker on a real API server: made, changed and taken away again.

What its manifests say is in tests/operator/test_console.py; here the API server accepts them, the
operator's role suffices, and controllers bring its pods up.
"""

from __future__ import annotations

import pytest

from support.brokers import spec_of
from support.kube.api import Refused
from support.kube.space import Space
from tidegate_operator import names

pytestmark = pytest.mark.usefixtures("operator")

KINDS = (
    "Deployment",
    "Service",
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "NetworkPolicy",
    "PodDisruptionBudget",
)


def of_console(space: Space) -> set[tuple[str, str]]:
    return {
        (kind, one["metadata"]["name"])
        for kind in KINDS
        for one in space.listed(kind, "demo")
        if one["metadata"]["labels"][names.COMPONENT_LABEL] == "console"
    }


def test_a_console_is_made_and_taken_away_while_the_broker_serves(space: Space) -> None:
    console = {"enabled": True, "replicas": 2}
    space.put("demo", spec_of(console=console))
    status = space.until_settled("demo")["status"]
    space.wait(
        lambda: space.get(names.KIND, "demo")["status"]["console"]["ready"] == 2,
        "two pods of the console are ready",
    )
    assert status["console"]["service"] == "demo-console:80"
    assert len(of_console(space)) == 10
    space.put("demo", spec_of(console=console | {"users": {"secretName": "mine"}}))
    space.until("demo", "Degraded", "ReferenceMissing")
    assert ("Secret", "demo-console-token") not in of_console(space)
    with pytest.raises(Refused, match="replicas"):
        space.put("demo", spec_of(console=console | {"replicas": 0}))
    space.put("demo", spec_of())
    space.wait(lambda: not of_console(space), "nothing of the console is left")
    assert space.condition("demo", "Ready")["status"] == "True"


def test_the_port_of_its_service_follows_tls_also_in_a_stored_resource(space: Space) -> None:
    """The API server stores no port that nobody has set, and the Service has one of them only."""
    service = {"type": "NodePort"}
    made = space.put("demo", spec_of(console={"enabled": True, "service": service}))
    space.until_settled("demo")

    def ports() -> list[tuple[str, int]]:
        found = space.get("Service", "demo-console")["spec"]["ports"]
        return [(port["name"], port["port"]) for port in found]

    assert ports() == [("http", 80)]
    assert made["spec"]["console"]["service"] == service
    stored = space.broker("demo")["spec"]
    stored["console"]["tls"] = {"secretName": "mine"}
    space.provide(stored)
    space.put("demo", stored)
    space.wait(lambda: ports() == [("https", 443)], "the Service has the port of HTTPS")
    space.wait(
        lambda: space.broker("demo")["status"]["console"]["service"] == "demo-console:443",
        "the status says so",
    )
