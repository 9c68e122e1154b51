"""The Lua that runs inside Redis: one script made of the parts beside this file.

Everything that changes state does so here, atomically, and is fenced here. ``client.lanes`` calls
it with many operations at a time. The parts are joined in order: later ones use what earlier ones
define.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final

#: Run for every call.
_OFTEN: Final = ("common.lua", "queue.lua", "retained.lua")
#: The body of one function, ``rare``, that returns their operations.
_RARE: Final = (
    "session_end.lua",
    "log.lua",
    "connection.lua",
    "session.lua",
    "leases.lua",
    "members.lua",
    "sweep.lua",
    "failover_epochs.lua",
    "rare.lua",
)


def load() -> tuple[bytes, bytes]:
    """Return the script and the name EVALSHA knows it by."""
    folder = files(__name__)
    often = b"\n".join(folder.joinpath(part).read_bytes() for part in _OFTEN)
    rare = b"\n".join(folder.joinpath(part).read_bytes() for part in _RARE)
    dispatch = folder.joinpath("dispatch.lua").read_bytes()
    source = often + b"\nlocal function rare()\n" + rare + b"end\n\n" + dispatch
    # SHA-1 is how the server names scripts; nothing secret hangs on it.
    return source, sha1(source, usedforsecurity=False).hexdigest().encode()
