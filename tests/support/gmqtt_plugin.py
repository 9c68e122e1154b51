"""A pytest plugin for gmqtt's own MQTT 5 tests: the broker's TLS port in place of 8883."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

THEIR_TLS_PORT = 8883


def pytest_configure(config: pytest.Config) -> None:
    """Lead connections to their TLS port to ours, which the environment names."""
    # Their tests are a package called `tests`; the folder this plugin was found through must not
    # hide it.
    ours = str(Path(__file__).parent.parent)
    sys.path[:] = [entry for entry in sys.path if entry != ours]
    import gmqtt

    original = gmqtt.Client.connect

    async def connect(self: Any, host: str, port: Any = 1883, *rest: Any, **named: Any) -> Any:
        if port == THEIR_TLS_PORT:
            port = int(os.environ["TLS_PORT"])
        return await original(self, host, port, *rest, **named)

    gmqtt.Client.connect = connect
