"""Which brokers refer to which Secrets and ConfigMaps of their namespace. Pure.

``reconcile`` updates it before it reads them; ``handlers`` looks brokers up when one of them
changes, so that a new password file or certificate is reconciled at once, not at the next resync.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidegate_operator.names import BrokerKey
from tidegate_operator.secrets.references import ObjectKey


class ReferenceIndex:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._objects: dict[BrokerKey, frozenset[ObjectKey]] = {}
        self._brokers: dict[tuple[str, ObjectKey], set[str]] = {}

    def update(self, broker: BrokerKey, objects: Iterable[ObjectKey]) -> None:
        """Replace the objects that a broker refers to."""
        namespace, name = broker
        for key in self._objects.pop(broker, ()):
            brokers = self._brokers[namespace, key]
            brokers.discard(name)
            if not brokers:
                del self._brokers[namespace, key]
        keys = frozenset(objects)
        if keys:
            self._objects[broker] = keys
        for key in keys:
            self._brokers.setdefault((namespace, key), set()).add(name)

    def forget(self, broker: BrokerKey) -> None:
        """Remove a deleted broker."""
        self.update(broker, ())

    def brokers_referring_to(self, namespace: str, key: ObjectKey) -> frozenset[str]:
        """Return the names of the brokers that refer to an object."""
        return frozenset(self._brokers.get((namespace, key), ()))
