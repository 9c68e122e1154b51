"""The commands that make the keys of a client, pure: ``docs/storage.md`` describes the keys.

A restored broker is one that was switched off when the backup was taken: offline sessions end, and
their wills are published, when they would have been; connections that were open are closed. Called
by ``writing``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

from tidegate.backup.contents import Client
from tidegate.store.client.servers import Word
from tidegate.store.keys import BANS_KEY, BANS_VERSION_KEY, GLOBAL_PREFIX

#: A command on the keys of a partition.
Command: TypeAlias = tuple[bytes, Sequence[Word]]

#: Connections that were open count as closed so long after the restore: clients have time to
#: return before their wills are published and their sessions begin to expire.
CLOSED_AFTER_MS: Final = 300_000
#: Queues of offline members are looked at, and abandoned ones, so long after it.
SETTLE_MS: Final = 30_000
#: Half of all packet identifiers: what a client remembers of deliveries that the backup does not
#: have has other ones than the next messages.
SEQ_SKIP: Final = 32_767

_NEVER: Final = 4_294_967_295
_DAY_S: Final = 86_400
#: Of the connection, or written again by ``Visits``.
_DROPPED_FIELDS: Final = frozenset({b"k", b"v"})
_WORDS_AT_ONCE: Final = 1000


@dataclass(slots=True, frozen=True)
class Now:
    """Broker time of the restore, in ms, and the time of the new store's server."""

    broker_ms: int
    server_ms: int

    @property
    def closed_ms(self) -> int:
        """When connections that were open count as closed."""
        return self.broker_ms + CLOSED_AFTER_MS

    @property
    def settled_ms(self) -> int:
        """When messages of shared subscriptions may go to other members."""
        return self.broker_ms + SETTLE_MS


def client_commands(prefix: bytes, client: Client, now: Now) -> Iterator[Command]:
    """Write a client's state, all but its queue."""
    yield from _pending_wills(prefix, client, now)
    fields = client.session
    if client.is_durable:
        yield from _session(prefix, client, now)
    elif b"w" in fields:
        # Its session ends with its connection, and so the will is due.
        yield from _pending_will(prefix, client.name, fields[b"e"], fields[b"w"], now.closed_ms)
        epochs = [*client.wills[::2], fields[b"e"]]
        yield _list_pending(prefix, client.name, epochs)


def _pending_wills(prefix: bytes, client: Client, now: Now) -> Iterator[Command]:
    for at in range(0, len(client.wills), 2):
        epoch, record = client.wills[at : at + 2]
        yield from _pending_will(prefix, client.name, epoch, record, now.settled_ms)
    if client.wills:
        yield _list_pending(prefix, client.name, client.wills[::2])


def _pending_will(
    prefix: bytes, name: bytes, epoch: bytes, record: bytes, due_ms: int
) -> Iterator[Command]:
    will = b"%b:%b" % (epoch, name)
    yield prefix, (b"HSET", prefix + b"wills", will, record)
    yield prefix, (b"ZADD", prefix + b"due", due_ms, b"p" + will)


def _list_pending(prefix: bytes, name: bytes, epochs: Sequence[bytes]) -> Command:
    listed = b"".join(b"%b@\n" % epoch for epoch in epochs)
    return prefix, (b"HSET", prefix + b"pending", name, listed)


def _session(prefix: bytes, client: Client, now: Now) -> Iterator[Command]:
    name, fields = client.name, client.session
    if fields.get(b"g"):
        _close_connection(fields, now)
    due = prefix + b"due"
    if b"a" in fields:
        yield prefix, (b"ZADD", due, fields[b"a"], b"w" + name)
    if b"d" in fields:
        yield prefix, (b"ZADD", due, fields[b"d"], b"s" + name)
    if b"h" in fields:
        yield prefix, (b"ZADD", due, now.settled_ms, b"m" + name)
    kept = [word for pair in fields.items() if pair[0] not in _DROPPED_FIELDS for word in pair]
    yield prefix, (b"HSET", prefix + b"s:" + name, *kept)
    yield prefix, (b"SADD", prefix + b"durable", name)
    hashes = ((b"b:", client.subscriptions), (b"y:", client.replays), (b"w:", client.wraps))
    for kind, pairs in hashes:
        yield from _in_parts(prefix, b"HSET", prefix + kind + name, pairs)
    if client.receipts:
        yield prefix, (b"SET", prefix + b"r:" + name, client.receipts)
    yield from _in_parts(prefix, b"SADD", prefix + b"o:" + name, client.released)
    yield from identity_commands(prefix, name + b":" + fields[b"i"], client.identities)


