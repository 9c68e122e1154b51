"""Who is banned at this edge: the bans of the store, and its own of clients that flap.

Owns both. Asked by ``connect`` for each CONNECT, which costs nothing while there is no ban; set by
``Edge``, which disconnects those who are connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from tidegate.bans.ban import Ban, BanKind
from tidegate.bans.ban_list import BanList
from tidegate.bans.flapping import Flapping
from tidegate.core.session_key import session_key

if TYPE_CHECKING:
    from tidegate.edge.client.connection_log import LoggedClient
    from tidegate.runtime.config.model import FlappingConfig

#: Ends of connections that are not the client's doing.
_NOT_COUNTED: Final = frozenset(
    {
        "administrative_action",
        "banned",
        "server_shutting_down",
        "session_lost",
        "shed",
        "shutdown",
        "use_another_server",
    }
)


class Banned:
    """See the module's docstring."""

    __slots__ = ("_flapping", "_list", "_now_ms", "_own", "_stored", "is_any")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._stored: dict[str, Ban] = {}
        #: Of clients that flap: in force here before, and whether or not, the store has them.
        self._own: dict[str, Ban] = {}
        self._list = BanList()
        self._flapping = Flapping()
        #: Whether there is any ban.
        self.is_any = False

    def find(self, client_id: str, client: LoggedClient, user: str | None) -> Ban | None:
        """Return the ban that is in force for a connection; None: there is none."""
        if not self.is_any:
            return None
        return self._list.find(
            client.listener.mount_point,
            client_id,
            user,
            client.channel.peer.address,
            self._now_ms() / 1000,
        )

    def set(self, stored: Sequence[bytes]) -> list[Ban]:
        """Take the bans of the store in place of those before; return the new ones."""
        before = self._list.bans
        bans = (Ban.decode(ban) for ban in stored)
        self._stored = {ban.id: ban for ban in bans if ban is not None}
        self._make_list()
        return [ban for ban in self._list.bans.values() if before.get(ban.id) != ban]

    def flapped(
        self, client: LoggedClient, reason: str, now_s: float, config: FlappingConfig
    ) -> Ban | None:
        """Count the end of a connection; return the ban if that is one too many."""
        key = session_key(client.listener.mount_point, client.client_id)
        if reason in _NOT_COUNTED or not self._flapping.disconnected(
            key, now_s, config.max_disconnects, config.window_s
        ):
            return None
        now = self._now_ms() / 1000
        ban = Ban(
            BanKind.CLIENT,
            client.client_id,
            client.listener.mount_point,
            f"{config.max_disconnects} disconnects within {config.window_s:g} s",
            now + config.ban_s,
            now,
            "limits.flapping",
        )
        self._own = {key: own for key, own in self._own.items() if not own.is_over(now)}
        self._own[ban.id] = ban
        self._make_list()
        return ban

    def _make_list(self) -> None:
        bans: Iterable[Ban] = (self._stored | self._own).values()
        self._list = BanList(bans)
        self.is_any = bool(self._list)
