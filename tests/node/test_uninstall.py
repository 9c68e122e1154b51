"""Taking everything away again. Played last: what it leaves is an empty cluster."""

from __future__ import annotations

import pytest

from support.kube.node import Node
from support.kube.node_product import SYSTEM, Broker, Operator
from support.waiting import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

#: What every namespace has, and what tells what happened.
OF_KUBERNETES = {
    "configmap/kube-root-ca.crt",
    "serviceaccount/default",
}
#: Nobody else takes these away.
MADE_BY_TESTS = {"secret/users", "secret/bought", "secret/of-the-console"}


def test_a_broker_and_the_chart_leave_nothing_but_the_volume(
    node: Node, operator: Operator, served: Broker
) -> None:
    others = everything(node, served.namespace) & MADE_BY_TESTS
    served.delete()
    until_left(node, served.namespace, others | {"persistentvolumeclaim/data-demo-redis-0"})
    operator.uninstall()
    until_left(node, SYSTEM, set())
    kinds = "clusterroles,clusterrolebindings,validatingwebhookconfigurations,priorityclasses"
    across = node.kubectl("get", kinds, "-o", "name").split()
    assert not [name for name in across if "tidegate" in name]


def until_left(node: Node, namespace: str, wanted: set[str]) -> None:
    """Wait until a namespace holds exactly this."""
    left: set[str] = set()

    def is_so() -> bool:
        left.clear()
        left.update(everything(node, namespace))
        return left == wanted

    try:
        wait_for(is_so, 60, f"only {wanted} is in {namespace}")
    except AssertionError as error:
        raise AssertionError(f"{error}; left: {left}") from None


def everything(node: Node, namespace: str) -> set[str]:
    """Return what is in a namespace, as KIND/NAME."""
    kinds = node.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "-o", "name")
    wanted = ",".join(kind for kind in kinds.split() if not kind.startswith("events"))
    found = node.kubectl("get", wanted, "--namespace", namespace, "-o", "name")
    return set(found.split()) - OF_KUBERNETES
