"""Connections to servers: opening, authentication, and checks of a server before it is used.

``topology`` and ``cluster`` decide where to connect and call this. Passwords and certificates are
read from their files at every connect, so that the next connection uses a changed mount; they are
kept nowhere else and never logged. redis-py makes the connection itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
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
from tidegate.runtime.config.referenced_files import has_revocation_lists
from tidegate.runtime.config.store_url import Address, StoreKind, StoreUrl
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.failures import Failures, Spoken, StoreRefused
from tidegate.store.client.protocol_probe import spoken_at

log = logging.getLogger(__name__)

#: A word of a command; numbers travel as decimal digits.
Word: TypeAlias = bytes | str | int

# hiredis declares its argument as a tuple of exactly one element.
pack = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)

_OLDEST_SERVER: Final = (7, 0)
#: How often it is looked at what an address speaks, while it cannot be used: a server that is down
#: gets one connection for each attempt.
_PROBE_INTERVAL_S: Final = 10.0
#: Passwords are a line.
_MAX_PASSWORD_BYTES: Final = 65_536


class Credentials(CredentialProvider):
    """A user name and a password, the latter read from its file at every connect."""

    def __init__(
        self,
        username: str,
        password: str,
        password_file: Path | None,
        key: str = "store.password_file",
    ) -> None:
        """``key`` is the setting that names the file."""
        self._username = username
        self._password = password
        self._password_file = password_file
        self._key = key

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
                    f"{self._key}: {self._password_file}: cannot be read: {reason}"
                ) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Do the same for redis-py's asyncio connections."""
        return self.get_credentials()


