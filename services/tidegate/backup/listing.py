"""Which backups a target has, by their first and last bytes."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.file_format import CLOSE_BYTES, HEAD_BYTES, glance
from tidegate.backup.target import Target

LATEST = "latest"


@dataclass(slots=True, frozen=True)
class Listed:
    """One backup; ``taken_at`` and ``version`` are empty where the file does not say."""

    name: str
    taken_at: str
    bytes: int
    format: int
    version: str
    complete: bool


def backups_in(target: Target) -> list[Listed]:
    """Return the backups of a target, the newest first. Raises BackupFailed."""
    found: list[tuple[int, str, Listed]] = []
    for name in target.names():
        size = target.size(name)
        start = target.part(name, 0, min(size, HEAD_BYTES))
        end = target.part(name, max(0, size - CLOSE_BYTES), min(size, CLOSE_BYTES))
        version, head, complete = glance(start, end)
        taken_ms = head.server_ms if head is not None else 0
        taken_at, writer = ("", "") if head is None else (head.taken_at, head.version)
        found.append((taken_ms, name, Listed(name, taken_at, size, version, writer, complete)))
    return [listed for _, _, listed in sorted(found, key=lambda one: one[:2], reverse=True)]


def chosen(target: Target, name: str) -> str:
    """Return the name of a backup, or of the newest complete one. Raises BackupFailed."""
    if name != LATEST:
        return name
    complete = [one.name for one in backups_in(target) if one.complete]
    if not complete:
        raise BackupFailed(
            Reason.NOT_FOUND,
            f"no complete backup in {target}: `tidegate restore {target} --list` shows what is "
            "there",
        )
    return complete[0]
