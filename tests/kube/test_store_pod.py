"""The bundled store's pod on a real API server: it is one, and must never be stuck.

Input: a spec by which it cannot start, and then one by which it can. Observed: what the real
StatefulSet controller does with the pod that never became ready.
"""

from __future__ import annotations

import pytest

from support.brokers import spec_of
from support.kube.fake_kubelet import FakeKubelet
from support.kube.space import Space


def image_of(space: Space) -> str:
    """Return the image of the store's pod; "" while there is none."""
    found = [str(pod["spec"]["containers"][0]["image"]) for pod in space.pods("demo", "redis")]
    return next(iter(found), "")


@pytest.mark.usefixtures("operator")
def test_a_store_that_could_not_start_starts_when_its_spec_is_put_right(
    space: Space, kubelet: FakeKubelet
) -> None:
    """With pods in order, its controller would wait for ever for the one that cannot start."""
    wrong, right = "registry.example/valkey:wrong", "registry.example/valkey:right"
    kubelet.fail(space.name, "demo-redis", "unstarted")
    space.put("demo", spec_of(redis={"bundled": {"image": wrong}}))
    space.until("demo", "Ready", "StoreNotReady")
    space.wait(lambda: image_of(space) == wrong, "a pod that does not start")
    space.put("demo", spec_of(redis={"bundled": {"image": right}}))
    space.wait(lambda: image_of(space) == right, "it is replaced though it was never ready")
    kubelet.heal(space.name, "demo-redis")
    space.until_settled("demo")
