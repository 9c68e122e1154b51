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
_FREQUENT: Final = ("common.lua", "expiry.lua", "queue.lua", "retained.lua")
#: Run when the first rare operation of a call needs them.
_RARE: Final = (
    "session_end.lua",
    "log.lua",
    "expired.lua",
    "claims.lua",
    "connection.lua",
    "session.lua",
    "leases.lua",
    "members.lua",
    "sweep.lua",
    "failover_epochs.lua",
)
#: The line of ``dispatch.lua`` that the rare parts replace.
_RARE_PLACE: Final = b"-- <the rare parts>\n"


def load() -> tuple[bytes, bytes]:
    """Return the script and its SHA-1, the name that EVALSHA takes."""
    folder = files(__name__)
    frequent = b"\n".join(folder.joinpath(part).read_bytes() for part in _FREQUENT)
    rare = b"\n".join(folder.joinpath(part).read_bytes() for part in _RARE)
    before, place, after = folder.joinpath("dispatch.lua").read_bytes().partition(_RARE_PLACE)
    assert place
    source = b"\n".join((frequent, before + rare, after))
    return source, sha1(source, usedforsecurity=False).hexdigest().encode()
