"""The reference of the configuration: complete, current, and its example works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.runtime.config import documentation
from tidegate.runtime.config.config_file import load
from tidegate.runtime.config.model import Config

DOCUMENT = Path(__file__).parents[4] / "docs" / "configuration.md"


def test_the_committed_reference_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == documentation.generate(), (
        "run: python -m tidegate.runtime.config.documentation docs/configuration.md"
    )


def test_every_row_has_a_meaning_and_a_default() -> None:
    rows = [line for line in documentation.generate().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    for row in rows:
        _, _, kind, default, _, meaning, _ = (cell.strip() for cell in row.split(" | ".strip()))
        assert kind, row
        assert default, row
        assert meaning, row


def test_ranges_and_defaults_are_shown_as_they_are_written() -> None:
    text = documentation.generate()
    assert "| `port` | whole number | `1883` | ≥ 0, ≤ 65535 | TCP port;" in text
    assert "| `unix_mode` | whole number | `0660` | ≥ 0, ≤ 0777 |" in text
    assert "| `certificate` | path | required | |" in text.replace("|  |", "| |")


def test_the_example_is_a_valid_file(tmp_path: Path) -> None:
    example = documentation.generate().partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "tidegate.yaml"
    file.write_text(example)
    config = load(file)
    assert isinstance(config, Config)
    assert [listener.port for listener in config.listeners] == [1883, 443]


def test_it_is_written_to_a_file_or_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documentation.main([str(tmp_path / "x.md")])
    documentation.main([])
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == capsys.readouterr().out
