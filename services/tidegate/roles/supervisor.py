"""``tidegate serve --edges N --routers M``: a cluster on one machine, supervised by this process.

It starts the store (unless a URL is configured), then routers and edges as child processes, the
same as on many machines: they connect through Unix sockets in a private directory, and all edges
listen on the same ports. One that exits is restarted. At the shutdown the edges drain, then the
routers and the store stop.
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
from tidegate.roles import console_child, process
from tidegate.roles.child import ChildError, ChildProcess
from tidegate.roles.cluster_admin import ClusterAdmin
from tidegate.roles.process import Process
from tidegate.roles.shared_ports import SharedPorts, dump, endpoints_of
from tidegate.roles.start_checks import check_admin
from tidegate.roles.store_use import EXIT_STORE_LOST, StoreUse, patience_s
from tidegate.runtime.config.config_file import with_absolute_paths
from tidegate.runtime.config.file_version import digest_of
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.reload.errors import NotApplied, error_text
from tidegate.runtime.telemetry.metrics import CallbackMetrics
from tidegate.store.api import StoreUnavailable
from tidegate.store.embedded import EmbeddedError, EmbeddedValkey
from tidegate.store.groups import CLUSTER, VARIABLE, group_of
from tidegate.store.redis_store import RedisStore, StoreRefused

log = logging.getLogger(__name__)

#: sun_path has 104 bytes on macOS and 108 on Linux, the closing zero included.
MAX_SOCKET_PATH_BYTES: Final = 103
#: Time beyond what a child's own configuration allows it, before it is killed.
SLACK_S: Final = 2.0
#: How long the children may take to apply a changed configuration, and between two requests.
APPLY_TIMEOUT_S: Final = 5.0
APPLY_POLL_S: Final = 0.1
#: Between two attempts to connect to the store at the start.
RETRY_S: Final = 0.5

#: Errors with which the start of the cluster fails because of its environment.
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
        self._edges: list[ChildProcess] = []
        self._routers: list[ChildProcess] = []
        self._console: console_child.ConsoleChild | None = None
        self._directory: Path | None = None
        self._url = ""
        #: What its routers use the store as; a data directory is for one broker anyway.
        self._group = CLUSTER
        self._ports = SharedPorts()

    @property
    def grace_s(self) -> float:
        """First the edges, then the routers, each with its own time."""
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
            raise OSError(f"{directory} is too long for Unix sockets; set TMPDIR to a shorter path")
        stack.callback(self._ports.close)
        listeners = self._ports.reserve(config.listeners)
        self._ports.commit()
        endpoints = list(endpoints_of(config.listeners, self._ports))
        check_admin(config.admin)
        url = await self._open_store(stack)
        self._make_children(directory, url, listeners)
        cluster_admin = ClusterAdmin(self, self._edges, self._routers)
        self.exporter.add(self._metrics())
        stack.push_async_callback(self._stop_routers)
        stack.push_async_callback(self._stop_edges)
        admin_url = await self.start_admin(
            stack, cluster_admin.control(), cluster_admin.readiness, cluster_admin.metrics
        )
        self.on_hangup(self._reload_children)
        for children in (self._routers, self._edges):
            for child in children:
                child.start()
            await self.unless_stopped(_all_ready(children))
        self._start_console(stack, directory)
        endpoints += [f"admin={admin_url}"] if admin_url else []
        endpoints += [f"edges={self._edge_count}", f"routers={self._router_count}"]
        return " ".join(endpoints)

    def _start_console(self, stack: contextlib.AsyncExitStack, directory: Path) -> None:
        """Begin to start the console, if there is to be one; nothing waits for it."""
        if not console_child.is_wanted(self.config):
            return
        edges, routers = (
            [f"unix:{child.admin}" for child in children]
            for children in (self._edges, self._routers)
        )
        broker = console_child.Broker(self.config, self._url, edges, routers)
        self._console = console_child.ConsoleChild(broker, directory, self._announce)
        stack.push_async_callback(self._console.stop)
        self.background(stack, self._console.run())

    def prepared(self, config: Config) -> Config:
        """Make paths absolute: the files of the children are in another directory."""
        return with_absolute_paths(config, Path.cwd())

    async def reconfigure(self, config: Config) -> None:
        """Write the configuration of every child, and wait until it is applied there.

        Ports are bound and files are read first; what fails then is reported by the child itself.
        """
        if any(edge.is_draining for edge in self._edges):
            raise NotApplied("this broker is draining")
        problems = problems_of_files(config)
        if problems:
            raise NotApplied("; ".join(problems))
        try:
            listeners = self._ports.reserve(config.listeners)
        except OSError as error:
            raise NotApplied(error_text(error)) from error
        contents = self._contents(config, listeners)
        try:
            for child in self._children:
                _write(child.file, contents[child.name])
                child.reload()
            await asyncio.gather(
                *(_until_applied(child, contents[child.name]) for child in self._children)
            )
        except BaseException as error:
            self._ports.rollback()
            if isinstance(error, OSError):
                raise NotApplied(error_text(error)) from error
            raise
        self._ports.commit()
        if self._console is not None:
            self._console.reconfigure(config)

    def _reload_children(self) -> None:
        for child in self._children:
            child.reload()

    @property
    def _children(self) -> list[ChildProcess]:
        return [*self._routers, *self._edges]

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> str:
        """Start the embedded server if there is no URL; return the URL of the store."""
        config = self.config
        if config.store.url is not None:
            await self._take_store(stack, config.store.url)
            return config.store.url
        embedded = EmbeddedValkey(
            config.store.data_dir,
            config.store.durability,
            max_memory_bytes=config.store.max_memory_bytes,
        )
        await embedded.start()
        stack.push_async_callback(embedded.stop)
        store = await RedisStore.connect(
            url=embedded.url, limits=config.limits, store=config.store, counters=self.counters
        )
        try:
            # The data directory is locked: no edge of an earlier start can be running.
            await store.end_all_leases()
        finally:
            await store.close()
        return embedded.url

    async def _take_store(self, stack: contextlib.AsyncExitStack, url: str) -> None:
        """Take the store for the routers that are started next, as soon as nobody uses it."""
        store = await self.unless_stopped(self._connect(url))
        stack.push_async_callback(store.close)
        await store.share_time(self.clock)
        self._group = group_of(self.name)
        store.use_for(self._group)
        use = StoreUse(store, self.clock.now_ms)
        await self.unless_stopped(use.take(patience_s(self.config)))
        stack.push_async_callback(use.give_up)
        self.background(stack, use.keep(self._store_lost))

    async def _connect(self, url: str) -> RedisStore:
        """Connect, with retries: the store may be started later. Raises StoreRefused."""
        config, reason = self.config, ""
        while True:
            try:
                return await RedisStore.connect(
                    url=url, limits=config.limits, store=config.store, counters=self.counters
                )
            except StoreUnavailable as error:
                if str(error) != reason:
                    reason = str(error)
                    log.warning("store unavailable, retrying", extra={"reason": reason})
            await asyncio.sleep(RETRY_S)

    def _store_lost(self, reason: str) -> None:
        """Exit at once, with all children: another broker uses the store."""
        log.error("store lost, exiting", extra={"reason": reason})
        self.exit(EXIT_STORE_LOST)

    def _contents(self, config: Config, listeners: list[dict[str, Any]]) -> dict[str, bytes]:
        """Return the configuration file of each child, by its name."""
        directory = self._directory
        common = dump(config)
        for section in ("cluster", "console", "listeners"):
            common.pop(section, None)
        store = common.setdefault("store", {})
        store.pop("data_dir", None)
        store["url"] = self._url
        link = common.setdefault("link", {})
        # Other users cannot open the sockets.
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
            # Children on other machines may have the same names.
            "name": f"{self.config.name}-{name}" if self.config.name else name,
            "admin": {"address": f"unix:{self._directory}/{name}.admin"},
        }
        return yaml.safe_dump(settings | own, sort_keys=False).encode()

    def _make_children(self, directory: Path, url: str, listeners: list[dict[str, Any]]) -> None:
        """Create the children, each with its configuration file."""
        self._directory, self._url = directory, url
        for name, content in self._contents(self.config, listeners).items():
            file, admin = directory / f"{name}.yaml", directory / f"{name}.admin"
            _write(file, content)
            if name.startswith("router-"):
                router = ChildProcess(name, "router", file, admin)
                router.environment[VARIABLE] = self._group
                self._routers.append(router)
            else:
                self._edges.append(ChildProcess(name, "edge", file, admin))

    # Shutdown

    async def drain(self, reason: str) -> None:
        """Drain and stop the edges, then stop the routers."""
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
        """Exit immediately, and kill the children; called from any thread."""
        for child in self._children:
            pid = child.pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._console is not None:
            self._console.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        super().exit(code)

    # Health and metrics

    def problem(self) -> str:
        """Nothing of its own: ``ClusterAdmin`` asks the children."""
        return ""

    def _metrics(self) -> CallbackMetrics:
        return CallbackMetrics(
            (
                (
                    "child_ready",
                    "1 while the child process is ready.",
                    ["child"],
                    lambda: [([child.name], int(child.is_ready)) for child in self._children],
                ),
                (
                    "child_restarts_total",
                    "Restarts of the child process after it exited.",
                    ["child"],
                    lambda: [([child.name], child.restart_count) for child in self._children],
                ),
            )
        )


async def _all_ready(children: Sequence[ChildProcess]) -> None:
    await asyncio.gather(*(child.first_ready for child in children))


def _write(file: Path, content: bytes) -> None:
    """Replace a file atomically; it may contain the store's password."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(file)


async def _until_applied(child: ChildProcess, content: bytes) -> None:
    """Wait until a child has applied its file or reports why not; one that starts reads it then."""
    digest = digest_of(content)
    with contextlib.suppress(TimeoutError, ChildError):
        async with asyncio.timeout(APPLY_TIMEOUT_S):
            while child.is_ready:
                answer = await child.ask_json("GET", "/status") or {}
                configuration = answer.get("configuration", {})
                if configuration.get("digest") == digest or configuration.get("problem"):
                    return
                await asyncio.sleep(APPLY_POLL_S)


def run(
    config: Config, announce: Callable[[str], None], loaded: LoadedConfig | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` gets the line that says what is ready."""
    process.run(Supervisor, config, announce, loaded)
