"""Clients that exchange messages, in a process of its own: ``python good_clients.py PORT COUNT``.

Each connects from 127.0.0.1 with a password and publishes to itself at QoS 1, twice a second in the
mean and at random. What it waits ends when the kernel has the reply: the kernel's time stamp is
taken in the moment that the broker writes, so this process' own wait for the processor is no part
of it. A line on standard input has the waits so far written out, in milliseconds, and forgotten,
once no exchange is open.
``running`` starts it for a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

#: From asm-generic/socket.h.
_SO_TIMESTAMPNS: Final = 35
_STAMP: Final = struct.Struct("qq")
#: Exchanges of one client in a second.
_RATE: Final = 2.0
_PAYLOAD: Final = b"12345678"
_STDIN: Final = 0


def _text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first, len(body))) + body


class _Client:
    """One connection of MQTT 3.1.1, with a subscription to the topic that it publishes to."""

    def __init__(self, port: int, number: int) -> None:
        topic = _text(f"good/{number}")
        self.publish = _packet(0x32, topic + b"\x00\x01" + _PAYLOAD)
        #: PUBACK, and the message at QoS 0.
        self.reply_bytes = 4 + len(_packet(0x30, topic + _PAYLOAD))
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        credentials = _text(f"good-{number}") + _text("good") + _text("secret")
        self._ask(_packet(0x10, b"\x00\x04MQTT\x04\xc2\x00\x00" + credentials), b"\x20\x02\x00\x00")
        self._ask(_packet(0x82, b"\x00\x01" + topic + b"\x00"), b"\x90\x03\x00\x01\x00")
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._sent_ns = 0
        self._received_bytes = 0

    def _ask(self, packet: bytes, reply: bytes) -> None:
        self.socket.sendall(packet)
        received = self.socket.recv(len(reply), socket.MSG_WAITALL)
        if received != reply:
            raise ConnectionError(f"{received!r} in place of {reply!r}")

    def send(self) -> None:
        """Begin an exchange."""
        self._received_bytes = 0
        self._sent_ns = time.time_ns()
        self.socket.send(self.publish)

    def receive(self) -> float | None:
        """Return how long the exchange took, in milliseconds, or None if it is not over."""
        data, controls, _, _ = self.socket.recvmsg(4096, 256)
        if not data:
            raise ConnectionError("the broker has ended a good client's connection")
        self._received_bytes += len(data)
        if self._received_bytes < self.reply_bytes:
            return None
        seconds, nanoseconds = _STAMP.unpack(controls[0][2][: _STAMP.size])
        wait_ns: int = seconds * 1_000_000_000 + nanoseconds - self._sent_ns
        return wait_ns / 1e6


def _main(port: str, count: str) -> None:
    chance = random.Random(1)
    clients = [_Client(int(port), number) for number in range(int(count))]
    of_descriptor = {client.socket.fileno(): number for number, client in enumerate(clients)}
    poll = select.epoll()
    for descriptor in (_STDIN, *of_descriptor):
        poll.register(descriptor, select.EPOLLIN)
    due = [(time.monotonic() + chance.expovariate(_RATE), number) for number in range(len(clients))]
    heapq.heapify(due)
    waits_ms: list[float] = []
    open_count = 0
    is_asked = False
    print("connected", flush=True)
    while True:
        if is_asked and not open_count:
            print(json.dumps(waits_ms), flush=True)
            waits_ms.clear()
            is_asked = False
        while due and due[0][0] <= time.monotonic() and not is_asked:
            clients[heapq.heappop(due)[1]].send()
            open_count += 1
        pause_s = max(0.0, due[0][0] - time.monotonic()) if due and not is_asked else None
        for descriptor, _events in poll.poll(pause_s):
            if descriptor == _STDIN:
                is_asked = True
                if not os.read(_STDIN, 4096):
                    return
                continue
            number = of_descriptor[descriptor]
            wait_ms = clients[number].receive()
            if wait_ms is not None:
                open_count -= 1
                waits_ms.append(wait_ms)
                heapq.heappush(due, (time.monotonic() + chance.expovariate(_RATE), number))


class GoodClients:
    """The process, as the test sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def waits_ms(self) -> list[float]:
        """Return what exchanges have taken since the last call, in milliseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        waits_ms: list[float] = json.loads(await self._line())
        return waits_ms

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the good clients have ended"
        return line


@contextlib.asynccontextmanager
async def running(port: int, count: int) -> AsyncIterator[GoodClients]:
    """Run ``count`` clients around a block, from when all are connected; none may fail."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).resolve()),
        str(port),
        str(count),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
        start_new_session=True,
    )
    try:
        clients = GoodClients(process)
        assert await clients._line() == b"connected\n"
        yield clients
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    _main(*sys.argv[1:])
