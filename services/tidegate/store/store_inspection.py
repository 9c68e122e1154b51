"""What a server of the store says of itself, for ``tidegate doctor``: version, memory, rights.

Connects as a router would, once, reads, and writes nothing: a command that could is sent about
a key that does not exist, in a form that makes none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tidegate.runtime.config.model import StoreConfig
from tidegate.runtime.config.store_url import parse_store_url
from tidegate.store.client.failures import Failures
from tidegate.store.client.servers import Word, call, drop, name_of
from tidegate.store.client.topology import open_one
from tidegate.store.embedded import running_server
from tidegate.store.keys import GLOBAL_PREFIX, Keyspace

_PINGS: Final = 20
_SECTIONS: Final = ("server", "memory", "persistence", "replication")

#: Commands of the scripts, on a key that does not exist: none of these changes anything.
PROBES: Final[Mapping[str, tuple[Word, ...]]] = {
    "del": (),
    "exists": (),
    "expire": (1,),
    "get": (),
    "getrange": (0, 0),
    "hdel": ("f",),
    "hget": ("f",),
    "hgetall": (),
    "hlen": (),
    "hmget": ("f",),
    "hscan": (0,),
    "hstrlen": ("f",),
    "lrange": (0, 0),
    "ltrim": (0, -1),
    "memory|usage": (),
    "set": ("v", "XX"),
    "setrange": (0, ""),
    "smembers": (),
    "srandmember": (),
    "srem": ("m",),
    "sscan": (0,),
    "unlink": (),
    "xadd": ("NOMKSTREAM", "*", "f", "v"),
    "xdel": ("1-1",),
    "xinfo|stream": (),
    "xlen": (),
    "xrange": ("-", "+", "COUNT", 1),
    "xrevrange": ("+", "-", "COUNT", 1),
    "xtrim": ("MAXLEN", 0),
    "zadd": ("XX", 1, "m"),
    "zcard": (),
    "zrangebyscore": (0, 0),
    "zrem": ("m",),
    "zremrangebyrank": (0, 0),
    "zremrangebyscore": (0, 0),
}


@dataclass(slots=True, frozen=True)
class StoreFacts:
    """What was found. Sizes in bytes, 0: none or unknown."""

    server: str
    #: Valkey or Redis, and its version.
    version: str
    #: Round trips of PING, sorted.
    latencies_s: tuple[float, ...]
    #: By how much the server's clock is ahead of this machine's.
    clock_ahead_s: float
    info: Mapping[str, str]
    #: Commands that the user may not run, of those that were tried.
    refused: tuple[str, ...]

    def number(self, name: str) -> int:
        """Return a number of INFO; 0 if the server has none."""
        try:
            return int(self.info.get(name, "0"))
        except ValueError:
            return 0


def inspect_store(store: StoreConfig) -> StoreFacts | None:
    """Return what the server says; None if the embedded one does not run.

    Raises StoreUnavailable or StoreRefused with a sentence.
    """
    if store.url is None:
        socket = running_server(store.data_dir)
        if socket is None:
            return None
        # A server that runs has its settings; those of the section are about starting one.
        store = StoreConfig(url=f"unix://{Path(socket)}", partitions=store.partitions)
    return asyncio.run(_inspect(store))


async def _inspect(store: StoreConfig) -> StoreFacts:
    assert store.url is not None
    url, step_s = parse_store_url(store.url), store.operation_timeout_s
    prefixes = Keyspace(store.partitions).prefixes
    connection, _ = await open_one(url, store, (GLOBAL_PREFIX, *prefixes))
    try:
        return await _facts(connection, step_s, GLOBAL_PREFIX + b"doctor", _name(store))
    except Exception as error:
        raise Failures(url, store).explain(error, _name(store)) from error
    finally:
        await drop(connection)


def _name(store: StoreConfig) -> str:
    assert store.url is not None
    return ", ".join(name_of(address) for address in parse_store_url(store.url).addresses)


async def _facts(
    connection: AbstractConnection, step_s: float, key: bytes, server: str
) -> StoreFacts:
    info: dict[str, str] = {}
    for section in _SECTIONS:
        lines = (await call(connection, step_s, "INFO", section)).decode().splitlines()
        info.update(line.split(":", 1) for line in lines if ":" in line)
    latencies = []
    for _ in range(_PINGS):
        started = time.perf_counter()
        await call(connection, step_s, "EXISTS", key)
        latencies.append(time.perf_counter() - started)
    before = time.time()
    seconds, microseconds = await call(connection, step_s, "TIME")
    middle = (before + time.time()) / 2
    is_valkey = "valkey_version" in info
    version = info["valkey_version"] if is_valkey else info.get("redis_version", "unknown")
    return StoreFacts(
        server=server,
        version=f"{'Valkey' if is_valkey else 'Redis'} {version}",
        latencies_s=tuple(sorted(latencies)),
        clock_ahead_s=int(seconds) + int(microseconds) / 1e6 - middle,
        info=info,
        refused=tuple(await _refused(connection, step_s, key)),
    )


async def _refused(connection: AbstractConnection, step_s: float, key: bytes) -> list[str]:
    found = []
    for name, arguments in PROBES.items():
        try:
            await call(connection, step_s, *name.upper().split("|"), key, *arguments)
        except redis_errors.NoPermissionError:
            found.append(name)
        except redis_errors.ResponseError:
            continue  # XINFO says that there is no such key
    return found
