"""Whether a file is a whole backup that this version can restore. Changes nothing."""

from __future__ import annotations

from pathlib import Path

from tidegate.backup import contents
from tidegate.backup.contents import Queued, Retained
from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.file_format import Reader, Summary
from tidegate.backup.progress import Phase, Progress
from tidegate.backup.values import DamagedValue
from tidegate.store.keys import FORMAT_VERSION
from tidegate.store.records import RecordError, decode_queued, decode_retained


def verify(file: Path, name: str, progress: Progress) -> Summary:
    """Read all of a file; what is in it. Raises BackupFailed."""
    progress.at(Phase.VERIFYING)
    with file.open("rb") as stream:
        reader = Reader(stream, name)
        if reader.head.store_format != FORMAT_VERSION:
            raise BackupFailed(
                Reason.UNSUPPORTED_FORMAT,
                f"backup {name} is of a store with format version {reader.head.store_format}, this "
                f"version of Tidegate has {FORMAT_VERSION}: restore it with Tidegate "
                f"{reader.head.version}, which wrote it",
            )
        for keys, value in enumerate(reader.values(), 1):
            try:
                _check(contents.read(value))
            except (DamagedValue, RecordError) as error:
                raise BackupFailed(
                    Reason.UNSUPPORTED_FORMAT,
                    f"backup {name} has contents that this version of Tidegate cannot read: "
                    f"{error}; restore it with Tidegate {reader.head.version}, which wrote it",
                ) from error
            progress.at(Phase.VERIFYING, keys, stream.tell())
    return reader.summary


def _check(item: contents.Item) -> None:
    if isinstance(item, Queued):
        for record in item.entries[1::2]:
            decode_queued(record)
    elif isinstance(item, Retained):
        for record in item.messages[1::3]:
            decode_retained(record)
