"""What tells one version of a file from another."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tidegate.runtime.config.file_version import FileDigests, digest_of


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    return one, two


def test_a_digest_is_the_beginning_of_a_sha256() -> None:
    assert digest_of(b"x") == hashlib.sha256(b"x").hexdigest()[:16]


def test_a_file_that_changes_while_it_is_read_has_no_digest(pair: tuple[Path, Path]) -> None:
    digests = FileDigests(pair)
    pair[0].write_text("another")
    assert digests.unchanged() == {pair[1]: digest_of(b"2")}


def test_a_file_that_cannot_be_read_has_no_digest(pair: tuple[Path, Path]) -> None:
    pair[0].unlink()
    assert list(FileDigests(pair).unchanged()) == [pair[1]]
