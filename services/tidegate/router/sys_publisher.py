"""``$SYS``: the broker's figures as retained topics, with mosquitto's names.

Every process counts its own (``roles.sys_figures``); one router publishes the sums through
``Router.publish``, so that existing dashboards and MQTT Explorer work. Run by ``roles``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tidegate.core.sys_topics import SysTree, Totals
from tidegate.mqtt.packets import Publish

if TYPE_CHECKING:
    from tidegate.router.router import Router
    from tidegate.runtime.telemetry.counters import Counters


class _SystemOrigin:
    """The origin of ``$SYS`` messages: no client."""

    client_id = ""
    epoch = 0
    is_will = False
    is_superseded = False

    def identity(self, message: Publish) -> str:
        """QoS 0 only."""
        return ""

    def receipt(self, message: Publish) -> int:
        """QoS 0 only."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """No publisher waits."""


class SysPublisher:
    """Publishes changed figures every ``interval_s`` seconds; 0: never.

    ``parts`` are the figures of all processes, by instance (see ``Totals``). ``leads``: whether
    this is the process that publishes; the others only update their averages.
    """

    def __init__(
        self,
        router: Router,
        parts: Callable[[], Mapping[str, Mapping[str, int]]],
        version: str,
        interval_s: float,
        counters: Counters | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """``counters`` only where one process is the whole broker."""
        self._router = router
        self._parts = parts
        self._counters = counters
        self._leads = leads
        self._interval_s = interval_s
        self._changed = asyncio.Event()
        self._tree = SysTree(version)
        self._totals = Totals()
        self._origin = _SystemOrigin()
        self._started_s = time.monotonic()

    def set_interval(self, interval_s: float) -> None:
        """Change how often figures are published."""
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._changed.set()

    async def run(self) -> None:
        """Publish for ever; the owner cancels it."""
        led = False
        while True:
            self._changed.clear()
            if not self._interval_s:
                await self._changed.wait()
                continue
            leads = self._leads()
            self.publish_changed(leads=leads, full=leads and not led)
            led = leads
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._changed.wait()

    def publish_changed(self, *, leads: bool, full: bool) -> None:
        """Publish the figures that have changed, or all, if this process ``leads``."""
        now_s = time.monotonic() - self._started_s
        snapshot = self._totals.add_up(self._parts(), self._broker_wide())
        for topic, value in self._tree.values(now_s, snapshot, full=full):
            if leads:
                self._router.publish(self._origin, Publish(topic, value, retain=True))

    def _broker_wide(self) -> dict[str, int]:
        """The figures of the whole broker, which every router knows."""
        table = self._router.table
        counters = self._counters
        return {
            "clients_disconnected": table.offline_session_count,
            "clients_maximum": counters.clients_maximum if counters is not None else 0,
            "subscriptions": table.offline_subscription_count,
            "shared_subscriptions": len(table.shared),
            "retained_messages": len(self._router.retained),
        }
