"""Clients that flap: they disconnect too often in a window of time (``limits.flapping``).

One per edge. Costs a look into a dictionary for each end of a connection while the rule is on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: Clients that are counted at the same time; the oldest windows are forgotten for others.
MAX_COUNTED: Final = 10_000


class Flapping:
    """See the module's docstring. Times are seconds of any clock that never goes back."""

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        #: By session key: the begin of the window, and the disconnects in it; oldest first.
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def disconnected(self, key: str, now_s: float, most: int, window_s: float) -> bool:
        """Count the end of a connection; True if the client has now ended ``most`` in the window.

        It begins with a new window then.
        """
        windows = self._windows
        began_s, count = windows.pop(key, (now_s, 0))
        if now_s - began_s >= window_s:
            began_s, count = now_s, 0
        count += 1
        if count >= most:
            return True
        if len(windows) >= MAX_COUNTED:
            windows.popitem(last=False)
        windows[key] = began_s, count
        return False
