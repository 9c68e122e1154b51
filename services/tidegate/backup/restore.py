"""``tidegate restore``: from a file to an empty store on which no broker runs.

All of the file is verified before anything is written. While it is written, the key of the store's
format says so, and no broker starts; run again, it begins at the start. Called by ``cli.backup``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tidegate.backup import contents
from tidegate.backup.commands import Now
from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.file_format import Reader, Summary
from tidegate.backup.interruption import run
from tidegate.backup.listing import chosen
from tidegate.backup.progress import Phase, Progress
from tidegate.backup.stores import store_to_write
from tidegate.backup.target import Target
from tidegate.backup.verification import verify
from tidegate.backup.writing import StoreWriter
from tidegate.runtime.config.model import StoreConfig
from tidegate.store.backup_access import BackupAccess
from tidegate.store.keys import FORMAT_KEY, GLOBAL_PREFIX, RESTORED_KEY, RESTORING

_CLOCK_KEY: Final = GLOBAL_PREFIX + b"clock"


def restore(
    store: StoreConfig, source: Target, name: str, progress: Progress, wait_s: float = 0.0
) -> Summary:
    """Restore a backup, or the newest one (``latest``). Raises BackupFailed.

    A store that is not available is waited for, up to ``wait_s`` seconds.
    """
    progress.at(Phase.READING)
    found = chosen(source, name)
    with source.local_file(found) as file:
        summary = verify(file, found, progress)
        run(write_store(store, file, summary, progress, wait_s))
    return summary


async def write_store(
    store: StoreConfig, file: Path, summary: Summary, progress: Progress, wait_s: float = 0.0
) -> None:
    """Write a verified file into the store. Raises BackupFailed."""
    async with store_to_write(store, progress, wait_s) as access:
        if await _is_done(access, summary):
            return
        await _begin(access, summary)
        progress.at(Phase.WRITING)
        now = await _now(access, summary)
        writer = StoreWriter(access, now)
        with file.open("rb") as stream:
            reader = Reader(stream, summary.head.name)
            for value in reader.values():
                await writer.put(contents.read(value))
                progress.at(Phase.WRITING, writer.keys, stream.tell())
        await writer.finish()
        await _end(access, summary)


async def _is_done(access: BackupAccess, summary: Summary) -> bool:
    """Whether this backup has been restored, and no broker has used the store since."""
    if await access.layout() != access.keys.format:
        return False
    restored = await access.read(GLOBAL_PREFIX, b"GET", RESTORED_KEY) or b""
    clock = await access.read(GLOBAL_PREFIX, b"GET", _CLOCK_KEY) or b""
    return bool(restored == _restored(summary, clock))


def _restored(summary: Summary, clock: bytes) -> bytes:
    return b"%b %b" % (summary.sha256.encode(), clock)


async def _begin(access: BackupAccess, summary: Summary) -> None:
    """Mark the store as one that is being restored. Raises BackupFailed."""
    name = summary.head.name
    mark = f"{RESTORING}{name} {summary.sha256}"
    layout = await access.layout()
    if layout == mark:
        return
    if layout.startswith(RESTORING):
        other = layout.split(" ")[1]
        raise BackupFailed(
            Reason.RESTORE_UNFINISHED,
            f"the restore of backup {other} into this store is not finished: run it with --name "
            f"{other} again, or empty the store before {name} is restored",
        )
    if await access.is_in_use():
        raise BackupFailed(
            Reason.STORE_IN_USE,
            "a broker runs on the store: stop `tidegate serve`, or all routers; nothing has been "
            "changed",
        )
    taken = layout or await access.has_data()
    if taken or not await access.command(GLOBAL_PREFIX, b"SET", FORMAT_KEY, mark, b"NX"):
        raise BackupFailed(
            Reason.STORE_NOT_EMPTY,
            "the store has data of a broker, and a restore does not mix or overwrite: choose an "
            "empty one, or delete its keys tg:* (FLUSHDB if it is for this broker only); nothing "
            "has been changed",
        )


async def _now(access: BackupAccess, summary: Summary) -> Now:
    server_ms = (await access.time()).server_ms
    head = summary.head
    return Now(head.broker_ms + max(0, server_ms - head.server_ms), server_ms)


async def _end(access: BackupAccess, summary: Summary) -> None:
    """Make it a store that brokers use. Raises BackupFailed."""
    if await access.is_in_use():
        raise BackupFailed(
            Reason.STORE_IN_USE,
            "a broker has written to the store during the restore: stop it, empty the store, and "
            "run the restore again; no broker starts on it until then",
        )
    clock = await access.read(GLOBAL_PREFIX, b"GET", _CLOCK_KEY)
    await access.command(GLOBAL_PREFIX, b"SET", RESTORED_KEY, _restored(summary, clock))
    await access.command(GLOBAL_PREFIX, b"SET", FORMAT_KEY, access.keys.format)
