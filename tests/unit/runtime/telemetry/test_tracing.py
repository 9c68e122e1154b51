"""Traces on the event loop's side: contexts, sampling, spans, and that off means off."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from support.mqtt_bytes import Property, encode_property
from tidegate.mqtt.packets import Publish
from tidegate.runtime.config.model import TelemetryConfig
from tidegate.runtime.telemetry import tracing
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.export import start_export
from tidegate.runtime.telemetry.metrics import Exporter
from tidegate.runtime.telemetry.tracing import (
    MAX_CONTINUED_PER_S,
    MAX_PROPERTIES_READ,
    MAX_TEXT,
    MAX_WAITING_SPANS,
    PUBLISH,
    Tracer,
    decode,
    encode,
    from_properties,
    message_attributes,
)

TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(21, 29))
VALUE = f"00-{TRACE_ID.hex()}-{SPAN_ID.hex()}-01"


def _encoded(*items: Property) -> bytes:
    return b"".join(encode_property(name, value) for name, value in items)


def _traceparent(value: str) -> Property:
    return ("user", ("traceparent", value))


# The context


def test_a_context_is_25_bytes_and_comes_back_as_it_was() -> None:
    context = encode(TRACE_ID, SPAN_ID, 1)
    assert len(context) == 25
    assert decode(context) == (TRACE_ID, SPAN_ID, 1)


@pytest.mark.parametrize("size", [0, 24, 26])
def test_a_context_of_another_size_is_none(size: int) -> None:
    with pytest.raises(ValueError, match="25 bytes"):
        decode(bytes(size))


@pytest.mark.parametrize(("trace_id", "span_id"), [(b"x", SPAN_ID), (TRACE_ID, b"x")])
def test_identifiers_have_their_sizes(trace_id: bytes, span_id: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        encode(trace_id, span_id)


# traceparent


@pytest.mark.parametrize(
    "before",
    [
        [],
        [("payload_format", 1)],
        [("content_type", "text"), ("response_topic", "r"), ("correlation", b"\x26\x00\x0b")],
        [("user", ("a", "b")), ("user", ("", ""))],
        [("user", ("text", "&\x00\x0btraceparent"))],
    ],
    ids=["nothing", "format", "others", "user", "look-alike"],
)
def test_a_traceparent_is_found_behind_any_property(before: list[Property]) -> None:
    if any("\x00" in str(value) for _, value in before):
        # No MQTT string has U+0000, but binary data may look like anything.
        before = [("correlation", b"\x26\x00\x0btraceparent\x00\x37" + b"0" * 55)]
    properties = _encoded(*before, _traceparent(VALUE), ("user", ("c", "d")))
    assert from_properties(properties) == encode(TRACE_ID, SPAN_ID, 1)


def test_what_only_looks_like_a_traceparent_is_none() -> None:
    inside = b"\x26\x00\x0btraceparent\x00\x37" + VALUE.encode()
    assert from_properties(_encoded(("correlation", inside))) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        VALUE[:-1],
        VALUE.upper(),
        VALUE.replace("-", "_"),
        "ff" + VALUE[2:],
        VALUE + "-more",
        f"00-{'0' * 32}-{SPAN_ID.hex()}-01",
        f"00-{TRACE_ID.hex()}-{'0' * 16}-01",
        VALUE + "\n",
    ],
)
def test_a_traceparent_that_is_not_valid_is_ignored(value: str) -> None:
    assert from_properties(_encoded(_traceparent(value))) is None


@pytest.mark.parametrize("flags", ["00", "02"])
def test_a_traceparent_may_say_that_it_is_not_sampled(flags: str) -> None:
    context = from_properties(_encoded(_traceparent(VALUE[:-2] + flags)))
    assert context == encode(TRACE_ID, SPAN_ID, 0)


def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    context = from_properties(_encoded(_traceparent("01" + VALUE[2:] + "-more")))
    assert context == encode(TRACE_ID, SPAN_ID, 1)


def test_looking_for_a_traceparent_has_an_end() -> None:
    many: list[Property] = [("user", ("", ""))] * MAX_PROPERTIES_READ
    assert from_properties(_encoded(*many[1:], _traceparent(VALUE))) is not None
    assert from_properties(_encoded(*many, _traceparent(VALUE))) is None


# Sampling


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.01])
def test_the_ratio_is_the_share_of_publishes_that_are_traced(ratio: float) -> None:
    tracer = Tracer(ratio, seed=1)
    count = 20_000
    traced = sum(bool(tracer.sample()) for _ in range(count))
    deviation = (count * ratio * (1 - ratio)) ** 0.5
    assert abs(traced - count * ratio) <= 4 * deviation


def test_a_new_trace_has_a_random_identifier_and_no_parent() -> None:
    tracer = Tracer(1)
    contexts = [tracer.sample() for _ in range(10)]
    assert len({context[:16] for context in contexts}) == 10
    assert all(decode(context)[1:] == (bytes(8), 1) for context in contexts)
    assert tracer.start(PUBLISH, contexts[0]).is_root


def test_the_publishers_trace_goes_on_whatever_the_ratio() -> None:
    tracer = Tracer(1e-12, seed=1)
    context = tracer.sample(_encoded(_traceparent(VALUE)))
    assert context == encode(TRACE_ID, SPAN_ID, 1)
    assert not tracer.start(PUBLISH, context).is_root


def test_a_publisher_that_does_not_sample_is_not_traced() -> None:
    assert Tracer(1).sample(_encoded(_traceparent(VALUE[:-2] + "00"))) == b""


def test_publishers_cannot_have_everything_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    tracer = Tracer(1e-12, seed=1)
    properties = _encoded(_traceparent(VALUE))
    traced = sum(bool(tracer.sample(properties)) for _ in range(10 * MAX_CONTINUED_PER_S))
    assert traced == MAX_CONTINUED_PER_S
    now_s += 0.1
    traced = sum(bool(tracer.sample(properties)) for _ in range(MAX_CONTINUED_PER_S))
    assert traced in {MAX_CONTINUED_PER_S // 10 - 1, MAX_CONTINUED_PER_S // 10}


def test_beyond_that_the_ratio_decides_about_the_publishers_own_trace() -> None:
    tracer = Tracer(1)
    properties = _encoded(_traceparent(VALUE))
    contexts = {tracer.sample(properties) for _ in range(10 * MAX_CONTINUED_PER_S)}
    assert contexts == {encode(TRACE_ID, SPAN_ID, 1)}


# Spans


def test_a_span_that_has_ended_waits_for_the_exporter() -> None:
    tracer = Tracer(1)
    span = tracer.start(PUBLISH, tracer.sample())
    assert not tracer.spans
    span.end({"tidegate.qos": 1}, failed=True)
    assert tracer.spans.popleft() is span
    assert span.failed
    assert 0 < span.start_ns <= span.end_ns


def test_a_child_has_the_trace_of_its_parent_and_an_identifier_of_its_own() -> None:
    tracer = Tracer(1)
    parent = tracer.start(PUBLISH, tracer.sample())
    child = tracer.start(tracing.ROUTE, parent.context, 5)
    assert child.context[:16] == parent.context[:16]
    assert child.context[16:24] != parent.context[16:24]
    assert child.parent == parent.context
    assert child.start_ns == 5


def test_spans_that_nobody_takes_are_dropped_and_counted() -> None:
    tracer = Tracer(1)
    for _ in range(MAX_WAITING_SPANS + 3):
        tracer.start(PUBLISH, tracer.sample()).end({})
    assert len(tracer.spans) == MAX_WAITING_SPANS
    assert tracer.dropped == 3


def test_attributes_name_the_message_and_are_never_long() -> None:
    attributes = message_attributes(Publish("t" * 9999, b"secret", 2), "c" * 9999)
    assert attributes == {
        "messaging.destination.name": "t" * MAX_TEXT,
        "messaging.client.id": "c" * MAX_TEXT,
        "messaging.message.body.size": 6,
        "tidegate.qos": 2,
    }
    assert "messaging.client.id" not in message_attributes(Publish("t"), "")


# Off, and not installed


async def test_without_an_endpoint_there_is_no_tracer() -> None:
    telemetry = start_export(TelemetryConfig(), "serve", "", Exporter(Counters()))
    assert telemetry.tracer is None
    await telemetry.close()


@pytest.mark.parametrize("endpoint", ["collector:4317", "ftp://collector", "http://", ""])
def test_an_endpoint_must_be_a_url(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="otlp_endpoint"):
        TelemetryConfig(otlp_endpoint=endpoint)


def test_traces_without_a_receiver_are_a_mistake() -> None:
    with pytest.raises(ValidationError, match="trace_ratio needs otlp_endpoint"):
        TelemetryConfig(trace_ratio=0.1)


_OFF = """
import asyncio, importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from tidegate.runtime.config.model import TelemetryConfig
from tidegate.runtime.telemetry.metrics import Exporter
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.export import start_export

