"""A node leaves the machine as it was, whatever happens to those who wanted it. Played first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from support import processes
from support.kube import node as nodes
from support.kube.node_traces import SYSCTLS, enter
from support.tools import cache_directory
from support.waiting import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

TESTS = Path(__file__).parents[1]
#: Starts a node, tells where it is, and waits to be killed.
USER = """
import json, sys
from support.kube import node
with node.running([]) as found:
    told = [str(found.places.work), str(found.namespace), found.keeper]
    print(json.dumps(told), flush=True)
    sys.stdin.read()
"""


#: What tools leave behind when they first run on a machine, once and for all: buildah's cache.
LASTING = {"containers"}


@pytest.fixture(autouse=True)
def netns_is_mounted() -> None:
    """``ip netns`` makes /run/netns a mount when it first runs, which stays."""
    name = f"tidegate-first-{os.getpid()}"
    for verb in ("add", "del"):
        subprocess.run(["ip", "netns", verb, name], check=True)


def machine() -> dict[str, Any]:
    """Return what a node changes on the machine."""
    places = ["/run/netns", "/var/lib", "/var/log", "/run/containerd/s", "/sys/fs/cgroup/pids"]
    return {
        "sysctls": {name: Path("/proc/sys", name).read_text() for name in SYSCTLS},
        "entries": {place: names(Path(place)) for place in places},
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
    }


def names(directory: Path) -> list[str]:
    """Return what is in a directory; none if there is no such directory."""
    found = {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()
    return sorted(found - LASTING)


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python that finds the tests' helpers."""
    return subprocess.Popen(
        [sys.executable, *(["-c", code] if code else []), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        text=True,
    )


def test_programs_start_in_the_network_that_the_test_is_in() -> None:
    nodes.programs()
    namespace = f"tidegate-other-{os.getpid()}"
    here = network_of_a_program()
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    with Path("/proc/self/ns/net").open() as home:
        try:
            enter(Path("/run/netns", namespace))
            assert network_of_a_program() != here
        finally:
            enter(Path(f"/proc/self/fd/{home.fileno()}"))
            subprocess.run(["ip", "netns", "del", namespace], check=True)
    assert network_of_a_program() == here


def network_of_a_program() -> str:
    """Return the network namespace of a program that is started now."""
    command = ["readlink", "/proc/self/ns/net"]
    return processes.run(command, 10, stdout=subprocess.PIPE).stdout


def test_a_node_goes_when_the_tests_are_killed() -> None:
    nodes.programs()
    before = machine()
    with start(USER) as user:
        work, namespace, _ = told_by(user)
        assert Path(work).exists()
        assert Path(namespace).exists()
        user.kill()
    is_gone(before, work)


def test_a_node_whose_keeper_was_killed_goes_before_the_next_one_starts() -> None:
    broken = replace(nodes.programs(), etcd="/bin/false")
    before = machine()
    with start(USER) as user:
        work, _, keeper = told_by(user)
        os.kill(keeper, signal.SIGKILL)
        user.kill()
    assert processes_of(work)
    job = json.dumps({"programs": asdict(broken), "images": [], "machines": 1})
    with start("", "-m", "support.kube.node_keeper", job) as next_one:
        assert next_one.stdout is not None
        told = json.loads(next_one.stdout.readline())
    assert "etcd ended with 1" in told["error"]
    is_gone(before, work)


def told_by(user: subprocess.Popen[str]) -> tuple[str, str, int]:
    """Return the node's directory, its network namespace, and its keeper."""
    assert user.stdout is not None
    work, namespace, keeper = json.loads(user.stdout.readline())
    return work, namespace, keeper


def is_gone(before: dict[str, Any], work: str) -> None:
    """Wait until the keeper has ended, and the machine is as before."""
    wait_for(lambda: not (cache_directory() / "node.traces").exists(), 30, "the keeper has ended")
    assert not Path(work).exists()
    wait_for(same_as(before), 10, f"the machine is as before: {before}, now {machine()}")
    assert processes_of(work) == []


def same_as(before: dict[str, Any]) -> Callable[[], bool]:
    """Return a condition: the machine is as it was."""
    return lambda: machine() == before


def processes_of(work: str) -> list[str]:
    """Return the command lines that name the node's directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found += [command] if work in command else []
    return found
