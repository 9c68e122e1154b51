"""From our families and spans to OTLP, and the thread that sends them, with exporters of ours."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client.core import HistogramMetricFamily

from support.otlp_receiver import HttpReceiver
from tidegate.runtime.config.model import TelemetryConfig
from tidegate.runtime.telemetry import otlp
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.metrics import Exporter
from tidegate.runtime.telemetry.tracing import APPEND, DELIVER, PUBLISH, ROUTE, Span, Tracer

DEADLINE_S = 10
#: LOG_INTERVAL_S is no multiple of it.
INTERVAL_S = 7.0
#: Nothing is sent there in these tests.
CONFIG = TelemetryConfig(otlp_endpoint="http://127.0.0.1:9", otlp_interval_s=INTERVAL_S)


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
        self.time: _Time | None = None
        #: When it was asked, by ``time``.
        self.requests_s: list[float] = []
        self.ended = 0

    def export(self, data: MetricsData) -> MetricExportResult:
        """Answer, or raise."""
        self.requests_s.append(self.time.now_s if self.time is not None else 0.0)
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


class _Time:
    """The time of the sender's thread: its pauses pass at once. It is told to finish at the end."""

    def __init__(self, end_s: float) -> None:
        self.now_s = 0.0
        self.end_s = end_s
        self.sender: otlp.Sender | None = None

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, pause_s: float) -> None:
        """Let time pass, as threading.Event does for who waits for it."""
        self.now_s += pause_s
        if self.now_s >= self.end_s:
            assert self.sender is not None
            self.sender.finish([])

    def set(self) -> None:
        """See threading.Event."""


class _Thread:
    """Runs its target at once, in the thread that starts it."""

    def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
        assert (name, daemon) == ("telemetry", True)
        self.start = target


def _send(
    monkeypatch: pytest.MonkeyPatch,
    metrics: _Metrics,
    spans: _Spans,
    tracer: Tracer | None = None,
    *,
    end_s: float = 1.0,
) -> otlp.Sender:
    """Let a sender run from its start to its end, ``end_s`` later."""
    time_of_thread = metrics.time = _Time(end_s)
    threads = SimpleNamespace(Event=lambda: time_of_thread, Thread=_Thread)
    clock = SimpleNamespace(monotonic=time_of_thread.monotonic, time_ns=time.time_ns)
    loop: Any = SimpleNamespace(call_soon_threadsafe=lambda call: call())
    with monkeypatch.context() as patch:
        patch.setattr(otlp, "exporters_for", lambda config: (metrics, spans))
        patch.setattr(otlp, "threading", threads)
        patch.setattr(otlp, "time", clock)
        families = Exporter(Counters()).families
        sender = otlp.Sender(CONFIG, "serve", "", tracer, loop, families)
        time_of_thread.sender = sender
        sender.start()
    return sender


OK = MetricExportResult.SUCCESS
FAILED = MetricExportResult.FAILURE


def test_metrics_are_sent_at_intervals_and_once_more_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = _Metrics(OK)
    sender = _send(monkeypatch, metrics, _Spans(), end_s=100)
    first_s, *others_s, last_s = metrics.requests_s
    assert INTERVAL_S / 2 <= first_s <= INTERVAL_S
    expected_s = [first_s + n * INTERVAL_S for n in range(1, len(others_s) + 1)]
    assert others_s == pytest.approx(expected_s)
    assert 100 - INTERVAL_S <= others_s[-1] < 100 <= last_s
    assert sender.exports["metrics", "ok"] == len(metrics.requests_s)
    assert metrics.ended == 1


def test_failures_are_counted_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    metrics = _Metrics(FAILED, OSError("broken"), FAILED, OK)
    sender = _send(monkeypatch, metrics, _Spans(), end_s=5 * INTERVAL_S)
    assert sender.exports["metrics", "failed"] == 3
    ours = [record for record in caplog.records if record.name == otlp.__name__]
    assert [record.levelname for record in ours] == ["WARNING", "INFO"]
    assert vars(ours[0])["reason"] == "it is away"


def test_lasting_failures_are_told_of_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = _Metrics(FAILED)
    _send(monkeypatch, metrics, _Spans(), end_s=2.5 * otlp.LOG_INTERVAL_S)
    ours = [vars(record) for record in caplog.records if record.name == otlp.__name__]
    requests = ceil(otlp.LOG_INTERVAL_S / INTERVAL_S)
    assert [record["failed"] for record in ours] == [1, 1 + requests, 1 + 2 * requests]


def test_spans_go_out_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    tracer, spans = Tracer(1), _Spans()
    for _ in range(otlp.MAX_BATCH + 1):
        _ended(tracer, PUBLISH, tracer.sample())
    sender = _send(monkeypatch, _Metrics(OK), spans, tracer)
    assert spans.batches == [otlp.MAX_BATCH, 1]
    assert sender.spans_sent == otlp.MAX_BATCH + 1


def test_spans_wait_for_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, tracer = _Metrics(OK), Tracer(1)
    spans = _Spans()
    sent_s = []

    def export(_spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert metrics.time is not None
        sent_s.append(metrics.time.now_s)
        if len(sent_s) < 5:
            _ended(tracer, PUBLISH, tracer.sample())
        return SpanExportResult.SUCCESS

    monkeypatch.setattr(spans, "export", export)
    _ended(tracer, PUBLISH, tracer.sample())
    _send(monkeypatch, metrics, spans, tracer, end_s=100)
    assert sent_s[0] == otlp.SPANS_INTERVAL_S
    assert len(sent_s) == 5
    for before, after in pairwise(sent_s):
        assert after - before <= otlp.SPANS_INTERVAL_S + 0.001


def test_spans_that_cannot_be_sent_are_counted_and_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracer = Tracer(1)
    _ended(tracer, PUBLISH, tracer.sample())
    sender = _send(monkeypatch, _Metrics(OK), _Spans(SpanExportResult.FAILURE), tracer)
    assert sender.spans_failed == 1
    assert not tracer.spans
    assert sender.exports["traces", "failed"] == 1


def test_a_context_from_elsewhere_that_is_broken_costs_its_own_span_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracer, spans = Tracer(1), _Spans()
    _ended(tracer, ROUTE, b"short")
    _ended(tracer, ROUTE, tracer.sample())
    sender = _send(monkeypatch, _Metrics(OK), spans, tracer)
    assert (sender.spans_sent, sender.spans_failed) == (1, 1)
    assert spans.batches == [1]


def test_an_event_loop_that_has_ended_does_not_hold_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = _Metrics(OK)

    loop = asyncio.new_event_loop()
    loop.close()
    monkeypatch.setattr(otlp, "exporters_for", lambda config: (metrics, _Spans()))
    sender = otlp.Sender(CONFIG, "serve", "", None, loop, Exporter(Counters()).families)
    sender.start()
    assert not sender.wait(0)
    sender.finish([])
    assert sender.wait(DEADLINE_S)
