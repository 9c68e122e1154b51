"""What of a router goes by limits and features, and takes others up while it runs.

What ``tidegate serve`` and ``tidegate router`` have in common.
"""

from __future__ import annotations

from tidegate.router.router import Router
from tidegate.router.sys_publisher import SysPublisher
from tidegate.runtime.config.model import Config
from tidegate.store.redis_store import RedisStore


class RouterReload:
    """See the module's docstring."""

    __slots__ = ("_router", "_store", "_system")

    def __init__(self, store: RedisStore, router: Router, system: SysPublisher) -> None:
        self._store = store
        self._router = router
        self._system = system

    def reconfigure(self, config: Config) -> None:
        """Go by these limits and features from now on."""
        self._store.set_limits(config.limits)
        self._router.reconfigure(config.limits, config.features)
        self._system.set_interval(config.features.sys_interval_s)
