"""docs/pain-points.md names tests: they exist. And the licence is the one that is promised."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "pain-points.md").read_text(encoding="utf-8")
ROWS = [line for line in DOCUMENT.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = sorted(set(re.findall(r"`(tests/[a-z_/0-9]+\.py)::(test_[a-z_0-9]+)`", DOCUMENT)))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE)


def test_every_row_names_a_test() -> None:
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert all("::test_" in row.split("|")[4] for row in ROWS)


def test_the_licence_is_what_the_readme_promises() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    promise = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Licence")[2]
    assert "Apache-2.0. It stays that way" in promise
