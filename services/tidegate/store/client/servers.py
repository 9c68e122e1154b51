"""Connections to servers: opening, authentication, and checks of a server before it is used.

``topology`` and ``cluster`` decide where to connect and call this. Passwords and certificates are
read from their files at every connect, so that the next connection uses a changed mount; they are
kept nowhere else and never logged. redis-py makes the connection itself.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, cast

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.credentials import CredentialProvider

from tidegate.runtime.config.model import StoreConfig
from tidegate.runtime.config.store_url import Address, StoreKind, StoreUrl
from tidegate.store.api import StoreUnavailable

log = logging.getLogger(__name__)

#: A word of a command; numbers travel as decimal digits.
Word: TypeAlias = bytes | str | int

# hiredis declares its argument as a tuple of exactly one element.
pack = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)

_OLDEST_SERVER: Final = (7, 0)
#: Passwords are a line.
_MAX_PASSWORD_BYTES: Final = 65_536


class StoreRefused(Exception):
    """The server or its contents cannot be used; the message says why in one sentence."""


class Credentials(CredentialProvider):
    """A user name and a password, the latter read from its file at every connect."""

    def __init__(self, username: str, password: str, password_file: Path | None) -> None:
        self._username = username
        self._password = password
        self._password_file = password_file

    def __repr__(self) -> str:
        return f"Credentials({self._username!r})"

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the arguments of AUTH. Raises StoreUnavailable when the file cannot be read."""
        password = self._password
        if self._password_file is not None:
            try:
                content = self._password_file.read_bytes()[:_MAX_PASSWORD_BYTES]
                password = content.decode().rstrip("\r\n")
            except (OSError, ValueError) as error:
                # A ValueError would quote what it could not decode.
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise StoreUnavailable(
                    f"the password file {self._password_file} cannot be read: {reason}"
                ) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Do the same for redis-py's asyncio connections."""
        return self.get_credentials()


class Access:
    """How to connect to one kind of server: those with data, or the sentinels."""

    def __init__(
        self, url: StoreUrl, credentials: Credentials | None, database: int, store: StoreConfig
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._database = database
        self._store = store

    async def open(self, address: Address, step_s: float) -> AbstractConnection:
        """Connect and authenticate; each step may take ``step_s``.

        Raises StoreUnavailable, or an error of redis-py or of the network.
        """
        connection = self._make(address, step_s)
        try:
            async with asyncio.timeout(step_s):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
        except BaseException:
            await drop(connection)
            raise
        return connection

    def _make(self, address: Address, step_s: float) -> AbstractConnection:
        host, port = address
        options: dict[str, Any] = {
            "protocol": 2,
            "db": self._database,
            "credential_provider": self._credentials,
            "socket_timeout": None,
            "socket_connect_timeout": step_s,
        }
        if self._url.unix:
            return UnixDomainSocketConnection(path=host, **options)
        if not self._url.tls:
            return Connection(host=host, port=port, **options)
        connection = SSLConnection(host=host, port=port, **options)
        connection.ssl_context.context = self._tls_context()
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        store = self._store
        try:
            context = ssl.create_default_context(cafile=store.tls_ca)
            if store.tls_certificate is not None:
                context.load_cert_chain(store.tls_certificate, store.tls_key)
        except OSError as error:  # ssl.SSLError is one
            raise StoreUnavailable(f"the store's TLS files cannot be used: {error}") from None
        return context


class Opened(NamedTuple):
    """A connection, and the run_id of the server (empty when it is not known)."""

    connection: AbstractConnection
    process: bytes


class DataServers:
    """Opens connections to servers that hold data, and checks each server before it is used."""

    def __init__(self, url: StoreUrl, store: StoreConfig) -> None:
        self._store = store
        self._cluster = url.kind is StoreKind.CLUSTER
        credentials = None
        if url.password or store.password_file is not None:
            username = url.username or store.username or ""
            credentials = Credentials(username, url.password, store.password_file)
        self.access = Access(url, credentials, url.database, store)
        self._seen: dict[Address, str] = {}

    async def open(self, address: Address, step_s: float) -> Opened:
        """Connect to a server that can be used. Raises StoreRefused, or what connecting raises."""
        connection = await self.access.open(address, step_s)
        try:
            product, process = await check_server(
                connection, step_s, self._store, cluster=self._cluster
            )
        except BaseException:
            await drop(connection)
            raise
        if self._seen.get(address) != product:
            self._seen[address] = product
            log.info("store connected", extra={"server": name_of(address), "kind": product})
        return Opened(connection, process)


def name_of(address: Address) -> str:
    """An address for logs: host:port, or the path of a socket."""
    host, port = address
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def drop(connection: AbstractConnection) -> None:
    """Close a connection at once, without a TLS shutdown that a dead peer never answers."""
    writer = connection._writer  # noqa: SLF001  # redis-py waits for that shutdown
    if writer is not None:
        writer.transport.abort()
    await connection.disconnect(nowait=True)


async def call(connection: AbstractConnection, step_s: float, *command: Word) -> Any:
    """Send one command and return its reply. Raises what redis-py raises, and TimeoutError."""
    async with asyncio.timeout(step_s):
        await connection.send_packed_command(pack(command), check_health=False)
        return await connection.read_response(disable_decoding=True, disconnect_on_error=False)


async def check_server(
    connection: AbstractConnection, step_s: float, store: StoreConfig, *, cluster: bool
) -> tuple[str, bytes]:
    """Return the server's product with its version, and its run_id.

    Raises StoreRefused when it cannot be used.
    """
    facts: dict[str, str] = {}
    for section in ("server", "memory"):
        lines = (await call(connection, step_s, "INFO", section)).decode().splitlines()
        facts.update(line.split(":", 1) for line in lines if ":" in line)
    version = facts.get("redis_version", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_SERVER:
        raise StoreRefused(f"the store is Redis {version}; Tidegate needs Redis 7.0 or Valkey")
    is_cluster = facts.get("redis_mode", facts.get("server_mode")) == "cluster"
    if is_cluster and not cluster:
        raise StoreRefused("the store is a cluster: its URL must begin with redis+cluster://")
    if cluster and not is_cluster:
        raise StoreRefused("the store is not a cluster: its URL must not say +cluster")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and facts.get("maxmemory", "0") != "0":
        raise StoreRefused(
            f"the store evicts data when its memory is full (maxmemory-policy {policy}); "
            "Tidegate needs noeviction"
        )
    if store.durability == "always":
        await _check_append_only_file(connection, step_s)
    process = facts.get("run_id", "").encode()
    if "valkey_version" in facts:
        return f"Valkey {facts['valkey_version']}", process
    return f"Redis {version}", process


async def _check_append_only_file(connection: AbstractConnection, step_s: float) -> None:
    """``always`` needs settings of the server: check them."""
    try:
        found = await call(connection, step_s, "CONFIG", "GET", "append*")
    except redis_errors.ResponseError as error:
        log.warning(
            "server settings for durability always cannot be read",
            extra={"reason": str(error)},
        )
        return
    settings = {found[n].decode(): found[n + 1].decode() for n in range(0, len(found), 2)}
    for name, wanted in (("appendonly", "yes"), ("appendfsync", "always")):
        if settings.get(name) != wanted:
            raise StoreRefused(
                f"durability is always, but the server has {name} {settings.get(name)}"
            )
