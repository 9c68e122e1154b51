"""Reads a mosquitto.conf and what it includes, as mosquitto does: lines, and what each belongs to.

Called by ``convert``. Says nothing about what a directive means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_DIRECTORY_SUFFIX: Final = ".conf"


class ConfError(Exception):
    """The configuration cannot be read, or mosquitto itself would refuse it."""


@dataclass(slots=True, frozen=True)
class Line:
    """One directive: where it stands, its name and the text after it."""

    path: Path
    number: int
    name: str
    value: str

    @property
    def first(self) -> str:
        """The first word of the value; mosquitto ignores what follows a number or a flag."""
        return self.value.split(" ", 1)[0] if self.value else ""

    def error(self, text: str) -> ConfError:
        """Return the error that this line causes."""
        return ConfError(f"{self.path}:{self.number}: {self.name}: {text}")


@dataclass(slots=True)
class Section:
    """The lines of one listener (or of all that precede the first), or of one bridge."""

    start: Line | None
    lines: list[Line] = field(default_factory=list)


@dataclass(slots=True)
class Conf:
    """A whole configuration.

    ``default`` are the settings of the listener that ``port`` makes: those before the first
    ``listener`` line of each file.
    """

    lines: list[Line]
    default: Section
    listeners: list[Section]
    bridges: list[Section]


def read_conf(path: Path, bridge_names: frozenset[str]) -> Conf:
    """Read a file and the directories that it includes. Raises ConfError."""
    reader = _Reader(bridge_names)
    reader.read(path, included=False)
    return reader.conf


class _Reader:
    __slots__ = ("_bridge_names", "conf")

    def __init__(self, bridge_names: frozenset[str]) -> None:
        self._bridge_names = bridge_names
        self.conf = Conf([], Section(None), [], [])

    def read(self, path: Path, *, included: bool) -> None:
        # mosquitto begins each file with the default listener, and without a bridge.
        listener, bridge = self.conf.default, None
        for line in _lines_of(path):
            self.conf.lines.append(line)
            if line.name == "listener":
                listener = Section(line)
                self.conf.listeners.append(listener)
            elif line.name == "connection":
                bridge = Section(line)
                self.conf.bridges.append(bridge)
            elif line.name in self._bridge_names:
                if bridge is None:
                    raise line.error("belongs to a bridge, and there is no `connection` before it")
                bridge.lines.append(line)
            elif line.name == "include_dir":
                if not included:  # mosquitto ignores it in included files
                    self._include(line)
            else:
                listener.lines.append(line)

    def _include(self, line: Line) -> None:
        directory = Path(line.value)
        try:
            files = [each for each in directory.iterdir() if each.name.endswith(_DIRECTORY_SUFFIX)]
        except OSError as error:
            raise line.error(f"{directory} cannot be read: {error.strerror}") from None
        for file in sorted(files, key=lambda each: (each.name.lower(), each.name)):
            self.read(file, included=True)


def _lines_of(path: Path) -> list[Line]:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ConfError(f"{path}:{number}: not UTF-8") from None
    found = []
    for number, raw in enumerate(text.split("\n"), 1):
        if raw.startswith("#"):
            continue
        name, _, value = raw.rstrip("\r").lstrip(" ").partition(" ")
        if name.strip():
            found.append(Line(path, number, name, value.strip(" \t")))
    return found
