"""How long a server that fails is left alone, and what is counted."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.client.circuit import (
    FIRST_PAUSE_S,
    FIRST_PROBE_S,
    LONGEST_PAUSE_S,
    Circuit,
    Outages,
)


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    circuit = Circuit("s", Counters())
    longest = []
    for failures in range(1, 40):
        circuit.failures = failures
        pauses = [circuit.pause_s() for _ in range(50)]
        longest.append(max(pauses))
        expected = min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)
        assert expected / 2 <= min(pauses) < max(pauses) <= expected
    assert longest[0] < longest[3] < longest[5] <= LONGEST_PAUSE_S


def test_probes_get_more_time_up_to_that_of_a_call() -> None:
    circuit = Circuit("s", Counters())
    times = []
    for failures in range(40):
        circuit.failures = failures
        times.append(circuit.probe_s(10))
    assert times[:2] == [FIRST_PROBE_S, FIRST_PROBE_S]
    assert all(before <= after for before, after in pairwise(times))
    assert times[-1] == 10
    assert circuit.probe_s(0.3) == 0.3


def test_openings_are_counted_once_each() -> None:
    counters = Counters()
    circuit = Circuit("s", counters)
    circuit.close()
    circuit.open("first")
    circuit.open("second")
    assert (counters.store_circuit_open, counters.store_circuit_openings) == (1, 1)
    assert str(circuit.reason) == "second"
    circuit.close()
    circuit.close()
    assert counters.store_circuit_open == 0
    assert circuit.reason is None
    circuit.open("third")
    assert (counters.store_circuit_open, counters.store_circuit_openings) == (1, 2)


def test_a_circuit_that_is_retired_counts_no_more() -> None:
    counters = Counters()
    circuit = Circuit("s", counters)
    circuit.open("gone")
    circuit.retire()
    circuit.retire()
    assert counters.store_circuit_open == 0


def test_closing_remembers_failures_until_a_round_succeeds() -> None:
    circuit = Circuit("s", Counters())
    circuit.failures = 5
    circuit.open("drops every call")
    circuit.close()
    assert circuit.failures == 5


def test_the_end_of_an_outage_says_how_long_it_was_and_what_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    outages = Outages(lambda: now_s)
    first, second = (Circuit("s", Counters(), outages) for _ in range(2))
    caplog.set_level(logging.INFO, "tidegate.store")
    first.open("gone")
    now_s = 102.0
    second.open("gone")
    first.failed_at_once, second.failed_at_once = 5, 7
    first.close()
    assert [record.getMessage() for record in caplog.records] == ["store unavailable, retrying"]
    now_s = 103.25
    second.close()
    (line,) = caplog.records[1:]
    assert line.getMessage() == "store available again"
    assert (vars(line)["outage_s"], vars(line)["operations_failed"]) == (3.2, 12)
    first.open("gone again")
    first.close()
    assert vars(caplog.records[-1])["operations_failed"] == 0
    assert vars(caplog.records[-1])["outage_s"] == 0
