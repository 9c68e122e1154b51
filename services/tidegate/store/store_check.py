"""Whether the store that a configuration names can be used: what ``tidegate check`` says of it.

Reads files, and connects to an external server as a router would; writes nothing, and starts no
server. A server that is not reachable from here, or is not ready, is no fault of the configuration.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

from tidegate.runtime.config.model import Config, LimitsConfig, StoreConfig
from tidegate.runtime.config.store_url import StoreUrl, parse_store_url
from tidegate.store import operations as op
from tidegate.store import scripts
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.failures import Failures, StoreNotReady, StoreRefused, check_layout
from tidegate.store.client.lanes import first_words
from tidegate.store.client.servers import call, drop, name_of
from tidegate.store.client.topology import open_one
from tidegate.store.embedded import EmbeddedError, find_server
from tidegate.store.keys import FORMAT_KEY, GLOBAL_PREFIX, Keyspace
from tidegate.store.redis_store import script_header


class Findings(NamedTuple):
    """Lines for the user: why the store cannot be used, and what could not be checked."""

    problems: list[str]
    notes: list[str]


def check_store(config: Config) -> Findings:
    """Check the embedded server's directory and program, or the files and server of the URL."""
    store = config.store
    if store.url is None:
        # An edge has no store.
        return Findings([] if config.link.routers else _problems_of_embedded(store.data_dir), [])
    try:
        asyncio.run(_check_server(parse_store_url(store.url), store, config.limits))
    except StoreNotReady as error:
        return Findings([], [f"the store was not checked: {error}"])
    except (StoreUnavailable, StoreRefused) as error:
        return Findings([str(error)], [])
    return Findings([], [])


def _problems_of_embedded(data_dir: Path) -> list[str]:
    problems = []
    try:
        find_server()
    except EmbeddedError as error:
        problems.append(f"store.data_dir: {error}")
    directory = data_dir.absolute()
    # What does not exist is created.
    while not directory.exists() and directory.parent != directory:
        directory = directory.parent
    if not directory.is_dir():
        problems.append(f"store.data_dir: {directory} is not a directory")
    elif not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        problems.append(f"store.data_dir: {directory}: no permission to write")
    return problems


async def _check_server(url: StoreUrl, store: StoreConfig, limits: LimitsConfig) -> None:
    """Open a connection, load the script and read the format version with it."""
    keys, step_s = Keyspace(store.partitions), store.operation_timeout_s
    connection, _ = await open_one(url, store, (GLOBAL_PREFIX, *keys.prefixes))
    try:
        source, sha1 = scripts.load()
        await call(connection, step_s, b"SCRIPT", b"LOAD", source)
        words = first_words(sha1, script_header(limits), ())
        found = (await call(connection, step_s, *words, op.COMMAND, 2, b"GET", FORMAT_KEY))[0]
    except Exception as error:  # explained below
        found = error
    finally:
        await drop(connection)
    if isinstance(found, Exception):
        server = ", ".join(name_of(address) for address in url.addresses)
        raise Failures(url, store).explain(found, server) from found
    if found is not None:
        check_layout("store.url", found.decode(), keys.format)
