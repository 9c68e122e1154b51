"""From our families and spans to OTLP, and the thread that sends them, with exporters of ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client.core import HistogramMetricFamily

from support.otlp_receiver import HttpReceiver
from support.waiting import wait_for, wait_for_async
from tidegate.runtime.config.model import TelemetryConfig
from tidegate.runtime.telemetry import otlp
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.metrics import Exporter
from tidegate.runtime.telemetry.tracing import APPEND, DELIVER, PUBLISH, ROUTE, Span, Tracer

DEADLINE_S = 10
#: Nothing is sent there in these tests.
CONFIG = TelemetryConfig(otlp_endpoint="http://127.0.0.1:9", otlp_interval_s=0.05)


def _received(exporter: Exporter) -> Any:
    resource = otlp.resource_of(CONFIG, "edge", "one")
    data = otlp.metrics_data(exporter.families(), resource, 1, 2)
    receiver = HttpReceiver()
    receiver.take_metrics(encode_metrics(data))
    return receiver.metrics[0]


# Metrics


def test_counters_gauges_and_info_keep_the_names_of_the_metrics_page() -> None:
    counters = Counters()
    counters.bytes_received = 5
    counters.queued = 7
    counters.dropped["expired"] = 2
    metrics = _received(Exporter(counters, {"loop": "asyncio"}))
    assert metrics.sums["tidegate_bytes_received_total", ()] == 5
    assert metrics.gauges["tidegate_messages_queued", ()] == 7
    assert metrics.sums["tidegate_messages_dropped_total", (("reason", "expired"),)] == 2
    info = next(labels for name, labels in metrics.gauges if name == "tidegate_build_info")
    assert ("loop", "asyncio") in info
    assert metrics.units["process_resident_memory_bytes"] == "By"
    assert metrics.units["process_cpu_seconds_total"] == "s"
    assert (metrics.start_ns, metrics.time_ns) == (1, 2)


def test_a_histogram_has_counts_per_bucket() -> None:
    counters = Counters()
    for value in (0.00005, 0.0002, 0.0002, 99.0):
        counters.store_latency.observe(value)
    histogram = _received(Exporter(counters)).histograms["tidegate_store_latency_seconds", ()]
    assert histogram.bounds == counters.store_latency.bounds
    assert list(histogram.counts) == counters.store_latency.counts
    assert histogram.count == 4
    assert histogram.total == counters.store_latency.total


def test_a_histogram_with_labels_is_several_series() -> None:
    family = HistogramMetricFamily("h_seconds", "Help.", labels=["kind"])
    family.add_metric(["a"], [("1.0", 1), ("+Inf", 3)], 5.0)
    family.add_metric(["b"], [("1.0", 2), ("+Inf", 2)], 1.0)
    data = otlp.metrics_data([family], otlp.resource_of(CONFIG, "edge", ""), 1, 2)
    receiver = HttpReceiver()
    receiver.take_metrics(encode_metrics(data))
    histograms = receiver.metrics[0].histograms
    assert histograms["h_seconds", (("kind", "a"),)].counts == (1, 2)
    assert histograms["h_seconds", (("kind", "b"),)].counts == (2, 0)


def test_a_process_without_a_name_has_one_made_of_host_and_number() -> None:
    named = otlp.resource_of(CONFIG, "edge", "one").attributes["service.instance.id"]
    made = otlp.resource_of(CONFIG, "edge", "").attributes["service.instance.id"]
    assert named == "one"
    assert made != "one"
    assert made


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/metrics"),
        ("http://c:4318/", "http://c:4318/v1/metrics"),
        ("https://c/otlp", "https://c/otlp/v1/metrics"),
        ("https://c/otlp/?a=b", "https://c/otlp/v1/metrics?a=b"),
    ],
)
def test_http_endpoints_get_the_path_of_the_signal(endpoint: str, url: str) -> None:
    assert otlp.signal_url(endpoint, otlp.METRICS) == url


# Spans


def _ended(tracer: Tracer, name: str, parent: bytes, failed: bool = False) -> Span:
    span = tracer.start(name, parent)
    span.end({"tidegate.qos": 1}, failed)
    return span


@pytest.mark.parametrize(
    ("role", "remote"),
    [
        ("serve", set[str]()),
        ("edge", {DELIVER}),
        ("router", {ROUTE}),
    ],
)
def test_a_trace_says_which_parents_are_in_another_process(role: str, remote: set[str]) -> None:
    tracer = Tracer(1)
    publish = _ended(tracer, PUBLISH, tracer.sample())
    route = _ended(tracer, ROUTE, publish.context)
    append = _ended(tracer, APPEND, route.context, failed=True)
    deliver = _ended(tracer, DELIVER, append.context)
    resource = otlp.resource_of(CONFIG, role, "one")
    spans = [otlp.readable_span(span, resource, role) for span in (publish, route, append, deliver)]
    receiver = HttpReceiver()
    receiver.take_spans(encode_spans(spans))
    assert [span.parent_id for span in receiver.spans] == [
        "",
        publish.context[16:24].hex(),
        route.context[16:24].hex(),
        append.context[16:24].hex(),
    ]
    assert {span.trace_id for span in receiver.spans} == {publish.context[:16].hex()}
    assert {span.name for span in receiver.spans if span.parent_is_remote} == remote
    assert [span.status for span in receiver.spans] == [0, 0, 2, 0]
    assert receiver.spans[0].attributes["tidegate.role"] == role


# The thread


class _Metrics:
    """Stands for the SDK's metric exporter: ``answers`` are taken in turn, the last one stays."""

    def __init__(self, *answers: MetricExportResult | Exception) -> None:
        self.answers = list(answers)
        self.requests = 0
        self.ended = 0

    def export(self, data: MetricsData) -> MetricExportResult:
        """Answer, or raise."""
        self.requests += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is MetricExportResult.FAILURE:
            logging.getLogger("opentelemetry.test").warning("it is away")
        return answer

    def shutdown(self) -> None:
        """Count it."""
        self.ended += 1


