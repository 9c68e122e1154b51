"""Merges ``podTemplate`` into a pod template, like a strategic merge patch of Kubernetes. Pure.

Maps are merged, null deletes a key, lists whose items have names are merged by name, all other
lists are replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

#: Merge keys of lists.
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
    """Return ``base`` with ``over`` merged into it; neither is modified."""
    result = dict(copy.deepcopy(base))
    for key, value in over.items():
        current = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(current, Mapping):
            result[key] = merged(current, value)
        elif isinstance(value, list) and isinstance(current, list) and key in _KEYS:
            result[key] = _merged_lists(current, value, _KEYS[key])
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merged_lists(base: list[Any], over: list[Any], key: str) -> list[Any]:
    result = list(base)
    for item in over:
        name = item.get(key) if isinstance(item, Mapping) else None
        position = next(
            (
                index
                for index, current in enumerate(result)
                if name is not None and isinstance(current, Mapping) and current.get(key) == name
            ),
            None,
        )
        if position is None:
            result.append(copy.deepcopy(item))
        else:
            result[position] = merged(result[position], item)
    return result
