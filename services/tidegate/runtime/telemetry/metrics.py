"""The counters as Prometheus metrics, made at every request of /metrics and every OTLP export.

The only importer of prometheus_client. Called by the admin server through ``Exporter.render``, by
``telemetry.otlp`` through ``Exporter.families``. Counts nothing itself.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tidegate import __version__
from tidegate.mqtt.enums import PacketType
from tidegate.runtime.telemetry.counters import Counters, Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Attribute of ``Counters``, name of the metric (after ``tidegate_``), help.
_COUNTERS: Final = (
    ("connections_accepted", "connections_opened", "Connections accepted (CONNACK 0 sent)."),
    ("bytes_received", "bytes_received", "Bytes of MQTT packets received."),
    ("bytes_sent", "bytes_sent", "Bytes of MQTT packets sent."),
    ("publish_bytes_received", "publish_bytes_received", "Payload bytes received in PUBLISH."),
    ("publish_bytes_sent", "publish_bytes_sent", "Payload bytes sent in PUBLISH."),
    (
        "published",
        "messages_published",
        "Message copies to deliver: one per matching subscriber, or one if there is none.",
    ),
    (
        "delivered",
        "messages_delivered",
        "Message copies delivered: sent (QoS 0) or acknowledged (QoS 1 and 2).",
    ),
    ("duplicates", "duplicates", "QoS 2 messages received again from publishers and ignored."),
    ("sessions_expired", "sessions_expired", "Durable sessions that expired."),
    ("wills_published", "wills_published", "Will messages published."),
    ("store_round_trips", "store_round_trips", "Round trips to Redis."),
    ("store_commands", "store_commands", "Store operations; a round trip carries many."),
    ("store_errors", "store_errors", "Round trips to Redis that failed."),
    (
        "store_circuit_openings",
        "store_circuit_openings",
        "Times that the circuit breaker of a store connection opened.",
    ),
    (
        "store_rollbacks",
        "store_rollbacks",
        "Times that the store was found to have gone back to an older state.",
    ),
    ("record_events", "record_events", "Events of clients that were added to the record."),
    (
        "record_dropped",
        "record_dropped",
        "Events of clients that are not in the record: there were too many, or no store.",
    ),
    ("store_moved", "store_moved", "Store operations repeated because their partition had moved."),
    (
        "store_replica_waits",
        "store_replica_waits",
        "Waits for replicas that timed out and were repeated (durability replicated).",
    ),
    (
        "password_hashes",
        "password_hashes",
        "Password hashes computed (verified passwords are cached).",
    ),
    (
        "link_connections_closed",
        "link_connections_closed",
        "Connections at the link port closed before they had begun: there were too many.",
    ),
    (
        "protocol_errors",
        "protocol_errors",
        "Connections closed because the client violated the protocol.",
    ),
    (
        "internal_errors",
        "internal_errors",
        "Unexpected exceptions that were caught; each is a bug.",
    ),
)
_GAUGES: Final = (
    ("connections_open", "connections_open", "Open MQTT connections."),
    ("draining", "draining", "1 while draining and after."),
    ("clients_maximum", "clients_maximum", "Maximum number of clients connected at the same time."),
    ("queued", "messages_queued", "Message copies queued, or sent and not yet acknowledged."),
    ("retained_count", "retained_messages", "Retained messages."),
    ("subscriptions", "subscriptions", "Subscriptions."),
    ("sessions", "sessions", "Sessions, connected or offline."),
    (
        "store_circuit_open",
        "store_circuit_open",
        "Store connections whose circuit breaker is open: operations fail at once.",
    ),
    (
        "store_full",
        "store_full",
        "Store servers whose memory is full but for the reserve: messages are refused.",
    ),
)
#: Attribute, name of the metric, label, help.
_BY_REASON: Final = (
    (
        "refused",
        "connections_refused",
        "reason",
        "Connections refused or lost before CONNACK 0, by reason.",
    ),
    ("closed", "connections_closed", "reason", "Accepted connections closed, by reason."),
    ("dropped", "messages_dropped", "reason", "Message copies dropped, by reason."),
    ("auth_failures", "auth_failures", "reason", "Failed authentications, by reason."),
    (
        "acl_denied",
        "acl_denied",
        "action",
        "Publishes (write), deliveries (read) and subscriptions (subscribe) denied by the ACL.",
    ),
    ("config_reloads", "config_reloads", "result", "Reloads of changed files, by result."),
)
_BY_QOS: Final = (
    ("messages_received", "PUBLISH packets received."),
    ("messages_sent", "PUBLISH packets sent, retransmissions included."),
)
_BY_TYPE: Final = (
    ("packets_received", "MQTT packets received."),
    ("packets_sent", "MQTT packets sent."),
)
_HISTOGRAMS: Final = (
    ("store_latency", "store_latency_seconds", "Duration of round trips to Redis."),
    ("event_loop_lag", "event_loop_lag_seconds", "Delay of the event loop's timers."),
)

#: Samples that are written in one turn of the event loop, or a family that has more.
RENDERED: Final = 50
_PROCESS: Final = Path("/proc/self")


class BuildInfo(Collector):
    """``tidegate_build_info``."""

    __slots__ = ("_labels",)

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        """Yield the one family."""
        info = InfoMetricFamily("tidegate_build", "Version, build and role of the process.")
        info.add_metric([], {"version": __version__, **self._labels})
        yield info


class ProcessMetrics(Collector):
    """The process as the kernel has it, with the names of Prometheus' client libraries.

    Theirs lists the directory of open files to count them, which takes as long as there are
    connections. Yields nothing where there is no ``/proc``.
    """

    __slots__ = ()

    def collect(self) -> Iterable[Metric]:
        """Yield every family, in a fixed order."""
        try:
            numbers = (_PROCESS / "stat").read_bytes().rpartition(b")")[2].split()
            # The size of the directory is their number since Linux 6.2.
            open_count = (_PROCESS / "fd").stat().st_size or sum(
                1 for _ in (_PROCESS / "fd").iterdir()
            )
        except OSError:
            return
        limit: float = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            limit = math.inf
        per_s = os.sysconf("SC_CLK_TCK")
        started_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(numbers[19]) / per_s
        for name, text, value in (
            ("virtual_memory_bytes", "Virtual memory size in bytes.", int(numbers[20])),
            (
                "resident_memory_bytes",
                "Resident memory size in bytes.",
                int(numbers[21]) * resource.getpagesize(),
            ),
            (
                "start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                round(started_s, 2),
            ),
            ("open_fds", "Number of open file descriptors.", open_count),
            ("max_fds", "Maximum number of open file descriptors.", limit),
        ):
            yield GaugeMetricFamily(f"process_{name}", text, value=value)
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            value=time.process_time(),
        )


class CountersCollector(Collector):
    """Makes metric families of the current values of a ``Counters``."""

    __slots__ = ("_counters",)

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        """Yield every family, in a fixed order."""
        yield from self._plain()
        yield from self._labelled()
        for attribute, name, text in _HISTOGRAMS:
            yield _histogram_family(name, text, getattr(self._counters, attribute))

    def _plain(self) -> Iterator[Metric]:
        counters = self._counters
        for attribute, name, text in _COUNTERS:
            yield CounterMetricFamily(f"tidegate_{name}", text, value=getattr(counters, attribute))
        for attribute, name, text in _GAUGES:
            yield GaugeMetricFamily(f"tidegate_{name}", text, value=getattr(counters, attribute))

    def _labelled(self) -> Iterator[Metric]:
        counters = self._counters
        for attribute, name, label, text in _BY_REASON:
            family = CounterMetricFamily(f"tidegate_{name}", text, labels=[label])
            for reason, count in getattr(counters, attribute).items():
                family.add_metric([reason], count)
            yield family
        for attribute, text in _BY_QOS:
            family = CounterMetricFamily(f"tidegate_{attribute}", text, labels=["qos"])
            for qos, count in enumerate(getattr(counters, attribute)):
                family.add_metric([str(qos)], count)
            yield family
        for attribute, text in _BY_TYPE:
            family = CounterMetricFamily(f"tidegate_{attribute}", text, labels=["type"])
            counts = getattr(counters, attribute)
            for packet_type in PacketType:
                family.add_metric([packet_type.name.lower()], counts[packet_type])
            yield family


#: Reads labelled values at collection: (values of the labels, value) pairs.
ReadSamples = Callable[[], Iterable[tuple[Sequence[str], float]]]


class CallbackMetrics(Collector):
    """Families whose values are read from their owners: (name, help, labels, callable) each.

    A name that ends in ``_total`` is a counter, any other a gauge; ``tidegate_`` is put before it.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[tuple[str, str, Sequence[str], ReadSamples]]) -> None:
        self._rows = rows

    def collect(self) -> Iterable[Metric]:
        """Yield every family, in order."""
        for name, text, labels, read in self._rows:
            make = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = make(f"tidegate_{name}", text, labels=labels)
            for values, value in read():
                family.add_metric(list(values), value)
            yield family


