"""A broker with many clients, and a console: started, filled, and asked what its processes cost."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

from measure.brokers import READY, Checkout
from measure.load import parsed
from measure.paging import Caller
from measure.running import Running, StartError

#: What all of half of the connected clients subscribe to.
COMMON: Final = "common/all/data"
#: Users of the other half, and of the first one.
USERS: Final = 10
_OFFLINE_AT_ONCE: Final = 5_000
_CONSOLE_S: Final = 120.0
_FILLED_S: Final = 600.0
#: What the command lines of the broker's processes have in them.
_PARTS: Final = {
    "edges": "/edge-",
    "routers": "/router-",
    "console": "/console.yaml",
    "store": "valkey-server",
}
_TOKEN: Final = "measured"
#: CPUCLOCK_SCHED of <linux/posix-timers.h>: nanoseconds that a process has run.
_SCHED: Final = 2


@dataclass(slots=True, frozen=True)
class Size:
    """How many there are of what."""

    connected: int
    offline: int
    retained: int


class Fleet:
    """See the module's docstring; a context manager."""

    def __init__(self, checkout: Checkout, directory: Path, mqload: Path, size: Size) -> None:
        self._checkout = checkout
        self._running = Running(directory)
        self._mqload = mqload
        self._size = size
        self._holders: list[subprocess.Popen[bytes]] = []
        self._held = 0
        self._exchanges = 0
        self._parts: dict[str, list[int]] = {}
        self.url = ""
        self.token = _TOKEN

    def __enter__(self) -> Self:
        try:
            self._start()
            self._fill()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders:
            holder.terminate()
        for holder in self._holders:
            holder.wait()
        self._running.stop()

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time that each kind of process has used."""
        return {
            part: sum(time.clock_gettime((~pid << 3) | _SCHED) for pid in pids)
            for part, pids in self._parts.items()
        }

    def exchange(self, seconds: float, rate: int) -> dict[str, Any]:
        """Have ten clients publish to ten others at a rate; return mqload's figures."""
        self._exchanges += 1
        count = str(int(seconds * rate))
        words = ("-P", "10", "-S", "10", "-x", "-n", count, "-r", str(rate))
        return parsed(self._load(f"exchange{self._exchanges}", *words))

    def _start(self) -> None:
        directory = self._running.directory
        (directory / "tokens").write_text(f"admin {_TOKEN}\n")
        settings = {
            "listeners": [{"name": "tcp", "address": "127.0.0.1", "port": 0}],
            "auth": {"allow_anonymous": True},
            "store": {"data_dir": str(directory / "data")},
            "admin": {"port": 0},
            "cluster": {"edges": 2, "routers": 2},
            "log": {"level": "warning"},
            "console": {"port": 0, "tokens_file": str(directory / "tokens")},
        }
        file = directory / "serve.yaml"
        file.write_text(yaml.safe_dump(settings))
        command: list[str | Path] = [
            self._checkout.python,
            "-P",
            "-m",
            "tidegate",
            "serve",
            "--config",
            file,
        ]
        printed = self._running.spawn(command, "serve")
        ready = self._running.wait_for_line(printed, READY)
        address = next(word for word in ready.split() if word.startswith("tcp="))
        self._running.ports["tcp"] = int(address.rpartition(":")[2])
        self.url = self._running.wait_for_line(printed, "tidegate console ", _CONSOLE_S).split()[2]
        self._parts = {part: _pids(self._running.pids[0], words) for part, words in _PARTS.items()}
        if not all(self._parts.values()):
            raise StartError(f"processes are missing: {self._parts}")

    def _fill(self) -> None:
        size = self._size
        for first in range(0, size.offline, _OFFLINE_AT_ONCE):
            count = min(_OFFLINE_AT_ONCE, size.offline - first)
            words = ("-P", "0", "-S", str(count), "-x", "-D", "-n", "0")
            self._load(f"offline{first:06d}", *words)
        topics = str(size.retained)
        self._load("retained", *("-P", "1", "-S", "0", "-R", "-q", "1", "-t", topics, "-n", topics))
        common = size.connected // 2
        self._hold("common", common, "-u", "ann")
        share, rest = divmod(size.connected - common, USERS)
        for number in range(USERS):
            count = share + (number < rest)
            self._hold(f"own{number}", count, "-u", f"user-{number}", "-x")

    def _connected(self, caller: Caller) -> int:
        nodes = caller.get("/nodes")["items"]
        return sum(node["clients"] or 0 for node in nodes)

    def _hold(self, prefix: str, count: int, *words: str) -> None:
        """Connect subscribers that stay; return when all are there."""
        caller = Caller(self.url, self.token)
        self._held += count
        words = ("-P", "0", "-S", str(count), "-n", "0", "-H", "1000000", *words)
        self._holders.append(
            subprocess.Popen(self._command(prefix, *words), stdout=subprocess.DEVNULL)
        )
        deadline = time.monotonic() + _FILLED_S
        while (connected := self._connected(caller)) < self._held:
            if time.monotonic() > deadline:
                raise StartError(f"{connected} of {self._held} are connected")
            time.sleep(0.5)

    def _load(self, prefix: str, *words: str) -> str:
        done = subprocess.run(
            self._command(prefix, *words), capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            raise StartError(f"mqload {prefix}: {done.stdout} {done.stderr}")
        return done.stdout

    def _command(self, prefix: str, *words: str) -> list[str]:
        return [str(self._mqload), "-p", str(self._running.ports["tcp"]), "-f", prefix, *words]


def _pids(parent: int, words: str) -> list[int]:
    """Return the descendants whose command line has these words."""
    found, parents = [], {parent}
    for entry in sorted(Path("/proc").iterdir(), key=lambda one: (len(one.name), one.name)):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) in parents:
                parents.add(int(entry.name))
                if words.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
