"""Cursors of lists: opaque to clients, any JSON value to the route that made them. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from tidegate.console.errors import invalid


def encode_cursor(position: Any) -> str:
    """Return a position as the text that ``next`` has."""
    text = json.dumps(position, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).rstrip(b"=").decode()


def decode_cursor(after: str) -> Any:
    """Return the position that ``after`` has; None for "". Raises ApiError."""
    if not after:
        return None
    try:
        raw = base64.b64decode(
            after.encode("ascii") + b"=" * (-len(after) % 4), altchars=b"-_", validate=True
        )
        return json.loads(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, binascii.Error, RecursionError):
        raise invalid("after is not what `next` of a page was") from None
