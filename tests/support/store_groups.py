"""Several real servers that belong together: a master with replicas and sentinels, a cluster.

Each listens on a free port of the loopback interface and keeps its files in a directory of its own.
Tests kill, pause and move what they like; ``stop`` ends whatever is left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeAlias

import redis
from redis import exceptions as redis_errors
from redis.crc import key_slot

from support.certificates import Certificates
from support.ports import free_port
from support.store_server import StoreServer, TcpServer, programs
from support.tools import missing
from support.waiting import wait_for

DEADLINE_S = 30.0
SLOTS = 16_384
#: Commands that name no key: every server of a cluster gets them.
_EVERYWHERE = ("FLUSHALL", "CONFIG", "SCRIPT", "KEYS", "CLIENT", "INFO")


def _info(server: TcpServer, section: str) -> dict[str, Any]:
    with server.client() as client:
        found: dict[str, Any] = client.info(section)
        return found


STORAGE = Path(__file__).parents[2] / "docs" / "storage.md"


def _documented_rules() -> str:
    """What docs/storage.md says that the store's user needs."""
    line = next(
        line
        for line in STORAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("ACL SETUSER tidegate on >PASSWORD ")
    )
    return line.removeprefix("ACL SETUSER tidegate on >PASSWORD ")


ACL_RULES = _documented_rules()
#: What it needs besides: behind sentinels, in a cluster, to wait for replicas, to see ``always``.
MORE_RULES = "+role +cluster|slots +wait +config|get"


