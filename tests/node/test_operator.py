"""The operator as a release of helm: upgraded beside running brokers, and tried with helm test."""

from __future__ import annotations

import json

import pytest

from support.kube.node import Node
from support.kube.node_product import SYSTEM, Broker, Operator, broker_spec, same

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

ALL = ("edge", "router", "redis")


def test_an_upgrade_of_the_operator_leaves_brokers_alone(
    node: Node, operator: Operator, broker: Broker
) -> None:
    before = broker.seen(*ALL)
    old = {pod["metadata"]["uid"] for pod in operator.pods()}
    newer = "localhost/tidegate:newer"
    node.tag(operator.image.name, newer)
    operator.install("image.tag=newer", f"brokerImage={operator.image.name}", command="upgrade")
    try:
        (pod,) = operator.pods()
        assert pod["metadata"]["uid"] not in old
        assert pod["spec"]["containers"][0]["image"] == newer
        broker.change({"edge": {"replicas": 2}})
        broker.wait_until_settled()
        assert len(broker.pods("edge")) == 2
        same(before, broker.seen(*ALL))
    finally:
        operator.install(command="upgrade")


def test_helm_test_passes_a_message_through_the_charts_own_broker(
    node: Node, operator: Operator
) -> None:
    spec = broker_spec() | {"service": {"type": "ClusterIP"}}
    spec["redis"]["bundled"]["storage"]["onDelete"] = "delete"
    operator.install("broker.create=true", f"broker.spec={json.dumps(spec)}", command="upgrade")
    try:
        own = Broker(node, SYSTEM, "mqtt", spec)
        own.wait_until_settled()
        said = node.helm("test", "tidegate", "--namespace", SYSTEM, "--logs", "--timeout", "60s")
        print(said)
    finally:
        operator.install("broker.create=false", command="upgrade")
