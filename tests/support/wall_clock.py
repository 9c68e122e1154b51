"""A wall clock that a test can step, for processes that are started with its environment.

It is libfaketime's: only wall clocks are changed, monotonic ones go on. Children of such a process
have the same clock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from support.tools import missing

_LIBRARY: Final = "faketime/libfaketimeMT.so.1"


class WallClock:
    """See the module's docstring."""

    def __init__(self, directory: Path, name: str = "clock") -> None:
        found = [*Path("/usr/lib").glob(f"*/{_LIBRARY}"), *Path("/usr/lib").glob(_LIBRARY)]
        if not found:
            missing("libfaketime")
        self._file = directory / name
        self.step(0)
        #: What a process needs to have this clock.
        self.environment: Mapping[str, str] = os.environ | {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: int) -> None:
        """Be so many seconds ahead of the real time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.replace(self._file)
