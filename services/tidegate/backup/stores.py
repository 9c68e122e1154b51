"""Opening the store that a configuration names, with the embedded server running or not.

A store that is not available is waited for, as long as the caller says: one that is starting has no
address yet, one that changes its primary refuses connections for a while.

Called by ``backup`` and ``restore``. Turns what the store raises into ``BackupFailed``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.progress import Phase, Progress
from tidegate.runtime.config.model import StoreConfig
from tidegate.runtime.config.store_url import StoreUrlError
from tidegate.store.api import StoreUnavailable
from tidegate.store.backup_access import BackupAccess
from tidegate.store.client.failures import StoreRefused
from tidegate.store.embedded import DirectoryInUse, EmbeddedError, EmbeddedValkey, running_socket
from tidegate.store.keys import RESTORING

RETRY_S: Final = 1.0


@contextlib.contextmanager
def store_failures() -> Iterator[None]:
    """Turn failures of the store into ``BackupFailed``."""
    try:
        yield
    except DirectoryInUse as error:
        raise BackupFailed(Reason.STORE_IN_USE, str(error)) from error
    except StoreUnavailable as error:
        raise BackupFailed(
            Reason.STORE_UNAVAILABLE, f"the store is not available: {error}"
        ) from error
    except (StoreRefused, EmbeddedError, StoreUrlError) as error:
        raise BackupFailed(Reason.STORE_REFUSED, str(error)) from error


@contextlib.asynccontextmanager
async def store_to_read(
    store: StoreConfig, progress: Progress, wait_s: float
) -> AsyncIterator[BackupAccess]:
    """Connect to a store that has a broker's data; brokers may run on it. Raises BackupFailed."""
    with store_failures():
        if store.url is None and not (store.data_dir / "appendonlydir").is_dir():
            raise StoreRefused(
                f"store.data_dir: {store.data_dir.absolute()} has no data of a broker; --data-dir, "
                "--redis or --config say which store is meant"
            )
        async with contextlib.AsyncExitStack() as stack:
            url = await _url_to_read(store, stack)
            access = await _available(url, store, stack, progress, wait_s)
            layout = await access.layout()
            version, _, partitions = layout.partition(":")
            if not layout or layout.startswith(RESTORING):
                raise StoreRefused(_nothing_to_read(layout))
            if layout != access.keys.format:
                if version != access.keys.format.partition(":")[0] or not partitions.isdigit():
                    raise StoreRefused(
                        f"the store has format version {version}, which this version of Tidegate "
                        "does not read: use the version of the broker"
                    )
                other = store.model_copy(update={"partitions": int(partitions)})
                access = await _connect(url, other, stack)
            yield access


@contextlib.asynccontextmanager
async def store_to_write(
    store: StoreConfig, progress: Progress, wait_s: float
) -> AsyncIterator[BackupAccess]:
    """Connect to a store on which no broker runs. Raises BackupFailed."""
    with store_failures():
        async with contextlib.AsyncExitStack() as stack:
            url = store.url
            if url is None:
                url = await _start(store, stack)
            yield await _available(url, store, stack, progress, wait_s)


def _nothing_to_read(layout: str) -> str:
    if layout:
        name = layout.split(" ")[1]
        return (
            f"the restore of backup {name} into this store is not finished, so there is nothing "
            "whole to back up: run `tidegate restore` again first"
        )
    return (
        "the store has no data of a broker: --redis, --data-dir or --config say which store is "
        "meant"
    )


async def _url_to_read(store: StoreConfig, stack: contextlib.AsyncExitStack) -> str:
    if store.url is not None:
        return store.url
    try:
        return await _start(store, stack)
    except DirectoryInUse:
        return f"unix://{running_socket(store.data_dir)}"


async def _start(store: StoreConfig, stack: contextlib.AsyncExitStack) -> str:
    server = EmbeddedValkey(
        store.data_dir, store.durability, max_memory_bytes=store.max_memory_bytes
    )
    await server.start()
    stack.push_async_callback(server.stop)
    return server.url


async def _available(
    url: str,
    store: StoreConfig,
    stack: contextlib.AsyncExitStack,
    progress: Progress,
    wait_s: float,
) -> BackupAccess:
    """Connect as soon as the store is available. Raises StoreUnavailable after ``wait_s``."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + wait_s
    while True:
        try:
            return await _connect(url, store, stack)
        except StoreUnavailable:
            if loop.time() >= end_s:
                raise
        progress.at(Phase.WAITING)
        await asyncio.sleep(RETRY_S)


async def _connect(url: str, store: StoreConfig, stack: contextlib.AsyncExitStack) -> BackupAccess:
    access = await BackupAccess.connect(url, store)
    stack.push_async_callback(access.close)
    return access
