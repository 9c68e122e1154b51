"""The promise of docs/api.md: manifests and fields of earlier revisions of the CRD keep working.

``manifests/revision-N.yaml`` was written for revision N and is never edited. ``fields.txt`` has the
fields that have been released, with their types: UPDATE_SNAPSHOTS=1 adds the new ones.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from support.api_schema import api_server_refuses, schemas, with_defaults
from support.old_manifests import FOLDER, IDS, OLD
from tidegate_operator import names
from tidegate_operator.spec import crd
from tidegate_operator.spec.problems import parse, unknown_keys

FIELDS = FOLDER / "fields.txt"
DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
VERSIONS: list[dict[str, Any]] = crd.definition()["spec"]["versions"]


@pytest.mark.parametrize("manifest", OLD, ids=IDS)
def test_an_old_manifest_is_accepted_whole(manifest: dict[str, Any]) -> None:
    group, _, version = manifest["apiVersion"].partition("/")
    assert group == names.GROUP
    assert version in {one["name"] for one in VERSIONS if one["served"]}
    spec = manifest["spec"]
    assert api_server_refuses(spec) == []
    assert unknown_keys(spec) == []
    # The second write of an object is compared with what the first one has become.
    stored = with_defaults(crd.root_schema()["properties"]["spec"], spec)
    assert api_server_refuses(spec, old=stored) == []
    parse("demo", spec)


def test_every_revision_that_changed_a_manifest_has_one() -> None:
    revisions = {int(one.stem.removeprefix("revision-")) for one in FOLDER.glob("revision-*.yaml")}
    assert {1, 2, 3} <= revisions
    assert max(revisions) <= crd.REVISION


def fields() -> dict[str, str]:
    """Return type, and whether it is required, of each field of the spec and the status."""
    found = dict(schemas(crd.root_schema()))
    required = {f"{path}.{name}" for path, one in found.items() for name in one.get("required", ())}
    return {
        path: f"{one.get('type', 'int-or-string')}{' required' if path in required else ''}"
        for path, one in found.items()
        if path
    }


def released_fields() -> dict[str, str]:
    lines = FIELDS.read_text(encoding="utf-8").splitlines()
    return {path: rest for path, _, rest in (line.partition(" ") for line in lines)}


def test_no_released_field_has_gone_or_changed_its_type() -> None:
    now, released = fields(), released_fields()
    assert {path: now.get(path) for path in released} == released
    if os.environ.get("UPDATE_SNAPSHOTS"):
        FIELDS.write_text("".join(f"{path} {kind}\n" for path, kind in sorted(now.items())))


def test_nothing_new_is_required_in_a_released_section() -> None:
    """Manifests without new fields stay whole."""
    released = released_fields()
    for path, kind in fields().items():
        if path not in released and path.rpartition(".")[0] in released:
            assert not kind.endswith("required"), path


def test_exactly_one_version_is_stored_and_the_document_names_it() -> None:
    (stored,) = (one["name"] for one in VERSIONS if one["storage"])
    assert stored == names.VERSION
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"Served: `{stored}`. Stored: `{stored}`." in text
