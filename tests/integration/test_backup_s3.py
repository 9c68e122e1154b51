"""``tidegate backup`` and ``restore`` with a bucket: moto's server, over loopback.

Inputs: the command line. Observed: its lines, its exit code, and the objects of the bucket.
"""

from __future__ import annotations

import asyncio
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import s3_server
from support.ports import free_port
from support.store_server import StoreServer, programs
from support.tools import missing
from tidegate.cli.main import main
from tidegate.mqtt.packets import Publish
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import Append, AttachRequest
from tidegate.store.records import encode_queued
from tidegate.store.redis_store import RedisStore

pytest.importorskip("moto.server")

KEYS = s3_server.KEYS | {"AWS_REGION": s3_server.REGION}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server.running() as url:
        yield url


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoreServer, StoreServer]]:
    program = programs()["valkey"]
    if program is None:
        missing("valkey-server")
    one, two = (StoreServer(program, tmp_path_factory.mktemp("s")) for _ in range(2))
    one.start()
    two.start()
    yield one, two
    one.stop()
    two.stop()


class Run:
    """Runs the command line in this process, with the variables that are named and no others."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], patched: pytest.MonkeyPatch, home: Path
    ) -> None:
        self._capsys = capsys
        self._patched = patched
        self._home = home

    def __call__(
        self, endpoint: str, *words: str, **variables: str
    ) -> tuple[int, list[dict[str, Any]], str]:
        with self._patched.context() as patched:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patched.delenv(name)
            found = {"HOME": str(self._home), "AWS_ENDPOINT_URL": endpoint, **variables}
            for name, value in {**found, "AWS_EC2_METADATA_DISABLED": "true"}.items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main([*words, "--json"])
        out, errors = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, [json.loads(line) for line in out.splitlines()], errors

    def reason(self, endpoint: str, *words: str, **variables: str) -> tuple[str, str]:
        """Why a restore fails."""
        code, lines, errors = self(endpoint, "restore", *words, **variables)
        assert (code, lines[-1]["phase"]) == (1, "failed")
        assert errors == f"tidegate: {lines[-1]['message']}\n"
        return lines[-1]["reason"], lines[-1]["message"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return Run(capsys, monkeypatch, tmp_path)


async def fill(server: StoreServer, count: int) -> None:
    server.command("FLUSHALL")
    store = await RedisStore.connect(url=server.url, limits=LimitsConfig(), store=StoreConfig())
    try:
        session = await store.attach(AttachRequest("c", "e", False, 3600, 1_700_000_000_000))
        # Noise, so that the object has several parts.
        records = [encode_queued(Publish("t", os.urandom(1_000_000), 1), 1, False)] * count
        await store.append([Append("c", session.incarnation, record) for record in records])
    finally:
        await store.close()


def test_a_backup_goes_to_a_bucket_in_parts_and_comes_back(
    run: Run, endpoint: str, servers: tuple[StoreServer, StoreServer]
) -> None:
    source, other = servers
    asyncio.run(fill(source, 20))
    prefix = "s3://bucket/some/where"
    code, lines, _ = run(endpoint, "backup", prefix, "--redis", source.url, "--name", "one", **KEYS)
    assert (code, lines[-1]["phase"], lines[-1]["queued_messages"]) == (0, "done", 20)
    head = s3_server.connected(endpoint).head_object(Bucket="bucket", Key="some/where/one.tgbackup")
    assert head["ContentLength"] == lines[-1]["bytes"] > 16_000_000
    # An object of several parts has their number in its tag.
    assert "-" in head["ETag"]
    other.command("FLUSHALL")
    code, restored, _ = run(endpoint, "restore", prefix, "--redis", other.url, **KEYS)
    assert (code, restored[-1]) == (0, {k: v for k, v in lines[-1].items() if k != "deleted"})
    assert [line["phase"] for line in restored][:2] == ["reading", "verifying"]


def test_old_backups_are_deleted_under_this_prefix_only(
    run: Run, endpoint: str, servers: tuple[StoreServer, StoreServer]
) -> None:
    source, _ = servers
    asyncio.run(fill(source, 1))
    client = s3_server.connected(endpoint)
    for key in ("keep/deeper/x.tgbackup", "keep/other.tgbackup", "keep/note.txt"):
        client.put_object(Bucket="bucket", Key=key, Body=b"not ours")
    for name in ("n1", "n2", "n3"):
        words = ("s3://bucket/keep/", "--redis", source.url, "--name", name, "--keep", "2")
        code, lines, _ = run(endpoint, "backup", *words, **KEYS)
        assert code == 0
    assert lines[-1]["deleted"] == ["n1"]
    assert lines[-2]["phase"] == "deleting"
    objects = client.list_objects_v2(Bucket="bucket", Prefix="keep/")["Contents"]
    assert {item["Key"] for item in objects} == {
        "keep/deeper/x.tgbackup",
        "keep/other.tgbackup",
        "keep/note.txt",
        "keep/n2.tgbackup",
        "keep/n3.tgbackup",
    }
    code, listed, _ = run(endpoint, "restore", "s3://bucket/keep", "--list", **KEYS)
    assert [(one["name"], one["complete"]) for one in listed] == [
        ("n3", True),
        ("n2", True),
        ("other", False),
    ]
    code, lines, _ = run(
        endpoint, "backup", "s3://bucket/keep", "--redis", source.url, "--name", "n3", **KEYS
    )
    assert (code, lines[-1]["reason"]) == (1, "name_exists")


def test_what_is_wrong_is_said_in_one_sentence(run: Run, endpoint: str) -> None:
    source = "s3://bucket/nothing"
    found, text = run.reason(endpoint, source, **KEYS)
    assert (found, "no complete backup" in text) == ("not_found", True)
    found, text = run.reason(endpoint, source, "--name", "one", **KEYS)
    assert (found, "no backup named one" in text) == ("not_found", True)
    found, text = run.reason(endpoint, "s3://no-such-bucket/x", **KEYS)
    assert (found, "there is no bucket no-such-bucket" in text) == ("no_bucket", True)
    found, text = run.reason(endpoint, source, AWS_REGION="us-east-1")
    assert (found, "AWS_ACCESS_KEY_ID" in text) == ("credentials", True)
    closed = f"http://127.0.0.1:{free_port()}"
    found, text = run.reason(closed, source, **KEYS)
    assert (found, "cannot be reached" in text) == ("target_unreachable", True)


class _Refusing(socketserver.StreamRequestHandler):
    """A server that takes no credentials."""

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        body = b"<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>"
        self.wfile.write(
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )


def test_credentials_that_are_refused_are_said_to_be(run: Run) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            found, text = run.reason(url, "s3://bucket/x", **KEYS)
        finally:
            server.shutdown()
    assert (found, "InvalidAccessKeyId" in text) == ("credentials", True)
