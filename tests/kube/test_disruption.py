"""What a node that is emptied may take away at once: evictions against the broker's budgets.

Input: evictions as `kubectl drain` asks for them, while pods that come instead are held back.
Observed: what the real disruption controller lets go, and what the status says meanwhile.
"""

from __future__ import annotations

import functools

import pytest

from support.brokers import spec_of
from support.kube.api import Refused, path_of
from support.kube.fake_kubelet import FakeKubelet
from support.kube.space import Space


def evict(space: Space, pod: str) -> None:
    """Ask for a pod's end. Raises Refused with 429 while the budget does not allow it."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": space.name},
    }
    space.api.request("POST", path_of("Pod", space.name, pod, "eviction"), body)


def names_of(space: Space, component: str) -> list[str]:
    return sorted(one["metadata"]["name"] for one in space.pods("demo", component))


def has_gone(space: Space, component: str, name: str) -> bool:
    return name not in names_of(space, component)


def until_evictions_are_allowed(space: Space, budget: str) -> None:
    space.wait(
        lambda: space.get("PodDisruptionBudget", budget)["status"].get("disruptionsAllowed") == 1,
        f"{budget} allows one",
    )


@pytest.mark.parametrize("component", ["edge", "router"])
@pytest.mark.usefixtures("operator")
def test_pods_are_taken_one_after_the_other(
    component: str, space: Space, kubelet: FakeKubelet
) -> None:
    space.put("demo", spec_of(edge={"replicas": 3}, router={"replicas": 3}))
    space.until_settled("demo")
    budget = f"demo-{component}"
    until_evictions_are_allowed(space, budget)
    first, second, third = names_of(space, component)
    kubelet.hold_starts(space.name)
    evict(space, first)
    for name in (second, third):
        with pytest.raises(Refused) as refused:
            evict(space, name)
        assert refused.value.status == 429
    space.until("demo", "Progressing", "RollingOut")
    assert space.condition("demo", "Ready")["status"] == "True"
    kubelet.release_starts(space.name)
    space.until_settled("demo")
    until_evictions_are_allowed(space, budget)
    evict(space, second)
    space.until_settled("demo")
    assert third in names_of(space, component)


@pytest.mark.usefixtures("operator")
def test_a_broker_with_one_of_each_does_not_hold_a_node_for_ever(space: Space) -> None:
    space.put("demo", spec_of(edge={"replicas": 1}, router={"replicas": 1}))
    space.until_settled("demo")
    for component in ("edge", "router"):
        until_evictions_are_allowed(space, f"demo-{component}")
        (before,) = names_of(space, component)
        evict(space, before)
        space.wait(functools.partial(has_gone, space, component, before), "it has gone")
        space.until_settled("demo")


@pytest.mark.parametrize("component", ["edge", "router"])
@pytest.mark.usefixtures("operator")
def test_pods_that_are_not_ready_never_hold_a_node(
    component: str, space: Space, kubelet: FakeKubelet
) -> None:
    """Without the store nobody is ready, and the store may be what the emptied node has taken
    along: with a volume of that node, it comes back only when the node does."""
    space.put("demo", spec_of(edge={"replicas": 2}, router={"replicas": 2}))
    space.until_settled("demo")
    budget = f"demo-{component}"
    until_evictions_are_allowed(space, budget)
    before = names_of(space, component)
    kubelet.fail(space.name, budget, "unready")

    def nobody_is_healthy() -> bool:
        status = space.get("PodDisruptionBudget", budget)["status"]
        return (status["currentHealthy"], status["disruptionsAllowed"]) == (0, 0)

    space.wait(nobody_is_healthy, "the budget knows that nobody is ready")
    for name in before:
        evict(space, name)
    for name in before:
        space.wait(functools.partial(has_gone, space, component, name), f"{name} has gone")
