"""The CRD: current, structural, and of one mind with the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from support import tools
from support.api_schema import Schema, api_server_refuses, schemas, with_defaults
from support.bad_specs import BAD
from support.brokers import SPECS, spec_of
from tidegate_operator import names
from tidegate_operator.spec import crd
from tidegate_operator.spec.problems import SpecError, parse

FILE = Path(__file__).parents[2] / "charts" / "tidegate" / "crds" / "mqttbrokers.yaml"

#: What OpenAPI v3 schemas of the API server may say (apiextensions.k8s.io/v1, structural).
ALLOWED = {
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}


def test_the_committed_definition_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == crd.generate(), "run: make crd"


def test_it_is_written_to_a_file_or_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crd.main([str(tmp_path / "crd.yaml")])
    crd.main([])
    assert (tmp_path / "crd.yaml").read_text(encoding="utf-8") == capsys.readouterr().out


def test_it_is_a_definition_as_kubernetes_wants_it() -> None:
    try:
        import kubernetes_validate
    except ImportError:
        tools.missing("kubernetes-validate")
    kubernetes_validate.validate(yaml.safe_load(FILE.read_text()), "1.37", strict=True)


def test_the_schema_is_structural() -> None:
    for path, schema in schemas(crd.root_schema()):
        assert set(schema) <= ALLOWED, (path, set(schema) - ALLOWED)
        if "x-kubernetes-int-or-string" in schema:
            assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
            assert "type" not in schema, path
        else:
            assert isinstance(schema["type"], str), path
            assert "anyOf" not in schema, path
        if schema.get("type") == "object":
            assert not ("properties" in schema and "additionalProperties" in schema), path


def test_every_field_is_described() -> None:
    undescribed = {
        path
        for path, schema in schemas(crd.root_schema())
        if "description" not in schema
        and not path.endswith((".items", ".additionalProperties"))
        and path not in {".apiVersion", ".kind", ".metadata", ".metadata.name"}
    }
    assert undescribed == set()


def test_descriptions_name_fields_as_they_are_spelled_here() -> None:
    for path, schema in schemas(crd.root_schema()):
        text = schema.get("description", "").partition(" Default: ")[0]
        assert "_" not in text.replace("{client_id}", ""), path


def test_every_list_is_bounded() -> None:
    """Unbounded lists would make rules over them too costly for the API server."""
    spec = crd.root_schema()["properties"]["spec"]
    for path, schema in schemas(spec):
        if schema.get("type") == "array":
            assert schema.get("maxItems", 10**9) <= 256 or not path.startswith(".listeners"), path


def test_defaults_of_the_runtime_are_said_but_not_written_into_objects() -> None:
    spec = crd.root_schema()["properties"]["spec"]["properties"]
    packet = spec["limits"]["properties"]["maxPacketSizeBytes"]
    assert "default" not in packet
    assert packet["description"].endswith("Default: 1048576.")
    assert spec["edge"]["default"] == {}
    assert spec["edge"]["properties"]["replicas"]["default"] == 2


def test_what_is_chosen_while_a_field_is_unset_is_not_written_into_objects() -> None:
    """It follows other fields, as the console's port follows its TLS; once stored it would not."""
    described = {
        path: schema
        for path, schema in schemas(crd.root_schema()["properties"]["spec"])
        if "unset: " in schema.get("description", "").lower()
    }
    assert ".console.service.port" in described
    assert [path for path, schema in described.items() if "default" in schema] == []


