"""The values of directives: flags, numbers, durations, paths. As strict as mosquitto, or stricter.

Called by ``settings`` and ``listeners``. Pure, but for the working directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tidegate.convert.conf_file import Line

_HOUR_S: Final = 3600
_UNITS_S: Final = {
    "h": _HOUR_S,
    "d": 24 * _HOUR_S,
    "w": 7 * 24 * _HOUR_S,
    "m": 30 * 24 * _HOUR_S,
    "y": 365 * 24 * _HOUR_S,
}


def flag(line: Line) -> bool:
    """Return a flag. Raises ConfError."""
    if line.first in {"true", "1"}:
        return True
    if line.first in {"false", "0"}:
        return False
    raise line.error(f"expected true or false, got {line.first or 'nothing'}")


def number(line: Line) -> int:
    """Return a whole number. Raises ConfError."""
    try:
        return int(line.first)
    except ValueError:
        raise line.error(f"expected a whole number, got {line.first or 'nothing'}") from None


def text(line: Line) -> str:
    """Return a text that is not empty. Raises ConfError."""
    if not line.value:
        raise line.error("the value is missing")
    return line.value


def path(line: Line) -> Path:
    """Return a path, made absolute with the working directory, as mosquitto takes it."""
    return Path(text(line)).absolute()


def duration_s(line: Line) -> int:
    """Return a duration such as 14d in seconds. Raises ConfError."""
    amount, unit = line.first[:-1], line.first[-1:]
    if unit not in _UNITS_S or not (amount.isascii() and amount.isdigit()) or not int(amount):
        raise line.error("expected a number followed by h, d, w, m or y")
    return int(amount) * _UNITS_S[unit]
