"""Why a backup or a restore has failed: one of a closed set of reasons, and a sentence.

Raised everywhere in this room; ``cli.backup`` prints it. The reasons are part of the output that
other programs read: docs/operations.md lists them.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """What has failed, for programs."""

    STORE_UNAVAILABLE = "store_unavailable"
    STORE_REFUSED = "store_refused"
    STORE_IN_USE = "store_in_use"
    STORE_NOT_EMPTY = "store_not_empty"
    RESTORE_UNFINISHED = "restore_unfinished"
    NOT_FOUND = "not_found"
    NAME_EXISTS = "name_exists"
    DAMAGED = "damaged"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CREDENTIALS = "credentials"
    NO_BUCKET = "no_bucket"
    TARGET_UNREACHABLE = "target_unreachable"
    TARGET_FAILED = "target_failed"
    MISSING_PACKAGE = "missing_package"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"


class BackupFailed(Exception):
    """The text is one sentence: what is wrong, and what to do."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
