"""What Degraded says of images that cannot be pulled: which, why, and what to do. Pure.

Called by ``degraded_condition``.
"""

from __future__ import annotations

import re
from typing import Final

from tidegate_operator.live_state import Pod
from tidegate_operator.status.broker_state import BrokerState, some

_MAX_REASON: Final = 300

#: What to do, by what container runtimes and registries answer; the first that matches.
_HINTS: Final = (
    (
        r"no match for platform|no matching manifest|exec format",
        "the image is not built for this node's architecture: push one that is, or set "
        "edge.nodeSelector, router.nodeSelector and redis.bundled.nodeSelector to another one",
    ),
    (
        r"InvalidImageName|invalid reference|parse image",
        "the name is not that of an image (REGISTRY/NAME:TAG): correct it",
    ),
    (
        r"ErrImageNeverPull",
        "the pull policy is Never and the node does not have the image: load it, or change "
        "spec.imagePullPolicy",
    ),
    (
        r"denied|unauthorized|authorization|authentication|\b401\b|\b403\b|forbidden",
        "correct the name, push the image, or name the registry's credentials in "
        "spec.imagePullSecrets",
    ),
    (
        r"not found|manifest unknown|name unknown|\b404\b",
        "no image of this name and tag is in the registry: correct the name, or push the image",
    ),
    (
        r"x509|HTTP response to HTTPS client|certificate",
        "the node does not trust the registry: configure its certificate in the container "
        "runtime of the nodes",
    ),
    (
        r"no such host|connection refused|i/o timeout|deadline exceeded|unreachable|no route",
        "the node does not reach the registry: check its name, DNS and the network of the nodes",
    ),
)
_OTHERWISE: Final = (
    "check that it has been pushed, that nodes reach the registry, and that "
    "spec.imagePullSecrets names its credentials if it needs any"
)


def unpulled_images(state: BrokerState) -> str:
    """Return a message about images that cannot be pulled, "" if there are none."""
    pods: dict[str, list[Pod]] = {}
    for pod in state.pods:
        if pod.unpulled_image and not pod.is_terminating:
            pods.setdefault(pod.unpulled_image, []).append(pod)
    if not pods:
        return ""
    return f"{some([_sentence(state, image, found) for image, found in pods.items()])}."


def _sentence(state: BrokerState, image: str, pods: list[Pod]) -> str:
    names = [pod.name for pod in pods]
    failure = max((pod.failure for pod in pods), key=len)
    reason = failure if len(failure) <= _MAX_REASON else f"{failure[:_MAX_REASON]}…"
    return (
        f"Image {image}, {_setting(state, image, pods)}, cannot be pulled; {_hint(failure)} "
        f"({_count(names)}: {reason})"
    )


def _count(names: list[str]) -> str:
    return f"pod {names[0]}" if len(names) == 1 else f"pod {names[0]} and {len(names) - 1} more"


def _hint(failure: str) -> str:
    return next(
        (hint for words, hint in _HINTS if re.search(words, failure, re.IGNORECASE)), _OTHERWISE
    )


def _setting(state: BrokerState, image: str, pods: list[Pod]) -> str:
    """Return where an image is set."""
    spec = state.spec
    bundled = None if spec is None else spec.redis.own
    if bundled is not None and image == bundled.image:
        if any(pod.component == "redis" for pod in pods):
            return "set by spec.redis.bundled.image"
    elif spec is not None and image == spec.image:
        return "set by spec.image"
    if spec is None or spec.image is not None:
        return "set by a podTemplate or an earlier spec"
    return "which spec.image does not set (values image and brokerImage of the chart)"
