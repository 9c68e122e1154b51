"""Who is banned at this edge: the bans of the store, and its own of clients that flap.

Owns both. Asked by ``connect`` for each CONNECT, which costs nothing while there is no ban; set by
``Edge``, which disconnects those who are connected.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tidegate.bans.ban import MAX_VALUE, Ban, BanKind
from tidegate.bans.ban_list import BanList
from tidegate.bans.flapping import Flapping
from tidegate.core.session_key import session_key

if TYPE_CHECKING:
    from tidegate.edge.client.connection_log import LoggedClient
    from tidegate.runtime.config.model import FlappingConfig

#: Bans of flapping clients that wait for the store; the oldest ones end when there are more.
MAX_OWN: Final = 1_000
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
        #: Those of the store, by what is stored; None: of another version.
        self._stored: dict[bytes, Ban | None] = {}
        self._list = BanList()
        #: Of clients that flap, until the store has them: by mount point and client identifier,
        #: the oldest first.
        self._own: OrderedDict[tuple[str, str], Ban] = OrderedDict()
        self._flapping = Flapping()
        #: Whether there is any ban.
        self.is_any = False

    def find(self, client_id: str, client: LoggedClient, user: str | None) -> Ban | None:
        """Return the ban that is in force for a connection; None: there is none."""
        if not self.is_any:
            return None
        now, mount_point = self._now_ms() / 1000, client.listener.mount_point
        own = self._own.get((mount_point, client_id))
        if own is not None and not own.is_over(now):
            return own
        return self._list.find(mount_point, client_id, user, client.channel.peer.address, now)

    def set(self, stored: Sequence[bytes]) -> list[Ban]:
        """Take the bans of the store in place of those before; return the new ones."""
        before = self._stored
        self._stored = {each: before.get(each) or Ban.decode(each) for each in stored}
        bans = [ban for ban in self._stored.values() if ban is not None]
        self._list = BanList(bans)
        if self._own:
            for ban in bans:
                if ban.kind is BanKind.CLIENT:  # from now on it ends when it is deleted there
                    self._own.pop((ban.mount_point, ban.value), None)
        self.is_any = bool(bans or self._own)
        return [ban for each, ban in self._stored.items() if each not in before and ban is not None]

    def flapped(
        self, client: LoggedClient, reason: str, now_s: float, config: FlappingConfig
    ) -> Ban | None:
        """Count the end of a connection; return the ban if that is one too many."""
        client_id, mount_point = client.client_id, client.listener.mount_point
        if reason in _NOT_COUNTED or not self._flapping.disconnected(
            session_key(mount_point, client_id), now_s, config.max_disconnects, config.window_s
        ):
            return None
        if len(client_id) > MAX_VALUE:
            return None  # every edge would have to have it
        now = self._now_ms() / 1000
        ban = Ban(
            BanKind.CLIENT,
            client_id,
            mount_point,
            f"{config.max_disconnects} disconnects within {config.window_s:g} s",
            now + config.ban_s,
            now,
            "limits.flapping",
        )
        own = self._own
        own.pop((mount_point, client_id), None)
        while own and (len(own) >= MAX_OWN or own[next(iter(own))].is_over(now)):
            own.popitem(last=False)
        own[mount_point, client_id] = ban
        self.is_any = True
        return ban
