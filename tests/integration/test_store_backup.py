"""Backing up and restoring the store, by the steps of docs/operations.md.

Input: a server with an append-only file and a durable session in it. Output: whether another
server that begins with the copy knows the session.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from support.waiting import wait_for_async
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import AttachRequest
from tidegate.store.embedded import EmbeddedValkey
from tidegate.store.redis_store import RedisStore

ROOT = Path(__file__).parents[2]
NOW = 1_700_000_000_000
DEADLINE_S = 20.0
FILES = "appendonlydir"
BASE = "appendonly.aof.1.base.rdb"
MANIFEST = "appendonly.aof.manifest"
#: What the document tells people to write into the manifest.
MANIFEST_LINE = f"file {BASE} seq 1 type b\n"


@pytest.fixture
def scratch() -> Iterator[Path]:
    # pytest's own directories can be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        yield Path(name)


@asynccontextmanager
async def server_in(directory: Path) -> AsyncIterator[EmbeddedValkey]:
    server = EmbeddedValkey(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def attach(server: EmbeddedValkey) -> bool:
    """Attach a durable session; return whether it was there."""
    store = await RedisStore.connect(url=server.url, limits=LimitsConfig(), store=StoreConfig())
    try:
        return (await store.attach(AttachRequest("c", "e", False, 100, NOW))).session_present
    finally:
        await store.close()


def client_of(server: EmbeddedValkey) -> Any:
    return redis.asyncio.Redis(unix_socket_path=server.url.partition("unix://")[2].split("?")[0])


async def test_a_snapshot_taken_by_the_server_becomes_the_base_of_a_new_one(
    scratch: Path,
) -> None:
    async with server_in(scratch / "old") as server:
        assert not await attach(server)
        client = client_of(server)
        await client.bgsave()
        progress: dict[str, Any] = {"rdb_bgsave_in_progress": 1}

        while progress["rdb_bgsave_in_progress"]:
            progress = await client.info("persistence")
        assert progress["rdb_last_bgsave_status"] == "ok"
        await client.aclose()
        backup = (scratch / "old" / "dump.rdb").read_bytes()
    files = scratch / "new" / FILES
    files.mkdir(parents=True)
    (files / BASE).write_bytes(backup)
    (files / MANIFEST).write_text(MANIFEST_LINE)
    async with server_in(scratch / "new") as server:
        assert await attach(server)
    # What comes after it is kept, too: the restored server writes its append-only file.
    async with server_in(scratch / "new") as server:
        assert await attach(server)


async def test_a_snapshot_of_the_volume_is_enough(scratch: Path) -> None:
    """As it is after a crash: the file may end in the middle."""
    async with server_in(scratch / "old") as server:
        assert not await attach(server)
        await wait_for_async(
            lambda: any(one.stat().st_size for one in (scratch / "old" / FILES).glob("*.incr.aof")),
            DEADLINE_S,
            "something in the append-only file",
        )
        shutil.copytree(scratch / "old" / FILES, scratch / "new" / FILES)
    async with server_in(scratch / "new") as server:
        assert await attach(server)


def test_the_document_says_what_is_tried_here() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for words in (FILES, BASE, MANIFEST, MANIFEST_LINE.strip()):
        assert words in text, words
