"""What the process beside each server of a replicated store decides: roles, files, reports."""

from __future__ import annotations

import asyncio

import pytest

from support.ports import free_port
from tidegate_operator.store_member import decision
from tidegate_operator.store_member.admin import answer
from tidegate_operator.store_member.decision import Start, View
from tidegate_operator.store_member.report import Report, metrics, report
from tidegate_operator.store_member.resp import Peer, ReplyError

HOSTS = ["a", "b", "c"]

#: As Sentinel writes it.
WRITTEN = """\
port 26379
sentinel monitor store b 6379 2
requirepass "old"
sentinel myid 123
sentinel config-epoch store 7
sentinel current-epoch 9
sentinel known-replica store "a" 6379
sentinel known-replica store b 6379
sentinel known-sentinel store c 26379 456
"""


@pytest.mark.parametrize(
    ("views", "wanted"),
    [
        ([], "a"),
        ([View(0, "b")], "b"),
        ([View(2, "c"), View(1, "b")], "c"),
        # Of a store that had other names.
        ([View(9, "elsewhere"), View(1, "b")], "b"),
    ],
)
def test_the_newest_view_names_the_primary(views: list[View], wanted: str) -> None:
    assert decision.primary(views, HOSTS) == wanted


def test_a_server_follows_the_primary_whatever_it_was() -> None:
    for has_data in (True, False):
        assert decision.start("a", "b", has_data=has_data, keys=[]) == Start(follow="b")


def test_a_primary_with_its_data_goes_on_alone() -> None:
    assert decision.start("a", "a", has_data=True, keys=[]) == Start()


def test_an_empty_primary_starts_in_an_empty_store_only() -> None:
    assert decision.start("a", "a", has_data=False, keys=[0]) == Start()
    assert "must not be the primary" in decision.start("a", "a", has_data=False, keys=[0, 5]).waits
    assert "until another server replies" in decision.start("a", "a", has_data=False, keys=[]).waits


def test_sentinel_keeps_what_it_remembers_and_nothing_else() -> None:
    text = decision.sentinel_file(WRITTEN, "a", "b", "/data")
    assert decision.remembered_view(text) == View(7, "b")
    for kept in ("myid 123", "current-epoch 9", 'known-replica store "a"', "known-sentinel"):
        assert f"sentinel {kept}" in text
    # The primary is not its own replica; a changed password is not read from here.
    assert "known-replica store b " not in text
    assert "old" not in text
    assert decision.with_password(text, "new").count("new") == 3


def test_a_sentinel_that_is_behind_learns_the_epoch_from_the_others() -> None:
    text = decision.sentinel_file(WRITTEN, "b", "a", "/data")
    assert decision.remembered_view(text) == View(0, "a")
    assert decision.remembered_view("") is None


def test_only_a_replica_is_told_whom_to_follow() -> None:
    assert "replicaof b 6379\n" in decision.server_file("/c", "a", "p", Start(follow="b"))
    text = decision.server_file("/c", "a", "p", Start())
    assert "replicaof" not in text
    assert "replica-announce-ip a\n" in text


PRIMARY = {
    "role": "master",
    "loading": "0",
    "connected_slaves": "2",
    "slave0": "ip=b,port=6379,state=online,offset=90,lag=0",
    "slave1": "ip=c,port=6379,state=wait_bgsave,offset=0,lag=0",
    "min_slaves_good_slaves": "1",
    "master_repl_offset": "100",
}
REPLICA = {
    "role": "slave",
    "loading": "0",
    "master_link_status": "up",
    "master_sync_in_progress": "0",
}


def test_a_primary_is_ready_if_sentinel_says_so_too() -> None:
    found = report("a", PRIMARY, {"ip": "a", "num-other-sentinels": "2", "num-slaves": "2"})
    assert (found.in_sync, found.behind_bytes, found.sentinels, found.replicas) == (1, 10, 3, 2)
    assert found.is_ready
    assert not report("a", PRIMARY, {"ip": "b"}).is_ready
    assert not report("a", PRIMARY, {}).is_ready


@pytest.mark.parametrize(
    "changes", [{"master_link_status": "down"}, {"master_sync_in_progress": "1"}, {"loading": "1"}]
)
def test_a_replica_is_ready_once_it_could_be_promoted(changes: dict[str, str]) -> None:
    known = {"is_known": True, "host": "b"}
    good, bad = report("b", REPLICA, {"ip": "a"}), report("b", REPLICA | changes, {"ip": "a"})
    assert not good.is_ready
    assert Report(**good.as_dict() | known).is_ready
    assert not Report(**bad.as_dict() | known).is_ready


def test_pages() -> None:
    ready = report("a", PRIMARY, {"ip": "a"})
    waiting = report("a", {}, {}, "the volume is empty")
    assert answer("/readyz", ready, is_alive=True)[0] == 200
    status, _, text = answer("/readyz", waiting, is_alive=True)
    assert (status, "the volume is empty" in text) == (503, True)
    assert answer("/livez", waiting, is_alive=True)[0] == 200
    assert answer("/livez", ready, is_alive=False)[0] == 503
    assert answer("/serverz", waiting, is_alive=True)[0] == 200
    silent = Report("a", silent_s=121.0)
    assert answer("/serverz", silent, is_alive=True)[::2] == (
        503,
        "the server has not replied for 121 s\n",
    )
    assert answer("/other", ready, is_alive=True)[0] == 404
    assert "tidegate_store_server_replicas_in_sync 1\n" in metrics(ready)


async def test_an_error_and_a_closed_connection_are_no_replies() -> None:
    replies = [b"+OK\r\n-ERR no\r\n", b"+OK\r\n", b"+OK\r\n*2\r\n$1\r\na\r\n:5\r\n"]

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(replies.pop(0))
        writer.close()

    port = free_port()
    async with await asyncio.start_server(respond, "127.0.0.1", port):
        peer = Peer("127.0.0.1", port, b"secret")
        with pytest.raises(ReplyError, match="ERR no"):
            await peer.call("PING")
        with pytest.raises(ReplyError, match="does not reply"):
            await peer.call("PING")
        assert await peer.facts("PING") == {"a": "5"}