def test_it_can_be_scaled_and_seen() -> None:
    version = crd.definition()["spec"]["versions"][0]
    assert version["subresources"]["scale"] == {
        "specReplicasPath": ".spec.edge.replicas",
        "statusReplicasPath": ".status.edges.ready",
        "labelSelectorPath": ".status.edges.selector",
    }
    titles = [column["name"] for column in version["additionalPrinterColumns"]]
    assert titles[:3] == ["Ready", "Degraded", "Edges"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    for column in version["additionalPrinterColumns"]:
        if "[?" not in column["jsonPath"] and "metadata" not in column["jsonPath"]:
            place: Schema = {"properties": properties}
            for part in column["jsonPath"].strip(".").split("."):
                place = place["properties"][part]
            kind = "date" if place.get("format") == "date-time" else place["type"]
            assert kind == column["type"]
    assert crd.definition()["spec"]["names"]["shortNames"] == [names.SHORT_NAME]


def test_a_resource_that_nobody_has_seen_is_not_current() -> None:
    found = crd.root_schema()["properties"]["status"]
    default = found["default"]
    assert default["observedGeneration"] == -1
    assert {one["status"] for one in default["conditions"]} == {"Unknown"}
    items = found["properties"]["conditions"]["items"]["properties"]
    # StoreReplicated is only of brokers with a replicated store.
    kinds = [one["type"] for one in default["conditions"]]
    assert [*kinds, "StoreReplicated"] == items["type"]["enum"]


# Of one mind with the models


@pytest.mark.parametrize("name", SPECS)
def test_the_api_server_accepts_the_examples_and_what_it_makes_of_them(name: str) -> None:
    spec = SPECS[name]
    assert api_server_refuses(spec) == []
    filled = with_defaults(crd.root_schema()["properties"]["spec"], spec)
    assert parse("demo", filled).model_dump() == parse("demo", spec).model_dump()
    # A second write of the same object, as every client does it.
    assert api_server_refuses(filled, old=filled) == []


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_the_api_server_refuses_what_the_models_refuse(changes: Schema, message: str) -> None:
    spec = spec_of(**changes)
    assert message in api_server_refuses(spec)
    with pytest.raises(SpecError):
        parse("demo", spec)


def test_every_rule_has_an_example_that_breaks_it() -> None:
    messages = {
        rule["message"]
        for _, schema in schemas(crd.root_schema())
        for rule in schema.get("x-kubernetes-validations", ())
        if "oldSelf" not in rule["rule"] and "metadata.name" not in rule["message"]
    }
    assert messages == {message for _, message in BAD if message != "schema"}


def test_names_that_no_service_can_have_are_refused() -> None:
    assert api_server_refuses(spec_of(), name="a" * 41)
    assert api_server_refuses(spec_of(), name="1st")
    assert api_server_refuses(spec_of(), name="my.broker")
    assert not api_server_refuses(spec_of(), name="a" * 40)


def test_partitions_cannot_be_changed_on_existing_data() -> None:
    message = "partitions is immutable"
    old, new = spec_of(redis={"partitions": 128}), spec_of(redis={"partitions": 64})
    assert api_server_refuses(new, old=old) == [message]
    assert api_server_refuses(old, old=old) == []
    assert api_server_refuses(spec_of(redis={"partitions": 64}), old=spec_of(redis={})) == []


@pytest.mark.parametrize(
    "redis",
    [None, {}, {"bundled": {}}, {"bundled": {"storage": {}}}, {"durability": "always"}],
)
def test_what_cannot_change_cannot_be_added_either(redis: Schema | None) -> None:
    """A rule about a change holds for a spec that did not name the section before."""
    old = spec_of() if redis is None else spec_of(redis=redis)
    fast = spec_of(redis={"bundled": {"storage": {"storageClassName": "fast"}}})
    message = "bundled.storage.storageClassName is immutable (docs/kubernetes.md)"
    assert api_server_refuses(fast, old=old) == [message]
    assert api_server_refuses(old, old=fast) == [message]
    assert api_server_refuses(fast, old=fast) == []
    many = spec_of(redis={"partitions": 128})
    assert api_server_refuses(many, old=old) == ["partitions is immutable"]
    assert api_server_refuses(old, old=many) == ["partitions is immutable"]


def test_another_store_may_have_another_class() -> None:
    fast = spec_of(redis={"bundled": {"storage": {"storageClassName": "fast"}}})
    external = spec_of(redis={"external": {"url": "redis://elsewhere"}})
    assert api_server_refuses(fast, old=external) == []
    assert api_server_refuses(external, old=fast) == []


def test_the_volume_of_the_store_may_grow() -> None:
    large = spec_of(redis={"bundled": {"storage": {"size": "9Gi", "onDelete": "delete"}}})
    for redis in ({}, {"bundled": {"storage": {"size": "8Gi"}}}):
        assert api_server_refuses(large, old=spec_of(redis=redis)) == []
