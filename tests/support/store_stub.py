"""A pretended server or sentinel: speaks just enough of Redis' protocol to misbehave on purpose.

The test says what is answered; ``CLOSE`` ends the connection, ``SILENCE`` answers nothing. What
real servers do is tested on real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import hiredis

from support.closing import close_server
from tidegate.runtime.config.model import StoreConfig
from tidegate.store.keys import Keyspace

CLOSE: Final = b"close"
SILENCE: Final = b""
OK: Final = b"+OK\r\n"

#: From the words of a command to the bytes of its answer.
Answer = Callable[[list[bytes]], bytes]


def bulk(text: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def array(*items: bytes) -> bytes:
    """An array of encoded items."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def info(mode: bytes = b"standalone") -> bytes:
    """What INFO says of a server that can be used."""
    return bulk(b"redis_version:7.2.4\r\nredis_mode:%b\r\nmaxmemory:0\r\n" % mode)


def usable(words: list[bytes]) -> bytes:
    """What a server answers that can be used and holds our layout; nothing else works there."""
    if words[0] == b"INFO":
        return info()
    if words[0] != b"EVALSHA":
        return OK
    # One operation: it asks for the layout, or does something whose result nobody looks at.
    layout = Keyspace(StoreConfig().partitions).format.encode()
    return array(bulk(layout) if b"GET" in words else OK, b":0\r\n")


class StoreStub:
    """Listens on a port of its own within ``async with``."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        #: How many connections have been made.
        self.connection_count = 0
        #: Every command that came, as its words.
        self.commands: list[list[bytes]] = []
        self.address = ("", 0)

    @property
    def host(self) -> str:
        """Host and port, as in a URL."""
        return f"{self.address[0]}:{self.address[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = (host, port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        await close_server(self._server)
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        self._writers.add(writer)
        parser = hiredis.Reader()
        try:
            while chunk := await reader.read(65_536):
                parser.feed(chunk)
                while (words := parser.gets()) is not False:
                    self.commands.append(words)
                    answer = self._answer(words)
                    if answer == CLOSE:
                        return
                    writer.write(answer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
