"""What an examination finds: a sentence about what is, and one about what to change.

Made by the rooms of this package, printed by the command line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is."""

    #: As it should be.
    OK = "ok"
    #: It works; it would be better, or safer, otherwise.
    ADVICE = "advice"
    #: Clients or data suffer, now or at the next start.
    PROBLEM = "problem"


@dataclass(slots=True, frozen=True)
class Finding:
    """One finding. ``change`` says what to do; empty where nothing is to be done."""

    area: str
    level: Level
    text: str
    change: str = ""

    def data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def ok(area: str, text: str) -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding(area, Level.OK, text)


def advice(area: str, text: str, change: str) -> Finding:
    """Return a finding of something that works and would be better otherwise."""
    return Finding(area, Level.ADVICE, text, change)


def problem(area: str, text: str, change: str) -> Finding:
    """Return a finding of something that harms clients or data."""
    return Finding(area, Level.PROBLEM, text, change)


def size_text(size: int) -> str:
    """Return a number of bytes as people read it."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
