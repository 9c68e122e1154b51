"""What tells one version of a file from another: its signature before it is read, its digest after.

Called by whoever reads files that may change while the process runs. Reads files, keeps nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

#: Hex digits of a SHA-256 that are shown.
DIGEST_DIGITS: Final = 16

#: Device, inode, size and times of change of a file, of its content and of its attributes (who may
#: read it is one; writing in place changes both); None while it is missing.
Signature: TypeAlias = tuple[int, int, int, int, int] | None


def signature_of(path: Path) -> Signature:
    """Return what tells one version of a file from another, symlinks followed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def digest_of(content: bytes) -> str:
    """Return the digest that is shown of a file's content."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def digests_of(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the digest of each file as it is now, "" for one that cannot be read."""
    digests = {}
    for path in paths:
        try:
            digests[path] = digest_of(path.read_bytes())
        except OSError:
            digests[path] = ""
    return digests


class FileDigests:
    """The digests of files that other code reads by their names.

    Made before they are read: a file with the same digest afterwards is what was read.
    """

    __slots__ = ("_before",)

    def __init__(self, paths: Iterable[Path]) -> None:
        self._before = digests_of(paths)

    def unchanged(self) -> dict[Path, str]:
        """Return the digests of what was read; files that changed meanwhile are left out."""
        after = digests_of(self._before)
        return {
            path: digest
            for path, digest in self._before.items()
            if digest and after[path] == digest
        }
