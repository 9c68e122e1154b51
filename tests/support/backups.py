"""Backups in tests: taken from a store, and restored into another, within the test's process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tidegate.backup.backup import read_store
from tidegate.backup.file_format import Summary
from tidegate.backup.progress import Phase, Progress
from tidegate.backup.restore import write_store
from tidegate.backup.verification import verify
from tidegate.runtime.config.model import StoreConfig


def silent(_phase: Phase, _keys: int, _size: int) -> None:
    """Report nothing."""


async def take(url: str, file: Path, report: Callable[[Phase, int, int], None] = silent) -> Summary:
    """Back up the store into a file."""
    return await read_store(StoreConfig(url=url), file, file.stem, Progress(report))


async def put_back(
    url: str,
    file: Path,
    report: Callable[[Phase, int, int], None] = silent,
    partitions: int = 64,
) -> Summary:
    """Restore the file into the store."""
    progress = Progress(report)
    summary = verify(file, file.stem, progress)
    config = StoreConfig(url=url, partitions=partitions)
    await write_store(config, file, summary, progress)
    return summary
