"""The link over real gRPC on loopback: both ends in one process, what is behind them fake or real.

Inputs: calls of the two interfaces in ``link.interfaces``, faults of the wire between them.
Observed: what reaches the other side, in which order. What each end does by itself is tested in
tests/unit/link; whole processes under faults in tests/cluster.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.linked import Carriers, Wires


@pytest.fixture
def carriers(request: pytest.FixtureRequest) -> Carriers:
    """Return what carries the link of edges and of routers (support.linked.every_carrier)."""
    return getattr(request, "param", Carriers())


@pytest.fixture
async def wires(carriers: Carriers) -> AsyncIterator[Wires]:
    """Yield what starts routers and edges; they end with the test."""
    # Short, because the path of a Unix socket has about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="tgl-", ignore_cleanup_errors=True) as name:
        async with Wires(Path(name), carriers) as made:
            yield made
