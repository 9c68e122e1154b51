"""The definition of MqttBackup: committed, described, bounded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from support.api_schema import schemas
from tidegate_operator.spec import backup_crd

FILE = Path(__file__).parents[2] / "charts" / "tidegate" / "crds" / "mqttbackups.yaml"
#: Those of ``test_crd``.
UNDESCRIBED = {".apiVersion", ".kind", ".metadata", ".metadata.name"}


def test_the_committed_definition_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == backup_crd.generate(), "run: make crd"


def test_every_field_is_described_and_every_list_is_bounded() -> None:
    for path, schema in schemas(backup_crd.root_schema()):
        if path not in UNDESCRIBED and not path.endswith((".items", ".additionalProperties")):
            assert "description" in schema, path
        if schema.get("type") == "array":
            assert schema["maxItems"] <= 64


def test_columns_are_fields_of_their_type() -> None:
    properties = backup_crd.root_schema()["properties"]
    for column in backup_crd.definition()["spec"]["versions"][0]["additionalPrinterColumns"]:
        if "metadata" in column["jsonPath"]:
            continue
        place: dict[str, Any] = {"properties": properties}
        for part in column["jsonPath"].strip(".").split("."):
            place = place["properties"][part]
        assert column["type"] == {"date": "date", "string": "string"}.get(
            column["type"], place["type"]
        )


def test_a_path_cannot_lead_out_of_the_volume() -> None:
    schema = backup_crd.root_schema()["properties"]["spec"]["properties"]["target"]
    path = schema["properties"]["persistentVolumeClaim"]["properties"]["path"]["pattern"]
    assert re.match(path, "a/b.c")
    for bad in ("../x", "/x", "a/../b", "a/", ".x", "a//b", ""):
        assert not re.match(path, bad), bad
