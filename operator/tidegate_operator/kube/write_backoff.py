"""Who sets the same thing back again and again: ever less often, so that no fight is without end.

``reconcile`` asks before it writes, and says what it has written. Two operators of different
versions, or a controller that wants a field otherwise, would else answer each other for ever. Pure
but for its memory; the time is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.plan import ObjectRef

#: So often something is set back at once.
FREE: Final = 10
#: The pauses after that: the first one, doubled each time up to the longest.
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
#: After so long without a write, nobody fights any more.
FORGOTTEN_S: Final = 900.0


@dataclass(slots=True)
class _Round:
    """What was written last, how often just that, and when last."""

    written: str
    count: int
    last: datetime


class WriteBackoff:
    """See the module's docstring."""

    def __init__(self) -> None:
        #: By namespace and broker, and then by object.
        self._rounds: dict[tuple[str, str], dict[ObjectRef, _Round]] = {}

    def wait_s(self, manifest: Mapping[str, Any], now: datetime) -> float:
        """Return for how many seconds an object is not to be written yet; 0: write it."""
        found = self._rounds.get(_broker(manifest), {}).get(ObjectRef.of(manifest))
        if found is None or found.written != _hash(manifest) or _is_forgotten(found, now):
            return 0.0
        if found.count <= FREE:
            return 0.0
        pause_s = min(FIRST_PAUSE_S * 2.0 ** (found.count - FREE - 1), LONGEST_PAUSE_S)
        return max(0.0, pause_s - (now - found.last).total_seconds())

    def wrote(self, manifest: Mapping[str, Any], now: datetime) -> bool:
        """Note that an object was written; return whether that has just become a fight."""
        rounds = self._rounds.setdefault(_broker(manifest), {})
        ref = ObjectRef.of(manifest)
        found = rounds.get(ref)
        if found is None or found.written != _hash(manifest) or _is_forgotten(found, now):
            rounds[ref] = _Round(_hash(manifest), 1, now)
            return False
        found.count += 1
        found.last = now
        return found.count == FREE + 1

    def forget(self, namespace: str, broker: str) -> None:
        """A broker has gone."""
        self._rounds.pop((namespace, broker), None)


def _is_forgotten(found: _Round, now: datetime) -> bool:
    """Whether it is long ago; a clock that was set back would make every pause as much longer."""
    return now < found.last or now - found.last >= timedelta(seconds=FORGOTTEN_S)


def _broker(manifest: Mapping[str, Any]) -> tuple[str, str]:
    metadata = manifest["metadata"]
    return metadata["namespace"], metadata["labels"][names.INSTANCE_LABEL]


def _hash(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"]["annotations"][names.APPLIED_HASH])
