"""A flood from one address, in a process of its own: ``python flood.py KIND SECONDS PORT…``.

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
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import uvloop

SOURCE: Final = "127.0.0.2"
#: How many connections are open at once. The kernel's queue of a listener has 128 places or more.
_HELD: Final = 400
#: How long one connection is held, in seconds; the server may end it earlier.
_STAY_S: Final = {
    "wrong passwords": 3.0,
    "half CONNECTs": 30.0,
    "half TLS handshakes": 30.0,
    "half admin requests": 30.0,
    "connects": 0.0,
    "garbage": 0.2,
}
KINDS: Final = tuple(_STAY_S)
#: The first bytes of a ClientHello of 512 bytes.
_CLIENT_HELLO: Final = bytes.fromhex("1603010200010001fc0303") + bytes(range(32))


def _text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def _connect(number: int) -> bytes:
    """CONNECT of MQTT 3.1.1 with a user that is not there and a password."""
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c"
    body += _text(f"flood-{number}") + _text(f"nobody-{number}") + _text(f"wrong-{number}")
    return bytes((0x10, len(body))) + body


def payload(kind: str, number: int, chance: random.Random) -> bytes:
    """What one connection sends."""
    match kind:
        case "wrong passwords":
            return _connect(number)
        case "half CONNECTs":
            return _connect(number)[:-4]
        case "half TLS handshakes":
            return _CLIENT_HELLO
        case "half admin requests":
            return b"GET /livez HTTP/1.1\r\nX: "
        case "garbage":
            return chance.randbytes(chance.randint(1, 300))
        case _:
            return b""


async def _hold(kind: str, port: int, number: int, chance: random.Random) -> None:
    """Open one connection, send, and wait for the end or until its time is over."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(SOURCE, 0))
    try:
        writer.write(payload(kind, number, chance))
        if _STAY_S[kind]:
            async with asyncio.timeout(_STAY_S[kind]):
                await writer.wait_closed()
    finally:
        writer.transport.abort()


async def _one_after_another(
    kind: str, ports: Iterator[int], numbers: Iterator[int], chance: random.Random
) -> None:
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            await _hold(kind, next(ports), next(numbers), chance)
        await asyncio.sleep(0)


async def _flood(kind: str, seconds: float, ports: list[int]) -> None:
    numbers, chance = itertools.count(), random.Random(1)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for _ in range(_HELD):
                group.create_task(_one_after_another(kind, itertools.cycle(ports), numbers, chance))
    print(next(numbers))


@contextlib.asynccontextmanager
async def running(kind: str, seconds: float, ports: list[int]) -> AsyncIterator[None]:
    """Run the flood around a block, with the least right to the processor; wait for its end."""
    arguments = (kind, str(seconds), *map(str, ports))
    # The processor is for the broker and its clients: on a machine with few of them the flood
    # would otherwise slow them down by its own work.
    command = ("nice", "-n", "19", sys.executable, str(Path(__file__).resolve()), *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONWARNINGS": "ignore"}
    )
    try:
        yield
        said, _ = await process.communicate()
        print(f"{kind}: {int(said)} connections in {seconds:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    uvloop.run(_flood(sys.argv[1], float(sys.argv[2]), list(map(int, sys.argv[3:]))))
