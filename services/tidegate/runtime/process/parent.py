"""To end with the process that started this one: a supervisor that is killed leaves nobody behind.

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
_LOOK_S: Final = 0.5


def exit_with_parent(parent: int) -> None:
    """Be killed when the process ``parent`` is gone; end at once if that is so already.

    Linux does it itself, also while this process is stopped; elsewhere a thread looks. SIGKILL, and
    not SIGTERM: whoever could be said goodbye to has lost the store with the supervisor.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)