class Replicated:
    """A master and its replicas, without anybody who watches them."""

    def __init__(
        self,
        program: str,
        directory: Path,
        replicas: int,
        *settings: str,
        tls: Certificates | None = None,
    ) -> None:
        self.servers = [
            TcpServer(program, directory / f"server-{number}", *settings, tls=tls)
            for number in range(1 + replicas)
        ]
        self.master = self.servers[0]
        self.replicas = self.servers[1:]
        self.url = self.master.url

    def start(self) -> None:
        """Start all of them, and wait until the replicas follow; what fails leaves nothing."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for server in self.servers:
            server.start()
        for replica in self.replicas:
            self.follow(replica, self.master)
        self.wait_for_replicas(len(self.replicas))

    def follow(self, replica: TcpServer, master: TcpServer) -> None:
        """Make one server the replica of another."""
        replica.command("REPLICAOF", "127.0.0.1", master.port)

    def wait_for_replicas(self, count: int) -> None:
        """Wait until so many replicas are in step with the master."""

        def in_step() -> bool:
            facts = _info(self.master, "replication")
            states = [facts.get(f"slave{n}", {}) for n in range(facts["connected_slaves"])]
            online = [state for state in states if state.get("state") == "online"]
            return len(online) >= count

        wait_for(in_step, DEADLINE_S, f"{count} replicas follow")

    def stop(self) -> None:
        """End what is left."""
        for server in self.servers:
            server.stop()


class Watched(Replicated):
    """A master, its replicas, and sentinels that promote one when the master is gone."""

    NAME = "tide"

    def __init__(
        self,
        program: str,
        directory: Path,
        replicas: int = 1,
        sentinels: int = 3,
        tls: Certificates | None = None,
    ) -> None:
        super().__init__(program, directory, replicas, "--repl-diskless-sync-delay", "0", tls=tls)
        self.sentinels = [
            _Sentinel(program, directory / f"sentinel-{number}", self.NAME, self.master.port, tls)
            for number in range(sentinels)
        ]
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        self.url = f"{'rediss' if tls else 'redis'}+sentinel://{hosts}/{self.NAME}"

    def _start(self) -> None:
        """Start servers and sentinels; return when each sentinel knows all others."""
        super()._start()
        for sentinel in self.sentinels:
            sentinel.start()
        others = len(self.sentinels) - 1
        for sentinel in self.sentinels:
            found = partial(sentinel.knows, others, len(self.replicas))
            wait_for(found, DEADLINE_S, "the sentinels know each other")

    def wait_for_promotion(self) -> TcpServer:
        """Wait until the sentinels have made another server the master; it is that from now on."""

        def promoted() -> TcpServer | None:
            ports = {sentinel.master_port() for sentinel in self.sentinels}
            for server in self.servers:
                if {server.port} == ports and server is not self.master:
                    role = _info(server, "replication")["role"]
                    return server if role == "master" else None
            return None

        found = wait_for(promoted, DEADLINE_S, "a replica is promoted")
        assert found is not None
        self.master = found
        return found

    def stop(self) -> None:
        """End what is left."""
        for sentinel in self.sentinels:
            sentinel.stop()
        super().stop()


class _Sentinel(TcpServer):
    """One sentinel. It writes its configuration itself, so it has a file."""

    def __init__(
        self,
        program: str,
        directory: Path,
        name: str,
        master_port: int,
        tls: Certificates | None,
    ) -> None:
        super().__init__(program, directory, tls=tls)
        self._name = name
        self._file = directory / "sentinel.conf"
        words = self._listening()
        lines = [
            *(f"{key[2:]} {value}" for key, value in zip(words[::2], words[1::2], strict=True)),
            f"dir {directory}",
            "loglevel warning",
            f"sentinel monitor {name} 127.0.0.1 {master_port} 2",
            f"sentinel down-after-milliseconds {name} 500",
            f"sentinel failover-timeout {name} 1000",
        ]
        self._file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _command_line(self) -> list[str]:
        return [self._program, str(self._file), "--sentinel"]

    def _facts(self) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.sentinel_master(self._name)
            return found

    def knows(self, sentinels: int, replicas: int) -> bool:
        """Tell whether it has found so many other sentinels and replicas."""
        facts = self._facts()
        return (
            int(facts["num-other-sentinels"]) >= sentinels and int(facts["num-slaves"]) >= replicas
        )

    def master_port(self) -> int:
        """The port of the server that it takes for the master."""
        return int(self._facts()["port"])


class Cluster:
    """Masters that share the slots, each with so many replicas.

    It has ``StoreServer``'s ways to look at keys, so that the same tests run on both.
    """

    def __init__(
        self,
        program: str,
        directory: Path,
        masters: int = 3,
        replicas: int = 0,
        *settings: str,
        tls: Certificates | None = None,
        node_timeout_ms: int = 5000,
    ) -> None:
        self._bus_ports: dict[int, int] = {}
        self._master_count = masters
        self.servers: list[TcpServer] = []
        for number in range(masters * (1 + replicas)):
            bus_port = free_port()
            server = TcpServer(
                program,
                directory / f"server-{number}",
                *("--cluster-enabled", "yes", "--cluster-port", str(bus_port)),
                *("--cluster-node-timeout", str(node_timeout_ms)),
                *("--repl-diskless-sync-delay", "0"),
                *(("--tls-cluster", "yes") if tls else ()),
                *settings,
                tls=tls,
            )
            self._bus_ports[server.port] = bus_port
            self.servers.append(server)
        hosts = ",".join(server.address for server in self.servers[:masters])
        self.url = f"{'rediss' if tls else 'redis'}+cluster://{hosts}"

    @property
    def masters(self) -> list[TcpServer]:
        """The servers that had the slots at the start."""
        return self.servers[: self._master_count]

    def start(self) -> None:
        """Start all servers, share the slots, wait until all agree; what fails leaves nothing."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for server in self.servers:
            server.start()
        count = self._master_count
        for number, server in enumerate(self.masters):
            first, after = SLOTS * number // count, SLOTS * (number + 1) // count
            server.command("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        for server in self.servers[1:]:
            self.servers[0].command(
                *("CLUSTER", "MEET", "127.0.0.1", server.port, self._bus_ports[server.port])
            )
        self._wait_until_known()
        for number, server in enumerate(self.servers[count:]):
            self._follow(server, self.masters[number % count])
        for server in self.servers:
            wait_for(partial(self._is_fine, server), DEADLINE_S, "the cluster is formed")

    def _wait_until_known(self) -> None:
        count = len(self.servers)

        def known(server: TcpServer) -> bool:
            facts = self._facts(server)
            return int(facts["cluster_known_nodes"]) == count

        for server in self.servers:
            wait_for(partial(known, server), DEADLINE_S, "the servers have met")

    def _follow(self, replica: TcpServer, master: TcpServer) -> None:
        name = self.identifier(master)

        def replicated() -> bool:
            try:
                replica.command("CLUSTER", "REPLICATE", name)
            except redis_errors.ResponseError:  # it has not heard of its master yet
                return False
            return True

        wait_for(replicated, DEADLINE_S, "a replica has found its master")
        wait_for(
            lambda: _info(replica, "replication").get("master_link_status") == "up",
            DEADLINE_S,
            "a replica is in step",
        )

    def _facts(self, server: TcpServer) -> dict[str, str]:
        with server.client() as client:
            found: dict[str, str] = client.execute_command("CLUSTER INFO")
            return found

    def _is_fine(self, server: TcpServer) -> bool:
        facts = self._facts(server)
        return facts["cluster_state"] == "ok" and facts["cluster_slots_ok"] == str(SLOTS)

    def identifier(self, server: TcpServer) -> str:
        """The name of a server within the cluster."""
        name = server.command("CLUSTER", "MYID")
        assert isinstance(name, bytes)
        return name.decode()

    def owner(self, key: bytes) -> TcpServer:
        """The server that has the slot of this key now, as the others see it."""
        slot = key_slot(key)
        for asked in self.servers:
            try:
                ranges = asked.command("CLUSTER", "SLOTS")
            except redis.ConnectionError:
                continue
            assert isinstance(ranges, list)
            ports = [one[2][1] for one in ranges if one[0] <= slot <= one[1]]
            return next(server for server in self.servers if server.port == ports[0])
        raise AssertionError("no server answers")

    def command(self, *words: str | bytes | int) -> object:
        """Run a command where its key is, or everywhere if it names none (the last answer counts,
        lists are joined)."""
        if words[0] in _EVERYWHERE:
            answers = [server.command(*words) for server in self.servers]
            if isinstance(answers[0], list):
                return [item for answer in answers for item in answer]  # type: ignore[attr-defined]
            return answers[-1]
        key = words[1]
        assert not isinstance(key, int)
        return self.owner(key.encode() if isinstance(key, str) else key).command(*words)

    def move_slot(
        self, slot: int, source: TcpServer, target: TcpServer, between: Callable[[], None]
    ) -> None:
        """Move a slot as ``redis-cli --cluster reshard`` does: key by key, under load.

        ``between`` is called after each key: meanwhile some are here and some are there.
        """
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.identifier(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.identifier(target))
        while True:
            keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, 1)
            assert isinstance(keys, list)
            if not keys:
                break
            source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            between()
        for server in (target, source, *self.masters):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", self.identifier(target))

    def key_names(self) -> list[bytes]:
        """The names of all keys but those that belong to no client and no topic, sorted."""
        return sorted(name for server in self.masters for name in server.key_names())

    def stop(self) -> None:
        """End what is left."""
        for server in self.servers:
            server.stop()


class Limited(StoreServer):
    """One server that lets the store in as an ACL user with no more than it needs."""

    USER = "tidegate"

    def __init__(self, program: str, directory: Path) -> None:
        super().__init__(program, directory)
        self._password = token_hex(8)
        self.url = f"unix://{self.USER}:{self._password}@{self.socket}"

    def start(self) -> None:
        """Start it, and make the user."""
        super().start()
        self.command(*("ACL", "SETUSER", self.USER, f">{self._password}", "on", *ACL_RULES.split()))


AnyStore: TypeAlias = StoreServer | Cluster

#: Every kind of store that the same tests run on.
KINDS = [f"{name}{kind}" for kind in ("", "-limited", "-cluster") for name in ("valkey", "redis")]


def start_store(kind: str, directory: Path) -> AnyStore:
    """Start a store of one of ``KINDS``; without its program the test is skipped."""
    name, _, shape = kind.partition("-")
    program = programs()[name]
    if program is None:
        missing(f"{name}-server")
    store: AnyStore
    if shape == "cluster":
        store = Cluster(program, directory)
    elif shape == "limited":
        store = Limited(program, directory)
    else:
        store = StoreServer(program, directory)
    store.start()
    return store
