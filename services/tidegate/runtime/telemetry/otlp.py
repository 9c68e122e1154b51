"""Sends metrics and spans to an OTLP receiver, from a thread of its own.

The only importer of opentelemetry; imported by ``telemetry.export`` when an endpoint is configured.
The event loop does two things for it: it collects the metric families when asked (a third of what
a scrape of /metrics costs), and it appends spans to a bounded queue. Everything else, from turning
them into OTLP to waiting for the receiver, happens in the thread. An unreachable receiver costs a
counter and a log line at most every minute: spans of the failed request are lost, metrics are
cumulative and catch up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpMetricExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpSpanExporter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from prometheus_client.core import Metric, Sample

from tidegate import __version__
from tidegate.runtime.config.model import TelemetryConfig
from tidegate.runtime.telemetry.tracing import (
    APPEND,
    DELIVER,
    PUBLISH,
    RETAIN,
    ROUTE,
    Span,
    Tracer,
    decode,
)

log = logging.getLogger(__name__)

#: How long spans gather before they are sent.
SPANS_INTERVAL_S: Final = 1.0
#: Spans in one request. Encoding one takes about 20 µs, in which the event loop may have to wait.
MAX_BATCH: Final = 128
#: Bounds of one request, retries of the SDK included.
SHORTEST_TIMEOUT_S: Final = 1.0
LONGEST_TIMEOUT_S: Final = 10.0
#: How long the event loop may take to collect the metrics.
COLLECT_TIMEOUT_S: Final = 5.0
#: At most one line about failures in this time.
LOG_INTERVAL_S: Final = 60.0

METRICS: Final = "metrics"
TRACES: Final = "traces"

_SCOPE: Final = InstrumentationScope("tidegate", __version__)
#: The broker answers a publish (SERVER), calls the store (CLIENT) and hands messages on (PRODUCER).
_KINDS: Final = {
    PUBLISH: SpanKind.SERVER,
    ROUTE: SpanKind.INTERNAL,
    APPEND: SpanKind.CLIENT,
    RETAIN: SpanKind.CLIENT,
    DELIVER: SpanKind.PRODUCER,
}
#: Spans whose parent is in another process, by role. A parent of ``publish`` is the client's.
_REMOTE: Final = {
    "serve": frozenset({PUBLISH}),
    "edge": frozenset({PUBLISH, DELIVER}),
    "router": frozenset({ROUTE}),
}

Collect: TypeAlias = Callable[[], list[Metric]]


# From our form to OTLP's


def resource_of(config: TelemetryConfig, role: str, name: str) -> Resource:
    """Return what identifies the sender. OTEL_RESOURCE_ATTRIBUTES may add to it, not change it."""
    return Resource.create(
        {
            "service.name": config.service_name,
            "service.instance.id": name or f"{socket.gethostname()}-{os.getpid()}",
            "service.version": __version__,
            "tidegate.role": role,
        }
    )


def metrics_data(
    families: Iterable[Metric], resource: Resource, start_ns: int, now_ns: int
) -> MetricsData:
    """Return the families under their names in /metrics; counters are cumulative since start_ns."""
    metrics = [metric for family in families for metric in _metrics_of(family, start_ns, now_ns)]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _metrics_of(family: Metric, start_ns: int, now_ns: int) -> Iterable[OtlpMetric]:
    if family.type == "histogram":
        data = Histogram(_histogram_points(family, start_ns, now_ns), _CUMULATIVE)
        yield OtlpMetric(family.name, family.documentation, _unit(family.name), data)
        return
    by_name: dict[str, list[NumberDataPoint]] = {}
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        point = NumberDataPoint(sample.labels, start_ns, now_ns, sample.value)
        by_name.setdefault(sample.name, []).append(point)
    for name, points in by_name.items():
        total = Sum(points, _CUMULATIVE, True) if family.type == "counter" else Gauge(points)
        yield OtlpMetric(name, family.documentation, _unit(name), total)


_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


def _unit(name: str) -> str:
    base = name.removesuffix("_total")
    return "s" if base.endswith("_seconds") else "By" if base.endswith("_bytes") else ""


def _histogram_points(family: Metric, start_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in family.samples:
        labels = tuple((key, value) for key, value in sample.labels.items() if key != "le")
        series.setdefault(labels, []).append(sample)
    points = []
    for labels, samples in series.items():
        buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
        running = [int(bucket.value) for bucket in buckets]
        counts = [now - before for now, before in zip(running, [0, *running], strict=False)]
        bounds = [float(bucket.labels["le"]) for bucket in buckets[:-1]]
        total = next((s.value for s in samples if s.name.endswith("_sum")), 0.0)
        points.append(
            HistogramDataPoint(
                dict(labels),
                start_ns,
                now_ns,
                running[-1],
                total,
                counts,
                bounds,
                None,  # type: ignore[arg-type] # optional in OTLP; we keep no extremes
                None,  # type: ignore[arg-type]
            )
        )
    return points


def readable_span(span: Span, resource: Resource, role: str) -> ReadableSpan:
    """Return a span as the SDK's exporters want it. Raises ValueError for a broken context."""
    trace_id, span_id, flags = decode(span.context)
    _, parent_id, _ = decode(span.parent)
    name = span.name
    trace = int.from_bytes(trace_id)
    trace_flags = TraceFlags(flags)
    parent = None
    if not span.is_root:
        is_remote = name in _REMOTE.get(role, ())
        parent = SpanContext(trace, int.from_bytes(parent_id), is_remote, trace_flags)
    attributes = {
        "messaging.system": "mqtt",
        "messaging.operation.name": name,
        "tidegate.role": role,
        **span.attributes,
    }
    return ReadableSpan(
        name,
        context=SpanContext(trace, int.from_bytes(span_id), False, trace_flags),
        parent=parent,
        resource=resource,
        attributes=attributes,
        kind=_KINDS.get(name, SpanKind.INTERNAL),
        status=_FAILED if span.failed else _UNSET,
        start_time=span.start_ns,
        end_time=max(span.end_ns, span.start_ns),
        instrumentation_scope=_SCOPE,
    )


