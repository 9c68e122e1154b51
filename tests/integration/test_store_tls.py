"""The store over TLS, as an ACL user with the rights that docs/storage.md names.

Inputs: real servers with certificates made for the test, files that change. Observed: who gets in,
and that no password is written anywhere. The Valkey that the tests have is built without TLS, so
what concerns TLS is tried on Redis, and what concerns users on both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from support.certificates import Authority, Certificates
from support.store_groups import ACL_RULES, MORE_RULES, Cluster, Watched
from support.store_server import DEADLINE_S, TcpServer, programs
from support.waiting import wait_for_async
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import Append, AttachRequest, StoreUnavailable
from tidegate.store.redis_store import RedisStore, StoreRefused

NOW = 1_700_000_000_000
USER = "tidegate"


def program(name: str) -> str:
    found = programs()[name]
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def server(tmp_path: Path, certificates: Certificates) -> Iterator[TcpServer]:
    """A server with TLS."""
    running = TcpServer(program("redis"), tmp_path / "s", tls=certificates)
    running.start()
    yield running
    running.stop()


@pytest.fixture(params=["valkey", "redis"])
def plain_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TcpServer]:
    running = TcpServer(program(request.param), tmp_path / "s")
    running.start()
    yield running
    running.stop()


class Secret:
    """A password in a file, and the user who has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.word = ""

    def change(self, *servers: TcpServer, rules: str = ACL_RULES) -> str:
        """Choose another one and tell the servers (the file stays as it is); return it."""
        self.word = token_hex(16)
        for one in servers:
            one.command("ACL", "SETUSER", USER, "resetpass", f">{self.word}", "on", *rules.split())
        return self.word

    def write(self) -> None:
        """Put it into the file, as a mounted secret comes: with a line's end."""
        self.path.write_text(f"{self.word}\n", encoding="utf-8")


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path / "password")


def tls_settings(certificates: Certificates) -> dict[str, Any]:
    return {
        "tls_ca": certificates.authority.certificate,
        "tls_certificate": certificates.client.certificate,
        "tls_key": certificates.client.key,
    }


async def connect(url: str, counters: Counters | None = None, **settings: Any) -> RedisStore:
    store = StoreConfig(url=url, operation_timeout_s=2, **settings)
    return await RedisStore.connect(
        url=url, limits=LimitsConfig(), store=store, counters=counters or Counters()
    )


async def use(store: RedisStore) -> None:
    """Have one of each group of commands done, and close."""
    attached = await store.attach(AttachRequest("c", "e1", True, 100, NOW, b"w"))
    reply = await store.append([Append("c", attached.incarnation, b"1", "identity")])
    assert reply.outcomes == [1]
    await store.set_retained("t", b"r", NOW + 1000)
    assert [topic async for topics in store.retained_topics() for topic in topics] == ["t"]
    await store.sweep_due(NOW + 1000, 10)
    await store.close()


async def test_tls_with_a_user_and_a_client_certificate(
    server: TcpServer, certificates: Certificates, secret: Secret
) -> None:
    secret.change(server)
    secret.write()
    server.command("ACL", "SETUSER", "default", "off")
    settings = {"username": USER, "password_file": secret.path, **tls_settings(certificates)}
    await use(await connect(server.url, **settings))


async def test_a_server_that_another_authority_vouches_for_is_not_trusted(
    server: TcpServer, certificates: Certificates, tmp_path: Path
) -> None:
    settings = tls_settings(certificates) | {"tls_ca": Authority(tmp_path / "ca").certificate}
    with pytest.raises(StoreUnavailable, match=r"store.tls_ca: .* does not verify"):
        await connect(server.url, **settings)


async def test_a_bundle_with_revocation_lists_revokes(
    server: TcpServer, certificates: Certificates, tmp_path: Path
) -> None:
    authority, bundle = certificates.authority, tmp_path / "bundle.pem"
    settings = tls_settings(certificates) | {"tls_ca": bundle}
    for revoked in ([certificates.client.certificate], [certificates.server.certificate]):
        crl = authority.revocation_list(*revoked, file="store-crl.pem")
        bundle.write_bytes(authority.certificate.read_bytes() + crl.read_bytes())
        if certificates.server.certificate in revoked:
            with pytest.raises(StoreUnavailable, match=r"does not verify: certificate revoked"):
                await connect(server.url, **settings)
        else:
            await use(await connect(server.url, **settings))


