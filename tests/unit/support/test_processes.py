"""How tests start programs, and that all of them do it like that."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from support import processes

TESTS = Path(__file__).parents[2]
#: A node of Kubernetes is kept by a process that sees by itself when its tests are gone.
_OWN_WAY = {"node/test_keeper.py", "support/kube/node.py", "support/kube/node_keeper.py"}
_THE_WAY = "support/processes.py"


def test_every_program_of_a_test_is_started_so_that_it_ends_with_it() -> None:
    offenders: list[str] = []
    for file in sorted(TESTS.rglob("*.py")):
        name = str(file.relative_to(TESTS))
        if name in _OWN_WAY | {_THE_WAY}:
            continue
        offenders += [
            f"{name}:{node.lineno}"
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "subprocess.Popen"
        ]
    assert not offenders, "start these with support.processes.start"


def test_a_program_runs_to_its_end() -> None:
    program = "import sys; print('said'); print('warned', file=sys.stderr); sys.exit(3)"
    done = processes.run(
        [sys.executable, "-c", program], 60, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "warned\n")


def test_a_program_that_takes_too_long_is_ended() -> None:
    program = "import threading; threading.Event().wait()"
    with pytest.raises(subprocess.TimeoutExpired):  # and nobody waits for it for ever
        processes.run([sys.executable, "-c", program], 0)
