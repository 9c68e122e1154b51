"""Starting programs that end with the test process, however it ends.

A test process that a signal ends runs no fixture to its end. So whatever is to run beside a test
is started here: the kernel kills it as soon as the test process is gone. What a broker or a
supervisor has started ends with that one. Without ``setpriv`` (util-linux) fixtures are all there
is.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from support import tools

#: The kernel looks at the thread that has started a program, not at its process: one that lasts. A
#: thread stays in the network that it was made in, so there is one for each, by its number.
_starters: Final[dict[int, ThreadPoolExecutor]] = {}


def start(command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """Start a program that ends with this process, in the network that the caller is in.

    ``options`` are those of ``Popen``.
    """
    setpriv = tools.find("setpriv")
    # It becomes the program. Code between fork and exec would not be safe with threads.
    bound = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv is not None else []
    return _starter().submit(_popen, [*bound, *command], options).result()


def _starter() -> ThreadPoolExecutor:
    network = 0
    with contextlib.suppress(OSError):
        network = Path("/proc/thread-self/ns/net").stat().st_ino
    if network not in _starters:
        _starters[network] = ThreadPoolExecutor(1, "starter")
    return _starters[network]


def _popen(command: list[str | Path], options: dict[str, Any]) -> subprocess.Popen[Any]:
    return subprocess.Popen(command, **options)


def run(
    command: Sequence[str | Path], timeout_s: float, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run such a program to its end and return what it has written.

    Raises TimeoutExpired, with what it has written until then; the program has ended.
    """
    with start(command, text=True, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as late:
            process.kill()
            late.output, late.stderr = process.communicate()
            raise
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, output, errors)