async def test_a_server_with_another_name_is_not_trusted(
    certificates: Certificates, tmp_path: Path
) -> None:
    pair = certificates.authority.server("other.test", addresses=(), file="other")
    named = ("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key))
    server = TcpServer(program("redis"), tmp_path / "s", *named, tls=certificates, verified=False)
    server.start()
    try:
        with pytest.raises(StoreUnavailable, match=r"store.url: .* certificate for another name"):
            await connect(server.url, **tls_settings(certificates))
    finally:
        server.stop()


async def test_a_server_that_asks_for_a_certificate_gets_one_or_refuses(
    server: TcpServer, certificates: Certificates
) -> None:
    with pytest.raises(StoreUnavailable):
        await connect(server.url, tls_ca=certificates.authority.certificate)


async def test_files_that_cannot_be_used_are_named(
    server: TcpServer, certificates: Certificates, tmp_path: Path
) -> None:
    with pytest.raises(StoreUnavailable, match=r"store.tls_ca: .*none: cannot be read"):
        await connect(server.url, **tls_settings(certificates) | {"tls_ca": tmp_path / "none"})
    with pytest.raises(StoreUnavailable, match=r"store.password_file: .*none: cannot be read"):
        await connect(server.url, password_file=tmp_path / "none", **tls_settings(certificates))


async def test_a_password_that_is_rotated_is_read_again(
    plain_server: TcpServer, secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    counters = Counters()
    old = secret.change(plain_server)
    secret.write()
    store = await connect(plain_server.url, counters, username=USER, password_file=secret.path)
    # The server has the new one before the mount does: out for a moment, and back by itself.
    new = secret.change(plain_server)
    plain_server.command("CLIENT", "KILL", "USER", USER)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.ping()
    assert counters.store_circuit_open == 1
    secret.write()
    await wait_for_async(lambda: not counters.store_circuit_open, DEADLINE_S, "it is let in again")
    await use(store)
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "refuses the password of user tidegate" in text
    for word in (old, new):
        assert word not in text


async def test_a_user_without_a_right_is_told_which(
    plain_server: TcpServer, secret: Secret
) -> None:
    secret.change(plain_server, rules=ACL_RULES.replace("+evalsha", ""))
    secret.write()
    with pytest.raises(StoreUnavailable, match="evalsha"):
        await connect(plain_server.url, username=USER, password_file=secret.path)


async def test_always_cannot_be_verified_without_the_right_to(
    plain_server: TcpServer, secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    secret.change(plain_server)
    secret.write()
    settings: dict[str, Any] = {
        "username": USER,
        "password_file": secret.path,
        "durability": "always",
    }
    await use(await connect(plain_server.url, **settings))
    assert "server settings for durability always cannot be read" in caplog.text
    plain_server.command("CONFIG", "SET", "appendfsync", "everysec")
    secret.change(plain_server, rules=MORE_RULES)
    secret.write()
    with pytest.raises(StoreRefused, match="appendfsync everysec"):
        await connect(plain_server.url, **settings)


async def test_a_cluster_over_tls(
    certificates: Certificates, secret: Secret, tmp_path: Path
) -> None:
    cluster = Cluster(program("redis"), tmp_path / "s", tls=certificates)
    cluster.start()
    try:
        secret.change(*cluster.servers, rules=f"{ACL_RULES} {MORE_RULES}")
        secret.write()
        settings = {"username": USER, "password_file": secret.path, **tls_settings(certificates)}
        await use(await connect(cluster.url, **settings))
    finally:
        cluster.stop()


async def test_sentinels_and_a_replica_over_tls(
    certificates: Certificates, secret: Secret, tmp_path: Path
) -> None:
    watched = Watched(program("redis"), tmp_path / "s", replicas=1, sentinels=1, tls=certificates)
    watched.start()
    try:
        secret.change(*watched.servers, rules=f"{ACL_RULES} {MORE_RULES}")
        secret.write()
        settings = {"username": USER, "password_file": secret.path, **tls_settings(certificates)}
        await use(await connect(watched.url, durability="replicated", **settings))
        (sentinel,) = watched.sentinels
        sentinel.command("ACL", "SETUSER", "default", "-@all", "+sentinel|master")
        await use(await connect(watched.url, **settings))
    finally:
        watched.stop()
