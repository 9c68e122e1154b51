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
_SESSIONS: Final = ("session_end.lua", "log.lua", "expired.lua", "connection.lua", "session.lua")
#: Run when the first operation of a call needs them that is not about one session.
_OTHERS: Final = (
    "claims.lua",
    "leases.lua",
    "members.lua",
    "sweep.lua",
    "failover_epochs.lua",
    "history.lua",
    "backup.lua",
    "record.lua",
    "inspection.lua",
)
#: The lines of ``dispatch.lua`` that these parts replace.
_PLACES: Final = {
    b"-- <the session parts>\n": _SESSIONS,
    b"-- <the other parts>\n": _OTHERS,
}


def load() -> tuple[bytes, bytes]:
    """Return the script and its SHA-1, the name that EVALSHA takes."""
    folder = files(__name__)

    def joined(parts: tuple[str, ...]) -> bytes:
        return b"\n".join(folder.joinpath(part).read_bytes() for part in parts)

    dispatch = folder.joinpath("dispatch.lua").read_bytes()
    for place, parts in _PLACES.items():
        assert place in dispatch
        dispatch = dispatch.replace(place, joined(parts))
    source = b"\n".join((joined(_FREQUENT), dispatch))
    return source, sha1(source, usedforsecurity=False).hexdigest().encode()
