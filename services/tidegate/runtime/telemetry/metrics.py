"""Prometheus' view of the counters, made when somebody asks for /metrics.

The only importer of prometheus_client. Called by the admin server through ``Exporter.render``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
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
        "Copies owed: one for each subscriber a message matches, or one if it matches none.",
    ),
    (
        "delivered",
        "messages_delivered",
        "Copies delivered: sent (QoS 0) or acknowledged (QoS 1 and 2).",
    ),
    ("duplicates", "duplicates", "QoS 2 messages that were sent again and ignored."),
    ("sessions_expired", "sessions_expired", "Durable sessions whose time was over."),
    ("wills_published", "wills_published", "Will messages published."),
    ("store_round_trips", "store_round_trips", "Round trips to Redis."),
    ("store_commands", "store_commands", "Operations asked of the store; many share a round trip."),
    ("store_errors", "store_errors", "Round trips to Redis that failed."),
    (
        "store_circuit_openings",
        "store_circuit_openings",
        "How often a server was given up until it answers again.",
    ),
    ("store_moved", "store_moved", "Operations sent again because their partition has moved."),
    (
        "store_replica_waits",
        "store_replica_waits",
        "Waits for replicas that ran out of time and were repeated (durability replicated).",
    ),
    ("password_hashes", "password_hashes", "Password hashes computed; the rest were remembered."),
    ("protocol_errors", "protocol_errors", "Rules of the specification broken by peers."),
    ("internal_errors", "internal_errors", "Unexpected exceptions that were survived: bugs."),
)
_GAUGES: Final = (
    ("connections_open", "connections_open", "Connections that are open now."),
    ("draining", "draining", "1 while the clients are let go (and after it)."),
    ("clients_maximum", "clients_maximum", "The most clients connected at the same time."),
    ("queued", "messages_queued", "Copies in queues, or sent and not acknowledged, now."),
    ("retained_count", "retained_messages", "Retained messages now."),
    ("subscriptions", "subscriptions", "Subscriptions now."),
    ("sessions", "sessions", "Sessions now, connected or not."),
    (
        "store_circuit_open",
        "store_circuit_open",
        "Connections to the store whose circuit is open: callers are refused at once.",
    ),
)
#: Attribute, name of the metric, label, help.
_BY_REASON: Final = (
    ("refused", "connections_refused", "reason", "Connections refused before CONNACK 0."),
    ("closed", "connections_closed", "reason", "Accepted connections that ended."),
    ("dropped", "messages_dropped", "reason", "Copies of messages dropped."),
    ("auth_failures", "auth_failures", "reason", "Failed authentications."),
    ("acl_denied", "acl_denied", "action", "Deliveries and publishes that the ACL refused."),
    ("config_reloads", "config_reloads", "result", "Changed files that were read again."),
)
_BY_QOS: Final = (
    ("messages_received", "PUBLISH packets received."),
    ("messages_sent", "PUBLISH packets sent (repeated ones included)."),
)
_BY_TYPE: Final = (
    ("packets_received", "MQTT packets received."),
    ("packets_sent", "MQTT packets sent."),
)
_HISTOGRAMS: Final = (
    ("store_latency", "store_latency_seconds", "How long round trips to Redis take."),
    ("event_loop_lag", "event_loop_lag_seconds", "How late the event loop's timers fire."),
)


class BuildInfo(Collector):
    """``tidegate_build_info``."""

    __slots__ = ("_labels",)

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        """Yield the one family."""
        info = InfoMetricFamily("tidegate_build", "What runs here.")
        info.add_metric([], {"version": __version__, **self._labels})
        yield info


class CountersCollector(Collector):
    """Makes metric families of a ``Counters`` as it stands."""

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


#: Reads labelled values when somebody asks: (values of the labels, value) pairs.
ReadSamples = Callable[[], Iterable[tuple[Sequence[str], float]]]


class CallbackMetrics(Collector):
    """Families whose values are read from their owners: (name, help, labels, reading) each.

    A name that ends in ``_total`` is a counter, any other a gauge; ``tidegate_`` is put before it.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[tuple[str, str, Sequence[str], ReadSamples]]) -> None:
        self._rows = rows

    def collect(self) -> Iterable[Metric]:
        """Yield every family, in order."""
        for name, text, labels, reading in self._rows:
            make = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = make(f"tidegate_{name}", text, labels=labels)
            for values, value in reading():
                family.add_metric(list(values), value)
            yield family


class HistogramMetrics(Collector):
    """Families of histograms that their owners observe into: (name, help, histogram) each."""

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
        ProcessCollector(registry=self._registry)
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


class _Families(Collector):
    __slots__ = ("_families",)

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merge(texts: Mapping[str, str]) -> bytes:
    """Join what several processes render: every sample gets the label ``process`` with its key.

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
