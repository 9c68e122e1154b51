"""Whether a connection still owns its session, in the words that store, link and edge share."""

from __future__ import annotations

from enum import IntEnum


class Standing(IntEnum):
    """The store's answer about one connection."""

    #: Another connection has, or had, the session.
    TAKEN = 0
    OWNED = 1
    #: The store has gone back to a state before this connection, or has lost the session.
    LOST = 2
    #: There is no session: it has ended, or is lost.
    GONE = 3
    #: The connection was the last one, and has ended.
    ENDED = 4
