"""A child process of ``tidegate serve``: an edge, a router or the console.

Started, restarted, queried and stopped here. Run by the supervisor or the broker, one task each.
A child prints on its standard output when it is ready; its log goes where its parent's goes. It has
a session of its own, so that Ctrl-C reaches it only through its parent, which knows the order. Its
file has all settings: those that the parent has from environment variables do not reach it a second
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tidegate.runtime.config.environment import without_settings
from tidegate.runtime.process.thread_priority import lower_priority

log = logging.getLogger(__name__)

MIN_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
#: A child that has run for so long has started successfully: its back-off is reset.
STABLE_S: Final = 10.0
#: How long a child's admin server may take to respond.
ASK_TIMEOUT_S: Final = 2.0

READY: Final = b"tidegate ready"
#: Exit codes of a process that has printed why it cannot start.
_CANNOT_START: Final = frozenset({1, 2})


class ChildError(Exception):
    """A child did not start, or does not respond; the message says which."""


class ChildProcess:
    """See the module's docstring."""

    def __init__(self, name: str, role: str, file: Path, admin: Path) -> None:
        """``file`` is its configuration, ``admin`` the Unix socket of its admin server."""
        self.name = name
        self.role = role
        self.file = file
        self.admin = admin
        #: How often it has exited and been restarted.
        self.restart_count = 0
        #: Whether the running instance has printed that it is ready.
        self.is_ready = False
        #: Whether it is draining: it is not restarted when it exits.
        self.is_draining = False
        #: Done when it is ready for the first time; ChildError when it cannot start.
        self.first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Of several that cannot start, one is reported.
        self.first_ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        #: What the line of the running instance that says it is ready names: ``name=address`` each.
        self.endpoints: dict[str, str] = {}
        #: Its niceness: 0 is that of its parent; with more, other processes go first, and do not
        #: wait for the end of its slice.
        self.niceness = 0
        #: Variables that it gets besides those of this process.
        self.environment: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process, None when there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Keep it running from now on, until ``stop``."""
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = MIN_BACKOFF_S
        while not self._stop.is_set():
            started_s = loop.time()
            status = await self._run_once()
            self.is_ready = False
            if self._stop.is_set() or self.is_draining:
                return
            if status in _CANNOT_START and not self.first_ready.done():
                self.first_ready.set_exception(
                    ChildError(f"{self.name} did not start; see its log above")
                )
                return
            if loop.time() - started_s > STABLE_S:
                pause_s = MIN_BACKOFF_S
            log.error("process exited", extra={"child": self.name, "status": status})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                    await self._stop.wait()
            pause_s = min(pause_s * 2, MAX_BACKOFF_S)
            self.restart_count += 1

    async def _run_once(self) -> int | None:
        """Run it once, from start to exit; return the exit status, None when it could not start."""
        command = ["-P", "-m", "tidegate", self.role, "--config", str(self.file)]
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                *("--supervisor", str(os.getpid())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env=without_settings(os.environ) | self.environment,
            )
        except OSError as error:
            log.warning(
                "process could not be started", extra={"child": self.name, "reason": str(error)}
            )
            return None
        if self.niceness:
            lower_priority(process.pid, self.niceness)
        if self._stop.is_set():
            # Stopped while it was being started.
            self.signal(signal.SIGTERM)
        assert process.stdout is not None
        async for line in process.stdout:
            if line.startswith(READY):
                words = line.decode(errors="replace").split()[2:]
                self.endpoints = dict(word.split("=", 1) for word in words if "=" in word)
                self._became_ready()
        return await process.wait()

    def _became_ready(self) -> None:
        self.is_ready = True
        if not self.first_ready.done():
            self.first_ready.set_result(None)
        elif self.restart_count:
            log.warning(
                "process restarted", extra={"child": self.name, "restarts": self.restart_count}
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def reload(self) -> None:
        """Have it reload its files, unless it is starting: the signal would end it, and it reads
        them anyway."""
        if self.is_ready:
            self.signal(signal.SIGHUP)

    async def stop(self, timeout_s: float) -> None:
        """Terminate it, and kill it after ``timeout_s``."""
        self._stop.set()
        self.signal(signal.SIGTERM)
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=timeout_s)
        if not self._task.done():
            log.warning("process did not exit in time, killed", extra={"child": self.name})
            self.signal(signal.SIGKILL)
        await asyncio.gather(self._task, return_exceptions=True)

    # Its admin server

    async def ask(self, method: str, target: str) -> tuple[int, bytes]:
        """Send one request; return the status and the body. Raises ChildError."""
        if not self.pid:
            raise ChildError(f"{self.name} is not running")
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._exchange(method, target)
        except (OSError, TimeoutError, ValueError, IndexError):
            state = "is not responding" if self.is_ready else "is starting"
            raise ChildError(f"{self.name} {state}") from None

    async def _exchange(self, method: str, target: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(self.admin)
        try:
            writer.write(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), body
        finally:
            writer.transport.abort()

    async def ask_json(self, method: str, target: str) -> dict[str, Any] | None:
        """Return the decoded response; None for an HTTP error. Raises ChildError."""
        status, body = await self.ask(method, target)
        if status >= 400:
            return None
        try:
            value: dict[str, Any] = json.loads(body)
        except ValueError:
            raise ChildError(f"{self.name} sent an invalid response") from None
        return value
