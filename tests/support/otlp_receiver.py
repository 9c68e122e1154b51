"""OTLP receivers for tests: over HTTP and over gRPC, on loopback, keeping what they are sent.

What arrives is decoded with opentelemetry-proto's messages, so a test sees what any collector
would. Requests are taken in threads; ``metrics`` and ``spans`` may be read at any time.
"""

from __future__ import annotations

import gzip
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True, frozen=True)
class ReceivedSpan:
    """A span as it arrived; identifiers in hexadecimal, "" for no parent."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    flags: int
    status: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def parent_is_remote(self) -> bool:
        """What the flags say of the parent."""
        return bool(self.flags & 0x200)


@dataclass(slots=True, frozen=True)
class ReceivedHistogram:
    """One series of a histogram."""

    counts: tuple[int, ...]
    bounds: tuple[float, ...]
    total: float
    count: int


@dataclass(slots=True, frozen=True)
class ReceivedMetrics:
    """One request: series by name and labels."""

    resource: dict[str, Any]
    #: Monotonic sums, cumulative.
    sums: dict[tuple[str, Labels], float]
    gauges: dict[tuple[str, Labels], float]
    histograms: dict[tuple[str, Labels], ReceivedHistogram]
    units: dict[str, str]
    #: When the sums began, and when they were read, Unix nanoseconds.
    start_ns: int
    time_ns: int


class OtlpReceiver(ABC):
    """Use as a context manager; ``endpoint`` is what the configuration takes."""

    protocol = ""

    def __init__(self) -> None:
        self.endpoint = ""
        self.metrics: list[ReceivedMetrics] = []
        self.spans: list[ReceivedSpan] = []

    @abstractmethod
    def start(self) -> None:
        """Listen on a port that the system chooses."""

    @abstractmethod
    def stop(self) -> None:
        """Stop listening."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the section ``telemetry`` of a configuration that sends here."""
        return {"otlp_endpoint": self.endpoint, "otlp_protocol": self.protocol, **more}

    def traces(self) -> dict[str, dict[str, list[ReceivedSpan]]]:
        """Return the spans by trace and by name, in the order of their beginnings."""
        found: dict[str, dict[str, list[ReceivedSpan]]] = {}
        for span in sorted(self.spans, key=lambda each: each.start_ns):
            found.setdefault(span.trace_id, {}).setdefault(span.name, []).append(span)
        return found

    def take_metrics(self, request: metrics_pb2.ExportMetricsServiceRequest) -> None:
        """Keep a request with metrics."""
        for resource in request.resource_metrics:
            self.metrics.append(_metrics_of(resource))

    def take_spans(self, request: trace_pb2.ExportTraceServiceRequest) -> None:
        """Keep a request with spans."""
        for resource in request.resource_spans:
            attributes = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_span_of(span, attributes) for span in scope.spans]


class HttpReceiver(OtlpReceiver):
    """OTLP over HTTP. ``status`` is what it answers; 0: it takes the request and never answers."""

    protocol = "http"

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.status = status
        self.requests = 0
        self._released = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen (see OtlpReceiver)."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(self.path, body, self.headers.get("Content-Encoding", ""))
                if not receiver.status:
                    receiver.wait_for_release()
                    self.close_connection = True
                    return
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop (see OtlpReceiver)."""
        self._released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait_for_release(self) -> None:
        """Hold a request until the receiver is stopped."""
        self._released.wait(60)

    def take(self, path: str, body: bytes, encoding: str) -> None:
        """Keep a request by its path."""
        self.requests += 1
        if self.status != 200:
            return
        if encoding == "gzip":
            body = gzip.decompress(body)
        if path == "/v1/metrics":
            self.take_metrics(metrics_pb2.ExportMetricsServiceRequest.FromString(body))
        elif path == "/v1/traces":
            self.take_spans(trace_pb2.ExportTraceServiceRequest.FromString(body))
        else:
            raise AssertionError(f"nothing of OTLP is at {path}")


class GrpcReceiver(OtlpReceiver):
    """OTLP over gRPC."""

    protocol = "grpc"

    def __init__(self) -> None:
        super().__init__()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listen (see OtlpReceiver)."""
        receiver = self

        class Metrics(metrics_grpc.MetricsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - OTLP's name
                receiver.take_metrics(request)
                return metrics_pb2.ExportMetricsServiceResponse()

        class Traces(trace_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - OTLP's name
                receiver.take_spans(request)
                return trace_pb2.ExportTraceServiceResponse()

        self._server = grpc.server(ThreadPoolExecutor(2))
        metrics_grpc.add_MetricsServiceServicer_to_server(  # type: ignore[no-untyped-call] # generated
            Metrics(), self._server
        )
        trace_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call] # generated
            Traces(), self._server
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        """Stop (see OtlpReceiver)."""
        if self._server is not None:
            self._server.stop(0).wait(10)
            self._server = None


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _labels(point: Any) -> Labels:
    return tuple(sorted(_attributes(point.attributes).items()))


def _value(point: Any) -> float:
    return float(getattr(point, point.WhichOneof("value")))


def _metrics_of(resource: Any) -> ReceivedMetrics:
    sums: dict[tuple[str, Labels], float] = {}
    gauges: dict[tuple[str, Labels], float] = {}
    histograms: dict[tuple[str, Labels], ReceivedHistogram] = {}
    units: dict[str, str] = {}
    start_ns = time_ns = 0
    for metric in (each for scope in resource.scope_metrics for each in scope.metrics):
        units[metric.name] = metric.unit
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        assert kind == "gauge" or data.aggregation_temporality == 2, (
            f"{metric.name}: not cumulative"
        )
        for point in data.data_points:
            key = (metric.name, _labels(point))
            time_ns = point.time_unix_nano
            if kind == "sum":
                assert data.is_monotonic
                sums[key] = _value(point)
                start_ns = point.start_time_unix_nano
            elif kind == "gauge":
                gauges[key] = _value(point)
            else:
                histograms[key] = ReceivedHistogram(
                    tuple(point.bucket_counts), tuple(point.explicit_bounds), point.sum, point.count
                )
    return ReceivedMetrics(
        _attributes(resource.resource.attributes),
        sums,
        gauges,
        histograms,
        units,
        start_ns,
        time_ns,
    )


def _span_of(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.flags,
        span.status.code,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        resource,
    )
