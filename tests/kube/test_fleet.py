"""A new operator and brokers on a real API server: their pods are replaced one broker at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from support.brokers import spec_of
from support.kube.fake_kubelet import FakeKubelet
from support.kube.kubectl import Kubectl
from support.kube.looks import writes_of_a_look
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space
from tidegate_operator import names

NEXT = "registry.example/tidegate:next"
BROKERS = ("one", "two")


@pytest.fixture
def operator_of_old_version(operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """Yield the common operator; the test replaces it by one with other arguments."""
    yield operator
    operator.stop()


def image(space: Space, broker: str, component: str) -> str:
    kind = "StatefulSet" if component == "redis" else "Deployment"
    pod = space.get(kind, f"{broker}-{component}")["spec"]["template"]["spec"]
    return str(pod["containers"][0]["image"])


def has_new_store(space: Space, broker: str) -> bool:
    return image(space, broker, "redis") == NEXT


def rolled(space: Space) -> list[str]:
    return [one for one in BROKERS if image(space, one, "edge") == NEXT]


def test_a_new_default_image_reaches_one_broker_at_a_time(
    operator_of_old_version: OperatorProcess,
    space: Space,
    kubelet: FakeKubelet,
    kubectl: Kubectl,
) -> None:
    operator = operator_of_old_version
    for name in BROKERS:
        space.put(name, spec_of(edge={"replicas": 1}, router={"replicas": 1}))
    for name in BROKERS:
        space.until_settled(name)
    row = kubectl("get", "mqb", "one", "-n", space.name, "--no-headers").split()
    assert row[-2][-1] == "s", "how old the status is, before the age of the broker"
    kubelet.hold_starts(space.name)
    operator.stop()
    operator.start(f"--image={NEXT}", "--rollout-max-concurrent=1")
    # Brokers of other tests, which are being deleted, may come first.
    space.wait(lambda: rolled(space), "the first one has begun")
    (first,) = rolled(space)
    (second,) = {*BROKERS} - {first}
    space.until(second, "Reconciling", "RolloutWaiting", "True")
    space.wait(
        lambda: f"{space.name}/{first}" in space.condition(second, "Reconciling")["message"],
        "its message names the first one",
    )
    assert space.condition(second, "Ready")["status"] == "True"

    # A user's change of what waits is applied, and the pods stay.
    old = space.pod_uids(second, "edge")
    space.put(second, spec_of(edge={"replicas": 2}, router={"replicas": 1}))
    space.wait(lambda: len(space.pods(second, "edge")) == 2, "it is scaled")
    assert old < space.pod_uids(second, "edge")
    assert image(space, second, "edge") != NEXT
    assert rolled(space) == [first]

    kubelet.release_starts(space.name)
    for name in BROKERS:
        space.wait(partial(has_new_store, space, name), f"the store of {name}")
        space.until_settled(name)
        assert image(space, name, "router") == NEXT
    annotations = space.get("Deployment", f"{first}-edge")["metadata"]["annotations"]
    assert names.ROLLING_SINCE not in annotations
    for name in BROKERS:
        space.until_at_rest(name)
    assert writes_of_a_look(operator, space.name, *BROKERS) == []
