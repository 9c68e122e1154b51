"""Exit with the parent: a supervisor that is killed leaves no process behind.

Called first thing by a process that a supervisor has started (``--supervisor PID``).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_CHECK_INTERVAL_S: Final = 0.5


def exit_with_parent(parent: int) -> None:
    """Be killed when the process ``parent`` has exited; exit at once if it has already.

    Linux does it itself, also while this process is stopped; elsewhere a thread checks. SIGKILL and
    not SIGTERM: the store, which draining needs, has ended with the supervisor.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_CHECK_INTERVAL_S)
    os._exit(1)