def _close_connection(fields: dict[bytes, bytes], now: Now) -> None:
    """Set a session offline that was connected: from ``closed_ms`` on it is so."""
    fields[b"g"] = b""
    expiry_s = int(fields[b"x"])
    if expiry_s < _NEVER:
        fields[b"d"] = b"%d" % (now.closed_ms + expiry_s * 1000)
    if b"w" in fields:
        delay_ms = min(int(fields.get(b"l", b"0")), expiry_s) * 1000
        fields[b"a"] = b"%d" % (now.closed_ms + delay_ms)


def identity_commands(prefix: bytes, name: bytes, identities: Sequence[bytes]) -> Iterator[Command]:
    """Write the identities of QoS 2 messages of a queue: identity, score, …."""
    key = prefix + b"x:" + name
    scored = [word for at in range(0, len(identities), 2) for word in identities[at : at + 2][::-1]]
    yield from _in_parts(prefix, b"ZADD", key, scored)
    if scored:
        yield prefix, (b"EXPIRE", key, _DAY_S)


def removal_commands(prefix: bytes, client: Client) -> Iterator[Command]:
    """Remove what ``client_commands`` has written for a client."""
    name = client.name
    incarnation = client.session.get(b"i", b"0")
    kinds = (b"s:", b"b:", b"y:", b"r:", b"w:", b"o:")
    keys = [prefix + kind + name for kind in kinds]
    keys += [b"%b%b:%b:%b" % (prefix, kind, name, incarnation) for kind in (b"x", b"q", b"v")]
    yield prefix, (b"UNLINK", *keys)
    yield prefix, (b"SREM", prefix + b"durable", name)
    yield prefix, (b"HDEL", prefix + b"pending", name)
    yield prefix, (b"ZREM", prefix + b"queued-due", name + b":" + incarnation)
    wills = [b"%b:%b" % (epoch, name) for epoch in client.wills[::2]]
    wills.append(b"%b:%b" % (client.session.get(b"e", b"0"), name))
    yield prefix, (b"HDEL", prefix + b"wills", *wills)
    due = [b"s" + name, b"w" + name, b"m" + name, *(b"p" + will for will in wills)]
    yield prefix, (b"ZREM", prefix + b"due", *due)


def claim_commands(
    prefix: bytes, kind: bytes, group: bytes, holders: Sequence[bytes]
) -> Iterator[Command]:
    """Write claims of a group: identity, holder, …."""
    key = prefix + kind + b":" + group
    yield from _in_parts(prefix, b"HSET", key, holders)
    yield prefix, (b"EXPIRE", key, _DAY_S)


def ban_commands(bans: Sequence[bytes]) -> Iterator[Command]:
    """Write bans: identifier, ban, …. Broker time goes on, so they end when they would have."""
    yield from _in_parts(GLOBAL_PREFIX, b"HSET", BANS_KEY, bans)
    # Routers read bans when this word is another one than before.
    version = sha256(b"".join(bans)).hexdigest()[:16].encode()
    yield GLOBAL_PREFIX, (b"SET", BANS_VERSION_KEY, version)


def _in_parts(
    prefix: bytes, command: bytes, key: bytes, words: Sequence[bytes]
) -> Iterator[Command]:
    for start in range(0, len(words), _WORDS_AT_ONCE):
        yield prefix, (command, key, *words[start : start + _WORDS_AT_ONCE])
