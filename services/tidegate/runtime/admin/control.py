"""What the admin API can ask of a process, as callables that the composition root hands in.

Built by ``edge.administration`` and ``roles``, called by ``admin.server``. Holds no rule itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from tidegate.runtime.admin.http import Request, Response

Json = dict[str, Any]
T = TypeVar("T")
#: A value, or one that has to be awaited (other processes are asked for it).
MaybeAwaitable: TypeAlias = T | Awaitable[T]
#: Whether the process can serve clients, and the reason in plain text.
Readiness: TypeAlias = tuple[bool, str]

#: Serves one path of the admin API, to requests that may use it.
Page: TypeAlias = Callable[[Request], Awaitable[Response]]


class AmbiguousClient(Exception):
    """Clients of several mount points have this client identifier, and none was named."""


@dataclass(slots=True, frozen=True)
class Control:
    """What operators can see and do; what a process does not have is None, and answered with 404.

    ``drain`` starts draining (or goes on) and returns what ``progress`` returns. ``clients`` takes
    the number of clients and the session key (``core.session_key``) that they come after.
    ``client`` and ``disconnect`` take a client identifier and its mount point ("": none; None: the
    client without one, else the only one with this identifier, AmbiguousClient if there are
    several); the latter says whether the client was connected. ``shed`` disconnects so many
    clients and returns how many it will be, None while the process drains; ``shedding`` how many
    are still to be disconnected. ``end_session`` takes a client identifier and its mount point
    ("": none) and says whether there was a session; None if no router or store answers. ``pages``
    are more pages that only read, by their path; ``handlers`` those that take a request, and may
    raise HttpError.
    """

    status: Callable[[], MaybeAwaitable[Json]]
    drain: Callable[[str], MaybeAwaitable[Json]] | None = None
    progress: Callable[[], MaybeAwaitable[Json]] | None = None
    clients: Callable[[int, str], MaybeAwaitable[list[Json]]] | None = None
    client: Callable[[str, str | None], MaybeAwaitable[Json | None]] | None = None
    disconnect: Callable[[str, str | None], MaybeAwaitable[bool]] | None = None
    shed: Callable[[int], MaybeAwaitable[int | None]] | None = None
    shedding: Callable[[], MaybeAwaitable[int]] | None = None
    end_session: Callable[[str, str], MaybeAwaitable[bool | None]] | None = None
    pages: Mapping[str, Callable[[], MaybeAwaitable[Json]]] = field(default_factory=dict)
    handlers: Mapping[str, Page] = field(default_factory=dict)


async def resolved(value: MaybeAwaitable[T]) -> T:
    """Return the value, awaited if it has to be."""
    return await value if isinstance(value, Awaitable) else value
