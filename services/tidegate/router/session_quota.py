"""The quota of durable sessions of each user.

Made by the router for ``sessions``. The store counts them in each partition (ADR 0017); here is how
many of a user's are left, read again when that is old or none is left. So routers that accept a
user's clients at the same time can exceed the quota by what they accept within that time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from tidegate.runtime.config.model import LimitsConfig
from tidegate.store.api import Store

#: How old a count may be, and how old one by which a CONNECT is refused.
STRICT_S: Final = 1.0
REFUSING_S: Final = 0.2
#: Users whose counts are kept.
MAX_USERS: Final = 10_000


class _User:
    """How many durable sessions a user has, and since when that is known."""

    __slots__ = ("count", "read_s", "under_way")

    def __init__(self) -> None:
        self.count = 0
        self.read_s = float("-inf")
        #: CONNECTs that the store has not answered.
        self.under_way = 0


class SessionQuota:
    """See the module's docstring. ``limits`` may be replaced at any time."""

    def __init__(self, store: Store, limits: LimitsConfig, time_s: Callable[[], float]) -> None:
        self._store = store
        self._time_s = time_s
        self.limits = limits
        self._users: OrderedDict[str, _User] = OrderedDict()

    async def left(self, name: str) -> int | None:
        """Return how many a user may have more, None: any number; ``settle`` must follow."""
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = _User()
            if len(self._users) > MAX_USERS:
                self._users.popitem(last=False)
        self._users.move_to_end(name)
        user.under_way += 1
        try:
            return await self._left(name, user)
        except BaseException:
            user.under_way -= 1
            raise

    async def _left(self, name: str, user: _User) -> int | None:
        most = self.limits.max_sessions_per_user
        if not most:
            return None
        others = user.under_way - 1
        age_s = self._time_s() - user.read_s
        if age_s > STRICT_S or (age_s > REFUSING_S and user.count + others >= most):
            user.count = await self._store.user_sessions(name)
            user.read_s = self._time_s()
        return most - user.count - others

    def settle(self, name: str, added: int) -> None:
        """Take the outcome: how many sessions the user has more."""
        user = self._users.get(name)
        if user is not None:
            user.under_way = max(0, user.under_way - 1)
            user.count += added
