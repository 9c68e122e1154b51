"""What bench/run.py makes of mqload's figures: statistics, table, chart, raw results."""

from __future__ import annotations

import re
import threading
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import paging
from measure import chart, report
from measure.figures import Comparison, compare, order, paired, spread
from measure.load import parsed
from measure.paging import Caller, Play, Request
from measure.results import Results
from measure.scenarios import CPU, PER_DELIVERY, PER_S, SCENARIOS, Figure, chosen

ABOUT: dict[str, Any] = {
    "command": "python bench/run.py",
    "date": "2026-01-02T03:04:05+00:00",
    "checkouts": {
        "this": {"commit": "abc1234", "changed": True, "python": "3.11.7", "uvloop": "0.23.0"}
    },
    "versions": {"mosquitto": "2.0.11"},
    "machine": {"processor": "a <fast> one", "cores": 2, "kernel": "6.1", "load": [0.1, 0.1, 0.1]},
    "rounds": 2,
    "scale": 1.0,
    "missing": ["nats-server (not installed)"],
}


def results(**figures: list[float | None]) -> Results:
    """Make results of scenario A in two rounds; None failed."""
    made = Results(ABOUT, {name: name.title() for name in figures})
    for name, values in figures.items():
        for number, value in enumerate(values):
            failed = {"failed": "not all of it arrived", CPU: 9.0}
            made.add("A", name, number, failed if value is None else {CPU: value})
    return made


class TestScenarios:
    def test_an_option_of_encryption_chooses_the_listener(self) -> None:
        assert [SCENARIOS[name].listener for name in ("A", "I", "AT")] == ["tcp", "ws", "tls"]

    def test_a_scale_changes_work_but_not_rates_and_connections(self) -> None:
        words = SCENARIOS["E"].words(0.1)
        assert words == ["-n", "2000", "-r", "2000", "-P", "500", "-S", "500", "-x"]

    def test_connections_are_the_work_of_those_that_only_connect(self) -> None:
        assert SCENARIOS["G"].words(0.1)[:3] == ["-C", "-P", "500"]

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_a_small_scale_leaves_something_to_do_and_one_changes_nothing(self, name: str) -> None:
        scenario = SCENARIOS[name]
        assert scenario.words(1) == scenario.options.split()
        counts = [int(word) for word in scenario.words(1e-9) if word.isdigit()]
        assert sum(counts) >= 50

    def test_a_name_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no scenario 'X'"):
            chosen("A,X")


class TestFigures:
    def test_the_best_of_a_cost_is_the_least_and_of_a_rate_the_most(self) -> None:
        cost, rate = spread([2, 1, 3]), spread([2, 1, 3], higher_is_better=True)
        assert cost is not None
        assert rate is not None
        assert (cost.best, cost.worst) == (1, 3)
        assert (rate.best, rate.worst) == (3, 1)
        assert spread([]) is None

    def test_every_other_round_is_played_the_other_way_around(self) -> None:
        assert [order("abc", n) for n in range(3)] == [list("abc"), list("cba"), list("abc")]

    def test_only_rounds_that_both_have_finished_are_paired(self) -> None:
        assert paired([2.0, None, 3.0, 4.0], [1.0, 1.0, None, 8.0]) == [2.0, 0.5]

    def test_the_interval_is_that_of_the_sign_test(self) -> None:
        # Of 9 values, the 2nd to the 8th contain the median with 96.1 %, the 3rd to the 7th with
        # 82 %; of 5, the 1st to the 5th with 93.75 %.
        nine = compare([1.0 + n / 100 for n in range(9)])
        assert nine is not None
        assert (nine.median, nine.low, nine.high) == pytest.approx((1.04, 1.01, 1.07))
        assert nine.confidence == pytest.approx(0.9609, abs=1e-4)
        five = compare([1.0, 1.1, 1.2, 1.3, 1.4])
        assert five is not None
        assert (five.low, five.high, five.confidence) == (1.0, 1.4, 0.9375)

    @pytest.mark.parametrize(
        ("low", "high", "confidence", "verdict"),
        [
            (0.99, 1.03, 0.96, "shown"),
            (0.99, 1.04, 0.96, "open"),
            (1.031, 1.2, 0.96, "refuted"),
            (1.0, 1.0, 0.93, "too few rounds"),
        ],
    )
    def test_a_verdict_needs_the_whole_interval(
        self, low: float, high: float, confidence: float, verdict: str
    ) -> None:
        assert Comparison(1.0, low, high, confidence, 9).verdict(0.03) == verdict


class TestTable:
    def test_a_cell_has_best_worst_and_the_ratio_of_the_best_ones(self) -> None:
        table = report.table(results(one=[2.0, 3.0], mosquitto=[8.0, 10.0]))
        assert "| 2.00 … 3.00 (0.25 ×) | 8.00 … 10.0 |" in table

    def test_a_failed_round_does_not_count_and_is_named(self) -> None:
        found = results(one=[None, 3.0], mosquitto=[None, None])
        page = report.document(found, 0.03, "chart.svg")
        assert "| 3.00 | failed |" in page
        assert page.count("not all of it arrived") == 3

    def test_who_does_not_offer_a_scenario_has_a_dash(self) -> None:
        found = results(one=[1.0, 1.0], nats=[1.0, 1.0])
        found.add("D", "one", 0, {CPU: 5.0})
        assert "QoS 2, 10 pairs | µs of CPU per delivery | 5.00 | – |" in report.table(found)

    def test_the_page_says_what_it_belongs_to(self) -> None:
        page = report.document(results(one=[1.0, 1.0]), 0.03, "chart.svg")
        for part in ("abc1234 and changes", "mosquitto 2.0.11", "nats-server (not installed)"):
            assert part in page

    def test_two_checkouts_are_compared_by_paired_rounds(self) -> None:
        values: dict[str, list[float | None]] = {"one": [2.0, 3.0], "one-other": [1.0, 2.0]}
        found = results(**values)
        found.pairs = [("one", "one-other")]
        line = report.comparison(found, 0.03).splitlines()[-1]
        assert "| 1.750 | 1.500 … 2.000 (50%) | 2 | too few rounds |" in line

    def test_a_rate_is_compared_so_that_more_than_one_is_worse(self) -> None:
        found = Results(ABOUT, {"one": "One", "one-other": "Other"})
        for name, rate in (("one", 50.0), ("one-other", 100.0)):
            found.add("G", name, 0, {"cpu_us_per_conn": 1.0, "per_s": rate})
        found.pairs = [("one", "one-other")]
        assert f"| {PER_S.what} | one | 2.000 |" in report.comparison(found, 0.03)


