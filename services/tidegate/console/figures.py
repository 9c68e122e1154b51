"""The last hour of the main figures, in steps of ten seconds, so that a page has curves by itself.

Run by ``roles.console``; read by ``routes.figures`` and ``overview``. Asks every node for /metrics
once in a step. Counters become rates per second; a node that has been restarted counts from zero.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tidegate.console.nodes.client import NodeClient, NodeError
from tidegate.console.nodes.pool import Nodes

log = logging.getLogger(__name__)

STEP_S: Final = 10.0
STEPS: Final = 360
#: Steps over which drops and refusals are summed by reason: five minutes.
RECENT: Final = 30

_LINE: Final = re.compile(
    rb"^(?:tidegate_)?([a-z_]+?)(?:_total)?"
    rb'(?:\{(?:[^}]*?,)?(?:qos|reason)="([^"]*)"[^}]*\})? ([^ ]+)$',
    re.MULTILINE,
)
_NAME: Final = re.compile(rb'^tidegate_build_info\{[^}]*?name="([^"]+)"', re.MULTILINE)
#: Names of metrics that become rates, and the figure that each is (with the label, if it has one).
_RATES: Final[Mapping[str, str]] = {
    "messages_received": "messages_in_qos{}",
    "messages_sent": "messages_out_qos{}",
    "bytes_received": "bytes_in",
    "bytes_sent": "bytes_out",
    "messages_delivered": "delivered",
    "messages_dropped": "dropped",
    "connections_refused": "refused",
    "connections_opened": "connects",
    "store_errors": "store_errors",
    "store_commands": "store_commands",
}
#: Gauges whose sum over all nodes is the broker's.
_SUMS: Final[Mapping[str, str]] = {
    "connections_open": "connections",
    # Routers raise it and edges lower it.
    "messages_queued": "queued",
}
#: Edges have those of connected clients, every router all of offline ones.
_SUBSCRIPTIONS: Final = "subscriptions"
#: Gauges that every router has of the whole broker: the highest is the newest.
_OF_BROKER: Final[Mapping[str, str]] = {
    "sessions": "sessions",
    "retained_messages": "retained",
}
_LATENCY: Final = ("store_latency_seconds_sum", "store_latency_seconds_count")
_LOAD: Final = (
    "process_cpu_seconds",
    "process_resident_memory_bytes",
    "event_loop_lag_seconds_sum",
    "event_loop_lag_seconds_count",
)

#: What a figure is, and its unit.
FIGURES: Final[Mapping[str, str]] = {
    "messages_in_qos0": "PUBLISH packets received with QoS 0, per second",
    "messages_in_qos1": "PUBLISH packets received with QoS 1, per second",
    "messages_in_qos2": "PUBLISH packets received with QoS 2, per second",
    "messages_out_qos0": "PUBLISH packets sent with QoS 0, per second",
    "messages_out_qos1": "PUBLISH packets sent with QoS 1, per second",
    "messages_out_qos2": "PUBLISH packets sent with QoS 2, per second",
    "bytes_in": "bytes received, per second",
    "bytes_out": "bytes sent, per second",
    "delivered": "message copies delivered, per second",
    "dropped": "message copies dropped, per second",
    "refused": "connections refused, per second",
    "connects": "connections accepted, per second",
    "connections": "open connections",
    "sessions": "durable sessions, connected or not",
    "subscriptions": "subscriptions",
    "retained": "retained messages",
    "queued": "message copies that are queued, or sent and not yet acknowledged",
    "store_latency_ms": "mean duration of a round trip to the store, milliseconds",
    "store_commands": "store operations, per second",
    "store_errors": "round trips to the store that failed, per second",
}

#: Counters of one node: name of the metric → label ("" for none) → value.
Reading = dict[str, dict[str, float]]


@dataclass(slots=True)
class Step:
    """One sample. ``at`` in seconds since 1970."""

    at: float
    values: dict[str, float] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)


class Figures:
    """See the module's docstring."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self._before: dict[str, tuple[float, Reading]] = {}
        #: By the address of a node: cpu_percent of one core, memory_bytes, event_loop_lag_ms.
        self.loads: dict[str, dict[str, float]] = {}

    async def run(self) -> None:
        """Take a sample in every step; two at once at the start, so that rates come soon."""
        await self.sample()
        await asyncio.sleep(1.0)
        while True:
            await self.sample()
            await asyncio.sleep(STEP_S - time.time() % STEP_S)

    @property
    def steps(self) -> Sequence[Step]:
        """The samples, the oldest first."""
        return self._steps

    @property
    def last(self) -> Step | None:
        """The newest sample."""
        return self._steps[-1] if self._steps else None

    def recent(self) -> tuple[Counter[str], Counter[str]]:
        """Return what was dropped and refused in the last five minutes, by reason."""
        dropped, refused = Counter[str](), Counter[str]()
        for step in list(self._steps)[-RECENT:]:
            dropped += step.dropped
            refused += step.refused
        return dropped, refused

    async def sample(self) -> None:
        """Ask all nodes, and add a step."""
        edges, routers = await self._nodes.edges(), await self._nodes.routers()
        nodes = [*edges, *routers]
        results = await asyncio.gather(
            *(node.ask("GET", "/metrics") for node in nodes), return_exceptions=True
        )
        step = Step(round(time.time(), 1))
        readings: list[tuple[NodeClient, Reading]] = []
        for node, result in zip(nodes, results, strict=True):
            if isinstance(result, NodeError):
                step.missing.append(f"{node.name}: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                if name := _NAME.search(result[1]):
                    node.name = name.group(1).decode(errors="replace")
                readings.append((node, parse(result[1])))
        step.values |= self._rates(readings, step)
        _gauges(readings, {id(node) for node in edges}, step)
        self._steps.append(step)

    def _rates(
        self, readings: Sequence[tuple[NodeClient, Reading]], step: Step
    ) -> dict[str, float]:
        """Return rates of all nodes together, and note drops and refusals by reason."""
        now, after = time.monotonic(), dict[str, tuple[float, Reading]]()
        found: dict[str, float] = {}
        spent_s = calls = 0.0
        for node, reading in readings:
            after[node.address] = now, reading
            before = self._before.get(node.address)
            if before is None:
                continue
            elapsed_s = max(0.1, now - before[0])
            self.loads[node.address] = _load(before[1], reading, elapsed_s)
            for metric, figure in _RATES.items():
                for label, value in reading.get(metric, {}).items():
                    grown = _grown(before[1].get(metric, {}).get(label, 0.0), value)
                    name = figure.format(label)
                    found[name] = found.get(name, 0.0) + grown / elapsed_s
                    if grown and metric == "messages_dropped":
                        step.dropped[label] += int(grown)
                    elif grown and metric == "connections_refused":
                        step.refused[label] += int(grown)
            sum_s, count = (
                _grown(before[1].get(name, {}).get("", 0.0), reading.get(name, {}).get("", 0.0))
                for name in _LATENCY
            )
            spent_s, calls = spent_s + sum_s, calls + count
        # Those that are missing now keep their last reading: their rates go on when they are back.
        self._before = {
            address: kept
            for address, kept in self._before.items()
            if now - kept[0] < STEPS * STEP_S
        } | after
        if calls:
            found["store_latency_ms"] = 1000 * spent_s / calls
        return {name: round(value, 3) for name, value in found.items()}


def _load(before: Reading, now: Reading, elapsed_s: float) -> dict[str, float]:
    cpu_s, _, lag_s, count = (
        _grown(before.get(name, {}).get("", 0.0), now.get(name, {}).get("", 0.0)) for name in _LOAD
    )
    return {
        "cpu_percent": round(100 * cpu_s / elapsed_s, 1),
        "memory_bytes": now.get(_LOAD[1], {}).get("", 0.0),
        "event_loop_lag_ms": round(1000 * lag_s / count, 2) if count else 0.0,
    }


def _gauges(readings: Sequence[tuple[NodeClient, Reading]], edges: set[int], step: Step) -> None:
    sums = dict.fromkeys(_SUMS.values(), 0.0)
    highest = dict.fromkeys(_OF_BROKER.values(), 0.0)
    connected = offline = 0.0
    for node, reading in readings:
        for metric, figure in _SUMS.items():
            sums[figure] += reading.get(metric, {}).get("", 0.0)
        for metric, figure in _OF_BROKER.items():
            highest[figure] = max(highest[figure], reading.get(metric, {}).get("", 0.0))
        subscriptions = reading.get(_SUBSCRIPTIONS, {}).get("", 0.0)
        if id(node) in edges:
            connected += subscriptions
        else:
            offline = max(offline, subscriptions)
    if readings:
        # Nodes are read at slightly different moments.
        step.values |= {figure: max(0.0, value) for figure, value in sums.items()} | highest
        step.values[_SUBSCRIPTIONS] = connected + offline


def _grown(before: float, now: float) -> float:
    """Return by how much a counter has grown; one that is lower has begun at zero again."""
    return now - before if now >= before else now


def parse(text: bytes) -> Reading:
    """Read what is needed of /metrics."""
    wanted = {*_RATES, *_SUMS, *_OF_BROKER, _SUBSCRIPTIONS, *_LATENCY, *_LOAD}
    found: Reading = {}
    for name, label, value in _LINE.findall(text):
        metric = name.decode()
        if metric in wanted:
            labels = found.setdefault(metric, {})
            key = label.decode(errors="replace")
            labels[key] = labels.get(key, 0.0) + float(value)
    return found
