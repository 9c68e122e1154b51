"""What a conversion has to say: remarks (something is not carried over) and notes (look at it).

Filled by ``settings``, ``listeners``, ``files`` and ``resource``; printed by the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.convert.conf_file import Line


@dataclass(slots=True, frozen=True)
class Finding:
    """One sentence about a line of a file; ``number`` 0: about the whole file."""

    path: Path
    number: int
    subject: str
    text: str
    is_remark: bool

    def __str__(self) -> str:
        """Return it as compilers print theirs: FILE:LINE: what: sentence."""
        where = f"{self.path}:{self.number}" if self.number else str(self.path)
        return f"{where}: {self.subject}: {self.text}" if self.subject else f"{where}: {self.text}"


class Findings:
    """All findings, in the order of the files and lines that they are about."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def remark(self, line: Line, text: str) -> None:
        """Say that a line, or a part of it, is not carried over, and what to do."""
        self._found.append(Finding(line.path, line.number, line.name, text, True))

    def note(self, line: Line, text: str) -> None:
        """Say what is different though nothing is lost."""
        self._found.append(Finding(line.path, line.number, line.name, text, False))

    def remark_on_file(self, path: Path, number: int, text: str) -> None:
        """Say what of a file that the configuration names is not taken as it is."""
        self._found.append(Finding(path, number, "", text, True))

    def remarks(self) -> list[Finding]:
        """Return what is not carried over."""
        return self._sorted(True)

    def notes(self) -> list[Finding]:
        """Return the rest."""
        return self._sorted(False)

    def _sorted(self, is_remark: bool) -> list[Finding]:
        files: list[Path] = []
        for each in self._found:
            if each.path not in files:
                files.append(each.path)
        chosen = [each for each in self._found if each.is_remark is is_remark]
        return sorted(_distinct(chosen), key=lambda each: (files.index(each.path), each.number))


def _distinct(found: Sequence[Finding]) -> list[Finding]:
    return list(dict.fromkeys(found))
