"""Where a list that comes in pages goes on: a partition, a place in it, and the last name there.

Pure. A cursor is text for the API: opaque, checked when it comes back. After a failover of the
store a page may repeat some names, or lack some, since places in a scan are the server's own.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass


class BadCursor(ValueError):
    """This is no cursor of this list."""


@dataclass(slots=True, frozen=True)
class Cursor:
    """``scan`` is the server's cursor in the partition; names up to ``last`` have been returned."""

    partition: int = 0
    scan: int = 0
    last: bytes = b""

    def encode(self) -> str:
        """Return it as text."""
        name = base64.urlsafe_b64encode(self.last).decode().rstrip("=")
        return f"{self.partition}.{self.scan}.{name}"

    @classmethod
    def decode(cls, text: str | None, partitions: int) -> Cursor:
        """Read what ``encode`` returned; None is the beginning. Raises BadCursor."""
        if not text:
            return cls()
        words = text.split(".")
        try:
            partition, scan, name = int(words[0]), int(words[1]), words[2]
            last = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True)
        except (ValueError, IndexError, binascii.Error):
            raise BadCursor("after is no cursor of this list") from None
        if len(words) != 3 or not 0 <= partition < partitions or not 0 <= scan < 1 << 64:
            raise BadCursor("after is no cursor of this list")
        return cls(partition, scan, last)
