"""The receipts of a durable session: what its QoS 2 publishes are identified by (G2).

Owned by a ``PublishReceiver``, which stores each change through the router; read from the store
when the session is resumed (see ``store.api.AttachReply``). A receipt is one byte for each packet
identifier: bit 0 is set while an exchange is open, the others count those that have ended.
"""

from __future__ import annotations


class Receipts:
    """See the module's docstring."""

    __slots__ = ("_receipts", "_state", "_wraps")

    def __init__(self, incarnation: int, receipts: bytes, wraps: dict[int, int]) -> None:
        self._receipts = bytearray(receipts)
        #: How often the count of a packet identifier has run over, where it has.
        self._wraps = wraps
        #: Names the state that packet identifiers are counted in: that of a session in a store that
        #: went back is another one than before.
        self._state = f"{incarnation}.{wraps[0]}" if 0 in wraps else f"{incarnation}"

    def open_exchanges(self) -> set[int]:
        """Return the packet identifiers whose exchanges are open."""
        return {packet_id for packet_id, value in enumerate(self._receipts) if value & 1}

    def exchange(self, packet_id: int) -> str:
        """Name the current exchange of a packet identifier among all of the client's."""
        count = (self._value(packet_id) >> 1) + 128 * self._wraps.get(packet_id, 0)
        return f"{self._state}|{packet_id}|{count}"

    def begin(self, packet_id: int) -> int:
        """Open an exchange; return the receipt to store."""
        value = self._value(packet_id) | 1
        self._set(packet_id, value)
        return value

    def ended_value(self, packet_id: int) -> int:
        """Return the receipt to store at the end of an exchange; ``end`` follows when it is."""
        return ((self._value(packet_id) >> 1) + 1) % 128 << 1

    def end(self, packet_id: int, value: int) -> None:
        """Take what has been stored."""
        self._set(packet_id, value)
        if not value:
            self._wraps[packet_id] = self._wraps.get(packet_id, 0) + 1

    def _value(self, packet_id: int) -> int:
        receipts = self._receipts
        return receipts[packet_id] if packet_id < len(receipts) else 0

    def _set(self, packet_id: int, value: int) -> None:
        missing = packet_id + 1 - len(self._receipts)
        if missing > 0:
            self._receipts.extend(bytes(missing))
        self._receipts[packet_id] = value
