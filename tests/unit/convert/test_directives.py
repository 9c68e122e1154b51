"""The table of mosquitto's directives: complete, answered, and the same in the documentation."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from tidegate.convert import conversion, documentation
from tidegate.convert.directives import ROWS, SINCE_2_1, Kind, names, row_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "differences-from-mosquitto.md"
MANUAL = Path("/usr/share/man/man5/mosquitto.conf.5.gz")


def _names_in_manual() -> set[str]:
    """Every directive that has a paragraph of its own in the manual of mosquitto.conf."""
    lines = gzip.decompress(MANUAL.read_bytes()).decode().splitlines()
    start = lines.index('.SH "GENERAL OPTIONS"')
    found: set[str] = set()
    for before, line, after in zip(
        lines[start:], lines[start + 1 :], lines[start + 2 :], strict=False
    ):
        if before == ".PP" and after.startswith(".RS"):
            text = line.replace("\\&", "").replace("\\-", "-")
            # Values follow their directive in italics or brackets: address …, addresses …
            found |= set(re.findall(r"\\fB([a-z][a-z0-9_.]*\*?)\\fR", text))
    return found


@pytest.mark.skipif(not MANUAL.exists(), reason="mosquitto's manual is not installed")
def test_every_directive_of_the_manual_is_in_the_table() -> None:
    in_manual = _names_in_manual()
    assert len(in_manual) > 100, "the manual is written differently"
    assert in_manual - set(names()) == set()


def test_every_directive_has_one_row() -> None:
    listed = [name for row in ROWS for name in row.names]
    assert len(listed) == len(set(listed))
    assert set(listed) >= SINCE_2_1


def test_options_of_plugins_have_any_name() -> None:
    row = row_of("auth_opt_backends")
    assert row is not None
    assert "plugin_opt_*" in row.names
    assert row_of("auth_opt") is None
    assert row_of("plugin_opt_*") is row


def test_what_is_converted_has_a_handler_and_nothing_else_has() -> None:
    converted = {name for row in ROWS if row.kind is Kind.CONVERTED for name in row.names}
    structure = {name for row in ROWS if row.kind is Kind.STRUCTURE for name in row.names}
    assert converted <= conversion.HANDLED
    assert conversion.HANDLED - converted <= structure


def test_what_has_no_equivalent_says_what_to_do() -> None:
    """A remark is made of the row's text; "none" alone would help nobody."""
    for row in ROWS:
        if row.kind in {Kind.NONE, Kind.NEEDLESS}:
            assert len(row.text.removeprefix("none")) > 15, row.names


def test_the_documented_table_is_current() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert documentation.with_table(document) == document, "run: make reference"


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no marks"):
        documentation.with_table("# Differences\n")
