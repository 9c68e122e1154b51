"""OpenTelemetry, seen by a receiver of the test's own: metrics, traces, and a receiver that fails.

Input: raw clients against ``tidegate serve`` that sends to a receiver over HTTP or gRPC. Output:
what the receiver got, what /metrics says, and how the broker fares.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V311, Property
from support.otlp_receiver import (
    GrpcReceiver,
    HttpReceiver,
    Labels,
    OtlpReceiver,
    ReceivedMetrics,
    ReceivedSpan,
)
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for_async
from tidegate.runtime.telemetry.tracing import MAX_TRACED_COPIES

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

NEVER: list[Property] = [("session_expiry", 3600)]
#: Counted at any moment, not only when clients do something.
RESTLESS = re.compile(r"tidegate_(store|event_loop|telemetry|clock)_|process_|python_")
SERVER, CLIENT, PRODUCER, INTERNAL = 2, 3, 4, 1


@pytest.fixture(params=[HttpReceiver, GrpcReceiver], ids=["http", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[OtlpReceiver]:
    """Yield a receiver that listens."""
    with request.param() as made:
        yield made


@pytest.fixture
def http_receiver() -> Iterator[HttpReceiver]:
    """Yield a receiver over HTTP."""
    with HttpReceiver() as made:
        yield made


def _text(broker: Tidegate) -> str:
    address = broker.address("admin")
    with urllib.request.urlopen(f"http://{address.host}:{address.port}/metrics", timeout=10) as got:
        return str(got.read().decode())


def _scraped(broker: Tidegate) -> dict[tuple[str, Labels], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(_text(broker))
        for sample in family.samples
        if not RESTLESS.match(sample.name) and not sample.name.endswith("_created")
    }


def _sent(metrics: ReceivedMetrics) -> dict[tuple[str, Labels], float]:
    return {
        key: value
        for key, value in (metrics.sums | metrics.gauges).items()
        if not RESTLESS.match(key[0])
    }


async def _open(broker: Tidegate, version: int = V5) -> RawClient:
    address = broker.address("tcp")
    return await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)


async def _client(broker: Tidegate, client_id: str, version: int = V5) -> RawClient:
    client = await _open(broker, version)
    await client.connect(client_id)
    return client


async def _durable(broker: Tidegate, client_id: str, *filters: tuple[str, int]) -> RawClient:
    client = await _open(broker)
    await client.connect(client_id, clean=False, props=NEVER)
    await client.subscribe(*filters)
    return client


async def _publish(client: RawClient, topic: str, qos: int = 1, **more: Any) -> None:
    packet_id = 7 if qos else 0
    await client.send(mqtt_bytes.publish(topic, b"secret", qos=qos, packet_id=packet_id, **more))
    if qos:
        await client.expect("PUBACK" if qos == 1 else "PUBREC")


async def _spans(
    receiver: OtlpReceiver, *names: str, deadline_s: float = DEADLINE_S
) -> dict[str, list[ReceivedSpan]]:
    """Wait for one trace that has spans of all these names."""

    def complete() -> dict[str, list[ReceivedSpan]] | None:
        for spans in receiver.traces().values():
            if set(names) <= set(spans):
                return spans
        return None

    found = await wait_for_async(complete, deadline_s, f"a trace with {names}")
    assert found is not None
    return found


# Metrics


async def test_metrics_by_otlp_are_those_of_the_metrics_page(
    receiver: OtlpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=receiver.settings(otlp_interval_s=0.2))
    subscriber = await _client(broker, "subscriber")
    await subscriber.subscribe(("t/#", 1))
    publisher = await _client(broker, "publisher")
    await _publish(publisher, "t/1")
    await subscriber.expect("PUBLISH")

    def agree() -> bool:
        return bool(receiver.metrics) and _sent(receiver.metrics[-1]) == _scraped(broker)

    await wait_for_async(agree, DEADLINE_S, "the same values by both ways")
    last = receiver.metrics[-1]
    assert last.sums["tidegate_messages_received_total", (("qos", "1"),)] == 1
    assert last.start_ns < last.time_ns


async def test_a_histogram_has_the_buckets_of_the_metrics_page(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(otlp_interval_s=0.2))
    name = "tidegate_store_latency_seconds"
    await wait_for_async(
        lambda: http_receiver.metrics and http_receiver.metrics[-1].histograms[name, ()].count,
        DEADLINE_S,
        "metrics with a call of the store",
    )
    histogram = http_receiver.metrics[-1].histograms[name, ()]
    scraped = [
        float(bound)
        for bound in re.findall(rf'^{name}_bucket{{le="([0-9.]+)"}}', _text(broker), re.MULTILINE)
    ]
    assert histogram.bounds == tuple(scraped)
    assert len(histogram.counts) == len(scraped) + 1
    assert sum(histogram.counts) == histogram.count > 0
    assert 0 < histogram.total / histogram.count < DEADLINE_S
    total_ms = histogram.total * 1000
    assert abs(total_ms - round(total_ms)) > 1e-6, "measured in whole milliseconds"
    assert http_receiver.metrics[-1].units[name] == "s"


async def test_metrics_say_who_sends_them(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    start_broker(
        telemetry=http_receiver.settings(otlp_interval_s=0.2, service_name="tides"), name="one"
    )
    await wait_for_async(lambda: http_receiver.metrics, DEADLINE_S, "metrics")
    resource = http_receiver.metrics[-1].resource
    assert resource["service.name"] == "tides"
    assert resource["service.instance.id"] == "one"
    assert resource["tidegate.role"] == "serve"
    assert re.match(r"\d+\.\d+", resource["service.version"])


async def test_a_broker_that_stops_sends_its_last_metrics(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(otlp_interval_s=3600))
    await _client(broker, "somebody")
    broker.stop()
    last = http_receiver.metrics[-1]
    assert last.sums["tidegate_connections_opened_total", ()] == 1
    assert last.gauges["tidegate_connections_open", ()] == 0


# Traces


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_publish_to_a_durable_session_is_one_trace_through_every_hop(
    receiver: OtlpReceiver, start_broker: StartBroker, qos: int
) -> None:
    broker = start_broker(telemetry=receiver.settings(trace_ratio=1))
    subscriber = await _durable(broker, "subscriber", ("t/#", 2))
    publisher = await _client(broker, "publisher")
    await _publish(publisher, "t/1", qos)
    await subscriber.expect("PUBLISH")

    spans = await _spans(receiver, "publish", "route", "append", "deliver")
    assert len(receiver.traces()) == 1
    chain = [spans[name] for name in ("publish", "route", "append")]
    assert [len(each) for each in chain] == [1, 1, 1]
    publish, route, append = (each[0] for each in chain)
    # The fan-out to connected clients found nobody who is not durable, and is a span too.
    deliver = next(span for span in spans["deliver"] if span.parent_id == append.span_id)
    assert publish.parent_id == ""
    assert route.parent_id == publish.span_id
    assert append.parent_id == route.span_id
    assert publish.start_ns <= route.start_ns <= append.start_ns <= deliver.start_ns
    assert append.end_ns <= deliver.start_ns
    assert append.end_ns <= publish.end_ns  # G1: stored before it is acknowledged
    assert [span.kind for span in (publish, route, append, deliver)] == [
        SERVER,
        INTERNAL,
        CLIENT,
        PRODUCER,
    ]
    assert not any(span.parent_is_remote for span in (publish, route, append, deliver))


async def test_spans_say_which_message_and_client_but_never_what_it_says(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(trace_ratio=1))
    subscriber = await _durable(broker, "subscriber", ("t/#", 1))
    publisher = await _client(broker, "publisher")
    await _publish(publisher, "t/1")
    await subscriber.expect("PUBLISH")
    spans = await _spans(http_receiver, "publish", "append", "deliver")
    publish = spans["publish"][0].attributes
    assert publish["messaging.system"] == "mqtt"
    assert publish["messaging.operation.name"] == "publish"
    assert publish["messaging.destination.name"] == "t/1"
    assert publish["messaging.client.id"] == "publisher"
    assert publish["messaging.message.body.size"] == len(b"secret")
    assert publish["tidegate.qos"] == 1
    assert publish["tidegate.role"] == "serve"
    assert spans["append"][0].attributes["messaging.client.id"] == "subscriber"
    deliver = next(
        span.attributes for span in spans["deliver"] if span.parent_id == spans["append"][0].span_id
    )
    assert deliver["messaging.client.id"] == "subscriber"
    assert deliver["tidegate.sent"] == 1
    assert "secret" not in repr(http_receiver.spans)
    assert http_receiver.spans[0].resource["tidegate.role"] == "serve"


async def test_a_publish_to_connected_clients_only_is_traced_without_the_store(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(trace_ratio=1))
    subscribers = [await _client(broker, f"subscriber-{number}", V311) for number in range(3)]
    for subscriber in subscribers:
        await subscriber.subscribe(("t/#", 0))
    publisher = await _client(broker, "publisher", V311)
    await _publish(publisher, "t/1", qos=0)
    spans = await _spans(http_receiver, "publish", "route", "deliver")
    assert set(spans) == {"publish", "route", "deliver"}
    (deliver,) = spans["deliver"]
    assert deliver.parent_id == spans["route"][0].span_id
    assert deliver.attributes["tidegate.sent"] == 3


async def test_a_shared_subscription_and_a_retained_message_are_part_of_the_trace(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(trace_ratio=1))
    member = await _client(broker, "member")
    await member.subscribe(("$share/g/t/#", 1))
    publisher = await _client(broker, "publisher")
    await _publish(publisher, "t/1", retain=True)
    spans = await _spans(http_receiver, "publish", "route", "retain", "deliver")
    route = spans["route"][0]
    assert spans["retain"][0].parent_id == route.span_id
    assert spans["deliver"][0].parent_id == route.span_id
    assert spans["deliver"][0].attributes["messaging.client.id"] == "member"
    assert spans["retain"][0].end_ns <= spans["publish"][0].end_ns


async def test_of_many_durable_sessions_a_few_are_followed(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(trace_ratio=1))
    count = MAX_TRACED_COPIES + 3
    subscribers = [await _durable(broker, f"s-{each}", ("t/#", 1)) for each in range(count)]
    publisher = await _client(broker, "publisher")
    await _publish(publisher, "t/1")
    for subscriber in subscribers:
        await subscriber.expect("PUBLISH")
    broker.stop()
    (spans,) = http_receiver.traces().values()
    (append,) = spans["append"]
    assert append.attributes["tidegate.sessions"] == count
    assert "messaging.client.id" not in append.attributes
    followed = [span for span in spans["deliver"] if span.parent_id == append.span_id]
    assert len(followed) == MAX_TRACED_COPIES


@pytest.mark.parametrize("sampled", [True, False])
async def test_the_publishers_own_trace_goes_on_if_it_is_sampled(
    http_receiver: HttpReceiver, start_broker: StartBroker, sampled: bool
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(trace_ratio=1e-9 if sampled else 1))
    subscriber = await _client(broker, "subscriber")
    await subscriber.subscribe(("t/#", 1))
    publisher = await _client(broker, "publisher")
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    value = f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"
    props: list[Property] = [("content_type", "text"), ("user", ("traceparent", value))]
    await _publish(publisher, "t/1", props=props)
    got = await subscriber.expect("PUBLISH")
    assert ("traceparent", value) in got.all("user")  # unaltered [MQTT-3.3.2-17]
    if sampled:
        spans = await _spans(http_receiver, "publish", "route", "deliver")
        (publish,) = spans["publish"]
        assert publish.trace_id == trace_id
        assert publish.parent_id == span_id
        assert publish.parent_is_remote
    else:
        await _publish(publisher, "t/1")  # at this ratio every other publish is traced
        await _spans(http_receiver, "publish", "route", "deliver")
        assert set(http_receiver.traces()) != {trace_id}
        assert trace_id not in http_receiver.traces()


async def test_with_a_ratio_of_zero_only_metrics_are_sent(
    http_receiver: HttpReceiver, start_broker: StartBroker
) -> None:
    broker = start_broker(telemetry=http_receiver.settings(otlp_interval_s=0.2))
    publisher = await _client(broker, "publisher")
    value = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    await _publish(publisher, "t/1", props=[("user", ("traceparent", value))])
    broker.stop()
    assert http_receiver.metrics[-1].sums["tidegate_messages_received_total", (("qos", "1"),)] == 1
    assert not http_receiver.spans


# Receivers that fail


async def _assert_serves(broker: Tidegate, count: int = 50) -> None:
    subscriber = await _durable(broker, "served", ("s/#", 1))
    publisher = await _client(broker, "serving")
    for _ in range(count):
        await _publish(publisher, "s/1")
        packet = await subscriber.expect("PUBLISH")
        await subscriber.send(mqtt_bytes.acknowledge("PUBACK", packet.packet_id))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_receiver_that_is_away_costs_a_counter_and_one_line(
    start_broker: StartBroker, protocol: str
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        broker = start_broker(
            telemetry={
                "otlp_endpoint": f"http://127.0.0.1:{nobody.getsockname()[1]}",
                "otlp_protocol": protocol,
                "otlp_interval_s": 0.2,
                "trace_ratio": 1,
            }
        )
        await _assert_serves(broker)

        def failures() -> float:
            found = re.findall(
                r'^tidegate_telemetry_exports_total{result="failed",signal="\w+"} (\S+)$',
                _text(broker),
                re.MULTILINE,
            )
            return sum(map(float, found))

        await wait_for_async(lambda: failures() >= 2, 20, "failed exports are counted")
        await _assert_serves(broker)
        began_s = time.monotonic()
        assert broker.stop() == 0
        assert time.monotonic() - began_s < 8
    lines = [line for line in broker.stderr().splitlines() if "OTLP export failed" in line]
    assert len(lines) == 1
    assert "Traceback" not in broker.stderr()


async def test_a_receiver_that_hangs_delays_neither_clients_nor_the_end(
    start_broker: StartBroker,
) -> None:
    with HttpReceiver(status=0) as receiver:
        broker = start_broker(telemetry=receiver.settings(otlp_interval_s=0.2, trace_ratio=1))
        await wait_for_async(lambda: receiver.requests, DEADLINE_S, "a request that hangs")
        await _assert_serves(broker)
        began_s = time.monotonic()
        assert broker.stop() == 0
        assert time.monotonic() - began_s < 8


async def test_a_receiver_that_comes_back_gets_metrics_again(start_broker: StartBroker) -> None:
    with HttpReceiver(status=400) as receiver:
        broker = start_broker(telemetry=receiver.settings(otlp_interval_s=0.2))
        await wait_for_async(lambda: receiver.requests, DEADLINE_S, "a request that is refused")
        receiver.status = 200
        await wait_for_async(lambda: receiver.metrics, DEADLINE_S, "metrics")

        def counted() -> bool:
            sums = receiver.metrics[-1].sums
            failed = sums[
                "tidegate_telemetry_exports_total", (("result", "failed"), ("signal", "metrics"))
            ]
            return failed >= 1

        await wait_for_async(counted, DEADLINE_S, "the failure in the metrics")
        await wait_for_async(
            lambda: "OTLP receiver reachable again" in broker.stderr(), DEADLINE_S, "a line"
        )
