"""What runs in the pods of backups beside the command: the report, and the deletion of a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tidegate_operator.backups import pod_delete, pod_report


def test_the_last_line_is_the_termination_message(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = 'print(\'{"phase": "writing"}\'); print(\'{"phase": "done"}\'); print()'
    file = tmp_path / "termination-log"
    assert pod_report.run([sys.executable, "-c", f"{lines}; raise SystemExit(3)"], file) == 3
    assert file.read_text() == '{"phase": "done"}'
    assert b'{"phase": "writing"}\n{"phase": "done"}\n' in capfdbinary.readouterr().out


def test_the_pod_deletes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.tgbackup"
    file.touch()
    for _ in range(2):
        # What has gone already is no failure: a pod may be started twice.
        assert pod_delete.delete(str(tmp_path), "a") == 0
        assert json.loads(capsys.readouterr().out) == {"phase": "done", "name": "a"}
    assert not file.exists()
    (tmp_path / "b.tgbackup").mkdir()
    assert pod_delete.delete(str(tmp_path), "b") == 1
    assert json.loads(capsys.readouterr().out)["phase"] == "failed"
