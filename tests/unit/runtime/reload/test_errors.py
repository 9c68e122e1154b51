"""Why a changed file is not in use, in one line."""

from __future__ import annotations

import ssl

import pytest

from tidegate.runtime.reload.errors import error_text, is_read_error


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
    assert error_text(error) == sentence


def test_an_error_of_reading_is_found_below_the_one_that_was_raised() -> None:
    error = ValueError("no rules")
    error.__cause__ = PermissionError(13, "Permission denied", "/x")
    assert is_read_error(error)


@pytest.mark.parametrize("error", [ValueError("bad"), ssl.SSLError(1, "bad certificate")])
def test_a_wrong_content_is_no_error_of_reading(error: Exception) -> None:
    assert not is_read_error(error)
