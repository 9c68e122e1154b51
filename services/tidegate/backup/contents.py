"""What the values of a backup mean: one class for each kind.

Pure. ``reading`` makes them of what the store returns, ``writing`` makes commands of them. Keys of
sessions and topics are without partitions: a restore may have another number of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from tidegate.backup.values import DamagedValue, Value

#: Words in pairs, as hashes come: field, value, ….
Pairs: TypeAlias = list[bytes]

_CLIENT: Final = 1
_QUEUE: Final = 2
_ABANDONED: Final = 3
_RETAINED: Final = 4
_CLAIMS: Final = 5
_COUNTER: Final = 6
_BANS: Final = 7


@dataclass(slots=True)
class Client:
    """All state of a client at one moment, but for entries of queues; replaces an earlier one."""

    name: bytes
    fields: Pairs = field(default_factory=list)
    subscriptions: Pairs = field(default_factory=list)
    replays: Pairs = field(default_factory=list)
    receipts: bytes = b""
    wraps: Pairs = field(default_factory=list)
    released: list[bytes] = field(default_factory=list)
    identities: Pairs = field(default_factory=list)
    wills: Pairs = field(default_factory=list)
    last_seq: int = 0

    @property
    def session(self) -> dict[bytes, bytes]:
        """The fields of the session; empty: there is none."""
        return dict(zip(self.fields[::2], self.fields[1::2], strict=True))

    @property
    def is_durable(self) -> bool:
        """Whether the client has a durable session."""
        return self.session.get(b"i", b"0") != b"0"

    def value(self) -> Value:
        """Return the value that ``read`` takes."""
        return cast(
            "Value",
            [
                _CLIENT,
                self.name,
                self.fields,
                self.subscriptions,
                self.replays,
                self.receipts,
                self.wraps,
                self.released,
                self.identities,
                self.wills,
                self.last_seq,
            ],
        )


@dataclass(slots=True)
class Queued:
    """Entries of the queue of a client's session: id, record, …; and identities that are added."""

    client: bytes
    entries: Pairs
    identities: Pairs

    def value(self) -> Value:
        """Return the value that ``read`` takes."""
        return cast("Value", [_QUEUE, self.client, self.entries, self.identities])


@dataclass(slots=True)
class Abandoned:
    """Entries of an abandoned queue (``client:number``); the first ones replace earlier ones."""

    name: bytes
    state: bytes
    is_first: int
    entries: Pairs

    def value(self) -> Value:
        """Return the value that ``read`` takes."""
        return cast("Value", [_ABANDONED, self.name, self.state, self.is_first, self.entries])


@dataclass(slots=True)
class Retained:
    """Retained messages: topic, record, what it counts for, …."""

    messages: list[bytes]

    def value(self) -> Value:
        """Return the value that ``read`` takes."""
        return cast("Value", [_RETAINED, self.messages])


@dataclass(slots=True)
class Claims:
    """Claims of a group of shared subscriptions: identity, holder, …; ``kind`` is of its key."""

    group: bytes
    kind: bytes
    holders: Pairs

    def value(self) -> Value:
        """Return the value that ``read`` takes."""
        return cast("Value", [_CLAIMS, self.group, self.kind, self.holders])


@dataclass(slots=True)
class Counter:
    """The newest number that a partition had given out."""

    number: int

    def value(self) -> Value:
        """Return the value that ``read`` takes."""
        return [_COUNTER, self.number]


@dataclass(slots=True)
class Bans:
    """Bans: identifier, the ban as it is stored, …; a backup of a store without bans has none."""

    bans: Pairs

    def value(self) -> Value:
        """Return the value that ``read`` takes."""
        return cast("Value", [_BANS, self.bans])


Item: TypeAlias = Client | Queued | Abandoned | Retained | Claims | Counter | Bans

_KINDS: Final[dict[int, tuple[type[Item], str]]] = {
    # b bytes, i integer, p pairs of bytes, l list of bytes, t three bytes each
    _CLIENT: (Client, "bpppbplppi"),
    _QUEUE: (Queued, "bpp"),
    _ABANDONED: (Abandoned, "bbip"),
    _RETAINED: (Retained, "t"),
    _CLAIMS: (Claims, "bbp"),
    _COUNTER: (Counter, "i"),
    _BANS: (Bans, "p"),
}
_MULTIPLES: Final = {"p": 2, "l": 1, "t": 3}


def read(value: Value) -> Item:
    """Return the item of a value. Raises DamagedValue."""
    if not isinstance(value, list) or not value or not isinstance(value[0], int):
        raise DamagedValue("a value without a kind")
    if value[0] not in _KINDS:
        raise DamagedValue(f"a value of the unknown kind {value[0]}")
    made, form = _KINDS[value[0]]
    words = value[1:]
    if len(words) != len(form) or not all(map(_fits, form, words)):
        raise DamagedValue("a value of another form")
    return made(*words)  # type: ignore[arg-type]  # checked by the form


def _fits(form: str, word: Value) -> bool:
    if form == "b":
        return isinstance(word, bytes)
    if form == "i":
        return isinstance(word, int)
    if not isinstance(word, list) or len(word) % _MULTIPLES[form]:
        return False
    return all(isinstance(one, bytes) for one in word)
