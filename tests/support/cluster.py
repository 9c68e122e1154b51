"""A whole cluster on loopback: edges, routers and a store, each a process of its own.

Tests ask for the fixture ``start_cluster`` (tests/cluster/conftest.py). Every process can be
killed, paused, told to stop and started again; it keeps its name and its MQTT port. Between each
edge and each router there may be a proxy that can be cut. Only own processes are ever signalled.
"""

from __future__ import annotations

import asyncio
import copy
import os
import re
import shutil
import signal
import sys
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from support.broker import READY, READY_DEADLINE_S, Address, Server, Settings
from support.faulting_proxy import FaultingProxy
from support.ports import give_ports
from support.store_server import StoreServer, programs
from support.waiting import wait_for, wait_for_async

#: Short enough for a test, long enough for a busy machine.
LEASE_S: Final = 2
HEARTBEAT_S: Final = 0.25
TIMEOUT_S: Final = 1.0
#: What carries the link at every end (``link.carrier``); "": the default.
CARRIER: Final = os.environ.get("TIDEGATE_CARRIER", "")


class Node(Server):
    """One process of the cluster; ``role`` is the command."""

    product = "tidegate"

    def __init__(self, directory: Path, role: str, name: str, settings: Settings) -> None:
        super().__init__(directory)
        self.role = role
        self.name = name
        self.settings = settings
        self.paused = False
        #: Whether it was paused since somebody last looked.
        self.was_paused = False

    @property
    def running(self) -> bool:
        """Whether the process is there (a paused one is)."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it and return once it has printed its ready line."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the process, and do not wait."""
        self.paused = False
        give_ports(self.settings.get("listeners", []))
        file = self.directory / "tidegate.yaml"
        file.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        command = [str(Path(sys.executable).with_name("tidegate")), self.role]
        self._spawn([*command, "--config", str(file)])

    def wait_until_ready(self) -> None:
        """Return once the ready line is there; it has the addresses."""
        process = self.process
        assert process is not None
        wait_for(
            lambda: self._ready_line() or process.poll() is not None,
            READY_DEADLINE_S,
            f"a line {READY!r} of {self.name}",
        )
        line = self._ready_line()
        assert line, f"{self.name} ended with {process.poll()}:\n{self.stdout()}{self.stderr()}"
        for word in line.removeprefix(READY).split():
            name, _, url = word.partition("=")
            if name == "link":
                self._link_is(url)
            elif "://" in url:  # a supervisor counts its processes
                self.addresses[name] = Address.parse(url)

    def _ready_line(self) -> str:
        lines = self.stdout().splitlines(keepends=True)
        return next((x.strip() for x in lines if x.startswith(READY) and x[-1] == "\n"), "")

    def _link_is(self, place: str) -> None:
        if place.startswith("unix:"):
            self.addresses["link"] = Address("unix", "", 0, place.removeprefix("unix:"))
        else:
            self.addresses["link"] = Address.parse(f"tcp://{place}")

    @property
    def mqtt(self) -> tuple[str, int]:
        """Host and port for clients."""
        return self.place()

    def place(self) -> tuple[str, int]:
        """The same, for clients that ask anew each time."""
        address = self.addresses["tcp"]
        return address.host, address.port

    def pause(self) -> None:
        """Let it hang: its connections stay, it answers nothing."""
        self._running().send_signal(signal.SIGSTOP)
        self.paused = self.was_paused = True

    def resume(self) -> None:
        """Undo ``pause``."""
        self.paused = False
        self._running().send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        self._running().send_signal(signal.SIGTERM)

    def cleanup(self) -> None:
        """End it, paused or not."""
        if self.running:
            assert self.process is not None
            self.process.kill()
        super().cleanup()

    async def admin(self, path: str, *, post: bool = False) -> tuple[int, str]:
        """Ask its admin server; the status and the body."""
        address = self.addresses["admin"]
        url = f"http://{address.host}:{address.port}{path}"
        request = urllib.request.Request(url, method="POST" if post else "GET")

        def ask() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(request, timeout=5) as reply:
                    return reply.status, reply.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

        return await asyncio.to_thread(ask)


class Store(StoreServer):
    """The store as one more process that faults hit."""

    name = "store"
    was_paused = False

    def pause(self) -> None:
        """Let it hang."""
        self.was_paused = True
        super().pause()

    @property
    def pid(self) -> int:
        """Process identifier."""
        assert self._process is not None
        return self._process.pid


_LISTENERS: Final[list[Settings]] = [
    {"name": "tcp", "protocol": "tcp", "address": "127.0.0.1", "port": 0}
]


