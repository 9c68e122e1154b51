"""Documents: links of the web site (tools/docs_site.py), and the files that they name.

``make docs`` builds the site and checks its links and anchors; nothing here needs MkDocs.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MODULE: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "docs_site.py"))
for_site: Callable[[str, str], str] = MODULE["for_site"]
#: Where a path in a document may start: the top, or the package or folder that it is about.
STARTS = ("", "services", "services/tidegate", "operator", "operator/tidegate_operator", "tests")
NAMED = re.compile(r"`((?:[\w.*-]+/)+[\w.*-]+\.(?:py|md|lua|proto|c|tsv|json))\b")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("README.md", "[x](docs/kubernetes.md#status)", "[x](kubernetes.md#status)"),
        ("README.md", "[x](SECURITY.md)", "[x](security.md)"),
        ("README.md", "[x](docs/adr/)", "[x](adr/README.md)"),
        ("README.md", "[`examples/`](examples/)", "`examples/`"),
        ("docs/kubernetes.md", "[x](operations.md#upgrade)", "[x](operations.md#upgrade)"),
        ("docs/kubernetes.md", "[x](../README.md)", "[x](index.md)"),
        ("docs/adr/README.md", "[x](../../CHANGELOG.md)", "[x](../changelog.md)"),
        ("docs/adr/README.md", "[x](0008-the-link.md)", "[x](0008-the-link.md)"),
        ("docs/adr/README.md", "[x](../../Makefile)", "x"),
        # Left for MkDocs, which refuses what is not there.
        ("README.md", "[x](docs/no-such-page.md)", "[x](docs/no-such-page.md)"),
        ("docs/kubernetes.md", "[x](https://mqtt.org/)", "[x](https://mqtt.org/)"),
        ("docs/kubernetes.md", "[x](#status)", "[x](#status)"),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(
    source: str, link: str, expected: str
) -> None:
    assert for_site(f"See {link}.", source) == f"See {expected}."


def test_nothing_is_fetched_from_elsewhere() -> None:
    config = yaml.safe_load(SITE)
    assert config["theme"]["font"] is False
    assert not any(
        "://" in word for word in [*config["extra_css"], *config.get("extra_javascript", [])]
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    named = sorted(set(NAMED.findall(document.read_text(encoding="utf-8"))))
    missing = [
        name
        for name in named
        if not any(any(ROOT.glob(f"{one}/{name}".lstrip("/"))) for one in STARTS)
    ]
    assert not missing
