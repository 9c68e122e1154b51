"""Retained messages as operators see them: lists by filter, levels of topics, one message.

Called by the console. Reads only: messages are deleted by publishing empty ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812  # it is an exception class
from typing import Final

from tidegate.mqtt.topics import matches
from tidegate.store import operations as op
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.inspection.values import Level, Part, Topic
from tidegate.store.inspection.walk import SCAN_COUNT, SCAN_SIZE, Found, walk
from tidegate.store.records import RecordError, RetainedRecord, decode_retained

#: Bytes of a payload in a list, and what its record may have before it.
PREVIEW_BYTES: Final = 256
_HEAD_BYTES: Final = 2_048
#: Names that one operation compares while levels are counted.
_LEVEL_COUNT: Final = 500
#: Operations that are under way at the same time while levels are counted.
_AT_ONCE: Final = 8
#: Levels that are returned.
MOST_LEVELS: Final = 1_000
_RECORD_HEAD: Final = Struct(">BBQH")
_WILDCARDS: Final = "*?[]\\"


class RetainedInspection:
    """See the module's docstring. All methods raise StoreUnavailable."""

    def __init__(self, access: StoreAccess) -> None:
        self._access = access

    async def page(self, topic_filter: str, after: str | None, limit: int) -> Part[Topic]:
        """Return topics that match a filter, in no particular order. Raises BadCursor."""
        pattern = _pattern_of(topic_filter)
        count = min(limit, SCAN_COUNT) if topic_filter == "#" else SCAN_COUNT
        head = _HEAD_BYTES + PREVIEW_BYTES

        async def read(prefix: bytes, scan: int) -> Found[Topic]:
            after, found = await self._access.submit(
                prefix, op.LIST_RETAINED, prefix, scan, count, pattern, head, size=SCAN_SIZE
            )
            items = [
                (found[at], await self._topic(prefix, *found[at : at + 3]))
                for at in range(0, len(found), 3)
                if matches(topic_filter, found[at].decode())
            ]
            return Found(int(after), count, items)

        return await walk(self._access.keys.prefixes, after, limit, read)

    async def topics(self, topic_filter: str, partition: int, scan: int) -> tuple[int, list[str]]:
        """Return topics of one place of a partition that match, and the next place; 0: the end."""
        prefix = self._access.keys.prefixes[partition]
        after, found = await self._access.submit(
            prefix,
            op.LIST_RETAINED,
            *(prefix, scan, SCAN_COUNT, _pattern_of(topic_filter), 0),
            size=SCAN_SIZE,
        )
        names = [found[at].decode() for at in range(0, len(found), 3)]
        return int(after), [name for name in names if matches(topic_filter, name)]

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return len(self._access.keys.prefixes)

    async def exist(self, topics: Sequence[str]) -> list[str]:
        """Return those of the topics that have a retained message."""
        waiting = []
        for topic in topics:
            name = topic.encode()
            prefix = self._access.keys.prefix(name)
            # A record of a byte is none: whether there is one is all that is asked.
            waiting.append(self._access.submit(prefix, op.GET_RETAINED, 1, prefix, name, size=256))
        records = await asyncio.gather(*waiting)
        return [topic for topic, found in zip(topics, records, strict=True) if found[0]]

    async def value(self, topic: str) -> RetainedRecord | None:
        """Return the retained message of a topic. Raises RecordError."""
        name = topic.encode()
        prefix = self._access.keys.prefix(name)
        (record,) = await self._access.submit(
            prefix, op.GET_RETAINED, 1, prefix, name, size=SCAN_SIZE
        )
        return None if not record else decode_retained(record)

    async def levels(self, topic: str, until_s: float) -> tuple[list[Level], bool]:
        """Return what is one level below a topic ("": the first levels), and whether that is all.

        ``until_s``: when to stop at the latest, by the event loop's clock.
        """
        beginning = f"{topic}/" if topic else ""
        levels: dict[str, Level] = {}
        prefixes = list(self._access.keys.prefixes)
        complete = True

        async def read_partitions() -> None:
            nonlocal complete
            while prefixes:
                prefix, scan = prefixes.pop(), 0
                while True:
                    if asyncio.get_running_loop().time() >= until_s:
                        complete = False
                        return
                    scan = await self._count_levels(prefix, scan, beginning, levels)
                    if not scan:
                        break

        await asyncio.gather(*(read_partitions() for _ in range(_AT_ONCE)))
        return sorted(levels.values(), key=lambda level: level.name), complete

    async def _count_levels(
        self, prefix: bytes, scan: int, beginning: str, levels: dict[str, Level]
    ) -> int:
        pattern = f"{_escaped(beginning)}*".encode()
        words = (prefix, scan, _LEVEL_COUNT, pattern, beginning.encode())
        after, found = await self._access.submit(prefix, op.RETAINED_LEVELS, *words, size=SCAN_SIZE)
        for at in range(0, len(found), 4):
            name, topics, size_bytes, has_message = found[at : at + 4]
            text = name.decode()
            level = levels.setdefault(text, Level(text))
            level.topics += topics
            level.bytes += size_bytes
            level.has_message = level.has_message or has_message == 1
        return int(after)

    async def _topic(self, prefix: bytes, name: bytes, size: int, beginning: bytes) -> Topic:
        if not beginning:
            # Large: it is read by itself, and the server sends it whole.
            (beginning,) = await self._access.submit(
                prefix, op.GET_RETAINED, 1, prefix, name, size=size
            )
        if not beginning:
            return Topic(name.decode(), None, 0)
        return _beginning(name, size, beginning)


def _beginning(name: bytes, size: int, record: bytes) -> Topic:
    """Read a record that may be cut short, behind its properties at the earliest."""
    topic = name.decode()
    try:
        found = decode_retained(record)
    except RecordError:
        try:
            # Properties that are longer than what was read: without them and the payload.
            _, flags, received_at_ms, length = _RECORD_HEAD.unpack_from(record)
            head = _RECORD_HEAD.pack(record[0], flags & 0x07, received_at_ms, length)
            found = decode_retained(head + name)
        except (RecordError, StructError):  # a form that this version does not know
            return Topic(topic, None, 0)
        return Topic(topic, found, max(0, size - len(record)))
    missing = max(0, size - len(record))
    return Topic(topic, found, len(found.publish.payload) + missing)


def _escaped(text: str) -> str:
    return "".join(f"\\{mark}" if mark in _WILDCARDS else mark for mark in text)


def _pattern_of(topic_filter: str) -> bytes:
    """Return a pattern of the server that matches at least what a filter matches."""
    if "+" not in topic_filter and "#" not in topic_filter:
        return _escaped(topic_filter).encode()
    literal: list[str] = []
    for level in topic_filter.split("/"):
        if level in {"+", "#"}:
            break
        literal.append(level)
    beginning = "/".join(literal)
    # "a/#" matches "a", too.
    if literal and not topic_filter.endswith("#"):
        beginning += "/"
    return f"{_escaped(beginning)}*".encode()
