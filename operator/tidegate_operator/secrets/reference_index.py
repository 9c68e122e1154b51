"""Which brokers refer to which Secrets and ConfigMaps of their namespace.

Filled by ``reconcile`` with what it reads, asked by ``handlers`` when one of them changes: a new
password file or a renewed certificate is then looked at in the same moment, not at the next resync.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidegate_operator.secrets.references import ObjectKey
from tidegate_operator.work_queue import Key


class Referrers:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._objects: dict[Key, frozenset[ObjectKey]] = {}
        self._brokers: dict[tuple[str, ObjectKey], set[str]] = {}

    def refers(self, broker: Key, objects: Iterable[ObjectKey]) -> None:
        """Note everything that a broker refers to, instead of what it referred to before."""
        namespace, name = broker
        for one in self._objects.pop(broker, ()):
            brokers = self._brokers[namespace, one]
            brokers.discard(name)
            if not brokers:
                del self._brokers[namespace, one]
        now = frozenset(objects)
        if now:
            self._objects[broker] = now
        for one in now:
            self._brokers.setdefault((namespace, one), set()).add(name)

    def forget(self, broker: Key) -> None:
        """A broker has gone."""
        self.refers(broker, ())

    def of(self, namespace: str, one: ObjectKey) -> frozenset[str]:
        """Return the names of the brokers that refer to an object."""
        return frozenset(self._brokers.get((namespace, one), ()))
