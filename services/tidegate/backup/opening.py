"""From the argument of the command to its target."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.target import Directory, Target


def open_target(text: str) -> Target:
    """Return the target. Raises ValueError for wrong usage, and BackupFailed."""
    if not text.startswith("s3:"):
        if "://" in text:
            raise ValueError(f"{text}: expected a directory or s3://BUCKET/PREFIX")
        return Directory(Path(text))
    parts = urlsplit(text)
    if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{text}: expected s3://BUCKET or s3://BUCKET/PREFIX")
    try:
        from tidegate.backup.s3 import Bucket  # noqa: PLC0415  # an extra of its own
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"boto3", "botocore"}:
            raise
        raise BackupFailed(
            Reason.MISSING_PACKAGE,
            "boto3 is not installed, which s3:// needs; in a checkout of Tidegate run: pip install "
            "'.[backup]'",
        ) from None
    return Bucket(text)
