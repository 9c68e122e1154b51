"""Which drops become events: the first of a reason in a minute, and how many came after it.

One per edge and router, used by what makes events there. Costs a look into a dictionary for each
drop. Times are arguments. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

#: Drops of the same client and reason within this time are one event, and one more at its end.
MINUTE_S: Final = 60.0
#: Clients and reasons that are remembered; drops of others are not recorded until some are over.
MAX_REMEMBERED: Final = 10_000


class _Minute:
    __slots__ = ("count", "since_s", "topic")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.count = 0
        self.topic = ""


class DropMinutes:
    """See the module's docstring."""

    __slots__ = ("_minutes", "_most")

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        """``most``: clients and reasons that are remembered."""
        self._most = most
        #: By session key and reason, oldest first.
        self._minutes: dict[tuple[str, str], _Minute] = {}

    def note(self, key: str, reason: str, topic: str, now_s: float, count: int = 1) -> bool:
        """Note a drop; True if it is the first one of its minute."""
        minute = self._minutes.get((key, reason))
        if minute is not None:
            minute.count += count
            minute.topic = topic
            return False
        if len(self._minutes) >= self._most:
            return False
        self._minutes[key, reason] = _Minute(now_s)
        return True

    def over(self, now_s: float) -> Iterator[tuple[str, str, str, int]]:
        """End the minutes that are over: key, reason, last topic, drops since the first one.

        Only those with more than the first; another minute begins for them.
        """
        ended = []
        for name, minute in self._minutes.items():
            if now_s < minute.since_s + MINUTE_S:
                break
            ended.append((name, minute))
        for name, minute in ended:
            del self._minutes[name]
            if minute.count:
                self._minutes[name] = _Minute(now_s)
                yield (*name, minute.topic, minute.count)
