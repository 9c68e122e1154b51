"""Back-off for objects that are written again and again, because another writer changes them.

Without it, two operators of different versions, or a controller with another opinion about a field,
would overwrite each other in a busy loop. ``writer`` asks before it applies an object, and records
it afterwards. Pure but for its memory; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render.restart_hash import digest

#: How many times the same manifest is applied without a wait.
IMMEDIATE_WRITES: Final = 10
#: The waits after that: the first one, doubled each time up to the maximum.
FIRST_WAIT_S: Final = 5.0
MAX_WAIT_S: Final = 300.0
#: After so long without a write the count starts again.
FORGET_AFTER_S: Final = 900.0
#: Annotations that are other ones in each round, although the same is wanted: since when the broker
#: is rolled, and the hash that covers it.
_OF_THE_ROUND: Final = frozenset({names.ROLLING_SINCE, names.APPLIED_HASH})


@dataclass(slots=True)
class _History:
    """Hash of what was written last, how many times, and when last."""

    written: str
    count: int
    last: datetime


class WriteBackoff:
    """See the module's docstring."""

    def __init__(self) -> None:
        #: By broker, then by object.
        self._histories: dict[BrokerKey, dict[ObjectRef, _History]] = {}

    def wait_s(self, manifest: Mapping[str, Any], now: datetime) -> float:
        """Return for how many seconds an object must not be written yet; 0: write it."""
        history = self._histories.get(_broker(manifest), {}).get(ObjectRef.of(manifest))
        if history is None or history.written != _hash(manifest) or _is_expired(history, now):
            return 0.0
        if history.count <= IMMEDIATE_WRITES:
            return 0.0
        pause_s = min(FIRST_WAIT_S * 2.0 ** (history.count - IMMEDIATE_WRITES - 1), MAX_WAIT_S)
        return max(0.0, pause_s - (now - history.last).total_seconds())

    def record(self, manifest: Mapping[str, Any], now: datetime) -> bool:
        """Record that an object was written; return whether back-off begins with it."""
        rounds = self._histories.setdefault(_broker(manifest), {})
        ref = ObjectRef.of(manifest)
        history = rounds.get(ref)
        if history is None or history.written != _hash(manifest) or _is_expired(history, now):
            rounds[ref] = _History(_hash(manifest), 1, now)
            return False
        history.count += 1
        history.last = now
        return history.count == IMMEDIATE_WRITES + 1

    def forget(self, namespace: str, broker: str) -> None:
        """Remove a deleted broker."""
        self._histories.pop((namespace, broker), None)


def _is_expired(history: _History, now: datetime) -> bool:
    """Whether the last write is long ago, or later than now (the clock was set back)."""
    return now < history.last or now - history.last >= timedelta(seconds=FORGET_AFTER_S)


def _broker(manifest: Mapping[str, Any]) -> BrokerKey:
    metadata = manifest["metadata"]
    return metadata["namespace"], metadata["labels"][names.INSTANCE_LABEL]


def _hash(manifest: Mapping[str, Any]) -> str:
    metadata = manifest["metadata"]
    annotations = {
        name: value for name, value in metadata["annotations"].items() if name not in _OF_THE_ROUND
    }
    return digest({**manifest, "metadata": {**metadata, "annotations": annotations}})
