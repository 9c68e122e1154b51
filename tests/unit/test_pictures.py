"""The pictures of docs/architecture.md (tools/pictures.py) are current, and are XML."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
MODULE: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "pictures.py"))
PICTURES: dict[str, Callable[[], str]] = MODULE["PICTURES"]


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_picture_is_current_and_shown(name: str) -> None:
    committed = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    assert committed == PICTURES[name](), "run: make pictures"
    assert ElementTree.fromstring(committed).tag.endswith("svg")
    assert f"](images/{name})" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
