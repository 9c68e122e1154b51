"""A cluster as far as the operator looks at one: objects, server-side apply, versions, refusals.

Keeps what matters for the operator's promises: an apply sets the fields of its manager and removes
those that it applied before and does not any more; what others have written stays; an apply that
changes nothing leaves the version alone; defaults are filled in; writes are counted. No validation,
no controllers: tests write status themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str, str, str]
#: A path into an object: keys of maps, and (key, value) of items of lists.
FieldPath = tuple[Any, ...]

_LIST_KEYS = {
    "containers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
    "ports": None,
}
_MISSING = object()


class Refused(Exception):
    """The server does not accept an object."""


def key_of(manifest: Mapping[str, Any]) -> Key:
    """Return where an object is kept."""
    metadata = manifest["metadata"]
    return (
        manifest["apiVersion"],
        manifest["kind"],
        metadata.get("namespace", ""),
        metadata["name"],
    )


class FakeCluster:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.refuse: dict[tuple[str, str], str] = {}
        #: The same for what a dry run accepts.
        self.refuse_late: dict[tuple[str, str], str] = {}
        self._version = 0
        self._owned: dict[tuple[Key, str], set[FieldPath]] = {}

    def put(self, manifest: Mapping[str, Any], manager: str = "kubectl") -> Object:
        """Write as somebody else does."""
        return self._apply(manifest, manager)

    def apply(self, manifest: Mapping[str, Any], *, manager: str, dry_run: bool = False) -> Object:
        """Apply as the operator does. Raises Refused."""
        what = (manifest["kind"], manifest["metadata"]["name"])
        if what in self.refuse:
            raise Refused(self.refuse[what])
        if dry_run:
            return copy.deepcopy(dict(manifest))
        if what in self.refuse_late:
            raise Refused(self.refuse_late[what])
        self.writes.append(("apply", manifest["kind"], manifest["metadata"]["name"]))
        return self._apply(manifest, manager)

    def delete(self, kind: str, name: str) -> None:
        """Delete one object, whatever namespace it is in."""
        self.writes.append(("delete", kind, name))
        for key in [key for key in self.objects if key[1] == kind and key[3] == name]:
            del self.objects[key]

    def get(self, kind: str, name: str) -> Object:
        """Return one object to look at, or to write to behind the operator's back."""
        return next(one for key, one in self.objects.items() if key[1] == kind and key[3] == name)

    def all(self) -> list[Object]:
        """Return copies of everything."""
        return copy.deepcopy(list(self.objects.values()))

    def _apply(self, manifest: Mapping[str, Any], manager: str) -> Object:
        key = key_of(manifest)
        before = self.objects.get(key)
        found: Object = copy.deepcopy(before) if before is not None else {}
        new = dict(_fields(manifest))
        gone = self._owned.get((key, manager), set()) - set(new)
        for path in sorted(gone, key=_is_identity):
            others = (
                fields
                for (one, name), fields in self._owned.items()
                if one == key and name != manager
            )
            if not any(path in fields for fields in others):
                _remove(found, path)
        for path, value in new.items():
            _set(found, path, value)
        self._owned[(key, manager)] = set(new)
        for (one, name), fields in self._owned.items():
            if one == key and name != manager:
                # Whoever is overwritten does not own it any more.
                fields -= {
                    path for path in new if before is None or _get(before, path) != new[path]
                }
        _fill_in(found)
        metadata = found["metadata"]
        metadata.setdefault("uid", f"uid-of-{key[1]}-{key[3]}")
        unchanged = before is not None and _without_managed(before) == _without_managed(found)
        if not unchanged:
            self._version += 1
            metadata["resourceVersion"] = str(self._version)
            spec_changed = before is None or before.get("spec") != found.get("spec")
            metadata["generation"] = metadata.get("generation", 0) + int(spec_changed)
        metadata["managedFields"] = [
            {"manager": name, "fieldsV1": {"f:spec": _managed_spec(fields)}}
            for (one, name), fields in self._owned.items()
            if one == key
        ]
        self.objects[key] = found
        return copy.deepcopy(found)


def _managed_spec(fields: set[FieldPath]) -> dict[str, Any]:
    return {f"f:{path[1]}": {} for path in fields if len(path) > 1 and path[0] == "spec"}


def _without_managed(found: Mapping[str, Any]) -> Object:
    plain = copy.deepcopy(dict(found))
    plain["metadata"].pop("managedFields", None)
    return plain


def _fields(value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    """Yield the leaves; lists with keys are taken apart, others are leaves."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _fields(part, (*path, name))
    elif isinstance(value, list) and path and path[-1] in _LIST_KEYS and value:
        for item in value:
            identity = _identity(item, path[-1])
            yield from _fields(item, (*path, identity))
    else:
        yield path, value


def _identity(item: Mapping[str, Any], list_name: str) -> tuple[str, Any]:
    name = _LIST_KEYS[list_name]
    name = name or ("containerPort" if "containerPort" in item else "port")
    return (name, item[name])


def _get(found: Any, path: FieldPath) -> Any:
    for part in path:
        if isinstance(part, tuple):
            items = found if isinstance(found, list) else []
            found = next((one for one in items if one.get(part[0]) == part[1]), _MISSING)
        else:
            found = found.get(part, _MISSING) if isinstance(found, Mapping) else _MISSING
        if found is _MISSING:
            return _MISSING
    return found


def _set(found: Any, path: FieldPath, value: Any) -> None:
    for index, part in enumerate(path[:-1]):
        after = path[index + 1]
        if isinstance(part, tuple):
            item = next((one for one in found if one.get(part[0]) == part[1]), None)
            if item is None:
                item = {part[0]: part[1]}
                found.append(item)
            found = item
        else:
            empty: Any = [] if isinstance(after, tuple) else {}
            if not isinstance(found.get(part), type(empty)):
                found[part] = empty
            found = found[part]
    found[path[-1]] = copy.deepcopy(value)


def _is_identity(path: FieldPath) -> bool:
    """Whether a field tells an item of a list from others: it is removed last."""
    return len(path) > 1 and isinstance(path[-2], tuple) and path[-2][0] == path[-1]


def _remove(found: Any, path: FieldPath) -> None:
    """Remove a field, and an item of a list with its last one."""
    within: Any = None
    for part in path[:-1]:
        within, found = found, _get(found, (part,))
        if found is _MISSING:
            return
    if isinstance(found, dict):
        found.pop(path[-1], None)
        if not found and isinstance(within, list):
            within.remove(found)


def _fill_in(found: Object) -> None:
    """Fill in some of the defaults of Kubernetes."""
    if found["kind"] in {"Deployment", "StatefulSet"}:
        found["spec"].setdefault("replicas", 1)
        pod = found["spec"]["template"]["spec"]
        pod.setdefault("restartPolicy", "Always")
        pod.setdefault("dnsPolicy", "ClusterFirst")
        for container in pod["containers"]:
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            for amounts in container.get("resources", {}).values():
                for name, amount in amounts.items():
                    # The server's own way to write an amount.
                    amounts[name] = {"1": "1000m", "0.5": "500m", "1024Mi": "1Gi"}.get(
                        amount, amount
                    )
            for probe in ("readinessProbe", "livenessProbe"):
                container.get(probe, {}).setdefault("successThreshold", 1)
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                volume["configMap"].setdefault("defaultMode", 420)
    if found["kind"] == "Service":
        found["spec"].setdefault("clusterIP", "10.0.0.1")
        found["spec"].setdefault("sessionAffinity", "None")
