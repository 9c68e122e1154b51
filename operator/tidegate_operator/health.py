"""What the operator says of itself: /livez, /readyz and /metrics.

Built by ``handlers.Operator``, which writes into ``Vitals`` what happens; served by the runtime's
admin server, as an edge's pages are. Knows nothing of brokers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from tidegate.runtime.admin.server import AdminServer, Verdict
from tidegate.runtime.telemetry.counters import Histogram
from tidegate.runtime.telemetry.metrics import Exporter, Histograms, Readings

#: Looking at a broker that nobody has touched takes milliseconds, making one some seconds.
DURATION_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: How long the answer to the question whether MqttBrokers are served is good for.
SERVED_S: Final = 15.0

RESULTS: Final = ("changed", "unchanged", "failed")


class Vitals:
    """How the operator is. Its owner sets what is not a method."""

    def __init__(self) -> None:
        #: Why it is not ready although nothing has failed; "" once it has started.
        self.waiting_for = "starting"
        #: What has ended that must not; "" as long as the process is worth keeping.
        self.broken = ""
        self.results = dict.fromkeys(RESULTS, 0)
        self.duration = Histogram(DURATION_BOUNDS_S)
        #: Objects applied and deleted.
        self.written = {"apply": 0, "delete": 0}
        #: Answers of the API server, by method and status ("none": no answer).
        self.requests: Counter[tuple[str, str]] = Counter()
        #: Names of watches that are down.
        self.watches_down: Callable[[], Iterable[str]] = tuple
        #: Keys that wait, and keys that are worked on.
        self.queue: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.brokers: Callable[[], int] = lambda: 0
        #: Asks the API server whether it serves MqttBrokers; the reason why not, or "".
        self.ask_served: Callable[[], Awaitable[str]] | None = None
        self._served = ""
        self._served_until_s = 0.0

    @contextlib.asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Time a reconcile, and count it if it fails."""
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
        """A reconcile has ended well."""
        self.results["changed" if applied or deleted else "unchanged"] += 1
        self.written["apply"] += applied
        self.written["delete"] += deleted

    def liveness(self) -> Verdict:
        """Whether a restart would help."""
        return not self.broken, self.broken or "alive"

    async def readiness(self) -> Verdict:
        """Whether brokers are looked after: they are served, and everything is watched."""
        problem = self.broken or self.waiting_for or await self._not_served()
        if not problem:
            down = sorted(name.strip() for name in self.watches_down())
            problem = f"not watched: {', '.join(down)}" if down else ""
        return not problem, problem or "ready"

    async def _not_served(self) -> str:
        if self.ask_served is None:
            return ""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._served_until_s:
            self._served = await self.ask_served()
            self._served_until_s = now_s + SERVED_S
        return self._served

    def readings(self) -> Readings:
        """What /metrics says besides the process' own."""
        return Readings(
            (
                (
                    "operator_reconciles_total",
                    "Looks at a broker: something was written, nothing had to be, or it failed.",
                    ["result"],
                    lambda: [([result], count) for result, count in self.results.items()],
                ),
                (
                    "operator_writes_total",
                    "Objects applied and deleted (status and events not counted).",
                    ["action"],
                    lambda: [([action], count) for action, count in self.written.items()],
                ),
                (
                    "operator_api_requests_total",
                    "Requests to the API server; code none: it has not answered.",
                    ["method", "code"],
                    lambda: [(key, count) for key, count in sorted(self.requests.items())],
                ),
                (
                    "operator_queue_waiting",
                    "Brokers that wait to be looked at.",
                    [],
                    lambda: [([], self.queue()[0])],
                ),
                (
                    "operator_queue_working",
                    "Brokers that are being looked at.",
                    [],
                    lambda: [([], self.queue()[1])],
                ),
                (
                    "operator_brokers",
                    "MqttBrokers that are served.",
                    [],
                    lambda: [([], self.brokers())],
                ),
                (
                    "operator_watches_down",
                    "Watches that do not run; nothing is remembered meanwhile.",
                    [],
                    lambda: [([], len(list(self.watches_down())))],
                ),
            )
        )


def server_of(vitals: Vitals, address: str, port: int) -> AdminServer:
    """Return the server of the operator's pages; ``*`` is every address of IPv4 and IPv6."""
    exporter = Exporter(None, {"role": "operator"})
    exporter.add(vitals.readings())
    exporter.add(
        Histograms(
            (
                (
                    "operator_reconcile_duration_seconds",
                    "How long looks at a broker take.",
                    vitals.duration,
                ),
            )
        )
    )
    return AdminServer(
        address, port, ready=vitals.readiness, live=vitals.liveness, metrics=exporter.render
    )
