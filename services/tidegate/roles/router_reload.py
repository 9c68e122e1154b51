"""Applies changed limits and features to a router and its store while they run.

Used by ``tidegate serve`` and ``tidegate router``.
"""

from __future__ import annotations

from tidegate.router.router import Router
from tidegate.router.sys_publisher import SysPublisher
from tidegate.runtime.config.model import Config
from tidegate.store.redis_store import RedisStore


class RouterReload:
    """See the module's docstring."""

    __slots__ = ("_router", "_store", "_sys_publisher")

    def __init__(self, store: RedisStore, router: Router, sys_publisher: SysPublisher) -> None:
        self._store = store
        self._router = router
        self._sys_publisher = sys_publisher

    def reconfigure(self, config: Config) -> None:
        """Apply these limits, features and sizes of the record from now on."""
        self._store.set_limits(config.limits)
        self._router.reconfigure(config.limits, config.features, config.record)
        self._sys_publisher.set_interval(config.features.sys_interval_s)
