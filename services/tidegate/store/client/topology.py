"""Topologies: one server, sentinels, or a cluster, and the lanes to the servers.

``redis_store`` makes a topology and submits operations to its two sets of lanes; which server an
operation is sent to is decided here (one server, found directly or by sentinels) or in ``cluster``.
``docs/storage.md`` says what each topology and durability can lose.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from tidegate.runtime.config.model import StoreConfig
from tidegate.runtime.config.store_url import Address, StoreKind, StoreUrl, parse_store_url
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.cluster import ClusterLanes, ClusterMap
from tidegate.store.client.failures import Failures, combined
from tidegate.store.client.lanes import Connect, Lane, LaneSettings
from tidegate.store.client.servers import (
    Access,
    Credentials,
    DataServers,
    Opened,
    Word,
    call,
    drop,
    name_of,
)

log = logging.getLogger(__name__)


class Lanes(Protocol):
    """Takes operations; runs those of each partition in their order."""

    def submit(self, prefix: bytes, words: Sequence[Word], size: int) -> asyncio.Future[Any]:
        """Queue an operation on the partition with this prefix; see ``Lane.submit``."""

    @property
    def is_down(self) -> bool:
        """True while operations (some of them, on several servers) fail at once."""

    def generation(self, prefix: bytes) -> object:
        """Something that changes when the partition's server may be another (or a new) process."""

    async def open(self) -> None:
        """Connect to every server in use. Raises StoreRefused, or what connecting raises."""

    async def close(self) -> None:
        """Finish what has been submitted, then disconnect."""


@dataclass(slots=True, frozen=True)
class Topology:
    """Two sets of lanes: ``hot`` for what clients wait for, ``bulk`` for scans and sweeps.

    With durability ``replicated`` only ``hot`` waits for replicas, and so answers nothing from a
    server that has been replaced: what decides about sessions is asked there.

    ``sharded``: partitions may be on different servers, so an operation may name only one.
    """

    hot: Lanes
    bulk: Lanes
    sharded: bool = False


class Sentinels:
    """Finds the current master through sentinels."""

    def __init__(self, url: StoreUrl, store: StoreConfig, servers: DataServers) -> None:
        credentials = None
        if store.sentinel_password_file is not None:
            credentials = Credentials(
                store.sentinel_username or "",
                "",
                store.sentinel_password_file,
                "store.sentinel_password_file",
            )
        self._failures = Failures(url, store, sentinel=True)
        self._access = Access(url, credentials, 0, store, self._failures)
        self._addresses = url.addresses
        self._master = url.master
        self._servers = servers

    def check_files(self) -> None:
        """Read the files that a connection needs. Raises StoreUnavailable."""
        self._access.check_files()

    async def open_master(self, step_s: float) -> Opened:
        """Connect to the master and check its role. Raises StoreUnavailable and other errors."""
        address = await self._find(step_s)
        opened = await self._servers.open(address, step_s)
        try:
            await _check_master(opened.connection, step_s)
        except BaseException:
            await drop(opened.connection)
            raise
        return opened

    async def _find(self, step_s: float) -> Address:
        """The master in the newest view of a majority (or, without a majority, of any sentinel)."""
        queries = {asyncio.create_task(self._query(address, step_s)) for address in self._addresses}
        majority = len(queries) // 2 + 1
        views: list[tuple[int, Address]] = []
        errors: list[Exception] = []
        try:
            while queries and len(views) < majority:
                done, queries = await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        views.append(task.result())
                    except Exception as error:  # all are named at the end
                        errors.append(error)
        finally:
            for task in queries:
                task.cancel()
            await asyncio.gather(*queries, return_exceptions=True)
        if not views:
            raise combined(errors)
        return max(views)[1]

    async def _query(self, sentinel: Address, step_s: float) -> tuple[int, Address]:
        """One sentinel's view: the epoch of its last failover, and the master."""
        connection = await self._access.open(sentinel, step_s)
        try:
            reply = await call(connection, step_s, "SENTINEL", "MASTER", self._master)
        except Exception as error:
            raise await self._explained(error, sentinel) from error
        finally:
            await drop(connection)
        facts = {reply[n]: reply[n + 1].decode() for n in range(0, len(reply), 2)}
        return int(facts[b"config-epoch"]), (facts[b"ip"], int(facts[b"port"]))

    async def _explained(self, error: Exception, sentinel: Address) -> Exception:
        text = str(error)
        if "No such master" in text:
            problem = f"is a sentinel that has no master named {self._master}"
        elif "unknown command" in text:
            problem = "is no sentinel: the URL must not say +sentinel, or name a sentinel's port"
        else:
            return await self._access.explained(error, sentinel)
        return StoreUnavailable(self._failures.of_url(name_of(sentinel), problem))


