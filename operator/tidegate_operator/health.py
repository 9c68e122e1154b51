"""Health and metrics of the operator: /livez, /readyz and /metrics.

``handlers.Operator`` owns ``OperatorHealth`` and updates it; the runtime's admin server serves it,
as for edges and routers. Never knows anything of brokers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from tidegate.runtime.admin.control import Readiness
from tidegate.runtime.admin.server import AdminServer
from tidegate.runtime.telemetry.counters import Histogram
from tidegate.runtime.telemetry.metrics import CallbackMetrics, Exporter, HistogramMetrics

#: Reconciling an unchanged broker takes milliseconds, creating one some seconds.
DURATION_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: How long the result of the check whether MqttBrokers can be listed is cached.
SERVED_TTL_S: Final = 15.0

RESULTS: Final = ("changed", "unchanged", "failed")


class OperatorHealth:
    """Health of the operator. Its owner sets the attributes."""

    def __init__(self) -> None:
        #: Why it is not ready yet during start; "" once it has started.
        self.waiting_for = "starting"
        #: The background task that has failed, so that a restart is needed; "" if none has.
        self.fatal = ""
        self.results = dict.fromkeys(RESULTS, 0)
        self.duration = Histogram(DURATION_BOUNDS_S)
        #: Objects applied and deleted.
        self.written = {"apply": 0, "delete": 0}
        #: Responses of the API server, by method and status ("none": no response).
        self.requests: Counter[tuple[str, str]] = Counter()
        #: Names of watches that are down.
        self.watches_down: Callable[[], Iterable[str]] = tuple
        #: How many keys are waiting, and how many are being processed.
        self.queue: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.brokers: Callable[[], int] = lambda: 0
        #: How many brokers wait for their turn to be rolled.
        self.rollouts: Callable[[], int] = lambda: 0
        #: Checks whether MqttBrokers can be listed; returns the reason why not, or "".
        self.check_served: Callable[[], Awaitable[str]] | None = None
        self._served = ""
        self._served_until_s = 0.0

    @contextlib.asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Measure the duration of a reconcile, and count it if it fails."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            yield
        except Exception:
            self.results["failed"] += 1
            raise
        finally:
            self.duration.observe(loop.time() - began_s)

    def reconciled(self, applied: int, deleted: int) -> None:
        """Count a successful reconcile, and what it has written."""
        self.results["changed" if applied or deleted else "unchanged"] += 1
        self.written["apply"] += applied
        self.written["delete"] += deleted

    def liveness(self) -> Readiness:
        """Return whether the process is alive, and a text."""
        return not self.fatal, self.fatal or "alive"

    async def readiness(self) -> Readiness:
        """Return whether MqttBrokers can be listed and all watches are up, and a text."""
        problem = self.fatal or self.waiting_for or await self._unserved_reason()
        if not problem:
            down = sorted(name.strip() for name in self.watches_down())
            problem = f"watches down: {', '.join(down)}" if down else ""
        return not problem, problem or "ready"

    async def _unserved_reason(self) -> str:
        if self.check_served is None:
            return ""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._served_until_s:
            self._served = await self.check_served()
            self._served_until_s = now_s + SERVED_TTL_S
        return self._served

    def readings(self) -> CallbackMetrics:
        """Return the metrics besides those of the process."""
        return CallbackMetrics(
            (
                (
                    "operator_reconciles_total",
                    "Reconciles by result: changed (objects written), unchanged, failed.",
                    ["result"],
                    lambda: [([result], count) for result, count in self.results.items()],
                ),
                (
                    "operator_writes_total",
                    "Objects applied and deleted, without status and events.",
                    ["action"],
                    lambda: [([action], count) for action, count in self.written.items()],
                ),
                (
                    "operator_api_requests_total",
                    "Requests to the API server by method and status code; none: no response.",
                    ["method", "code"],
                    lambda: [(key, count) for key, count in sorted(self.requests.items())],
                ),
                (
                    "operator_queue_waiting",
                    "Brokers waiting in the work queue.",
                    [],
                    lambda: [([], self.queue()[0])],
                ),
                (
                    "operator_queue_working",
                    "Brokers being reconciled.",
                    [],
                    lambda: [([], self.queue()[1])],
                ),
                (
                    "operator_brokers",
                    "MqttBrokers in the watched namespaces.",
                    [],
                    lambda: [([], self.brokers())],
                ),
                (
                    "operator_rollouts_waiting",
                    "Brokers whose rollout by the operator waits until others have ended.",
                    [],
                    lambda: [([], self.rollouts())],
                ),
                (
                    "operator_watches_down",
                    "Watches that are down; the cache is bypassed meanwhile.",
                    [],
                    lambda: [([], len(list(self.watches_down())))],
                ),
            )
        )


def admin_server(health: OperatorHealth, address: str, port: int) -> AdminServer:
    """Return the server of health and metrics; address ``*`` is all, IPv4 and IPv6."""
    exporter = Exporter(None, {"role": "operator"})
    exporter.add(health.readings())
    exporter.add(
        HistogramMetrics(
            (
                (
                    "operator_reconcile_duration_seconds",
                    "Duration of reconciles.",
                    health.duration,
                ),
            )
        )
    )
    return AdminServer(
        address, port, ready=health.readiness, live=health.liveness, metrics=exporter.render
    )
