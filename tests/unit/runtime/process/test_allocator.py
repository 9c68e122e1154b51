"""Large blocks that are freed and made again: the kernel is not asked for them each time.

Inputs: blocks of 1 MiB in a process of its own. Output: the page faults that they cost.
"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tidegate.runtime.process.allocator import keep_freed_memory

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc only"
)

#: Pages of a block, and how often ten of them are made.
PAGES = 256
ROUNDS = 50
PLAY = f"""
import resource
from tidegate.runtime.process.allocator import keep_freed_memory
assert keep_freed_memory() is {{kept}}
def blocks():
    return [bytes([number]) * ({PAGES} * 4096) for number in range(10)]
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(environment: dict[str, str], *, kept: bool) -> int:
    """Return the page faults of a process that makes and frees blocks."""
    done = subprocess.run(
        [sys.executable, "-c", PLAY.format(kept=kept)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout)


def test_large_blocks_are_used_again() -> None:
    made = ROUNDS * 10 * PAGES
    assert faults({}, kept=True) < made / 10
    # Otherwise this test would show nothing.
    assert faults({"MALLOC_TRIM_THRESHOLD_": "131072"}, kept=False) > made / 2


@pytest.mark.parametrize(
    "variable", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"]
)
def test_who_has_set_it_otherwise_keeps_it(variable: str) -> None:
    assert not keep_freed_memory({variable: "1"})
