"""Counters: closed sets, histograms, the accounting, and what Prometheus sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from tidegate.mqtt.enums import PacketType, ReasonCode
from tidegate.runtime.telemetry.counters import (
    CLOSE_REASONS,
    REFUSE_REASONS,
    Counters,
    Histogram,
    watch_event_loop_lag,
)
from tidegate.runtime.telemetry.metrics import (
    RENDERED,
    CallbackMetrics,
    Exporter,
    ProcessMetrics,
    merge,
)


def _samples(counters: Counters) -> dict[tuple[str, str], float]:
    text = Exporter(counters, {"loop": "asyncio"}).render().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("name", ["dropped", "refused", "closed", "auth_failures"])
def test_a_reason_outside_the_closed_set_is_our_bug(name: str) -> None:
    with pytest.raises(KeyError):
        getattr(Counters(), name)["because"] += 1


def test_every_failing_reason_code_can_be_a_reason() -> None:
    names = {code.name.lower() for code in ReasonCode if code >= 0x80}
    assert names <= set(REFUSE_REASONS)
    assert names <= set(CLOSE_REASONS)


def test_nothing_is_unaccounted_when_copies_are_delivered_queued_or_dropped() -> None:
    counters = Counters()
    counters.published += 6
    counters.delivered += 3
    counters.queued += 1
    counters.dropped["expired"] += 1
    assert counters.unaccounted() == 1
    counters.dropped["queue_full"] += 1
    assert counters.unaccounted() == 0


def test_a_histogram_counts_a_bound_as_its_own_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.cumulative() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.total == 12.0


def test_the_counters_are_exported_with_labels_from_closed_sets() -> None:
    counters = Counters()
    counters.messages_received[2] += 5
    counters.packets_sent[PacketType.PINGRESP] += 4
    counters.dropped["queue_full"] += 3
    counters.connection_closed("keep_alive")
    counters.store_latency.observe(0.002)
    counters.retained_count = 8
    samples = _samples(counters)
    assert samples["tidegate_messages_received_total", "2"] == 5
    assert samples["tidegate_packets_sent_total", "pingresp"] == 4
    assert samples["tidegate_messages_dropped_total", "queue_full"] == 3
    assert samples["tidegate_messages_dropped_total", "expired"] == 0
    assert samples["tidegate_connections_closed_total", "keep_alive"] == 1
    assert samples["tidegate_store_latency_seconds_bucket", "0.0025"] == 1
    assert samples["tidegate_store_latency_seconds_bucket", "0.001"] == 0
    assert samples["tidegate_store_latency_seconds_count", ""] == 1
    assert samples["tidegate_retained_messages", ""] == 8
    assert ("process_resident_memory_bytes", "") in samples


def test_the_process_is_described_as_by_the_client_library() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    theirs = {family.name: family for family in registry.collect()}
    ours = {family.name: family for family in ProcessMetrics().collect()}
    assert ours.keys() == theirs.keys()
    for name, family in ours.items():
        assert (family.type, family.documentation) == (
            theirs[name].type,
            theirs[name].documentation,
        )
        (sample,), (other,) = family.samples, theirs[name].samples
        assert sample.name == other.name
        assert sample.value == pytest.approx(other.value, rel=0.1, abs=2), name


def test_open_files_are_not_listed_to_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 connections that takes the event loop for 4 ms."""
    if not Path("/proc/self/fd").stat().st_size:
        pytest.skip("this kernel has no count of them")
    for owner, name in ((os, "listdir"), (os, "scandir"), (Path, "iterdir")):
        monkeypatch.delattr(owner, name)
    counted = Exporter(None).render().decode().partition("\nprocess_open_fds ")[2]
    assert float(counted.split()[0]) > 0


async def test_metrics_are_written_a_few_samples_at_a_time() -> None:
    exporter = Exporter(None)
    count = 3 * RENDERED
    exporter.add(CallbackMetrics([(f"m{number}", "One.", (), _one) for number in range(count)]))
    written = asyncio.create_task(exporter.render_in_turns())
    turns = 0
    while not written.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= count / RENDERED
    # All but what changes meanwhile.
    assert _of_broker(written.result()) == _of_broker(exporter.render())


def _one() -> list[tuple[list[str], float]]:
    return [([], 1.0)]


def _of_broker(text: bytes) -> list[str]:
    return [line for line in text.decode().splitlines() if "tidegate_" in line]


def test_every_family_has_a_help_text() -> None:
    text = Exporter(Counters()).render().decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name


def test_every_counter_is_exported() -> None:
    # A value that no other sample has, such as the number of open files or of collections.
    unlikely = 2**50 + 41
    counters = Counters()
    for name in Counters.__slots__:
        value = getattr(counters, name)
        if isinstance(value, int):
            setattr(counters, name, unlikely)
        elif isinstance(value, dict):
            value.update(dict.fromkeys(value, unlikely))
    exported = [value for value in _samples(counters).values() if value == unlikely]
    expected = sum(
        len(value) if isinstance(value, dict) else isinstance(value, int)
        for value in (getattr(counters, name) for name in Counters.__slots__)
    )
    assert len(exported) == expected


async def test_event_loop_lag_is_observed() -> None:
    counters = Counters()
    task = asyncio.create_task(watch_event_loop_lag(counters, 0.001))
    async with asyncio.timeout(5):
        while sum(counters.event_loop_lag.counts) < 3:
            await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert counters.event_loop_lag_s >= 0


def test_metrics_of_several_processes_are_told_apart() -> None:
    one, two = Counters(), Counters()
    one.published, two.published = 3, 4
    two.store_latency.observe(0.002)
    texts = {
        name: Exporter(counters, {"role": "edge"}).render().decode()
        for name, counters in (("edge-1", one), ("edge-2", two))
    }
    merged = merge(texts).decode()
    # Every family once, with every sample that the processes have.
    families = list(text_string_to_metric_families(merged))
    assert len(families) == len({family.name for family in families})
    apart = {
        name: {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        for name, text in texts.items()
    }
    together: dict[str, dict[tuple[object, ...], float]] = {name: {} for name in texts}
    for family in families:
        assert family.documentation
        for sample in family.samples:
            process = sample.labels.pop("process")
            together[process][sample.name, *sorted(sample.labels.items())] = sample.value
    assert together == apart
    assert together["edge-2"]["tidegate_messages_published_total",] == 4
    assert together["edge-2"]["tidegate_store_latency_seconds_count",] == 1


def test_metrics_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        merge({"edge-1": "tidegate_x so many\n"})
