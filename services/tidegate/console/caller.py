"""The three roles, and who makes a request. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What somebody may do; each role may do what those before it may."""

    #: Reads.
    VIEWER = "viewer"
    #: Disconnects clients, publishes, drains, deletes retained messages.
    OPERATOR = "operator"
    #: Bans, ends sessions, manages tokens.
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what the other may."""
        return _RANK[self] >= _RANK[other]


_RANK: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


@dataclass(slots=True, frozen=True)
class Caller:
    """Who makes a request, and how it has proved it."""

    #: A user's name, or "token:NAME".
    name: str
    role: Role
    #: What a request that changes something must repeat (cookie sessions only; else "").
    csrf: str = ""
    #: Of the cookie's session; "" for a token.
    session: str = ""
