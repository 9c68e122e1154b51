"""Manifests that were written for earlier revisions of the CRD (tests/operator/manifests)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parents[1] / "operator" / "manifests"

_BY_ID: Final[dict[str, dict[str, Any]]] = {
    f"{file.stem}-{manifest['metadata']['name']}": manifest
    for file in sorted(FOLDER.glob("revision-*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8"))
}
IDS: Final = list(_BY_ID)
OLD: Final = list(_BY_ID.values())
