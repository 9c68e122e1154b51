"""Where backups are: what every target offers, the names of backups, and a directory as a target.

``s3`` has the other one. A backup appears under its name when it is complete, or not at all.
Called by ``backup``, ``restore`` and ``listing``.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from tidegate.backup.failure import BackupFailed, Reason

SUFFIX: Final = ".tgbackup"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
#: The file of a backup that is being written; left behind by one that was killed.
_PART_SUFFIX: Final = SUFFIX + ".part"
_ABANDONED_S: Final = 86_400


class Target(Protocol):
    """A place with backups. Every method raises BackupFailed."""

    def names(self) -> list[str]:
        """Return the names of all backups."""

    def size(self, name: str) -> int:
        """Return the size of a backup in bytes."""

    def part(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a backup."""

    def new_file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Return a local file to write; it is removed at the end if it was not put."""

    def put(self, file: Path, name: str) -> None:
        """Make the file of ``new_file`` the backup of this name; none has that name."""

    def local_file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Return a local file with the content of a backup."""

    def delete(self, name: str) -> None:
        """Delete a backup."""


def default_name(now_s: float) -> str:
    """Return the name of a backup that is taken now; names are ordered as times are."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))


def is_name(name: str) -> bool:
    """Whether a backup can have this name."""
    return _NAME.fullmatch(name) is not None


def name_exists(name: str, target: object) -> BackupFailed:
    """Return the failure of a backup under a name that is taken."""
    return BackupFailed(
        Reason.NAME_EXISTS,
        f"a backup named {name} is already in {target}: choose another --name; nothing has been "
        "overwritten",
    )


def no_such_backup(name: str, target: object) -> BackupFailed:
    """Return the failure of a restore from a backup that is not there."""
    return BackupFailed(
        Reason.NOT_FOUND,
        f"no backup named {name} in {target}: `tidegate restore {target} --list` shows those that "
        "are there",
    )


class Directory:
    """Backups as files in a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        """Return the names of all backups."""
        with self._failures("cannot be read"):
            if not self._path.is_dir():
                raise BackupFailed(
                    Reason.NOT_FOUND, f"{self._path} is not a directory: there are no backups"
                )
            files = [file.name for file in self._path.iterdir() if file.is_file()]
        names = [name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)]
        return [name for name in names if is_name(name)]

    def size(self, name: str) -> int:
        """Return the size of a backup in bytes."""
        with self._failures("cannot be read", name):
            return self._file(name).stat().st_size

    def part(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a backup."""
        with self._failures("cannot be read", name), self._file(name).open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Return a local file to write; it is removed at the end if it was not put."""
        part = self._path / f".{name}{_PART_SUFFIX}"
        with self._failures("cannot be written"):
            self._path.mkdir(parents=True, exist_ok=True)
            if self._file(name).exists():
                raise name_exists(name, self)
            self._remove_abandoned()
        try:
            with self._failures("cannot be written"):
                yield part
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def put(self, file: Path, name: str) -> None:
        """Make the file of ``new_file`` the backup of this name; none has that name."""
        with self._failures("cannot be written"):
            if self._file(name).exists():
                raise name_exists(name, self)
            file.rename(self._file(name))
            directory = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextlib.contextmanager
    def local_file(self, name: str) -> Iterator[Path]:
        """Return a local file with the content of a backup."""
        if not self._file(name).is_file():
            raise no_such_backup(name, self)
        yield self._file(name)

    def delete(self, name: str) -> None:
        """Delete a backup."""
        with self._failures("cannot be deleted", name):
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._path / f"{name}{SUFFIX}"

    def _remove_abandoned(self) -> None:
        """Remove what backups have left that were killed a day ago."""
        for file in self._path.glob(f".*{_PART_SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _ABANDONED_S:
                    file.unlink()

    @contextlib.contextmanager
    def _failures(self, what: str, name: str = "") -> Iterator[None]:
        path = self._file(name) if name else self._path
        try:
            yield
        except FileNotFoundError as error:
            if name:
                raise no_such_backup(name, self) from error
            raise BackupFailed(Reason.TARGET_FAILED, f"{path} {what}: not found") from error
        except OSError as error:
            raise BackupFailed(
                Reason.TARGET_FAILED, f"{path} {what}: {error.strerror or error}"
            ) from error
