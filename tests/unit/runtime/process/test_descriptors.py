"""The limit of open files: raised at the start, and what of it connections may have."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tidegate.runtime.process import descriptors
from tidegate.runtime.process.descriptors import DescriptorBudget, open_count, reserve_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _open(stack: ExitStack, count: int) -> None:
    for _ in range(count):
        stack.enter_context(socket.socket())


def test_the_reserve_is_a_part_of_a_small_limit() -> None:
    assert reserve_of(120) == 24
    assert reserve_of(1_000_000) == descriptors.RESERVE


@linux
def test_the_count_is_that_of_the_open_files(
    sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in ("/proc/self/fd", "/proc/self/nothing"):  # older kernels have no count
        monkeypatch.setattr(descriptors, "_DIRECTORIES", (Path(directory), Path("/proc/self/fd")))
        before = open_count()
        assert before is not None
        _open(sockets, 3)
        assert open_count() == before + 3
    assert open_count(may_list=False) is None


@linux
def test_what_else_is_open_takes_from_the_room_of_connections(sockets: ExitStack) -> None:
    budget = DescriptorBudget()
    room = budget.room(0)
    assert room == budget.limit - budget.reserve - (open_count() or 0)
    with ExitStack() as others:
        _open(others, 10)
        assert budget.room(0) == room - 10
    # Sockets that are being closed look the same, so that it comes back after some measurements.
    assert [budget.room(0) for _ in range(4)] == [room - 10, room - 10, room - 10, room]
    _open(sockets, 5)
    assert budget.room(5) == room  # connections take nothing from it


def test_the_soft_limit_is_raised_to_the_hard_one_and_logged() -> None:
    program = (
        "import logging, resource\n"
        "from tidegate.runtime.process.descriptors import raise_limit\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "for soft in (200, hard if hard > 0 else 4096):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))\n"
        "    raise_limit()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    soft, hard = done.stdout.split()
    assert soft == hard == str(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert done.stderr.count("limit of open files") == 2
