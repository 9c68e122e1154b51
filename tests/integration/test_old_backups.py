"""Backups that earlier versions of Tidegate have written, restored by this one.

Inputs: files of ``tests/vectors/backups``, made by ``support.sample_backup`` with the code of their
version, and one that is made now. Observed: what a broker finds in the restored store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import sample_backup as sample
from support.backups import put_back, take
from support.store_groups import AnyStore, start_store
from tidegate.backup.commands import CLOSED_AFTER_MS
from tidegate.core.standing import Standing

FILES = sorted((Path(__file__).parents[1] / "vectors" / "backups").glob("*.tgbackup"))


@pytest.fixture(scope="module", params=["valkey", "valkey-cluster"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyStore]:
    running = start_store(request.param, tmp_path_factory.mktemp("s"))
    yield running
    running.stop()


@pytest.mark.parametrize("file", [*FILES, None], ids=[*(one.stem for one in FILES), "now"])
async def test_a_backup_comes_back_whole(
    server: AnyStore, file: Path | None, tmp_path: Path
) -> None:
    server.command("FLUSHALL")
    if file is None:
        file = tmp_path / "now.tgbackup"
        store = await sample.connect(server.url)
        await sample.fill(store)
        await store.close()
        await take(server.url, file)
        server.command("FLUSHALL")
    totals = (await put_back(server.url, file)).totals
    assert (totals.sessions, totals.queued_messages, totals.retained) == (2, 2, 2)
    store = await sample.connect(server.url)
    try:
        again = await sample.attach(store, "offline")
        assert (again.session_present, again.sent_seq, again.sent_uncertain) == (True, 2, False)
        assert dict(again.subscriptions) == dict([*sample.FILTERS, *sample.SHARED])
        assert {one[1] for one in again.replays} == {"g1"}
        assert (again.released, again.receipts[9]) == ([2], 3)
        queue = await store.fetch("offline", again.incarnation, 0, 100, 1_000_000)
        assert queue == [(2, sample.RECORDS[1]), (3, sample.RECORDS[2])]
        retained = await store.get_retained(list(sample.RETAINED))
        assert retained == list(sample.RETAINED.values())
        assert (await store.retained_use("offline")).messages == len(sample.RETAINED)
        # The other one was connected: it counts as closed after a while, and its will is due then.
        assert await store.verify([("connected", 1)]) == [Standing.LOST]
        closed_ms = int(time.time() * 1000) + CLOSED_AFTER_MS
        assert (await store.sweep_due(closed_ms - 60_000, 100)).wills == []
        (will,) = (await store.sweep_due(closed_ms + 1000, 100)).wills
        assert will.record == sample.WILL
    finally:
        await store.close()


def test_there_is_one_of_each_form_that_was_ever_written() -> None:
    assert "before-bans" in {file.stem for file in FILES}
    assert all(file.stat().st_size < 10_000 for file in FILES)
