"""Definitions of the Gateway API's routes, as far as tests need them: kinds, versions, defaults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from support.kube.api import Api, Object

GROUP: Final = "gateway.networking.k8s.io"
#: Kind, name in paths, and the served versions; the first one is stored.
_ROUTES: Final = (
    ("HTTPRoute", "httproutes", ("v1",)),
    ("TLSRoute", "tlsroutes", ("v1", "v1alpha3")),
    ("TCPRoute", "tcproutes", ("v1alpha2",)),
)
_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer"}
_ANYTHING: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _record(required: list[str], **fields: Object) -> Object:
    return {"type": "object", "properties": fields, "required": required}


def _listed(item: Object) -> Object:
    return {"type": "array", "items": item}


def _with_default(value: object, schema: Object) -> Object:
    return schema | {"default": value}


def _schema(kind: str) -> Object:
    """Return a schema that refuses unknown fields, and writes defaults as the real one does."""
    parent = _record(
        ["name"],
        group=_with_default(GROUP, _TEXT),
        kind=_with_default("Gateway", _TEXT),
        namespace=_TEXT,
        name=_TEXT,
        sectionName=_TEXT,
        port=_NUMBER,
    )
    backend = _record(
        ["name"],
        group=_with_default("", _TEXT),
        kind=_with_default("Service", _TEXT),
        name=_TEXT,
        port=_NUMBER,
        weight=_with_default(1, _NUMBER),
    )
    rule = {"backendRefs": _listed(backend)}
    spec = {"parentRefs": _listed(parent)}
    if kind != "TCPRoute":
        spec["hostnames"] = _listed(_TEXT)
    if kind == "HTTPRoute":
        path = _record([], type=_with_default("PathPrefix", _TEXT), value=_TEXT)
        rule["matches"] = _listed(_record([], path=path)) | {"maxItems": 8}
        rule["timeouts"] = _record([], request=_TEXT)
    spec["rules"] = _listed(_record([], **rule)) | {"minItems": 1}
    required = ["rules", "hostnames"] if kind == "TLSRoute" else ["rules"]
    return _record(["spec"], spec=_record(required, **spec), status=_ANYTHING)


def definitions() -> list[Object]:
    """Return the definitions of all kinds of routes."""
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": f"{plural}.{GROUP}",
                # The API server wants to see this on whatever is in a group of Kubernetes' own.
                "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
            },
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                "versions": [
                    {
                        "name": version,
                        "served": True,
                        "storage": version == versions[0],
                        "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": _schema(kind)},
                    }
                    for version in versions
                ],
            },
        }
        for kind, plural, versions in _ROUTES
    ]


@contextmanager
def installed(api: Api) -> Iterator[None]:
    """Have the Gateway API in the cluster, without a controller."""
    made = definitions()
    for one in made:
        api.create(one)
    try:
        yield
    finally:
        for one in made:
            api.delete("CustomResourceDefinition", one["metadata"]["name"])