class Cluster:
    """Edges, routers, their proxies and their store."""

    def __init__(
        self,
        directory: Path,
        *,
        edges: int = 3,
        routers: int = 2,
        proxied: bool = False,
        solo: bool = False,
        quick: bool = True,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        **settings: Any,
    ) -> None:
        """Lay it out; ``settings`` replace sections of every process' configuration.

        ``proxied`` puts a proxy between each edge and each router. ``solo`` is one process
        that is edge and router at once: what the tests themselves are tried on. Without ``quick``
        leases and timeouts are those of the configuration. ``environments``: of some processes, by
        name.
        """
        self.directory = directory
        program = programs()["valkey"] or programs()["redis"]
        assert program is not None, "neither Valkey nor Redis is installed"
        self.store = Store(program, self._make("store"))
        listeners = settings.pop("listeners", None) or _LISTENERS
        self._settings = settings
        self._quick = quick
        self._environments = environments or {}
        self.store.environment = self._environments.get(self.store.name)
        self.edges: list[Node] = []
        self.routers: list[Node] = []
        self.proxies: dict[tuple[str, str], FaultingProxy] = {}
        self._proxied = proxied and not solo
        if solo:
            self.edges = [self._node("serve", "solo", listeners=copy.deepcopy(listeners))]
            return
        self.routers = [
            self._node("router", f"router-{n}", link=self._link(f"router-{n}"))
            for n in range(routers)
        ]
        self.edges = [
            self._node("edge", f"edge-{n}", listeners=copy.deepcopy(listeners))
            for n in range(edges)
        ]

    def _make(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir()
        return directory

    def _link(self, name: str) -> Settings:
        if self._proxied:
            return {"listen": "127.0.0.1:0"}
        return {"listen": f"unix:{self.directory}/{name}.sock"}

    def _node(self, role: str, name: str, **own: Any) -> Node:
        settings: Settings = {
            "name": name,
            "auth": {"allow_anonymous": True},
            "store": {"url": self.store.url},
            "link": {},
            "admin": {"port": 0},
            "features": {"sys_interval_s": 0},
            "drain": {"deadline_s": 10},
        }
        quick = {
            "store": {"edge_lease_s": LEASE_S},
            "link": {"heartbeat_s": HEARTBEAT_S, "timeout_s": TIMEOUT_S},
        }
        carried = {"link": {"carrier": CARRIER}} if CARRIER else {}
        for extra in (carried, quick if self._quick else {}, self._settings, own):
            for section, values in extra.items():
                if isinstance(values, dict):
                    settings[section] = settings.get(section, {}) | values
                else:
                    settings[section] = values
        node = Node(self._make(name), role, name, settings)
        node.environment = self._environments.get(name)
        return node

    # --- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the store, then the routers, then the edges; return when all are ready."""
        await asyncio.to_thread(self.store.start)
        await start_together(self.routers)
        if self._proxied:
            await self._start_proxies()
        for edge in self.edges:
            if edge.role == "edge":
                edge.settings["link"]["routers"] = [
                    self._path(edge, router) for router in self.routers
                ]
        await start_together(self.edges)

    async def _start_proxies(self) -> None:
        for edge in self.edges:
            for router in self.routers:
                proxy = FaultingProxy(lambda router=router: _place(router))  # type: ignore[misc]
                await proxy.start()
                self.proxies[edge.name, router.name] = proxy

    def _path(self, edge: Node, router: Node) -> str:
        proxy = self.proxies.get((edge.name, router.name))
        if proxy is not None:
            return proxy.address
        return f"unix:{router.addresses['link'].path}"

    async def stop(self) -> None:
        """End every process, whatever state it is in."""
        for proxy in self.proxies.values():
            await proxy.stop()
        for node in self.nodes:
            await asyncio.to_thread(node.cleanup)
        await asyncio.to_thread(self.store.stop)

    @property
    def nodes(self) -> list[Node]:
        """Edges and routers."""
        return [*self.edges, *self.routers]

    async def heal(self) -> None:
        """Undo every fault: cuts, pauses, and processes that are not there."""
        for proxy in self.proxies.values():
            proxy.heal()
        for node in self.nodes:
            if node.paused:
                node.resume()
        await start_together([node for node in self.nodes if not node.running])

    async def until_ready(self, deadline_s: float = 20.0) -> None:
        """Wait until every process says that it is ready, and every edge uses every router."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        routers = sum(router.running for router in self.routers)
        for node in self.nodes:
            while (problem := await self._problem(node, routers)) is not None:
                assert loop.time() < end, f"{node.name} is not ready: {problem}"
                await asyncio.sleep(0.05)

    async def _problem(self, node: Node, routers: int) -> str | None:
        status, text = await node.admin("/readyz")
        if status != 200:
            return text
        if node.role != "edge":
            return None
        _, metrics = await node.admin("/metrics")
        found = re.search(r'^tidegate_link_routers\{state="open"\} (\d+)', metrics, re.MULTILINE)
        used = int(found[1]) if found else 0
        return None if used >= routers else f"it uses {used} routers of {routers}"

    def memory_bytes(self) -> dict[str, int]:
        """The resident memory of each edge and router."""
        return {node.name: node.memory_bytes() for node in self.nodes if node.running}

    def unexpected_errors(self) -> list[str]:
        """Lines with a traceback or an error in the logs of the processes."""
        return [
            f"{node.name}: {line[:300]}"
            for node in self.nodes
            for line in node.stderr().splitlines()
            if "Traceback" in line or " ERROR " in line
        ]

    def keep_logs(self) -> Path:
        """Copy what the processes wrote to a directory that outlives the test."""
        root = Path(os.environ.get("TIDEGATE_CLUSTER_LOGS", "/tmp/tidegate-cluster-logs"))
        kept = root / self.directory.name
        kept.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            for kind in ("stdout", "stderr"):
                source = node.directory / f"{kind}.txt"
                if source.exists():
                    shutil.copy(source, kept / f"{node.name}.{kind}")
        return kept


def _place(router: Node) -> tuple[str, int] | None:
    address = router.addresses.get("link")
    return (address.host, address.port) if address is not None and router.running else None


async def start_together(nodes: Iterable[Node]) -> None:
    """Start several processes at once; return when all are ready."""
    starting = list(nodes)
    for node in starting:
        node.launch()
    await asyncio.gather(*(asyncio.to_thread(node.wait_until_ready) for node in starting))


async def ended(node: Node, deadline_s: float) -> int:
    """Wait until a process that was told to stop has ended; its exit code."""
    process = node.process
    assert process is not None
    await wait_for_async(lambda: process.poll() is not None, deadline_s, f"the end of {node.name}")
    assert process.returncode is not None
    return process.returncode
