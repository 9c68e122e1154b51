"""The usable part of an invalid spec: what it refers to must be kept up to date all the same.

``reconcile`` reads the Secrets that this part names, and renews certificates by it. Nothing else of
an invalid spec is applied. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from tidegate_operator.spec.broker import MqttBrokerSpec

#: No certificate and no Secret belongs to this listener.
_PLAIN_LISTENER: Final = {"name": "mqtt"}
#: In place of a URL of an external store: the section stays, and with it the Secrets it refers to.
_EXTERNAL_URL: Final = ("redis", "external", "url")
_SOME_URL: Final = "rediss+sentinel://invalid:26379/invalid"
#: A spec with more problems is rare, and each one costs a validation.
_MAX_REMOVED: Final = 100


def usable_part(spec: Mapping[str, Any], *, is_external: bool = False) -> MqttBrokerSpec:
    """Return a spec without its invalid parts, each removed as deep inside as possible.

    ``is_external``: the broker has an external store, and has it also when the URL is wrong.
    """
    rest = copy.deepcopy(dict(spec))
    for _ in range(_MAX_REMOVED):
        try:
            return MqttBrokerSpec.model_validate(rest)
        except ValidationError as error:
            location = tuple(error.errors()[0]["loc"])
            if is_external and location == _EXTERNAL_URL:
                rest["redis"]["external"]["url"] = _SOME_URL
            elif not _mend(rest, location):
                _remove(rest, location)
    return MqttBrokerSpec.model_validate({"listeners": [_PLAIN_LISTENER]})


def _mend(spec: dict[str, Any], location: Sequence[int | str]) -> bool:
    """Remove one key of a section whose keys contradict each other, such that they do not any more;
    return whether there is one. Rather a plain value than a section, which may refer to Secrets."""
    section = _at(spec, location)
    if not location or not isinstance(section, dict):
        return False
    for key in sorted(section, key=lambda key: isinstance(section[key], dict)):
        value = section.pop(key)
        if not _is_wrong(spec, location):
            return True
        section[key] = value
    return False


def _is_wrong(spec: Mapping[str, Any], location: Sequence[int | str]) -> bool:
    """Whether there is a problem at a location or inside of it."""
    try:
        MqttBrokerSpec.model_validate(spec)
    except ValidationError as error:
        length = len(location)
        return any(tuple(one["loc"][:length]) == location for one in error.errors())
    return False


def _remove(spec: dict[str, Any], location: Sequence[int | str]) -> None:
    """Remove what is at a location; if there is nothing (a missing key), what should have it."""
    for length in range(len(location), 0, -1):
        parent = _at(spec, location[: length - 1])
        key = location[length - 1]
        if isinstance(parent, dict) and key in parent:
            del parent[key]
            break
        if isinstance(parent, list) and isinstance(key, int) and key < len(parent):
            del parent[key]
            break
    else:
        # Listeners that contradict each other, or none.
        listeners = spec.get("listeners")
        if isinstance(listeners, list) and len(listeners) > 1:
            listeners.pop()
            return
    if not spec.get("listeners"):
        spec["listeners"] = [dict(_PLAIN_LISTENER)]


def _at(value: Any, location: Sequence[int | str]) -> Any:
    for part in location:
        if isinstance(value, dict):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value
