"""How often a broker is looked at while nothing changes: less and less, at most the resync apart.

Input: a cluster without pods and a clock that is set. Output: when the operator looks again.
"""

from __future__ import annotations

import pytest

from support.brokers import spec_of
from support.operator_harness import Harness
from tidegate_operator.kube.interface import KubeError
from tidegate_operator.reconcile.interval import DEGRADED_S, PROGRESSING_S


async def again(it: Harness, later_s: float) -> float:
    it.pass_time(later_s)
    return (await it.reconcile()).requeue_after_s or 0


async def test_pods_that_never_come_are_waited_for_with_patience() -> None:
    it = Harness(spec_of())
    pauses = [await again(it, later_s) for later_s in (0, 1, 60, 240, 900)]
    assert pauses[:2] == [PROGRESSING_S, PROGRESSING_S]
    assert pauses == sorted(pauses)
    assert PROGRESSING_S < pauses[2] < 10
    assert pauses[-1] == 60


async def test_a_change_brings_the_haste_back() -> None:
    it = Harness(spec_of())
    for later_s in (0, 600):
        await again(it, later_s)
    it.put_spec(spec_of(log={"level": "debug"}))
    await again(it, 1)
    assert await again(it, 1) == PROGRESSING_S


async def test_what_is_wrong_is_looked_at_later_and_later() -> None:
    it = Harness(spec_of(auth={"passwords": {"secretName": "users"}}))
    assert await again(it, 0) == DEGRADED_S
    await again(it, 300)
    assert 20 < await again(it, 1) <= 60


async def test_what_is_written_alone_is_not_tried_before() -> None:
    it = Harness(spec_of())
    await it.reconcile()
    trials: list[str] = []
    apply = it.cluster.apply

    async def counting(manifest: dict[str, object], *, dry_run: bool = False) -> dict[str, object]:
        if dry_run:
            trials.append(str(manifest["kind"]))
        return await apply(manifest, dry_run=dry_run)

    it.cluster.apply = counting  # type: ignore[method-assign] # the seam that is tested
    it.put_spec(spec_of(edge={"replicas": 5}))
    assert (await it.reconcile()).applied == 1
    assert trials == []
    it.put_spec(spec_of(edge={"replicas": 6}, service={"type": "NodePort"}))
    # Both, and what a new operator has to know of the Service.
    assert (await it.reconcile()).applied == 3
    assert sorted(trials) == ["Deployment", "Service"]


@pytest.mark.parametrize("kind", ["Deployment", "Service", "NetworkPolicy"])
async def test_of_a_new_broker_what_people_write_into_is_tried_first(kind: str) -> None:
    it = Harness(spec_of())
    apply = it.cluster.apply

    async def refusing(manifest: dict[str, object], *, dry_run: bool = False) -> dict[str, object]:
        if dry_run and manifest["kind"] == kind:
            raise KubeError(422, "no")
        return await apply(manifest, dry_run=dry_run)

    it.cluster.apply = refusing  # type: ignore[method-assign] # the seam that is tested
    assert (await it.reconcile()).applied == 0
    assert it.conditions()["Degraded"] == ("True", "ApplyRefused")
    assert it.fake.writes == []