class TestChart:
    def test_it_is_a_picture_with_a_bar_for_each_broker(self) -> None:
        drawn = chart.draw(results(one=[2.0, 4.0], mosquitto=[8.0, 8.0]))
        root = ElementTree.fromstring(drawn)
        texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"0.25", "1.00", "One", "Mosquitto"} <= set(texts)
        widths = [float(w) for w in re.findall(r"width='([\d.]+)' height='11' fill", drawn)]
        least, most = sorted(widths)[-2:]
        assert most > least > 11

    def test_without_the_peer_the_first_column_is_one(self) -> None:
        assert "relative to One (1)" in chart.draw(results(one=[2.0, 2.0], unix=[4.0, 4.0]))

    def test_nothing_to_draw_is_drawn(self) -> None:
        assert ElementTree.fromstring(chart.draw(results(one=[None, None]))).tag.endswith("svg")


class TestResults:
    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        found = results(one=[2.0, None], mosquitto=[8.0, 8.0])
        found.pairs = [("one", "mosquitto")]
        found.write(tmp_path / "raw.json")
        assert Results.read(tmp_path / "raw.json") == found

    def test_a_figure_is_in_the_unit_of_the_table(self) -> None:
        found = Results(ABOUT, {"one": "One"})
        found.add("E", "one", 0, {"p50_us": 1500})
        assert found.values("E", "one", Figure("p50_us", "p50, ms", factor=0.001)) == [1.5]

    def test_a_failed_round_has_no_figure(self) -> None:
        assert results(one=[None, 2.0]).by_round("A", "one", PER_DELIVERY) == [None, 2.0]

    def test_the_count_of_failed_connections_is_no_failure_of_the_play(self) -> None:
        result = parsed('{"connected":100,"failed":0,"per_s":3986}')
        assert "failed" not in result
        assert result["failed_connections"] == 0

    def test_what_is_no_result_says_so(self) -> None:
        assert "error" in parsed("Segmentation fault")


def test_paging_is_compared_by_the_middle_round_and_shows_all_of_them() -> None:
    def run(kind: str, p99_us: int) -> dict[str, Any]:
        figures = {"p50_us": 1000, "p99_us": p99_us, "max_us": 9000}
        return figures | {"kind": kind, "requests": 40, "seconds": 10.0, "cpu_s": {"edges": 2.0}}

    runs = [run(kind, p99_us) for p99_us in (3000, 9000, 2000) for kind in paging.KINDS]
    costs = {"/nodes": {"console": 1.24, "edges": 2.0, "routers": 0.0, "store": 0.1}}
    longest = {"/find-clients": {"longest_ms": 0.456, "cpu_ms": 1.26}}
    table = paging.table(runs, costs, longest).splitlines()
    assert table[2] == "| calm | 1.00 | 3.0 (3.0, 9.0, 2.0) | 9.0 | 4 | 0.20 |"
    assert [line.split()[1] for line in table[2:6]] == ["calm", "person", "store", "edges"]
    assert "| `/nodes` | 1.2 | 2.0 | 0.0 | 0.1 |" in table
    assert table[-1] == "| /find-clients | 0.46 | 1.3 |"


def test_kinds_of_paging_are_chosen_by_name() -> None:
    assert paging.kinds("calm,person") == ["calm", "person"]
    with pytest.raises(ArgumentTypeError, match="nobody: not one of calm, person, store, edges"):
        paging.kinds("calm,nobody")


@pytest.mark.parametrize(("rate", "asked"), [(0.0, 6), (0.001, 1)])
def test_a_person_waits_between_requests_and_a_program_does_not(
    monkeypatch: pytest.MonkeyPatch, rate: float, asked: int
) -> None:
    made: list[str] = []
    enough = threading.Event()

    def get(_self: Caller, path: str) -> dict[str, Any]:
        made.append(path)
        if len(made) == asked:
            enough.set()
        return {"next": "x"}

    monkeypatch.setattr(Caller, "get", get)
    play = Play((Request("/a?limit=1", 2), Request("/b")), rate)
    with Caller("http://localhost:1", "token").busy(play) as taken:
        assert enough.wait(60)
    assert made[:asked] == ["/a?limit=1", "/a?limit=1&after=x", "/b"][:asked] * (1 + (asked > 3))
    assert len(taken) <= len(made)
    assert rate == 0.0 or made == ["/a?limit=1"]


def test_nothing_is_asked_while_it_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Caller, "get")
    with Caller("http://localhost:1", "token").busy(paging.KINDS["calm"]) as taken:
        pass
    assert taken == []
