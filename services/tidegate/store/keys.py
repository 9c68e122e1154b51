"""The names of the keys in Redis, and nothing else.

Callers take the prefix of a partition from here; the scripts append the rest. The partition stands
in braces, which is Redis Cluster's hash tag, so that all keys of one client share a slot.
``docs/storage.md`` has the table of keys with content and expiry; change them together, and raise
``FORMAT_VERSION`` when an older broker could not read the result.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

#: The version of the layout of keys and of the contents the scripts read.
FORMAT_VERSION: Final = 2

#: Keys of the whole database, of no partition: in a slot of their own.
GLOBAL_PREFIX: Final = b"tg:{g}:"
#: Holds "<format version>:<partitions>"; written by the first broker that uses the database.
FORMAT_KEY: Final = GLOBAL_PREFIX + b"format"
#: What it holds while a restore is not finished: this, the backup's name and its SHA-256.
RESTORING: Final = "restoring "
#: The SHA-256 of the backup that was restored last, and what ``clock`` held then.
RESTORED_KEY: Final = GLOBAL_PREFIX + b"restored"
#: Hash: edge identifier → end of its lease in broker time, ms, a space, its number, and " *" as
#: long as not every partition has that number.
EDGES_KEY: Final = GLOBAL_PREFIX + b"edges"
#: Hash: router instance → end of its lease in broker time, ms, ":", its positions as u64 each.
ROUTERS_KEY: Final = GLOBAL_PREFIX + b"routers"
#: Written by every ping, to prove that writes are accepted.
PING_KEY: Final = GLOBAL_PREFIX + b"ping"
#: Hash: identifier of a ban → the ban; and a random word, another one after each change.
BANS_KEY: Final = GLOBAL_PREFIX + b"bans"
BANS_VERSION_KEY: Final = GLOBAL_PREFIX + b"bans-version"
#: Stream: the newest events of all clients.
EVENTS_KEY: Final = GLOBAL_PREFIX + b"events"


class Keyspace:
    """The key prefixes of a layout with a fixed number of partitions."""

    __slots__ = ("_count", "format", "logs", "prefixes")

    def __init__(self, partitions: int) -> None:
        self._count = partitions
        #: The prefix of each partition, as bytes; scripts get them as an argument.
        self.prefixes: Final = tuple(b"tg:{p%02d}:" % number for number in range(partitions))
        #: The change log of each partition.
        self.logs: Final = tuple(prefix + b"log" for prefix in self.prefixes)
        self.format: Final = f"{FORMAT_VERSION}:{partitions}"

    def number(self, name: bytes) -> int:
        """The partition that a client identifier or a topic (UTF-8) belongs to."""
        return crc32(name) % self._count

    def prefix(self, name: bytes) -> bytes:
        """The prefix of the partition that a client identifier or a topic (UTF-8) belongs to."""
        return self.prefixes[crc32(name) % self._count]

    def queue(self, client_id: bytes, incarnation: int) -> bytes:
        """The stream with the queue of one incarnation of a session."""
        return b"%bq:%b:%d" % (self.prefix(client_id), client_id, incarnation)

    def events(self, client_id: bytes) -> bytes:
        """The list with the newest events of a client."""
        return b"%bev:%b" % (self.prefix(client_id), client_id)

    def abandoned_queue(self, client_id: bytes, incarnation: int) -> bytes:
        """The same after the session ended, until its shared messages are redelivered."""
        return b"%blost:%b:%d" % (self.prefix(client_id), client_id, incarnation)
