"""Images that cannot be pulled: named at once, with where they are set and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from support.brokers import NOW, spec_of
from tidegate_operator import names
from tidegate_operator.live_state import Workload, pods
from tidegate_operator.spec.problems import parse
from tidegate_operator.status.broker_state import BrokerState
from tidegate_operator.status.conditions import status

WRONG = "registry.example/tidegate:0.1.O"
ROLLING = Workload(desired=2, ready=2, updated=1, total=3, is_current=True, exists=True)


def waiting(
    reason: str, message: str = "", *, image: str = WRONG, name: str = "e3", part: str = "edge"
) -> dict[str, Any]:
    """Return a pod of the API with a container that waits."""
    return {
        "metadata": {"name": name, "labels": {names.COMPONENT_LABEL: part}},
        "spec": {
            "containers": [
                {"name": "sidecar", "image": "x:1"},
                {"name": "tidegate", "image": image},
            ]
        },
        "status": {
            "containerStatuses": [
                {"name": "sidecar", "state": {"running": {}}},
                {"name": "tidegate", "state": {"waiting": {"reason": reason, "message": message}}},
            ]
        },
    }


def degraded(*manifests: dict[str, Any], **changes: Any) -> tuple[str, str, str]:
    """Return the condition Degraded of a broker with these pods."""
    state = BrokerState(
        name="demo",
        generation=2,
        spec=parse("demo", spec_of(**changes)),
        edges=ROLLING,
        routers=ROLLING,
        pods=pods(manifests, NOW),
    )
    found = {one["type"]: one for one in status(state, None, NOW)["conditions"]}
    assert found["Stalled"]["status"] == "False"
    solved = "The operator goes on by itself once the problem is solved: see Degraded."
    assert found["Degraded"]["status"] == "False" or found["Stalled"]["message"] == solved
    it = found["Degraded"]
    return it["status"], it["reason"], it["message"]


def test_the_image_the_pod_and_the_answer_are_named() -> None:
    answer = f'failed to pull and unpack image "{WRONG}": {WRONG}: not found'
    assert degraded(waiting("ErrImagePull", answer), image=WRONG) == (
        "True",
        "ImageNotPulled",
        f"Image {WRONG}, set by spec.image, cannot be pulled; no image of this name and tag is in "
        "the registry: correct the name, or push the image (pod e3: ErrImagePull: "
        f"{answer}).",
    )


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("InvalidImageName", "couldn't parse image name", "REGISTRY/NAME:TAG"),
        ("ErrImageNeverPull", "", "spec.imagePullPolicy"),
        ("ErrImagePull", "no match for platform in manifest: not found", "architecture"),
        (
            "ErrImagePull",
            "pull access denied, repository does not exist or may require authorization",
            "spec.imagePullSecrets",
        ),
        ("ImagePullBackOff", "unexpected status: 401 Unauthorized", "spec.imagePullSecrets"),
        ("ErrImagePull", "dial tcp: lookup registry.example: no such host", "reach the registry"),
        ("ErrImagePull", "http: server gave HTTP response to HTTPS client", "trust the registry"),
        ("ImagePullBackOff", f'Back-off pulling image "{WRONG}"', "it has been pushed"),
    ],
)
def test_what_to_do_follows_from_the_answer(reason: str, message: str, words: str) -> None:
    found = degraded(waiting(reason, message), image=WRONG)
    assert found[1] == "ImageNotPulled"
    assert words in found[2]
    assert reason in found[2]


def test_where_the_image_is_set_is_said() -> None:
    def of(**spec: Any) -> str:
        return degraded(waiting("ErrImagePull", part="redis"), **spec)[2]

    assert "values image and brokerImage of the chart" in of()
    assert "set by spec.image" in of(image=WRONG)
    assert "set by spec.redis.bundled.image" in of(redis={"bundled": {"image": WRONG}})
    assert "set by a podTemplate or an earlier spec" in of(image="registry.example/tidegate:8")


def test_many_pods_of_an_image_are_one_sentence() -> None:
    back_off = waiting("ImagePullBackOff", "Back-off pulling image", name="e4")
    found = degraded(waiting("ErrImagePull", "x" * 900), back_off, image=WRONG)[2]
    assert found.count(WRONG) == 1
    assert "pod e3 and 1 more" in found
    assert len(found) < 700


def test_a_broker_that_has_no_other_pods_says_so_in_ready() -> None:
    none = Workload(desired=2, ready=0, updated=2, total=2, is_current=True, exists=True)
    failing = pods([waiting("ErrImagePull", "x" * 900, part="router")], NOW)
    state = BrokerState("demo", 2, parse("demo", spec_of()), routers=none, edges=none, pods=failing)
    ready = next(one for one in status(state, None, NOW)["conditions"] if one["type"] == "Ready")
    assert ready["reason"] == "RoutersNotReady"
    assert "(pod e3: its image cannot be pulled, see Degraded)" in ready["message"]


def test_images_that_pods_have_are_not_named() -> None:
    for reason in ("CrashLoopBackOff", "ContainerCreating"):
        assert degraded(waiting(reason))[1] != "ImageNotPulled"
    ending = waiting("ErrImagePull")
    ending["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    assert degraded(ending)[1] == "AsExpected"
