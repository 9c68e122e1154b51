"""What every process has, whatever its role: signals, telemetry, the admin server, the ready line.

A role derives from ``Process`` and defines how it starts (``start``), how it disconnects its peers
(``drain``), and why it is not ready (``problem``). What must be closed goes onto the exit stack
that ``start`` gets, and is closed in the opposite order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from tidegate import __version__
from tidegate.runtime.admin.control import Control, Json, MaybeAwaitable, Readiness
from tidegate.runtime.admin.server import AdminServer
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.file_version import FileDigests
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.referenced_files import read_at_use, referenced_paths
from tidegate.runtime.config.reloadable import restart_needed, with_reloadable
from tidegate.runtime.config.report import settings_of
from tidegate.runtime.config.source import LoadedConfig
from tidegate.runtime.process import event_loop as loops
from tidegate.runtime.process.allocator import keep_freed_memory
from tidegate.runtime.process.build import current_build
from tidegate.runtime.process.clock import BrokerClock
from tidegate.runtime.process.descriptors import raise_limit
from tidegate.runtime.process.shutdown import Shutdown
from tidegate.runtime.reload.config_reload import ConfigReload
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import NotApplied, error_text
from tidegate.runtime.reload.file_watch import FileWatch
from tidegate.runtime.telemetry import log as logs
from tidegate.runtime.telemetry.counters import Counters, watch_event_loop_lag
from tidegate.runtime.telemetry.export import TelemetryExport, start_export
from tidegate.runtime.telemetry.metrics import CallbackMetrics, Exporter

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Why a process with a store is not ready.
NO_STORE: Final = "store not reachable"
#: Interval at which gauges that have to be computed are updated.
GAUGE_INTERVAL_S: Final = 1.0
#: Of ``shutdown_timeout_s``: how long a process waits for the store when it closes something.
CLOSING_SHARE: Final = 1 / 3
#: What it means when a router ends without a store.
WRITES_NOT_STORED: Final = (
    "writes not stored: their messages are not acknowledged, publishers send them again"
)


class StopRequested(Exception):
    """A shutdown was requested before the start was complete."""


def default_name() -> str:
    """Return the host name and four hexadecimal digits: names have to be unique."""
    return f"{socket.gethostname()[:240]}-{secrets.token_hex(2)}"


class Process(ABC):
    """See the module's docstring."""

    role: ClassVar[str]
    #: Whose configuration it reads.
    command: ClassVar[Role] = "serve"

    def __init__(self, config: Config, announce: Callable[[str], None]) -> None:
        """``announce`` gets the line that says what is ready."""
        self.config = config
        self.name = config.name or default_name()
        self.counters = Counters()
        self.exporter = Exporter(
            self.counters, {"role": self.role, "name": self.name, "build": current_build()}
        )
        self.config_status = ConfigStatus()
        self.exporter.add(self.config_status.metrics())
        self.clock = BrokerClock()
        self.exporter.add(_clock_metrics(self.clock))
        self._announce = announce
        self._serving = False
        self._started_s = time.monotonic()
        self._shutdown: Shutdown | None = None

    # Defined by the role

    @abstractmethod
    async def start(self, stack: contextlib.AsyncExitStack) -> str:
        """Build and start everything; return what the ready line names."""

    @abstractmethod
    async def drain(self, reason: str) -> None:
        """Disconnect the peers within ``grace_s``; the rest is closed after it."""

    @abstractmethod
    def problem(self) -> str:
        """Why it is not ready, in words; "" when it is."""

    def prepared(self, config: Config) -> Config:
        """Return a configuration as the role uses it."""
        return config

    async def reconfigure(self, config: Config) -> None:  # noqa: B027 - a role may have nothing
        """Apply another configuration: all of it, or raise NotApplied and change nothing.

        It differs from ``self.config`` in what needs no restart.
        """

    @property
    def grace_s(self) -> float:
        """How long ``drain`` may take."""
        return self.config.drain.deadline_s

    # Start and stop

    def stop(self, reason: str) -> None:
        """Request the shutdown, as SIGTERM does."""
        if self._shutdown is not None:
            self._shutdown.request(reason)

    async def run(self, loaded: LoadedConfig | None = None) -> None:
        """Serve until a signal comes, or ``stop`` is called.

        ``loaded`` is where the configuration comes from; without it, there is no hot reload.
        """
        if loaded is not None:
            self.config_status.digest = loaded.digest
        with Shutdown(
            self.config.shutdown_timeout_s, grace_s=self.grace_s, exit_process=self.exit
        ) as shutdown:
            self._shutdown = shutdown
            with contextlib.suppress(StopRequested):
                async with contextlib.AsyncExitStack() as stack:
                    self._watch_files(stack)
                    self.background(stack, loops.collect_by_time())
                    self.every_second(stack, self.clock.check)
                    endpoints = await self.start(stack)
                    if loaded is not None and loaded.source.path is not None:
                        self._watch_configuration(stack, loaded)
                    self._serving = True
                    self._announce(f"tidegate ready {endpoints}")
                    await self.drain(await shutdown.wait())
                    shutdown.end_grace()
                    self._serving = False
        log.info("stopped")

    def _watch_files(self, stack: contextlib.AsyncExitStack) -> None:
        """Check the files that are read at every use, now and periodically."""
        for group in read_at_use(self.config, self.command):
            reading = FileDigests(group.paths)
            try:
                group.check()
            except (OSError, ValueError) as error:
                self.config_status.mark_rejected(group.paths, error_text(error))
            else:
                self.config_status.mark_applied(reading.unchanged())
            watch = FileWatch(
                group.name,
                group.paths,
                group.check,
                self.counters,
                config_status=self.config_status,
            )
            self.on_hangup(watch.trigger)
            self.background(stack, watch.run())

    # The configuration while it runs

    def _watch_configuration(self, stack: contextlib.AsyncExitStack, loaded: LoadedConfig) -> None:
        watch = ConfigReload(loaded, self._apply, self.config_status, self.counters)
        self.on_hangup(watch.trigger)
        self.background(stack, watch.run())

    async def _apply(self, wanted: Config) -> None:
        """Apply what needs no restart. Raises NotApplied, and then nothing has changed."""
        if self._shutdown is None or self._shutdown.requested:
            raise NotApplied("this process is shutting down")
        running = self.config
        wanted = self.prepared(wanted)
        config = with_reloadable(running, wanted)
        await self.reconfigure(config)
        self.config = config
        if config.log != running.log:
            logs.configure(config.log.level, config.log.format, process=config.name)
        self._shutdown.set_times(config.shutdown_timeout_s, self.grace_s)
        self.config_status.keep_only(referenced_paths(config))
        self.config_status.restart_needed = restart_needed(config, wanted, self.command)

    def exit(self, code: int) -> None:
        """Exit immediately: the deadline has passed, or a second signal has come."""
        os._exit(code)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something that may never happen. Raises StopRequested at a shutdown."""
        assert self._shutdown is not None
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._shutdown.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StopRequested
            return task.result()
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    def on_hangup(self, callback: Callable[[], object]) -> None:
        """Call something at every SIGHUP."""
        assert self._shutdown is not None
        self._shutdown.on_hangup(callback)

    # Parts

    def start_telemetry(self, stack: contextlib.AsyncExitStack) -> TelemetryExport:
        """Start the OTLP export, if configured, and the measurement of the event loop."""
        telemetry = start_export(self.config.telemetry, self.role, self.name, self.exporter)
        stack.push_async_callback(telemetry.close)
        self.background(stack, watch_event_loop_lag(self.counters))
        return telemetry

    async def start_admin(
        self,
        stack: contextlib.AsyncExitStack,
        control: Control,
        ready: Callable[[], MaybeAwaitable[Readiness]] | None = None,
        metrics: Callable[[], MaybeAwaitable[bytes]] | None = None,
    ) -> str:
        """Start the admin server; return its URL, or "" if it is off.

        ``ready`` and ``metrics`` replace this process' own.
        """
        admin = self.config.admin
        if not admin.enabled:
            return ""
        server = AdminServer(
            admin.address,
            admin.port,
            ready=ready or self.readiness,
            metrics=metrics or self.exporter.render_in_turns,
            control=control,
            token_file=admin.token_file,
        )
        await server.start()
        stack.push_async_callback(server.stop)
        return server.url

    async def start_private_admin(
        self, stack: contextlib.AsyncExitStack, path: Path, control: Control
    ) -> str:
        """Start another admin server, at a Unix socket in a directory of this user's; return its
        address. It needs no token."""
        server = AdminServer(
            f"unix:{path}",
            0,
            ready=self.readiness,
            metrics=self.exporter.render_in_turns,
            control=control,
        )
        await server.start()
        stack.push_async_callback(server.stop)
        return server.url

    def close_within(
        self, stack: contextlib.AsyncExitStack, close: Callable[[], Awaitable[None]], left: str
    ) -> None:
        """Close something at the end; after a third of ``shutdown_timeout_s`` it is cancelled.

        Without a router or a store what it writes last is never confirmed. ``left`` is what the log
        says of it then.
        """

        async def close_or_leave() -> None:
            try:
                async with asyncio.timeout(self.config.shutdown_timeout_s * CLOSING_SHARE):
                    await close()
            except TimeoutError:
                log.warning(left)

        stack.push_async_callback(close_or_leave)

    def background(self, stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
        """Run something until the shutdown; a failure is logged, and the process goes on."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._report)

        async def cancel() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(cancel)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.counters.internal_errors += 1
            log.error("background task failed", exc_info=task.exception())

    def every_second(self, stack: contextlib.AsyncExitStack, measure: Callable[[], None]) -> None:
        """Update gauges periodically."""

        async def repeat() -> None:
            while True:
                measure()
                await asyncio.sleep(GAUGE_INTERVAL_S)

        self.background(stack, repeat())

    # Health and status

    def readiness(self) -> Readiness:
        """Return what /readyz reports."""
        problem = self.problem()
        if not problem and not self._serving:
            stopping = self._shutdown is not None and self._shutdown.requested
            problem = "shutting down" if stopping else "starting"
        if problem:
            return False, problem
        clock_problem = self.clock.problem()
        return True, f"ready; {clock_problem}" if clock_problem else "ready"

    def status(self) -> Json:
        """Return what /status reports of every process."""
        return {
            "version": __version__,
            "build": current_build(),
            "role": self.role,
            "name": self.name,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "clock": {
                "offset_s": round(self.clock.offset_s(), 1),
                "problem": self.clock.problem(),
            },
            "configuration": self.config_status.status(),
        }

    def pages(self) -> dict[str, Callable[[], Json]]:
        """Return the pages of the admin server that every process has besides /status."""
        return {
            "/settings": lambda: {
                "settings": settings_of(self.config),
                "configuration": self.config_status.status(),
            }
        }


def _clock_metrics(clock: BrokerClock) -> CallbackMetrics:
    """Return the metric of the process' wall clock."""
    return CallbackMetrics(
        (
            (
                "clock_offset_seconds",
                "Seconds by which the wall clock is ahead of the broker's.",
                [],
                lambda: [([], clock.offset_s())],
            ),
        )
    )


def run(
    process_of: Callable[[Config, Callable[[str], None]], Process],
    config: Config,
    announce: Callable[[str], None],
    loaded: LoadedConfig | None = None,
) -> None:
    """Run a process of a role until its end, logging as the configuration says.

    With ``loaded``, which ``config`` comes from, a change of its file is applied meanwhile.
    """

    def ready(line: str) -> None:
        loops.freeze_garbage_collector()
        announce(line)

    async def main() -> None:
        await process_of(config, ready).run(loaded)

    logs.configure(config.log.level, config.log.format, process=config.name)
    log.info("starting", extra={"version": __version__, "build": current_build()})
    raise_limit()
    keep_freed_memory()
    loops.run(main())