class _Spans:
    """Stands for the SDK's span exporter."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.result = result
        self.batches: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep how many."""
        self.batches.append(len(spans))
        return self.result

    def shutdown(self) -> None:
        """Nothing."""


def _sender(
    monkeypatch: pytest.MonkeyPatch,
    metrics: _Metrics,
    spans: _Spans,
    tracer: Tracer | None = None,
    config: TelemetryConfig = CONFIG,
) -> otlp.Sender:
    monkeypatch.setattr(otlp, "exporters_for", lambda config: (metrics, spans))
    loop = asyncio.get_running_loop()
    exporter = Exporter(Counters())
    return otlp.Sender(config, "serve", "", tracer, loop, exporter.families)


OK = MetricExportResult.SUCCESS
FAILED = MetricExportResult.FAILURE


async def test_metrics_are_sent_again_and_again_and_once_more_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = _Metrics(OK)
    sender = _sender(monkeypatch, metrics, _Spans())
    sender.start()
    await wait_for_async(lambda: metrics.requests >= 3, DEADLINE_S, "three requests")
    sender.finish([])
    assert sender.wait(DEADLINE_S)
    assert sender.exports["metrics", "ok"] == metrics.requests >= 4
    assert metrics.ended == 1


async def test_failures_are_counted_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    metrics = _Metrics(FAILED, OSError("broken"), FAILED, OK)
    sender = _sender(monkeypatch, metrics, _Spans())
    sender.start()
    await wait_for_async(lambda: sender.exports["metrics", "ok"], DEADLINE_S, "a success")
    sender.finish([])
    assert sender.wait(DEADLINE_S)
    assert sender.exports["metrics", "failed"] == 3
    ours = [record for record in caplog.records if record.name == otlp.__name__]
    assert [record.levelname for record in ours] == ["WARNING", "INFO"]
    assert vars(ours[0])["reason"] == "it is away"


async def test_spans_go_out_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    tracer, spans = Tracer(1), _Spans()
    for _ in range(otlp.MAX_BATCH + 1):
        _ended(tracer, PUBLISH, tracer.sample())
    sender = _sender(monkeypatch, _Metrics(OK), spans, tracer)
    sender.start()
    await wait_for_async(lambda: len(spans.batches) == 2, DEADLINE_S, "two batches")
    sender.finish([])
    assert sender.wait(DEADLINE_S)
    assert spans.batches == [otlp.MAX_BATCH, 1]
    assert sender.spans_sent == otlp.MAX_BATCH + 1


async def test_spans_that_cannot_be_sent_are_counted_and_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracer = Tracer(1)
    _ended(tracer, PUBLISH, tracer.sample())
    sender = _sender(monkeypatch, _Metrics(OK), _Spans(SpanExportResult.FAILURE), tracer)
    sender.start()
    await wait_for_async(lambda: sender.spans_failed, DEADLINE_S, "a failure")
    sender.finish([])
    assert sender.wait(DEADLINE_S)
    assert not tracer.spans
    assert sender.exports["traces", "failed"] == 1


async def test_a_context_from_elsewhere_that_is_broken_costs_its_own_span_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracer, spans = Tracer(1), _Spans()
    _ended(tracer, ROUTE, b"short")
    _ended(tracer, ROUTE, tracer.sample())
    sender = _sender(monkeypatch, _Metrics(OK), spans, tracer)
    sender.start()
    await wait_for_async(lambda: sender.spans_sent, DEADLINE_S, "a success")
    sender.finish([])
    assert sender.wait(DEADLINE_S)
    assert (sender.spans_sent, sender.spans_failed) == (1, 1)
    assert spans.batches == [1]


def test_an_event_loop_that_has_ended_does_not_hold_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = _Metrics(OK)

    async def begin() -> otlp.Sender:
        sender = _sender(monkeypatch, metrics, _Spans())
        sender.start()
        return sender

    sender = asyncio.run(begin())
    assert not sender.wait(0.2)
    sender.finish([])
    wait_for(lambda: sender.wait(0), DEADLINE_S, "the end of the thread")