async def open_one(url: StoreUrl, store: StoreConfig, prefixes: Sequence[bytes]) -> Opened:
    """Open one connection as the lanes would; in a cluster, to the server of the first prefix.

    Raises StoreRefused, StoreUnavailable.
    """
    servers, step_s = DataServers(url, store), store.operation_timeout_s
    servers.access.check_files()
    if url.kind is StoreKind.SENTINEL:
        sentinels = Sentinels(url, store, servers)
        sentinels.check_files()
        return await sentinels.open_master(step_s)
    if url.kind is StoreKind.SINGLE:
        return await servers.open(url.addresses[0], step_s)
    cluster = ClusterMap(servers, url.addresses, prefixes)
    await cluster.refresh(step_s)
    if len(cluster.owners) < len(prefixes):
        raise cluster.incomplete()
    return await servers.open(cluster.owners[prefixes[0]], step_s)


def make_topology(url_text: str, store: StoreConfig, settings: LaneSettings) -> Topology:
    """Make the lanes for the servers that the URL names; nothing is connected yet.

    Raises StoreUrlError.
    """
    url = parse_store_url(url_text)
    servers = DataServers(url, store)
    settings = replace(settings, failures=servers.failures)
    hot_settings = replace(settings, reserve_percent=store.memory_reserve_percent)
    if store.durability == "replicated":
        hot_settings = replace(
            hot_settings,
            replicas=store.replicas,
            all_in_sync=store.replicas_confirm == "in_sync",
            replication_timeout_s=store.replication_timeout_s,
        )
    if url.kind is StoreKind.CLUSTER:
        return _cluster_topology(url, servers, hot_settings, settings)
    connect: Connect
    if url.kind is StoreKind.SENTINEL:
        name = f"master {url.master}"
        connect = Sentinels(url, store, servers).open_master
    else:
        (address,) = url.addresses
        name = name_of(address)

        async def connect(step_s: float) -> Opened:
            return await servers.open(address, step_s)

    hot = Lane(name, connect, hot_settings)
    return Topology(hot, Lane(name, connect, settings, leader=hot))


def _cluster_topology(
    url: StoreUrl,
    servers: DataServers,
    hot_settings: LaneSettings,
    bulk_settings: LaneSettings,
) -> Topology:
    cluster = ClusterMap(servers, url.addresses, bulk_settings.prefixes)

    def lanes(settings: LaneSettings) -> ClusterLanes:
        def make_lane(address: Address, owner: ClusterLanes) -> Lane:
            async def connect(step_s: float) -> Opened:
                return await servers.open(address, step_s)

            return Lane(
                name_of(address),
                connect,
                settings,
                on_moved=owner.take_back,
                on_down=owner.refresh,
            )

        return ClusterLanes(cluster, make_lane, settings)

    return Topology(lanes(hot_settings), lanes(bulk_settings), sharded=True)


async def _check_master(connection: AbstractConnection, step_s: float) -> None:
    role = (await call(connection, step_s, "ROLE"))[0].decode()
    if role != "master":
        raise StoreUnavailable(
            f"store.url: the server named by sentinels is not a master: its role is {role}"
        )
