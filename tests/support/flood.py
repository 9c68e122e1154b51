"""A flood from one address, in a process of its own: ``python flood.py KIND SECONDS CPUS PORT…``.

It opens connections from 127.0.0.2 as fast as it can, and holds many of them open. What it sends is
KIND's; the ports are used in turn. It ends by itself, and prints how many connections it opened.
``running`` starts it for a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import select
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

SOURCE: Final = "127.0.0.2"
#: What a flood goes to, by the names of a test's listeners; one of admin requests goes to "admin".
LISTENERS: Final = ("tcp", "tls", "ws", "wss", "auto")
#: How many connections are open at once. The kernel's queue of a listener has 128 places or more.
_HELD: Final = 400
#: How many are opened before those that are open are looked at.
_BATCH: Final = 32
_RESET: Final = struct.pack("ii", 1, 0)
#: From linux/in.h: the port is chosen when it connects, so that they do not run out.
_BIND_ADDRESS_NO_PORT: Final = 24
#: How long one connection is held, in seconds; the server may end it earlier.
_STAY_S: Final = {
    "wrong passwords": 3.0,
    "guessed passwords": 3.0,
    "half CONNECTs": 30.0,
    "half TLS handshakes": 30.0,
    "TLS handshakes at once": 30.0,
    "half admin requests": 30.0,
    "connects": 0.0,
    "garbage": 0.2,
}
KINDS: Final = tuple(_STAY_S)
#: Kinds that send for all connections in the same moment, as a fleet does that lost its network.
_AT_ONCE: Final = frozenset({"TLS handshakes at once"})


def _client_hello() -> bytes:
    """Return a whole ClientHello: the server answers it with its key exchange and signature."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


_CLIENT_HELLO: Final = _client_hello()


def _text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def _connect(number: int, user: str) -> bytes:
    """CONNECT of MQTT 3.1.1 with a password that no user has."""
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c"
    body += _text(f"flood-{number}") + _text(user) + _text(f"wrong-{number}")
    return bytes((0x10, len(body))) + body


def payload(kind: str, number: int, chance: random.Random) -> bytes:
    """What one connection sends."""
    match kind:
        case "wrong passwords":
            return _connect(number, f"nobody-{number}")
        case "guessed passwords":
            return _connect(number, "good")
        case "half CONNECTs":
            return _connect(number, "nobody")[:-4]
        case "half TLS handshakes" | "TLS handshakes at once":
            return _CLIENT_HELLO
        case "half admin requests":
            return b"GET /livez HTTP/1.1\r\nX: "
        case "garbage":
            return chance.randbytes(chance.randint(1, 300))
        case _:
            return b""


class _Flood:
    """Sockets without an event loop's objects: what a connection costs here is a third of a task.

    Each is non-blocking and polled; a connection that is over is reset, so that no port waits.
    """

    def __init__(self, kind: str, ports: list[int]) -> None:
        self._kind = kind
        self._ports = itertools.cycle(ports)
        self._chance = random.Random(1)
        self._poll = select.epoll()
        #: By descriptor: the socket, and what is still to be sent (None: it is sent).
        self._held: dict[int, tuple[socket.socket, bytes | None]] = {}
        #: Descriptors by the end of their stay: all stay equally long.
        self._ends: deque[tuple[float, socket.socket]] = deque()
        self._is_at_once = kind in _AT_ONCE
        self._rounds = 0
        self.opened = 0

    def run(self, seconds: float) -> None:
        """Open connections as fast as they are taken, until the time is over.

        What is done all at once is done once at least.
        """
        end_s = time.monotonic() + seconds
        stay_s = _STAY_S[self._kind]
        while (now_s := time.monotonic()) < end_s or (self._is_at_once and not self._rounds):
            self._end_stays(now_s)
            for _ in range(min(_BATCH, _HELD - len(self._held))):
                self._open(now_s + stay_s)
            if self._is_at_once:
                if len(self._held) == _HELD:
                    self._all_at_once()
                continue
            for descriptor, _events in self._poll.poll(0 if len(self._held) < _HELD else 0.01):
                self._ready(descriptor)

    def _all_at_once(self) -> None:
        """Send for all that are open, when they have been accepted and lie still; then end them."""
        self._rounds += 1
        for pause_s in (0.3, 0.1):
            time.sleep(pause_s)
            for descriptor in list(self._held):
                self._ready(descriptor)

    def _open(self, end_s: float) -> None:
        one = socket.socket()
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        one.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        one.bind((SOURCE, 0))
        one.connect_ex(("127.0.0.1", next(self._ports)))
        self._held[one.fileno()] = one, payload(self._kind, self.opened, self._chance)
        self._ends.append((end_s, one))
        self._poll.register(one, select.EPOLLOUT | select.EPOLLIN)
        self.opened += 1

    def _ready(self, descriptor: int) -> None:
        one, data = self._held[descriptor]
        try:
            if data is None:
                if one.recv(4096):
                    return
            else:
                one.send(data)
                self._held[descriptor] = one, None
                self._poll.modify(one, select.EPOLLIN)
                if _STAY_S[self._kind]:
                    return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(one)

    def _end_stays(self, now_s: float) -> None:
        while self._ends and (self._ends[0][0] <= now_s or self._ends[0][1].fileno() < 0):
            _, one = self._ends.popleft()
            if one.fileno() >= 0 and _STAY_S[self._kind]:
                self._close(one)

    def _close(self, one: socket.socket) -> None:
        del self._held[one.fileno()]
        self._poll.unregister(one)
        one.close()


@contextlib.asynccontextmanager
async def running(
    kind: str, seconds: float, ports: list[int], processors: set[int]
) -> AsyncIterator[None]:
    """Run the flood around a block, on these processors alone; wait for its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).resolve()),
        kind,
        str(seconds),
        ",".join(map(str, processors)),
        *map(str, ports),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    try:
        yield
        said, _ = await process.communicate()
        print(f"{kind}: {int(said)} connections in {seconds:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _yield_the_processor(processors: set[int]) -> None:
    """Leave it to the broker and its clients: what they wait must not be this process' work.

    A flood has a machine of its own. Here it has processors of its own, and where there is one for
    all, the least right to it: the broker has a session of its own, and Linux shares the processor
    between sessions first ("autogroup"): a nice value counts within one session, and the session
    has one of its own. It is not the lowest: on a machine with other work there would be no flood.
    """
    os.sched_setaffinity(0, processors)
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("10")


def _main(kind: str, seconds: str, processors: str, *ports: str) -> None:
    _yield_the_processor(set(map(int, processors.split(","))))
    flood = _Flood(kind, [int(port) for port in ports])
    flood.run(float(seconds))
    print(flood.opened)


if __name__ == "__main__":
    _main(*sys.argv[1:])
