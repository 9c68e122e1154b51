"""The console as a child of ``tidegate serve``, in one process or supervised.

Started when everything else is ready, so that no client waits for it; a broker whose console does
not start goes on without it. Writes its configuration, makes the first token, and says where the
console is. The child asks the processes at Unix sockets that only this user can open, so it needs
no token there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from tidegate.roles.child import ChildError, ChildProcess
from tidegate.roles.shared_ports import dump
from tidegate.runtime.admin.http import is_loopback
from tidegate.runtime.config.config_file import with_absolute_paths
from tidegate.runtime.config.model import Config

log = logging.getLogger(__name__)

#: What the extra ``console`` brings.
PACKAGES: Final = ("fastapi", "uvicorn", "aiohttp")
#: File in the data directory with the first token.
TOKENS_FILE: Final = "console-tokens"
#: File in the data directory with the URL of a console whose port the system has chosen, and the
#: pid of `tidegate serve`.
ADDRESS_FILE: Final = "console-address"
STOP_TIMEOUT_S: Final = 5.0
#: By how much its niceness is above the broker's: clients go before people who look at them.
NICER: Final = 5


@dataclass(slots=True, frozen=True)
class Broker:
    """What a console is started beside. Addresses are those of admin servers."""

    config: Config
    #: Of the store that is used.
    store_url: str
    edges: Sequence[str]
    routers: Sequence[str]


def is_wanted(config: Config) -> bool:
    """Whether a console is to be started; says why not if it cannot be."""
    if not config.console.enabled:
        return False
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        log.warning(
            "console not started",
            extra={
                "reason": f"{missing[0]} is not installed; in a checkout of Tidegate run: "
                "pip install '.[console]' (console.enabled: false is without this line)"
            },
        )
    return not missing


def first_token_file(config: Config) -> Path | None:
    """Return the file that keeps the first token from start to start; None: there is none.

    A token is made where only this machine reaches the console and nobody is a user.
    """
    console = config.console
    if console.users_file is not None or console.tokens_file is not None:
        return None
    return config.store.data_dir / TOKENS_FILE if is_loopback(console.address) else None


class ConsoleChild:
    """See the module's docstring."""

    def __init__(self, broker: Broker, directory: Path, announce: Callable[[str], None]) -> None:
        """``directory`` is private to this user. ``announce`` gets the line with the address."""
        self._broker = broker
        self._announce = announce
        self._directory = directory
        self._tokens_file: Path | None = None
        #: The first token, when it is to be printed.
        self._token = ""
        self._child: ChildProcess | None = None

    async def run(self) -> None:
        """Start it and say where it is; a failure is logged, and nothing else."""
        try:
            self._prepare_token()
            file = self._write(self._broker.config.console.port)
            child = self._child = ChildProcess(
                "console", "console", file, self._directory / "console.admin"
            )
            child.niceness = os.getpriority(os.PRIO_PROCESS, 0) + NICER
            child.start()
            await child.first_ready
        except (OSError, ChildError) as error:
            log.warning(
                "console not started, the broker goes on without it", extra={"reason": str(error)}
            )
            return
        url = child.endpoints.get("console", "")
        if not self._broker.config.console.port:
            # Pages that are open find the next one there, too.
            self._write(int(url.rpartition(":")[2]))
            self._note_address(url)
        if self._token:
            self._announce(f"tidegate console {url}/#token={self._token}")
        elif self._tokens_file is not None:
            self._announce(f"tidegate console {url} (token in {self._tokens_file})")
        else:
            self._announce(f"tidegate console {url}")

    def reconfigure(self, config: Config) -> None:
        """Write its configuration anew, and have it read it: what it shows is what is in force."""
        self._broker = replace(self._broker, config=config)
        if self._child is not None:
            url = self._child.endpoints.get("console", "")
            port = url.rpartition(":")[2]
            self._write(int(port) if port.isdigit() else config.console.port)
            self._child.reload()

    async def stop(self) -> None:
        """Stop it."""
        with contextlib.suppress(OSError):
            if self._address_file.read_text().endswith(f" {os.getpid()}\n"):
                self._address_file.unlink()
        if self._child is not None:
            await self._child.stop(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Kill it at once; called from any thread."""
        if self._child is not None and (pid := self._child.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def _write(self, port: int) -> Path:
        """Write the configuration of the child; it may have the store's password."""
        file, new = self._directory / "console.yaml", self._directory / "console.new"
        new.touch(mode=0o600)
        settings = self._settings()
        settings["console"]["port"] = port
        new.write_text(yaml.safe_dump(settings, sort_keys=False))
        new.replace(file)
        return file

    def _settings(self) -> dict[str, Any]:
        """Return the configuration of the child; paths are absolute, its directory is another."""
        broker = self._broker
        config = with_absolute_paths(broker.config, Path.cwd())
        found = dump(config)
        for section in ("admin", "cluster", "link", "telemetry"):
            found.pop(section, None)
        store = found.setdefault("store", {})
        for key in ("data_dir", "max_memory_bytes"):
            store.pop(key, None)
        store["url"] = broker.store_url
        console = found.setdefault("console", {})
        console.pop("token_file", None)
        console |= {"edges": list(broker.edges), "routers": list(broker.routers)}
        if self._tokens_file is not None:
            console["tokens_file"] = str(self._tokens_file)
        return found | {"name": f"{config.name}-console" if config.name else "console"}

    # What `tidegate ctl` of this machine finds

    @property
    def _address_file(self) -> Path:
        return self._broker.config.store.data_dir / ADDRESS_FILE

    def _note_address(self, url: str) -> None:
        """Write down where the console is, for this user only: tokens are sent there."""
        new = self._address_file.with_name(f"{ADDRESS_FILE}.{os.getpid()}")
        try:
            new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new.unlink(missing_ok=True)
            with os.fdopen(_created(new), "w") as stream:
                stream.write(f"{url} {os.getpid()}\n")
            new.replace(self._address_file)
        except OSError as error:
            log.info(
                "tidegate ctl needs the URL of the console",
                extra={"reason": f"{self._address_file}: {error.strerror}"},
            )

    def _prepare_token(self) -> None:
        """Make the first token, where only this machine reaches the console and nobody is a user.

        It stays in the data directory. Where that is of no use beside an external store, it is for
        this run.
        """
        config = self._broker.config
        console = config.console
        if console.users_file is not None or console.tokens_file is not None:
            return
        if not is_loopback(console.address):
            log.warning(
                "nobody can log in to the console",
                extra={
                    "reason": f"console.address {console.address} is not a loopback address, and "
                    "neither console.users_file nor console.tokens_file is set"
                },
            )
            return
        path = first_token_file(config)
        assert path is not None
        try:
            self._make_token(path)
        except OSError:
            if config.store.url is None:
                raise
            self._make_token(self._directory / TOKENS_FILE)

    def _make_token(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = f"tgc_{secrets.token_urlsafe(32)}"
        try:
            descriptor = _created(path)
        except FileExistsError:
            path.read_bytes()
        else:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(f"admin {token}\n")
            self._token = token
        self._tokens_file = path.absolute()


def _created(path: Path) -> int:
    """Make a file that is this user's alone; return its descriptor. Raises FileExistsError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
