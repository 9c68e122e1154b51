"""Tables and sentences on a terminal: sizes and ages readable, colour only where it is wanted."""

# ruff: noqa: PLC0415 - imports inside keep the other commands quick

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tidegate.cli.ctl import MAX_WIDTH, duration, printable

_COLOURS: Final = {"good": "32", "bad": "31", "warning": "33", "faint": "2", "strong": "1"}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(slots=True, frozen=True)
class Cell:
    """A text of a table, with a colour."""

    text: str
    colour: str = ""


def colour_is_wanted() -> bool:
    """Whether standard output is a terminal, and nobody has said no (https://no-color.org)."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def painted(text: str, colour: str) -> str:
    """Return a text in a colour, where colours are wanted."""
    if not colour or not text or not colour_is_wanted():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lay out rows; the cells of a column are equally wide."""
    cells = [[_cell(value) for value in row] for row in rows]
    titles = [Cell(title, "strong") for title in head]
    every = [titles, *cells]
    widths = [
        min(MAX_WIDTH, max(len(row[column].text) for row in every)) for column in range(len(head))
    ]
    for row in every:
        parts = []
        for cell, width in zip(row, widths, strict=True):
            parts.append(painted(cell.text, cell.colour) + " " * (width - len(cell.text)))
        yield "  ".join(parts).rstrip()


def _cell(value: object) -> Cell:
    if isinstance(value, Cell):
        return Cell(printable(value.text), value.colour)
    if value is None or value == "":
        return Cell("-", "faint")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    return Cell(printable(value))


def size(count: float | None) -> str:
    """Bytes in a readable unit: 512 B, 3.4 MiB."""
    if count is None:
        return ""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def age(unix_s: float | None) -> str:
    """How long ago a time was: `3 min 5 s`."""
    return "" if unix_s is None else duration(max(0.0, time.time() - unix_s))


def left(unix_s: float | None) -> str:
    """How long it is until a time."""
    return "" if unix_s is None else duration(max(0.0, unix_s - time.time()))


def clock(unix_s: float) -> str:
    """A time as `tidegate ctl` and the log write it: UTC, `2026-11-30T10:42:07Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def unix_time(rfc3339: str) -> float | None:
    """Return what a time of the API is, None for an empty one."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(rfc3339).timestamp()
    except ValueError:
        return None


def payload(base64_text: str, size_bytes: int, width: int = 60) -> str:
    """The beginning of a payload in a line: as text where it is one, else in hexadecimal."""
    import base64

    content = base64.b64decode(base64_text)
    try:
        # What is cut may end in the middle of a character.
        shown = content.decode("utf-8", "strict" if len(content) == size_bytes else "ignore")
        text = printable(shown) if shown.isprintable() or "\n" in shown else content.hex(" ")
    except UnicodeDecodeError:
        text = content.hex(" ")
    cut = len(text) > width or len(content) < size_bytes
    return f"{text[: width - 1]}…" if cut else text
