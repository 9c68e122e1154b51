"""Which connected clients a page has: the first ones behind a key, of those that are searched.

Called by ``pages`` and by ``edge.administration``. Looks at all clients of the edge, in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tidegate.runtime.admin.pieces import first_of

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client

#: What clients are searched by, beside the beginning of their identifiers.
_SEARCHED: Final = ("address", "listener", "user", "mount_point")
_EVERYTHING: Final[Mapping[str, str]] = {}


async def first_keys(
    clients: Mapping[str, Client], after: str, count: int, query: Mapping[str, str] = _EVERYTHING
) -> list[str]:
    """Return the first keys behind ``after`` of clients that match; see ``_is_wanted``."""
    is_search = bool(query.get("prefix")) or any(name in query for name in _SEARCHED)

    def chosen(keys: Sequence[str]) -> Sequence[str]:
        behind = [key for key in keys if key > after]
        if not is_search:
            return behind
        return [
            key
            for key in behind
            if (client := clients.get(key)) is not None and _is_wanted(client, query)
        ]

    return await first_of(list(clients), count, chosen)


def _is_wanted(client: Client, query: Mapping[str, str]) -> bool:
    """Compare the beginning of the identifier and of the address, and all of the others."""
    peer = client.channel.peer
    return (
        client.client_id.startswith(query.get("prefix", ""))
        and peer.address.startswith(query.get("address", ""))
        and query.get("listener", peer.listener) == peer.listener
        and query.get("user", client.username or "") == (client.username or "")
        and query.get("mount_point", client.listener.mount_point) == client.listener.mount_point
    )
