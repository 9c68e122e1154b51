"""What a process says of its configuration and of the files that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.runtime.config.file_version import FileDigests, digest_of
from tidegate.runtime.reload.config_status import ConfigStatus


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    return one, two


def _taken(paths: tuple[Path, ...]) -> ConfigStatus:
    config_status = ConfigStatus()
    config_status.mark_applied(FileDigests(paths).unchanged())
    return config_status


def test_what_was_read_is_told_with_its_digest(pair: tuple[Path, Path]) -> None:
    config_status = _taken(pair)
    config_status.digest, config_status.restart_needed = "abc", ["name"]
    assert config_status.status() == {
        "digest": "abc",
        "problem": "",
        "restart_needed": ["name"],
        "files": {
            str(pair[0]): {"digest": digest_of(b"1"), "problem": ""},
            str(pair[1]): {"digest": digest_of(b"2"), "problem": ""},
        },
    }


def test_of_a_pair_that_cannot_be_used_the_changed_file_has_the_problem(
    pair: tuple[Path, Path],
) -> None:
    config_status = _taken(pair)
    pair[1].write_text("bad")
    config_status.mark_rejected(pair, "they do not match")
    files = config_status.status()["files"]
    assert files[str(pair[0])]["problem"] == ""
    assert files[str(pair[1])] == {"digest": digest_of(b"2"), "problem": "they do not match"}
    config_status.mark_applied(FileDigests(pair).unchanged())
    assert config_status.status()["files"][str(pair[1])] == {
        "digest": digest_of(b"bad"),
        "problem": "",
    }


def test_a_problem_without_a_change_is_that_of_all(pair: tuple[Path, Path]) -> None:
    config_status = _taken(pair)
    config_status.mark_rejected(pair, "no more memory")
    assert all(one["problem"] for one in config_status.status()["files"].values())


def test_files_that_are_not_named_any_more_are_forgotten(pair: tuple[Path, Path]) -> None:
    config_status = _taken(pair)
    config_status.keep_only([pair[1], Path("/never/read")])
    assert list(config_status.status()["files"]) == [str(pair[1])]


def test_the_gauges_say_how_many_problems_there_are(pair: tuple[Path, Path]) -> None:
    config_status = _taken(pair)

    def gauges() -> dict[str, float]:
        return {
            family.name: family.samples[0].value for family in config_status.metrics().collect()
        }

    assert set(gauges().values()) == {0}
    config_status.problem, config_status.restart_needed = "a problem", ["a", "b"]
    config_status.mark_rejected(pair, "bad")
    assert gauges() == {
        "tidegate_configuration_problem": 1,
        "tidegate_configuration_files_problem": 2,
        "tidegate_configuration_restart_needed": 2,
    }
