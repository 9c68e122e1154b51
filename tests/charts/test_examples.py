"""The examples: valid, complete, and of every way in and every store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support import tools
from support.api_schema import schemas
from support.chart import CHART
from tidegate_operator import names
from tidegate_operator.spec import crd
from tidegate_operator.spec.problems import parse
from tidegate_operator.spec.routes import wanted_routes

ROOT = Path(__file__).parents[2]


#: Those of folders that are not about brokers have tests of their own.
FILES = sorted([*(ROOT / "examples").glob("*.yaml"), *(ROOT / "examples").glob("gateway/*.yaml")])


def documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (file.name, one)
        for file in [*FILES, *(ROOT / "examples").glob("backup/*.yaml")]
        for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if one
    ]


#: API groups whose schemas are not at hand; what they say is looked up, not checked.
FOREIGN = {"cert-manager.io", "metallb.io", "gateway.networking.k8s.io", "keda.sh"}


def test_there_is_an_example_of_every_way_in_and_every_store() -> None:
    brokers = [one["spec"] for _, one in documents() if one["kind"] == names.KIND]
    tls = [listener.get("tls", {}) for spec in brokers for listener in spec["listeners"]]
    assert all(any(way in one for one in tls) for way in ("secretName", "issuer", "selfSigned"))
    urls = [spec.get("redis", {}).get("external", {}).get("url", "") for spec in brokers]
    assert {url.partition("://")[0] for url in urls} >= {"", "rediss+sentinel", "rediss+cluster"}
    files = {name for name, _ in documents()}
    assert files >= {
        f"{name}.yaml"
        for name in ("aws-nlb", "gcp", "azure", "metallb", "ingress-nginx", "cert-manager", "keda")
    }


def test_every_example_is_complete_in_itself() -> None:
    """What routes to a broker names a broker, and a port, that the file has."""
    for file in FILES:
        there = [one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]
        brokers = {one["metadata"]["name"]: one for one in there if one["kind"] == names.KIND}
        assert brokers, file.name
        for one in there:
            text = json.dumps(one)
            if one["kind"] == "Ingress":
                assert any(f'"name": "{name}"' in text for name in ("demo", "demo-console"))
            if one["kind"] == "ScaledObject":
                target = one["spec"]["scaleTargetRef"]
                assert (target["apiVersion"], target["kind"]) == (names.API_VERSION, names.KIND)
                spec = parse(target["name"], brokers[target["name"]]["spec"])
                assert spec.edge.autoscaling is None, "two would scale it"


def test_every_route_has_its_gateway() -> None:
    """In the file, with a listener of that name or port, and of that kind."""
    kinds = {"HTTPRoute": "HTTPS", "TLSRoute": "TLS", "TCPRoute": "TCP"}
    seen = set()
    for file in FILES:
        there = [one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]
        gateways = {
            one["metadata"]["name"]: one["spec"] for one in there if one["kind"] == "Gateway"
        }
        for one in there:
            if one["kind"] != names.KIND:
                continue
            name = one["metadata"]["name"]
            for route in wanted_routes(name, parse(name, one["spec"])):
                for parent in route.settings.parent_refs:
                    seen.add(route.kind)
                    assert any(
                        entry["protocol"] == kinds[route.kind]
                        and parent.section_name in {None, entry["name"]}
                        and parent.port in {None, entry["port"]}
                        for entry in gateways[parent.name]["listeners"]
                    ), file.name
    assert seen == kinds.keys()


@pytest.mark.parametrize(
    ("name", "document"), documents(), ids=[f"{a}-{b['kind']}" for a, b in documents()]
)
def test_examples_are_valid(name: str, document: dict[str, Any]) -> None:
    plural = {names.KIND: names.PLURAL, names.BACKUP_KIND: names.BACKUP_PLURAL}
    if document["kind"] in plural:
        if document["kind"] == names.KIND:
            assert parse(document["metadata"]["name"], document["spec"])
        file = CHART / "crds" / f"{plural[document['kind']]}.yaml"
        definition = yaml.safe_load(file.read_text())
        schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        jsonschema.Draft202012Validator(schema).validate(document)
        return
    if document["apiVersion"].partition("/")[0] in FOREIGN:
        return
    try:
        import kubernetes_validate
    except ImportError:
        tools.missing("kubernetes-validate")
    kubernetes_validate.validate(document, "1.37", strict=True)


def test_the_document_shows_a_valid_broker() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert parse(shown["metadata"]["name"], shown["spec"])


def test_the_admission_policy_knows_every_way_to_run_something_else() -> None:
    file = ROOT / "examples" / "admission" / "no-pod-templates.yaml"
    policy = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    expressions = " ".join(one["expression"] for one in policy["spec"]["validations"])
    ways = [
        path
        for path, _ in schemas(crd.root_schema()["properties"]["spec"])
        if path.rpartition(".")[2] in {"podTemplate", "serviceAccountName", "image"}
    ]
    assert len(ways) >= 10
    for path in ways:
        optional = path.replace(".", ".?")
        assert f"object.spec{optional}.hasValue()" in expressions or (
            f"!has(object.spec{path})" in expressions
        ), path
