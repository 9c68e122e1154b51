"""One command to a server or a Sentinel, over a connection of its own.

Called by ``member``; the peers are few and asked about once a second, so nothing is kept open.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, TypeAlias

#: How long a peer may take to accept, and to reply.
TIMEOUT_S: Final = 2.0

Reply: TypeAlias = "bytes | int | list[Reply] | None"


class ReplyError(Exception):
    """The peer replies with an error, or with something that is no reply."""


@dataclass(slots=True, frozen=True)
class Peer:
    """A server or a Sentinel, and its password."""

    host: str
    port: int
    password: bytes

    async def call(self, *words: str | bytes) -> Reply:
        """Return the reply to a command. Raises ReplyError, OSError, TimeoutError."""
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(self.host, self.port)
            try:
                writer.write(_encoded(b"AUTH", self.password) + _encoded(*words))
                await _read(reader)
                return await _read(reader)
            except (asyncio.IncompleteReadError, ValueError) as error:
                raise ReplyError(f"{self.host}:{self.port} does not reply") from error
            finally:
                writer.close()

    async def facts(self, *words: str) -> dict[str, str]:
        """Return the reply to a command that lists keys and values, as INFO and SENTINEL do."""
        reply = await self.call(*words)
        if isinstance(reply, bytes):
            lines = (line.partition(":") for line in reply.decode().splitlines())
            return {key: value for key, colon, value in lines if colon}
        return pairs(reply)


def pairs(reply: Reply) -> dict[str, str]:
    """Return a flat list of keys and values as a mapping. Raises ReplyError."""
    if not isinstance(reply, list):
        raise ReplyError("expected a list of keys and values")
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in reply]
    return dict(zip(words[::2], words[1::2], strict=False))


def _encoded(*words: str | bytes) -> bytes:
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    parts = (b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)
    return b"*%d\r\n" % len(raw) + b"".join(parts)


async def _read(reader: asyncio.StreamReader) -> Reply:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest
        case b"-":
            raise ReplyError(rest.decode(errors="replace"))
        case b":":
            return int(rest)
        case b"$":
            size = int(rest)
            return None if size < 0 else (await reader.readexactly(size + 2))[:-2]
        case b"*":
            return [await _read(reader) for _ in range(int(rest))]
    raise ReplyError("unexpected reply")
