"""``tidegate backup``: from a store, which brokers may use meanwhile, to a target.

The file is verified before it gets its name. Called by ``cli.backup``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tidegate import __version__
from tidegate.backup.contents import Item
from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.file_format import Head, Summary, Writer
from tidegate.backup.interruption import run
from tidegate.backup.listing import backups_in
from tidegate.backup.progress import Phase, Progress
from tidegate.backup.reading import StoreReader
from tidegate.backup.stores import store_to_read
from tidegate.backup.target import Target
from tidegate.backup.verification import verify
from tidegate.runtime.config.model import StoreConfig
from tidegate.store.backup_access import BackupAccess
from tidegate.store.keys import FORMAT_VERSION


def back_up(
    store: StoreConfig,
    target: Target,
    name: str,
    keep: int | None,
    progress: Progress,
    wait_s: float = 0.0,
) -> tuple[Summary, list[str]]:
    """Take a backup; what is in it, and the names of older ones that were deleted.

    A store that is not available is waited for, up to ``wait_s`` seconds. Raises BackupFailed.
    """
    with target.new_file(name) as file:
        summary = run(read_store(store, file, name, progress, wait_s))
        check_file(file, summary, progress)
        progress.at(Phase.WRITING, 0, summary.size)
        target.put(file, name)
    return summary, [] if keep is None else delete_old(target, keep, progress)


async def read_store(
    store: StoreConfig, file: Path, name: str, progress: Progress, wait_s: float = 0.0
) -> Summary:
    """Write a backup of the store into a file. Raises BackupFailed, OSError."""
    progress.at(Phase.READING)
    async with store_to_read(store, progress, wait_s) as access:
        head = await _head(access, name)
        with file.open("wb") as stream:
            writer = Writer(stream, head)

            def put(item: Item) -> None:
                writer.add(item.value())
                progress.at(Phase.READING, reader.keys, writer.size)

            reader = StoreReader(access, put)
            await reader.read()
            totals = writer.totals
            totals.sessions = reader.sessions
            totals.queued_messages = reader.queued
            totals.retained = reader.retained
            summary = writer.end()
            stream.flush()
            os.fsync(stream.fileno())
    return summary


async def _head(access: BackupAccess, name: str) -> Head:
    times = await access.time()
    passed_ms = max(0, times.server_ms - times.stored_at_ms)
    return Head(
        name=name,
        version=__version__,
        store_format=FORMAT_VERSION,
        partitions=len(access.keys.prefixes),
        taken_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(times.server_ms / 1000)),
        server_ms=times.server_ms,
        broker_ms=times.broker_ms + passed_ms if times.broker_ms else times.server_ms,
    )


def check_file(file: Path, written: Summary, progress: Progress) -> None:
    """Read back what was written. Raises BackupFailed."""
    found = verify(file, written.head.name, progress)
    if found.sha256 != written.sha256:
        raise BackupFailed(
            Reason.DAMAGED,
            f"backup {written.head.name}: what was read back is not what was written: the disk or "
            "file system is at fault, the backup is not kept",
        )


def delete_old(target: Target, keep: int, progress: Progress) -> list[str]:
    """Delete all but the newest complete backups; the names of those deleted."""
    complete = [one for one in backups_in(target) if one.complete]
    old = [one.name for one in complete[keep:]]
    for number, name in enumerate(old, 1):
        progress.at(Phase.DELETING, number)
        target.delete(name)
    return old
