"""Examines the clocks: whether this machine's is synchronized, and agrees with the store's.

Leases and expiry go by no wall clock; certificates, log lines and what people compare do.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from typing import Final

from tidegate.doctor.findings import Finding, advice, ok

_AREA: Final = "clocks"
_APART_S: Final = 1.0
#: struct timex of Linux has 208 bytes; zero in ``modes`` asks only.
_TIMEX_BYTES: Final = 256
_TIME_ERROR: Final = 5


def examine_clocks(store_ahead_s: float | None) -> Iterator[Finding]:
    """Yield what the kernel says of its clock, and how far the store's is away (None: unknown)."""
    synchronized = _is_synchronized()
    if synchronized is False:
        yield advice(
            _AREA,
            "the kernel's clock is not synchronized",
            "run chrony, systemd-timesyncd or another NTP client: certificates are checked by it",
        )
    elif synchronized:
        yield ok(_AREA, "the kernel's clock is synchronized")
    if store_ahead_s is None:
        return
    text = f"the store's clock is {abs(store_ahead_s):.2f} s "
    text += "ahead" if store_ahead_s > 0 else "behind"
    if abs(store_ahead_s) > _APART_S:
        yield advice(_AREA, text, "synchronize both machines: times in logs do not compare")
    else:
        yield ok(_AREA, text)


def _is_synchronized() -> bool | None:
    """Ask the kernel; None where that cannot be asked."""
    name = ctypes.util.find_library("c")
    try:
        function = ctypes.CDLL(name, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    state = int(function(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR
