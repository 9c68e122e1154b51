"""What a node under test leaves on the machine, and how it is taken away again.

A ``Traces`` is written to a file before anything is changed, so that whoever comes next can clean
up after a node whose keeper was killed. Only what the node made is touched: processes are known by
the node's own directory in their command line or by the control group of its pods.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from support.kube.node_settings import CGROUP

#: What a kubelet sets for the whole machine.
SYSCTLS: Final = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
#: What has a fixed place: it is removed if it was not there before.
FIXED_PLACES: Final = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/var/log/pods",
    "/run/containerd",
    "/run/runc",
)
#: Directories whose new entries are the node's.
_SHARED_PLACES: Final = ("/run/netns", "/run/containerd/s", "/var/log/containers")
_CGROUPS: Final = Path("/sys/fs/cgroup")
#: All pods together are one group to the scheduler of the processors, beside each process that is
#: in no group: this is for as many as there are pods, where one process has 1024.
_CPU_SHARES: Final = 20_480
_CLONE_NEWNET: Final = 0x40000000
_MNT_DETACH: Final = 2
_PATIENCE_S: Final = 10.0

_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


@dataclass(slots=True)
class Traces:
    """What there was before, and what is the node's."""

    work: str
    namespace: str
    sysctls: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    entries: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of_now(cls, work: Path, namespace: str) -> Traces:
        """Look at the machine as it is."""
        return cls(
            str(work),
            namespace,
            {
                name: Path("/proc/sys", name).read_text().strip()
                for name in SYSCTLS
                if Path("/proc/sys", name).exists()
            },
            [place for place in FIXED_PLACES if not Path(place).exists()],
            {place: _names(Path(place)) for place in _SHARED_PLACES},
        )

    def save(self, file: Path) -> None:
        """Write it down before anything happens."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> Traces | None:
        """Read what a node has left that did not clean up."""
        if not file.exists():
            return None
        with contextlib.suppress(ValueError, TypeError):
            return cls(**json.loads(file.read_text()))
        return None

    def remove(self) -> None:
        """Leave the machine as it was. Goes on whatever goes wrong."""
        end_processes(self.work, CGROUP)
        for line in sorted(_mounts_below(self.work), reverse=True):
            _libc.umount2(line.encode(), _MNT_DETACH)
        remove_cgroups()
        for place, before in self.entries.items():
            for name in set(_names(Path(place))) - set(before):
                entry = Path(place, name)
                if place == "/run/netns":
                    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
                elif entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
        for place in self.absent:
            shutil.rmtree(place, ignore_errors=True)
        for name, value in self.sysctls.items():
            with contextlib.suppress(OSError):
                Path("/proc/sys", name).write_text(value)
        if not list(_mounts_below(self.work)):
            shutil.rmtree(self.work, ignore_errors=True)


def end_processes(work: str, cgroup: str) -> None:
    """Kill programs and pods until none is left: nobody shall start another one meanwhile."""
    end = time.monotonic() + _PATIENCE_S
    found: set[int] = set()
    while time.monotonic() < end:
        found = set(_processes_below(work)) | set(_pods_processes(cgroup))
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    print(f"processes that do not end: {sorted(found)}", file=sys.stderr)


def enter(namespace: Path) -> None:
    """Move this thread into a network namespace; what it starts is there too. Raises OSError."""
    with namespace.open() as file:
        if _libc.setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))


def make_cgroups(machines: Iterable[str]) -> None:
    """Make the parents of the control groups of all machines' pods under every controller."""
    for controller in _CGROUPS.iterdir():
        if controller.is_symlink() or not (controller / "cgroup.procs").exists():
            continue
        for group in (CGROUP, *machines):
            parent = controller / group
            parent.mkdir(exist_ok=True)
            if group == CGROUP and (parent / "cpu.shares").exists():
                (parent / "cpu.shares").write_text(str(_CPU_SHARES))
            for name in ("cpuset.cpus", "cpuset.mems"):
                # A new set has no processors at all.
                if (parent / name).exists() and not (parent / name).read_text().strip():
                    (parent / name).write_text((controller / name).read_text())


def remove_cgroups() -> None:
    """Remove what ``make_cgroups`` has made, and all below it."""
    for parent in _CGROUPS.glob(f"*/{CGROUP}"):
        for directory, _, _ in os.walk(parent, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()


def _pods_processes(cgroup: str) -> Iterator[int]:
    for parent in _CGROUPS.glob(f"*/{cgroup}"):
        # Groups may go meanwhile, with which a glob does not put up.
        for directory, _, _ in os.walk(parent):
            with contextlib.suppress(OSError):
                lines = Path(directory, "cgroup.procs").read_text().split()
                yield from (int(line) for line in lines if int(line) > 0)


def _processes_below(work: str) -> Iterator[int]:
    """Processes that were started for this node: its directory is in their command line."""
    needle = work.encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            # Zombies have none.
            if needle in command and b"pytest" not in command:
                yield int(entry.name)


def _mounts_below(work: str) -> Iterator[str]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{work}/"):
            yield place


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