async def main():
    telemetry = start_export(TelemetryConfig(), "serve", "", Exporter(Counters()))
    await telemetry.close()

asyncio.run(main())
print([name for name in sys.modules if name.split(".")[0] in {"opentelemetry", "requests"}])
print("tidegate.runtime.telemetry.otlp" in sys.modules)
"""

_MISSING = """
import sys
sys.modules["opentelemetry"] = None
from tidegate.cli.main import main
main(["serve", "--config", sys.argv[1]])
"""


def _imported_when_off(*modules: str) -> tuple[list[str], bool]:
    done = subprocess.run(
        [sys.executable, "-c", _OFF, *modules],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names, ours = done.stdout.splitlines()
    return ast.literal_eval(names), ours == "True"


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    assert _imported_when_off(
        "tidegate.cli.main", "tidegate.edge.edge", "tidegate.router.router"
    ) == (
        [],
        False,
    )


def test_off_the_whole_broker_imports_nothing_that_could_send() -> None:
    # redis-py imports the SDK's metrics for a feature of its own wherever the SDK is installed.
    names, ours = _imported_when_off("tidegate.roles.serve")
    kinds = ("opentelemetry.exporter", "opentelemetry.proto", "opentelemetry.sdk.trace", "requests")
    assert not [name for name in names if name.startswith(kinds)]
    assert not ours


def test_a_missing_extra_is_named_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text(
        f"store: {{data_dir: {tmp_path / 'data'}}}\n"
        "listeners: [{protocol: tcp, address: 127.0.0.1, port: 0}]\n"
        "telemetry: {otlp_endpoint: 'http://127.0.0.1:9'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", _MISSING, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "tidegate: opentelemetry is not installed; in a checkout of Tidegate run: "
        "pip install '.[otlp]'"
    )
    assert "Traceback" not in done.stderr
