"""The same scenarios against the broker and against mosquitto 2.0, the traces compared.

Input: scripts of raw packets (tests/support/scenarios.py). Output: every packet that came back.
Where the two differ, DIFFERENCES has the lines and the reason; docs/differences-from-mosquitto.md
tells the same to people who move from one to the other.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broker import Server
from support.certificates import Certificates
from support.mosquitto import Mosquitto
from support.scenarios import SCENARIOS
from support.traces import compare, play

# scenario -> lines that only mosquitto (-) or only we (+) have -> why.
DIFFERENCES: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="module")
def mosquitto(certificates: Certificates) -> Iterator[Server]:
    """Yield the reference."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        server = Mosquitto(Path(name).resolve(), certificates.server, certificates.authority)
        try:
            server.start()
            yield server
        finally:
            server.cleanup()


@pytest.fixture(scope="module")
def traces(broker: Server, mosquitto: Server) -> dict[str, tuple[list[str], list[str]]]:
    """Play all scenarios against both at the same time; they share no topic and no client."""

    async def play_all() -> list[list[str]]:
        return await asyncio.gather(
            *(play(server, one) for one in SCENARIOS.values() for server in (mosquitto, broker))
        )

    played = asyncio.run(play_all())
    pairs = zip(played[0::2], played[1::2], strict=True)
    return dict(zip(SCENARIOS, pairs, strict=True))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_trace_is_mosquittos_but_for_what_is_explained(
    traces: dict[str, tuple[list[str], list[str]]], name: str
) -> None:
    reference, ours = traces[name]
    explained = DIFFERENCES.get(name, {})
    assert sorted(set(compare(reference, ours))) == sorted(explained), "\n".join(
        ["mosquitto:", *reference, "ours:", *ours]
    )
    assert all(explained.values())