_FAILED: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)


# The SDK's exporters


def exporters_for(config: TelemetryConfig) -> tuple[MetricExporter, SpanExporter]:
    """Make the exporters of the configured protocol. Headers and certificates: OTEL_EXPORTER_*."""
    endpoint = config.otlp_endpoint or ""
    timeout_s = min(LONGEST_TIMEOUT_S, max(SHORTEST_TIMEOUT_S, config.otlp_interval_s))
    if config.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter,
        )
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )

        return (
            OTLPMetricExporter(endpoint=endpoint, timeout=timeout_s),
            OTLPSpanExporter(endpoint=endpoint, timeout=timeout_s),
        )
    return (
        HttpMetricExporter(signal_url(endpoint, METRICS), timeout=timeout_s),
        HttpSpanExporter(signal_url(endpoint, TRACES), timeout=timeout_s),
    )


def signal_url(endpoint: str, signal: str) -> str:
    """Return where OTLP over HTTP takes a signal: ``/v1/metrics`` below the endpoint's path."""
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/v1/{signal}"))


class _SdkMessages(logging.Handler):
    """Keeps what the SDK's exporters log for our own line; they log much and often."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first messages of an export."""
        if len(self.texts) < 2:
            self.texts.append(record.getMessage()[:500])


class Sender:
    """The thread that exports; see the module's docstring.

    ``start`` once; at the end ``finish`` and ``wait``, or ``abandon`` when that takes too long.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        role: str,
        name: str,
        tracer: Tracer | None,
        loop: asyncio.AbstractEventLoop,
        collect: Collect,
    ) -> None:
        self._role = role
        self._interval_s = config.otlp_interval_s
        self._tracer = tracer
        self._loop = loop
        self._collect = collect
        self._resource = resource_of(config, role, name)
        self._metrics, self._spans = exporters_for(config)
        self._start_ns = time.time_ns()
        self._wake = threading.Event()
        self._last: list[Metric] | None = None
        self._next_line_s = 0.0
        self._is_failing = False
        self._sdk_messages = _SdkMessages()
        # Daemon: a receiver that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        #: Requests by (signal, result).
        self.exports = {
            (signal, result): 0 for signal in (METRICS, TRACES) for result in ("ok", "failed")
        }
        self.spans_sent = 0
        self.spans_failed = 0

    def start(self) -> None:
        """Begin."""
        sdk = logging.getLogger("opentelemetry")
        sdk.addHandler(self._sdk_messages)
        sdk.propagate = False
        self._thread.start()

    def finish(self, families: list[Metric]) -> None:
        """Send what waits, and ``families`` as the last metrics, then stop."""
        self._last = families
        self._wake.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; False when it takes longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Interrupt whatever the exporters do."""
        self._metrics.shutdown()
        self._spans.shutdown()

    # In the thread

    def _run(self) -> None:
        # Not all processes of a cluster at the same time.
        due_s = time.monotonic() + self._interval_s * random.uniform(0.5, 1.0)  # noqa: S311
        while self._last is None:
            pause_s = due_s - time.monotonic()
            if self._tracer is not None:
                pause_s = min(pause_s, SPANS_INTERVAL_S)
            self._wake.wait(max(0.0, pause_s))
            self._send_spans()
            if self._last is None and time.monotonic() >= due_s:
                self._send_metrics(self._ask())
                due_s = max(due_s + self._interval_s, time.monotonic())
        self._send_spans()
        self._send_metrics(self._last)
        self.abandon()

    def _ask(self) -> list[Metric] | None:
        """Have the event loop collect: what it reads belongs to it."""
        answer: queue.SimpleQueue[list[Metric]] = queue.SimpleQueue()
        try:
            self._loop.call_soon_threadsafe(lambda: answer.put(self._collect()))
            return answer.get(timeout=COLLECT_TIMEOUT_S)
        except (RuntimeError, queue.Empty):  # the loop is closed, or very busy
            return self._last

    def _send_metrics(self, families: list[Metric] | None) -> None:
        if families is None:
            return

        def send() -> bool:
            data = metrics_data(families, self._resource, self._start_ns, time.time_ns())
            return self._metrics.export(data) is MetricExportResult.SUCCESS

        self._attempt(METRICS, send)

    def _send_spans(self) -> None:
        """Send all that wait now; after a failure the others are left for the next time."""
        if self._tracer is None:
            return
        waiting = self._tracer.spans
        for _ in range(0, len(waiting), MAX_BATCH):
            batch = [waiting.popleft() for _ in range(min(MAX_BATCH, len(waiting)))]
            if not self._send_batch(batch):
                return

    def _send_batch(self, batch: Sequence[Span]) -> bool:
        spans = []
        for span in batch:
            try:
                spans.append(readable_span(span, self._resource, self._role))
            except ValueError:  # an invalid context from another process
                self.spans_failed += 1
        if not spans:
            return True
        if self._attempt(TRACES, lambda: self._spans.export(spans) is SpanExportResult.SUCCESS):
            self.spans_sent += len(spans)
            return True
        self.spans_failed += len(spans)
        return False

    def _attempt(self, signal: str, send: Callable[[], bool]) -> bool:
        """Export something, count it, and log failures from time to time."""
        self._sdk_messages.texts.clear()
        try:
            done = send()
        except Exception as error:  # the thread's rim: nothing may end it
            done = False
            self._sdk_messages.texts.append(f"{type(error).__name__}: {error}"[:500])
        self.exports[signal, "ok" if done else "failed"] += 1
        if self._is_failing or not done:
            self._log_result(signal, done)
        return done

    def _log_result(self, signal: str, done: bool) -> None:
        now_s = time.monotonic()
        if done:
            self._is_failing = False
            log.info("OTLP receiver reachable again")
        elif now_s >= self._next_line_s:
            self._is_failing = True
            self._next_line_s = now_s + LOG_INTERVAL_S
            failed = self.exports[signal, "failed"]
            log.warning(
                "OTLP export failed",
                extra={
                    "signal": signal,
                    "failed": failed,
                    "reason": "; ".join(self._sdk_messages.texts) or "no reason given",
                },
            )
