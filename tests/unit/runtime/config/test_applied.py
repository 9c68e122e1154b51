"""What a process says of its configuration and of the files that it names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tidegate.runtime.config.applied import Applied, Reading, digest_of, sentence_of


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    return one, two


def _taken(paths: tuple[Path, ...]) -> Applied:
    applied = Applied()
    applied.took(Reading(paths).digests())
    return applied


def test_a_digest_is_the_beginning_of_a_sha256() -> None:
    assert digest_of(b"x") == hashlib.sha256(b"x").hexdigest()[:16]


def test_what_was_read_is_told_with_its_digest(pair: tuple[Path, Path]) -> None:
    applied = _taken(pair)
    applied.digest, applied.restart_needed = "abc", ["name"]
    assert applied.status() == {
        "digest": "abc",
        "problem": "",
        "restart_needed": ["name"],
        "files": {
            str(pair[0]): {"digest": digest_of(b"1"), "problem": ""},
            str(pair[1]): {"digest": digest_of(b"2"), "problem": ""},
        },
    }


def test_a_file_that_changes_while_it_is_read_is_not_told_of(pair: tuple[Path, Path]) -> None:
    reading = Reading(pair)
    pair[0].write_text("another")
    assert reading.digests() == {pair[1]: digest_of(b"2")}


def test_a_file_that_cannot_be_read_has_no_digest(pair: tuple[Path, Path]) -> None:
    pair[0].unlink()
    assert list(Reading(pair).digests()) == [pair[1]]


def test_of_a_pair_that_cannot_be_used_the_changed_file_has_the_problem(
    pair: tuple[Path, Path],
) -> None:
    applied = _taken(pair)
    pair[1].write_text("bad")
    applied.refused(pair, "they do not match")
    files = applied.status()["files"]
    assert files[str(pair[0])]["problem"] == ""
    assert files[str(pair[1])] == {"digest": digest_of(b"2"), "problem": "they do not match"}
    applied.took(Reading(pair).digests())
    assert applied.status()["files"][str(pair[1])] == {"digest": digest_of(b"bad"), "problem": ""}


def test_a_problem_without_a_change_is_that_of_all(pair: tuple[Path, Path]) -> None:
    applied = _taken(pair)
    applied.refused(pair, "no more memory")
    assert all(one["problem"] for one in applied.status()["files"].values())


def test_files_that_are_not_named_any_more_are_forgotten(pair: tuple[Path, Path]) -> None:
    applied = _taken(pair)
    applied.only([pair[1], Path("/never/read")])
    assert list(applied.status()["files"]) == [str(pair[1])]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(98, "listener a: in use"), "listener a: in use"),
        (FileNotFoundError(2, "No such file", "/x"), "/x: No such file"),
        (ValueError("two\n lines"), "two lines"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_one_line(error: Exception, sentence: str) -> None:
    assert sentence_of(error) == sentence


def test_the_gauges_say_how_many_problems_there_are(pair: tuple[Path, Path]) -> None:
    applied = _taken(pair)

    def gauges() -> dict[str, float]:
        return {family.name: family.samples[0].value for family in applied.readings().collect()}

    assert set(gauges().values()) == {0}
    applied.problem, applied.restart_needed = "a problem", ["a", "b"]
    applied.refused(pair, "bad")
    assert gauges() == {
        "tidegate_configuration_problem": 1,
        "tidegate_configuration_files_problem": 2,
        "tidegate_configuration_restart_needed": 2,
    }
