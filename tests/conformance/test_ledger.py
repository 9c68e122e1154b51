"""The ledger itself: current, complete, and with words of our own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    file = Path(__file__).with_name("ledger.py")
    spec = importlib.util.spec_from_file_location("conformance_ledger", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses looks the module up by its name.
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_ledger_is_current() -> None:
    assert _load().check() == ""


def test_every_statement_is_listed_once() -> None:
    identifiers = [statement.identifier for statement in _load().read_statements()]
    assert len(identifiers) == len(set(identifiers)) == 251 + 141


def test_ledger_row_names_tests_or_says_what_is_missing() -> None:
    ledger = _load()
    statements = [
        ledger.Statement("MQTT-1", "server", "One"),
        ledger.Statement("MQTT-2", "server", "Two"),
        ledger.Statement("MQTT-3", "client", "Three"),
        ledger.Statement("MQTT311-4", "both", "Four", "because"),
    ]
    text = ledger.render(statements, {"MQTT-1": ["tests/a/test_b.py::test_c"]})
    assert "| MQTT-1 | server | One | proven | a/test_b.py: `c` |" in text
    assert "| MQTT-2 | server | Two | UNPROVEN |  |" in text
    assert "| MQTT-3 | client | Three | client |  |" in text
    assert "| MQTT311-4 | both | Four | not applicable | because |" in text
    assert "| MQTT 5.0 | 3 | 1 | 1 | 0 | 1 |" in text


def test_long_paraphrases_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "statements.tsv"
    file.write_text("MQTT-1\tserver\t" + "word " * 13 + "\n")
    with pytest.raises(ValueError, match="at most 12 words"):
        _load().read_statements(file)