class HistogramMetrics(Collector):
    """Families of histograms that their owners fill: (name, help, histogram) each."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[tuple[str, str, Histogram]]) -> None:
        self._rows = rows

    def collect(self) -> Iterable[Metric]:
        """Yield every family, in order."""
        for name, text, histogram in self._rows:
            yield _histogram_family(name, text, histogram)


def _histogram_family(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"tidegate_{name}", text)
    family.add_metric([], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family


class Exporter:
    """Renders the counters and the process' own metrics in Prometheus' text format.

    ``labels`` (closed values only, e.g. loop="uvloop") become labels of ``tidegate_build_info``.
    ``counters`` is None for a process that is no part of a broker.
    """

    __slots__ = ("_registry",)

    def __init__(self, counters: Counters | None, labels: dict[str, str] | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(BuildInfo(labels or {}))
        if counters is not None:
            self._registry.register(CountersCollector(counters))
        self._registry.register(ProcessMetrics())
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def add(self, collector: Collector) -> None:
        """Export another collector's families too (certificates' expiry, for example)."""
        self._registry.register(collector)

    def families(self) -> list[Metric]:
        """Return what ``render`` writes, as families of samples."""
        return list(self._registry.collect())

    def render(self) -> bytes:
        """Return the body of a /metrics answer (``CONTENT_TYPE``)."""
        return generate_latest(self._registry)

    async def render_in_turns(self) -> bytes:
        """Return the same, of one moment; other work gets its turn after some of it is written."""
        parts: list[bytes] = []
        left = RENDERED
        for family in self.families():
            parts.append(generate_latest(_Families((family,))))
            left -= len(family.samples)
            if left <= 0:
                left = RENDERED
                await asyncio.sleep(0)
        return b"".join(parts)


class _Families(Collector):
    __slots__ = ("_families",)

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merge(texts: Mapping[str, str]) -> bytes:
    """Merge what several processes render: every sample gets the label ``process`` with its key.

    Raises ValueError for a text that is not in Prometheus' format.
    """
    families: dict[str, Metric] = {}
    for process, text in texts.items():
        for family in text_string_to_metric_families(text):
            known = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            known.samples += [
                sample._replace(labels={"process": process, **sample.labels})
                for sample in family.samples
            ]
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)
