"""Lays ``podTemplate`` over a pod template, the way people expect of Kubernetes.

Maps are merged, null deletes a key, lists whose items have names are merged by name, all other
lists are replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

#: What items of a list are told apart by.
_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "hostAliases": "ip",
}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid over it; neither is changed."""
    found = dict(copy.deepcopy(base))
    for key, value in over.items():
        below = found.get(key)
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            found[key] = merged(below, value)
        elif isinstance(value, list) and isinstance(below, list) and key in _KEYS:
            found[key] = _merged_lists(below, value, _KEYS[key])
        else:
            found[key] = copy.deepcopy(value)
    return found


def _merged_lists(base: list[Any], over: list[Any], key: str) -> list[Any]:
    found = list(base)
    for item in over:
        name = item.get(key) if isinstance(item, Mapping) else None
        place = next(
            (
                index
                for index, one in enumerate(found)
                if name is not None and isinstance(one, Mapping) and one.get(key) == name
            ),
            None,
        )
        if place is None:
            found.append(copy.deepcopy(item))
        else:
            found[place] = merged(found[place], item)
    return found
