"""Log lines: fields, forged content, limits."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tidegate.runtime.telemetry import log as logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    ours = logging.getLogger("tidegate")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


def _fail() -> None:
    raise ValueError("boom")


def test_text_lines_carry_the_extra_fields() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logging.getLogger("tidegate.edge.x").info("hello", extra={"client_id": "a", "count": 3})
    line = stream.getvalue()
    assert line.endswith("INFO    edge.x: hello client_id=a count=3\n")
    assert line[23:24] == "Z"


def test_processes_that_write_to_one_place_are_told_apart() -> None:
    text, objects = io.StringIO(), io.StringIO()
    logs.configure("info", "text", text, "edge-1")
    logging.getLogger("tidegate.edge.x").info("hello", extra={"count": 3})
    assert text.getvalue().endswith("INFO    edge-1 edge.x: hello count=3\n")
    logs.configure("info", "json", objects, "edge-1")
    logging.getLogger("tidegate.edge.x").info("hello")
    assert json.loads(objects.getvalue())["process"] == "edge-1"


def test_what_a_peer_chose_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logging.getLogger("tidegate").info("x", extra={"client_id": 'a"\n\x1b[31m b=c', "empty": ""})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert 'empty=""' in stream.getvalue()


def test_json_lines_are_objects() -> None:
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    try:
        _fail()
    except ValueError:
        logging.getLogger("tidegate.a").exception("bad", extra={"n": 1, "o": object, "level": "x"})
    entry = json.loads(stream.getvalue())
    assert (entry["message"], entry["level"], entry["n"]) == ("bad", "error", 1)
    assert "boom" in entry["exception"]
    assert isinstance(entry["o"], str)


def test_a_traceback_follows_the_text_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    try:
        _fail()
    except ValueError:
        logging.getLogger("tidegate.a").exception("bad")
    assert "ValueError: boom" in stream.getvalue()


def test_long_values_are_cut() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logging.getLogger("tidegate").info("x", extra={"v": "a" * 5000})
    assert len(stream.getvalue()) < 1200


@pytest.mark.parametrize(("level", "theirs"), [("info", 0), ("debug", 1)])
def test_libraries_are_quiet_unless_debugging(level: str, theirs: int) -> None:
    stream = io.StringIO()
    logs.configure(level, "text", stream)  # type: ignore[arg-type] # the parameter is one of them
    logging.getLogger("asyncio").debug("theirs")
    logging.getLogger("tidegate").info("ours")
    assert stream.getvalue().count("theirs") == theirs
    assert stream.getvalue().count("ours") == 1


def test_peer_faults_are_limited_and_the_rest_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 0.0
    faults = logs.PeerFaultLog(logging.getLogger("tidegate.t"), per_s=2, clock=lambda: now_s)
    with caplog.at_level(logging.INFO, "tidegate.t"):
        assert [faults.may_write() for _ in range(4)] == [True, True, False, False]
        now_s = 0.5
        assert faults.may_write()
        faults.write("bad", {"n": 9})
    assert vars(caplog.records[-1])["suppressed"] == 2
    assert faults.suppressed == 0


def test_peer_faults_cost_nothing_when_info_is_off() -> None:
    logger = logging.getLogger("tidegate.quiet")
    logger.setLevel(logging.WARNING)
    assert not logs.PeerFaultLog(logger, 1).may_write()


def test_a_line_that_many_cause_has_its_fields_in_both_formats() -> None:
    text, objects = io.StringIO(), io.StringIO()
    for style, stream in (("text", text), ("json", objects)):
        logs.configure("info", style, stream)  # type: ignore[arg-type]  # the two there are
        logs.write_line(logging.getLogger("tidegate.edge.x"), "came", {"name_of": "a b", "n": True})
    assert text.getvalue().endswith('INFO    edge.x: came name_of="a b" n=True\n')
    entry = json.loads(objects.getvalue())
    assert (entry["level"], entry["message"]) == ("info", "came")
    assert (entry["name_of"], entry["n"]) == ("a b", True)
