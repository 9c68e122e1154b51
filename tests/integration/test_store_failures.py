"""Why a store cannot be used: one sentence with the setting, the server, and what is wrong.

Inputs: real servers that are set up against the configuration, and pretended ones where a real one
would have to be old or slow. Observed: the failure of connecting. What a command line prints of it
is in test_start_failures.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority, Certificates
from support.closing import close_server
from support.ports import free_port
from support.store_groups import ACL_RULES, Watched
from support.store_server import TcpServer, programs
from support.store_stub import CLOSE, SILENCE, StoreStub, info, usable
from support.tools import missing
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.config.store_url import parse_store_url
from tidegate.store.api import AttachRequest, StoreUnavailable
from tidegate.store.client.servers import DataServers
from tidegate.store.keys import FORMAT_KEY
from tidegate.store.redis_store import RedisStore, StoreRefused

PASSWORD = "correct horse"


def _program(name: str) -> str:
    found = programs()[name]
    if found is None:
        missing(f"{name}-server")
    return found


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TcpServer]:
    """A server without TLS."""
    running = TcpServer(_program(request.param), tmp_path / "s")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def tls_server(tmp_path: Path, certificates: Certificates) -> Iterator[TcpServer]:
    """A server with TLS that requires client certificates (the tests' Valkey has no TLS)."""
    running = TcpServer(_program("redis"), tmp_path / "s", tls=certificates)
    running.start()
    yield running
    running.stop()


async def _failure(url: str, kind: type[Exception] = StoreUnavailable, **settings: Any) -> str:
    """The sentence with which connecting fails."""
    store = StoreConfig.model_validate({"url": url, "operation_timeout_s": 2} | settings)
    with pytest.raises(kind) as caught:
        await RedisStore.connect(url=url, limits=LimitsConfig(), store=store)
    text = str(caught.value)
    assert text.isprintable()
    assert PASSWORD not in text
    return text


def _tls(certificates: Certificates) -> dict[str, Any]:
    return {
        "tls_ca": certificates.authority.certificate,
        "tls_certificate": certificates.client.certificate,
        "tls_key": certificates.client.key,
    }


async def test_a_database_that_is_not_there(server: TcpServer) -> None:
    """It used to end in a traceback."""
    text = await _failure(f"{server.url}/99", StoreRefused)
    assert text == f"store.url: {server.address} has no database 99"


async def test_a_server_that_does_not_run() -> None:
    port = free_port()
    text = await _failure(f"redis://127.0.0.1:{port}")
    assert text == (f"store.url: 127.0.0.1:{port} refuses the connection: is the server running?")


async def test_a_name_that_is_no_host() -> None:
    text = await _failure("redis://nowhere.invalid")
    assert text.startswith("store.url: nowhere.invalid:6379 cannot be resolved: ")


async def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    text = await _failure(f"unix://{tmp_path}/none")
    assert text == f"store.url: {tmp_path}/none cannot be reached: No such file or directory"


async def test_a_server_that_requires_a_password(server: TcpServer) -> None:
    server.command("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}")
    text = await _failure(server.url)
    assert text == f"store.password_file: {server.address} requires a password"


async def test_a_server_that_has_no_password(server: TcpServer) -> None:
    url = server.url.replace("://", "://:secret@")
    text = await _failure(url)
    assert text == f"store.url: {server.address} has no password for user default"


async def test_a_wrong_password_in_a_file_and_in_the_url(server: TcpServer, tmp_path: Path) -> None:
    server.command("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}")
    file = tmp_path / "password"
    file.write_text("wrong\n")
    text = await _failure(server.url, password_file=file)
    sentence = f"{server.address} refuses the password of user default"
    assert text == f"store.password_file: {sentence}"
    assert await _failure(server.url.replace("://", "://:wrong@")) == f"store.url: {sentence}"
    text = await _failure(server.url, username="ann", password_file=file)
    assert text == f"store.password_file: {server.address} refuses the password of user ann"


@pytest.mark.parametrize("command", ["info", "script|load", "evalsha"])
async def test_a_user_without_a_right(server: TcpServer, tmp_path: Path, command: str) -> None:
    rules = [*ACL_RULES.split(), f"-{command}"]
    server.command("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", *rules)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    text = await _failure(server.url, username="ann", password_file=file)
    assert text == (
        f"store.username: {server.address} gives user ann no permission to run {command}"
    )


@pytest.mark.parametrize("command", ["get", "set"])
async def test_a_user_without_a_right_to_a_command_of_scripts(
    server: TcpServer, tmp_path: Path, command: str
) -> None:
    """Redis 7.0 does not say which. It used to be a fault of Tidegate, with a traceback."""
    rules = [*ACL_RULES.split(), f"-{command}"]
    server.command("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", *rules)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    text = await _failure(server.url, username="ann", password_file=file)
    sentence = f"store.username: {server.address} gives user ann no permission to run "
    assert text in {
        f"{sentence}{command}",
        f"{sentence}a command of its scripts (docs/storage.md lists them)",
    }


async def test_a_right_that_is_missing_later(server: TcpServer, tmp_path: Path) -> None:
    rules = [*ACL_RULES.split(), "-incr", "-hset", "-zadd", "-hincrby"]
    server.command("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", *rules)
    settings = StoreConfig(url=server.url.replace("://", f"://ann:{PASSWORD}@"))
    assert settings.url is not None
    store = await RedisStore.connect(url=settings.url, limits=LimitsConfig(), store=settings)
    try:
        with pytest.raises(StoreUnavailable, match=r"store.url: .* gives user ann no permission"):
            await store.attach(AttachRequest("c", "e1", True, 100, 1, b"w"))
    finally:
        await store.close()


async def test_a_user_without_a_right_to_the_keys(server: TcpServer, tmp_path: Path) -> None:
    rules = [*ACL_RULES.split(), "resetkeys", "~other:*"]
    server.command("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", *rules)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    text = await _failure(server.url, username="ann", password_file=file)
    assert text.startswith(f"store.username: {server.address} gives user ann no permission ")


async def test_tls_to_a_plain_port(server: TcpServer) -> None:
    """It used to be a TimeoutError after operation_timeout_s."""
    text = await _failure(server.url.replace("redis:", "rediss:"), StoreRefused)
    assert text == (
        f"store.url: {server.address} speaks no TLS: the URL must begin with redis, not rediss"
    )


async def test_plain_text_to_a_tls_port(tls_server: TcpServer) -> None:
    text = await _failure(f"redis://{tls_server.address}", StoreRefused)
    assert text == f"store.url: {tls_server.address} expects TLS: the URL must begin with rediss"


async def test_a_certificate_of_another_authority(
    tls_server: TcpServer, certificates: Certificates, tmp_path: Path
) -> None:
    other = _tls(certificates) | {"tls_ca": Authority(tmp_path / "ca").certificate}
    text = await _failure(tls_server.url, **other)
    assert text.startswith(
        f"store.tls_ca: {tls_server.address} has a certificate that does not verify: "
    )


async def test_a_certificate_for_another_name(certificates: Certificates, tmp_path: Path) -> None:
    pair = certificates.authority.server("other.test", addresses=(), file="other-name")
    named = ("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key))
    server = TcpServer(_program("redis"), tmp_path / "s", *named, tls=certificates, verified=False)
    server.start()
    try:
        text = await _failure(server.url, **_tls(certificates))
    finally:
        server.stop()
    assert text == f"store.url: {server.address} has a certificate for another name or address"


async def test_a_server_that_requires_a_client_certificate(
    tls_server: TcpServer, certificates: Certificates
) -> None:
    text = await _failure(tls_server.url, tls_ca=certificates.authority.certificate)
    assert text == f"store.tls_certificate: {tls_server.address} requires a client certificate"


async def test_files_that_cannot_be_used(
    tls_server: TcpServer, certificates: Certificates, tmp_path: Path
) -> None:
    none = tmp_path / "none"
    text = await _failure(tls_server.url, **_tls(certificates) | {"tls_ca": none})
    assert text == f"store.tls_ca: {none}: cannot be read: No such file or directory"
    text = await _failure(tls_server.url, password_file=none, **_tls(certificates))
    assert text == f"store.password_file: {none}: cannot be read: No such file or directory"
    none.write_text("nonsense")
    text = await _failure(tls_server.url, tls_ca=none)
    assert text.startswith(f"store.tls_ca: {none}: cannot be used: ")


@contextlib.asynccontextmanager
async def _http_server() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readline()
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await close_server(server)
        await server.wait_closed()


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
async def test_a_server_that_speaks_http(scheme: str) -> None:
    async with _http_server() as address:
        text = await _failure(f"{scheme}://{address}", StoreRefused)
    assert text == f"store.url: {address} is no Redis or Valkey server: it speaks HTTP"


async def test_a_server_that_is_too_old() -> None:
    def old(words: list[bytes]) -> bytes:
        return info().replace(b"7.2.4", b"6.2.1") if words[0] == b"INFO" else usable(words)

    async with StoreStub(old) as stub:
        text = await _failure(f"redis://{stub.host}", StoreRefused)
    assert text == f"store.url: {stub.host} is Redis 6.2.1; Tidegate needs Redis 7.0 or Valkey"


async def test_a_server_that_hangs() -> None:
    async with StoreStub(lambda _words: SILENCE) as stub:
        text = await _failure(f"redis://{stub.host}", operation_timeout_s=0.3)
    assert text == f"store.url: {stub.host} does not answer in time"


async def test_a_server_that_closes() -> None:
    async with StoreStub(lambda _words: CLOSE) as stub:
        text = await _failure(f"redis://{stub.host}")
    assert text == f"store.url: {stub.host} closes the connection"


async def test_a_server_that_closes_is_not_probed_at_every_attempt() -> None:
    connections = 0

    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.transport.abort()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    try:
        address: tuple[str, int] = server.sockets[0].getsockname()
        url = f"redis://127.0.0.1:{address[1]}"
        servers = DataServers(parse_store_url(url), StoreConfig(url=url))
        for _ in range(4):
            with pytest.raises(StoreUnavailable):
                await servers.open(address, 2.0)
    finally:
        await close_server(server)
    # Each attempt, and the plain text and the TLS hello of one probe.
    assert connections == 4 + 2


async def test_a_server_that_is_loading() -> None:
    def loading(words: list[bytes]) -> bytes:
        known = words[0] in {b"INFO", b"CLIENT"}
        return usable(words) if known else b"-LOADING Redis is loading the dataset in memory\r\n"

    async with StoreStub(loading) as stub:
        text = await _failure(f"redis://{stub.host}")
    assert text == f"store.url: {stub.host} is loading its data set"


async def test_a_server_that_evicts(server: TcpServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    text = await _failure(server.url, StoreRefused)
    assert text == (
        f"store.url: {server.address} evicts data when its memory is full (maxmemory-policy "
        "allkeys-lru); Tidegate needs noeviction"
    )


async def test_a_replica(server: TcpServer) -> None:
    server.command("REPLICAOF", "127.0.0.1", free_port())
    text = await _failure(server.url)
    assert text == (
        f"store.url: {server.address} is a read-only replica: the URL must name its master"
    )


async def test_a_server_that_does_not_sync_always(server: TcpServer) -> None:
    server.command("CONFIG", "SET", "appendfsync", "everysec")
    text = await _failure(server.url, StoreRefused, durability="always")
    assert text == (
        f"store.durability: {server.address} has appendfsync everysec, but always needs always"
    )


async def test_another_layout(server: TcpServer) -> None:
    await (
        await RedisStore.connect(
            url=server.url, limits=LimitsConfig(), store=StoreConfig(url=server.url)
        )
    ).close()
    text = await _failure(server.url, StoreRefused, partitions=32)
    assert text.startswith("store.partitions: the store holds format version ")


async def test_another_format_version(server: TcpServer) -> None:
    server.command("SET", FORMAT_KEY, "1:64")
    text = await _failure(server.url, StoreRefused)
    assert text.startswith("store.url: the store holds format version 1 with 64 partitions, but ")


async def test_a_key_of_another_program(server: TcpServer) -> None:
    """It used to end in a traceback."""
    server.command("HSET", FORMAT_KEY, "a", "b")
    text = await _failure(server.url, StoreRefused)
    assert text.startswith("store.url: the store refuses: WRONGTYPE")


async def test_a_cluster_and_a_single_server(tmp_path: Path, server: TcpServer) -> None:
    text = await _failure(f"redis+cluster://{server.address}", StoreRefused)
    assert text == (
        f"store.url: {server.address} is not part of a cluster: the URL must not say +cluster"
    )
    cluster = TcpServer(
        _program("redis"),
        tmp_path / "c",
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        str(free_port()),
    )
    cluster.start()
    try:
        text = await _failure(cluster.url, StoreRefused)
        assert text == (
            f"store.url: {cluster.address} is part of a cluster: the URL must begin with "
            "redis+cluster"
        )
        text = await _failure(f"redis+cluster://{cluster.address}")
        assert text == (
            f"store.url: the cluster of {cluster.address} has slots that no server serves"
        )
    finally:
        cluster.stop()


async def test_a_sentinel(tmp_path: Path) -> None:
    watched = Watched(_program("redis"), tmp_path, replicas=0, sentinels=1)
    watched.start()
    (sentinel,) = watched.sentinels
    try:
        text = await _failure(f"redis+sentinel://{sentinel.address}/other")
        assert text == f"store.url: {sentinel.address} is a sentinel that has no master named other"
        text = await _failure(f"redis://{sentinel.address}", StoreRefused)
        assert text == (
            f"store.url: {sentinel.address} is a sentinel: the URL must begin with redis+sentinel "
            "and name a master"
        )
        text = await _failure(f"redis+sentinel://{watched.master.address}/tide")
        assert text.startswith(f"store.url: {watched.master.address} is no sentinel: ")
        watched.master.command("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}")
        text = await _failure(watched.url)
        assert text == f"store.password_file: {watched.master.address} requires a password"
    finally:
        watched.stop()
