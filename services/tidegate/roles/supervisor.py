"""``tidegate serve --edges N --routers M``: a cluster on one machine, looked after by this process.

It starts the store (unless it is given one), then routers and edges as processes of their own, the
same as on many machines: they find each other through Unix sockets in a private directory, and all
edges listen on the same ports. One that dies is started again; nothing that happens to one of them
ends this process. At the end the edges let their clients go, then routers, then the store end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml

from tidegate.edge.file_checks import problems_of_files
from tidegate.roles import process
from tidegate.roles.child import Child, ChildError
from tidegate.roles.overview import Overview
from tidegate.roles.process import Process
from tidegate.roles.shared_ports import SharedPorts, dump, places_of
from tidegate.runtime.config.config_file import with_absolute_paths
from tidegate.runtime.config.file_version import digest_of
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.reload.errors import NotApplied, error_text
from tidegate.runtime.telemetry.metrics import CallbackMetrics
from tidegate.store.api import StoreUnavailable
from tidegate.store.embedded import EmbeddedError, EmbeddedValkey
from tidegate.store.redis_store import RedisStore, StoreRefused

log = logging.getLogger(__name__)

#: sun_path has 104 bytes on macOS and 108 on Linux, the closing zero included.
MAX_SOCKET_PATH_BYTES: Final = 103
#: What a child needs beyond what its own configuration allows it, before it is killed.
SLACK_S: Final = 2.0
#: How long the processes are given to take a changed configuration up, and between two questions.
TAKE_TIMEOUT_S: Final = 5.0
TAKE_PAUSE_S: Final = 0.1

#: What the environment is to blame for when the cluster cannot start.
STARTUP_ERRORS: Final[tuple[type[Exception], ...]] = (
    OSError,
    ChildError,
    EmbeddedError,
    StoreUnavailable,
    StoreRefused,
)


class Supervisor(Process):
    """See the module's docstring."""

    role: ClassVar[str] = "supervisor"

    def __init__(self, config: Config, announce: Callable[[str], None]) -> None:
        super().__init__(self.prepared(config), announce)
        cluster = config.cluster
        self._edge_count = max(1, cluster.edges)
        self._router_count = max(1, cluster.routers)
        self._edges: list[Child] = []
        self._routers: list[Child] = []
        self._directory: Path | None = None
        self._url = ""
        self._ports = SharedPorts()

    @property
    def grace_s(self) -> float:
        """First the edges, then the routers, each with what it may take by itself."""
        config = self.config
        edges_s = config.drain.deadline_s + config.shutdown_timeout_s + SLACK_S
        return edges_s + 2 * config.shutdown_timeout_s + SLACK_S

    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Start the store, then routers, then edges; return when all are ready."""
        config = self.config
        problems = problems_of_files(config)
        if problems:
            raise OSError("; ".join(problems))
        directory = self._directory = Path(tempfile.mkdtemp(prefix="tidegate-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        if len(os.fsencode(directory)) > MAX_SOCKET_PATH_BYTES - len("/router-64.admin"):
            raise OSError(f"{directory} is too long for Unix sockets; set TMPDIR to a shorter one")
        stack.callback(self._ports.close)
        listeners = self._ports.hold(config.listeners)
        self._ports.take()
        places = list(places_of(config.listeners, self._ports))
        url = await self._open_store(stack)
        self._make_children(directory, url, listeners)
        overview = Overview(self, self._edges, self._routers)
        self.exporter.add(self._readings())
        stack.push_async_callback(self._stop_routers)
        stack.push_async_callback(self._stop_edges)
        admin_url = await self.start_admin(
            stack, overview.control(), overview.readiness, overview.metrics
        )
        self.on_hangup(self._hang_up)
        for children in (self._routers, self._edges):
            for child in children:
                child.start()
            await self.unless_stopped(_all_ready(children))
        places += [f"admin={admin_url}"] if admin_url else []
        places += [f"edges={self._edge_count}", f"routers={self._router_count}"]
        return " ".join(places)

    def prepared(self, config: Config) -> Config:
        """Its processes may not take relative paths for their own."""
        return with_absolute_paths(config, Path.cwd())

    async def reconfigure(self, config: Config) -> None:
        """Hand another configuration to every process, and wait until it is in use there.

        Ports are bound and files are read first; what fails then is told of by the process itself.
        """
        if any(edge.is_let_go for edge in self._edges):
            raise NotApplied("the clients of this broker are let go, it takes no changes any more")
        problems = problems_of_files(config)
        if problems:
            raise NotApplied("; ".join(problems))
        try:
            listeners = self._ports.hold(config.listeners)
        except OSError as error:
            raise NotApplied(error_text(error)) from error
        contents = self._contents(config, listeners)
        try:
            for child in self._children:
                _write(child.file, contents[child.name])
                child.hang_up()
            await asyncio.gather(
                *(_until_taken(child, contents[child.name]) for child in self._children)
            )
        except BaseException as error:
            self._ports.undo()
            if isinstance(error, OSError):
                raise NotApplied(error_text(error)) from error
            raise
        self._ports.take()

    def _hang_up(self) -> None:
        for child in self._children:
            child.hang_up()

    @property
    def _children(self) -> list[Child]:
        return [*self._routers, *self._edges]

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> str:
        """Start the embedded server if there is no URL; return where the store is."""
        config = self.config
        if config.store.url is not None:
            return config.store.url
        embedded = EmbeddedValkey(config.store.data_dir, config.store.durability)
        await embedded.start()
        stack.push_async_callback(embedded.stop)
        store = await RedisStore.connect(
            url=embedded.url, limits=config.limits, store=config.store, counters=self.counters
        )
        try:
            # The data directory is locked: no edge of an earlier life can be alive.
            await store.end_all_leases()
        finally:
            await store.close()
        return embedded.url

    def _contents(self, config: Config, listeners: list[dict[str, Any]]) -> dict[str, bytes]:
        """The configuration file of each process, by its name."""
        directory = self._directory
        common = dump(config)
        for section in ("cluster", "listeners"):
            common.pop(section, None)
        store = common.setdefault("store", {})
        store.pop("data_dir", None)
        store["url"] = self._url
        link = common.setdefault("link", {})
        # Nobody else can open the sockets.
        link.pop("tls", None)
        names = [f"router-{number + 1}" for number in range(self._router_count)]
        link["routers"] = [f"unix:{directory}/{name}.link" for name in names]
        found: dict[str, dict[str, Any]] = {
            name: common | {"link": link | {"listen": f"unix:{directory}/{name}.link"}}
            for name in names
        }
        for number in range(self._edge_count):
            found[f"edge-{number + 1}"] = common | {"listeners": listeners}
        return {name: self._content(name, settings) for name, settings in found.items()}

    def _content(self, name: str, settings: dict[str, Any]) -> bytes:
        own = {
            # Other machines may have processes of the same names.
            "name": f"{self.config.name}-{name}" if self.config.name else name,
            "admin": {"address": f"unix:{self._directory}/{name}.admin"},
        }
        return yaml.safe_dump(settings | own, sort_keys=False).encode()

    def _make_children(self, directory: Path, url: str, listeners: list[dict[str, Any]]) -> None:
        """Write the configuration of each process to a file of its own."""
        self._directory, self._url = directory, url
        for name, content in self._contents(self.config, listeners).items():
            file, admin = directory / f"{name}.yaml", directory / f"{name}.admin"
            _write(file, content)
            if name.startswith("router-"):
                self._routers.append(Child(name, "router", file, admin))
            else:
                self._edges.append(Child(name, "edge", file, admin))

    # The end

    async def leave(self, reason: str) -> None:
        """Let the edges' clients go, then end the routers."""
        await self._stop_edges()
        await self._stop_routers()

    async def _stop_edges(self) -> None:
        config = self.config
        timeout_s = config.drain.deadline_s + config.shutdown_timeout_s + SLACK_S
        await asyncio.gather(*(child.stop(timeout_s) for child in self._edges))

    async def _stop_routers(self) -> None:
        timeout_s = 2 * self.config.shutdown_timeout_s + SLACK_S
        await asyncio.gather(*(child.stop(timeout_s) for child in self._routers))

    def exit(self, code: int) -> None:
        """End at once, and leave nothing behind; called from any thread."""
        for child in self._children:
            pid = child.pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        super().exit(code)

    # What is said of it

    def problem(self) -> str:
        """Those who are looked after have their own reasons (``Overview``)."""
        return ""

    def _readings(self) -> CallbackMetrics:
        return CallbackMetrics(
            (
                (
                    "child_ready",
                    "1 while the process has said that it is ready.",
                    ["child"],
                    lambda: [([child.name], int(child.is_ready)) for child in self._children],
                ),
                (
                    "child_restarts_total",
                    "How often the process has died and been started again.",
                    ["child"],
                    lambda: [([child.name], child.restart_count) for child in self._children],
                ),
            )
        )


async def _all_ready(children: Sequence[Child]) -> None:
    await asyncio.gather(*(child.first_ready for child in children))


def _write(file: Path, content: bytes) -> None:
    """Replace a file in one step; it may hold the store's password."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(file)


async def _until_taken(child: Child, content: bytes) -> None:
    """Wait until a process uses its file or says why not; one that is not there reads it then."""
    digest = digest_of(content)
    with contextlib.suppress(TimeoutError, ChildError):
        async with asyncio.timeout(TAKE_TIMEOUT_S):
            while child.is_ready:
                answer = await child.ask_json("GET", "/status") or {}
                said = answer.get("configuration", {})
                if said.get("digest") == digest or said.get("problem"):
                    return
                await asyncio.sleep(TAKE_PAUSE_S)


def run(
    config: Config, announce: Callable[[str], None], loaded: LoadedConfig | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(Supervisor, config, announce, loaded)
