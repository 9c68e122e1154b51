"""Autobahn's WebSocket cases, run by ``kosoku`` against the edge's WebSocket stack.

The server runs in a process of its own: the suite's runner keeps an event loop busy. Compression
cases (12, 13) are left out: no extension is ever agreed on (their offers are ignored, which the
handshake's own tests prove).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes

TESTS = Path(__file__).parents[1]


@pytest.fixture
def echo_url() -> Iterator[str]:
    """The address of an echo server on the project's WebSocket stack."""
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    with processes.start(
        [sys.executable, "-m", "support.ws_echo_server"],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@pytest.mark.outside
@pytest.mark.slow
async def test_all_autobahn_cases_pass(echo_url: str) -> None:
    try:
        import kosoku
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("kosoku (Autobahn's cases) is not installed")
    try:
        results = await kosoku.run_fuzzingclient(
            echo_url, exclude_cases=["12.*", "13.*"], concurrency=2
        )
    except kosoku.FailureError as exc:
        failed = [f"{r.case_id}: {r.result} {r.result_close}" for r in exc.results if not r.passed]
        pytest.fail(f"{len(failed)} cases failed:\n" + "\n".join(failed))
    assert len(results) > 200
