"""The reader of an API server's audit log, while the server goes on writing it.

Input: lines as the server writes them, some of them half written. Output: the requests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.kube.audit import AuditLog


def line(name: str, **more: Any) -> bytes:
    """Return what the server writes of a request."""
    event = {
        "user": {"username": "somebody"},
        "verb": "get",
        "objectRef": {"resource": "pods", "name": name},
        "requestURI": f"/api/v1/pods/{name}",
        **more,
    }
    return json.dumps(event).encode() + b"\n"


@pytest.mark.parametrize("written", [1, 20, -1])
def test_a_mark_in_the_middle_of_a_line_is_before_it(tmp_path: Path, written: int) -> None:
    file = tmp_path / "audit.log"
    late = line("late")
    file.write_bytes(line("early") + late[:written])
    log = AuditLog(file)
    mark = log.mark()
    assert log.since(mark) == []
    file.write_bytes(line("early") + late)
    assert [one.name for one in log.since(mark)] == ["late"]


def test_the_position_of_a_request_is_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_bytes(line("a") + line("b") + line("c"))
    log = AuditLog(file)
    _, second, _ = log.since()
    assert [one.name for one in log.since(second.position)] == ["b", "c"]
    assert log.since(second.position)[0].position == second.position


def test_a_line_longer_than_the_piece_that_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    late = line("late", requestObject="x" * 200_000)
    file.write_bytes(line("early") + late[:-9])
    log = AuditLog(file)
    mark = log.mark()
    file.write_bytes(line("early") + late)
    assert [one.name for one in log.since(mark)] == ["late"]


def test_a_request_that_ended_before_anybody_knew_whose_it_was(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_bytes(line("nobody", user={}) + line("somebody"))
    log = AuditLog(file)
    assert [one.user for one in log.since()] == ["", "somebody"]


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    assert log.mark() == 0
    assert log.since(0) == []