class Access:
    """How to connect to one kind of server: those with data, or the sentinels."""

    def __init__(
        self,
        url: StoreUrl,
        credentials: Credentials | None,
        database: int,
        store: StoreConfig,
        failures: Failures,
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._database = database
        self._store = store
        self.failures = failures
        #: What each address was found to speak, and when.
        self._found: dict[Address, tuple[float, Spoken]] = {}

    async def open(self, address: Address, step_s: float) -> AbstractConnection:
        """Connect and authenticate; each step may take ``step_s``.

        Raises StoreUnavailable and StoreRefused with a sentence.
        """
        connection = self._make(address, step_s)
        try:
            async with asyncio.timeout(step_s):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
        except BaseException as error:
            await drop(connection)
            if not isinstance(error, Exception):
                raise
            raise await self.explained(error, address) from error
        return connection

    def check_files(self) -> None:
        """Read the files that a connection needs. Raises StoreUnavailable."""
        if self._url.tls:
            self._tls_context()
        if self._credentials is not None:
            self._credentials.get_credentials()

    async def explained(self, error: Exception, address: Address) -> Exception:
        """Return what a failure at this address means; a server that is there may be probed."""
        return self.failures.explain(error, name_of(address), await self._spoken(error, address))

    async def _spoken(self, error: Exception, address: Address) -> Spoken | None:
        host, port = address
        if self._url.unix or isinstance(error, StoreUnavailable | StoreRefused):
            return None
        unclear = isinstance(error, redis_errors.InvalidResponse | IndexError) or (
            _is_handshake_failure(error) if self._url.tls else _was_closed(error)
        )
        if not unclear:
            return None
        now_s = asyncio.get_running_loop().time()
        found_s, spoken = self._found.get(address, (-math.inf, Spoken.NOTHING))
        if now_s - found_s > _PROBE_INTERVAL_S:
            spoken = await spoken_at(host, port)
            self._found[address] = (now_s, spoken)
        return spoken

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
            if store.tls_ca is not None and has_revocation_lists(store.tls_ca.read_bytes()):
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
            if store.tls_certificate is not None:
                context.load_cert_chain(store.tls_certificate, store.tls_key)
        except OSError as error:  # ssl.SSLError is one
            raise StoreUnavailable(_tls_files_text(store, error)) from None
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
        self.failures = Failures(url, store)
        self.access = Access(url, credentials, url.database, store, self.failures)
        self._single = url.kind is StoreKind.SINGLE
        self._seen: dict[Address, str] = {}

    async def open(self, address: Address, step_s: float) -> Opened:
        """Connect to a server that can be used. Raises StoreRefused and StoreUnavailable."""
        connection = await self.access.open(address, step_s)
        try:
            product, process = await self._check(connection, step_s, name_of(address))
        except BaseException as error:
            await drop(connection)
            if not isinstance(error, Exception):
                raise
            raise await self.access.explained(error, address) from error
        if self._seen.get(address) != product:
            self._seen[address] = product
            log.info("store connected", extra={"server": name_of(address), "kind": product})
        return Opened(connection, process)

    async def _check(
        self, connection: AbstractConnection, step_s: float, server: str
    ) -> tuple[str, bytes]:
        """Return the server's product with its version, and its run_id.

        Raises StoreRefused or StoreUnavailable when it cannot be used, and what a call raises.
        """
        facts: dict[str, str] = {}
        for section in ("server", "memory", *(("replication",) if self._single else ())):
            lines = (await call(connection, step_s, "INFO", section)).decode().splitlines()
            facts.update(line.split(":", 1) for line in lines if ":" in line)
        version = facts.get("redis_version", "0.0")
        if problem := self._unusable(facts, version):
            raise StoreRefused(self.failures.of_url(server, problem))
        if self._single and facts.get("role") == "slave":
            raise StoreUnavailable(
                self.failures.of_url(server, "is a read-only replica: the URL must name its master")
            )
        if self._store.durability == "always":
            await self._check_append_only_file(connection, step_s, server)
        process = facts.get("run_id", "").encode()
        if "valkey_version" in facts:
            return f"Valkey {facts['valkey_version']}", process
        return f"Redis {version}", process

    def _unusable(self, facts: dict[str, str], version: str) -> str:
        """Why a server can never be used, by its INFO; "" if it can."""
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_SERVER:
            return f"is Redis {version}; Tidegate needs Redis 7.0 or Valkey"
        mode = facts.get("redis_mode", facts.get("server_mode"))
        if mode == "sentinel":
            return "is a sentinel: the URL must begin with redis+sentinel and name a master"
        if mode == "cluster" and not self._cluster:
            return "is part of a cluster: the URL must begin with redis+cluster"
        if mode != "cluster" and self._cluster:
            return "is not part of a cluster: the URL must not say +cluster"
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and facts.get("maxmemory", "0") != "0":
            return (
                f"evicts data when its memory is full (maxmemory-policy {policy}); Tidegate needs "
                "noeviction"
            )
        return ""

    async def _check_append_only_file(
        self, connection: AbstractConnection, step_s: float, server: str
    ) -> None:
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
                    f"store.durability: {server} has {name} {settings.get(name)}, but always needs "
                    f"{wanted}"
                )


def _is_handshake_failure(error: Exception) -> bool:
    """Whether a TLS handshake did not get to the point where certificates are judged."""
    context = error.__context__
    if isinstance(context, ssl.SSLCertVerificationError):
        return False
    timed_out = isinstance(error, TimeoutError | redis_errors.TimeoutError)
    return timed_out or isinstance(context, ssl.SSLError) or _was_closed(error)


def _was_closed(error: Exception) -> bool:
    """Whether the server has closed the connection."""
    reset = isinstance(error, ConnectionError) or isinstance(error.__context__, ConnectionError)
    refused = isinstance(error.__context__, ConnectionRefusedError)
    return (reset and not refused) or "closed" in str(error).lower()


def _tls_files_text(store: StoreConfig, error: OSError) -> str:
    """The sentence for TLS files that cannot be used."""
    named = (("tls_ca", store.tls_ca), ("tls_certificate", store.tls_certificate))
    for name, path in (*named, ("tls_key", store.tls_key)):
        if path is None:
            continue
        try:
            path.read_bytes()
        except OSError as unreadable:
            return f"store.{name}: {path}: cannot be read: {unreadable.strerror}"
    keys = "store.tls_ca" if store.tls_certificate is None else "store.tls_certificate"
    path = store.tls_ca if store.tls_certificate is None else store.tls_certificate
    reason = getattr(error, "reason", None)
    return f"{keys}: {path}: cannot be used: {reason or error}"


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
