"""Every input that the fuzzer begins with, or once stumbled over, is harmless."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from support.codec_checks import check, seeds

REGRESSIONS: Final = sorted((Path(__file__).parent / "regressions" / "codec").iterdir())


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.name)
def test_an_input_that_was_kept_is_harmless(path: Path) -> None:
    check(path.read_bytes())


def test_the_inputs_to_begin_with_are_harmless_and_of_every_kind() -> None:
    kinds = set()
    for name, data in seeds():
        kinds.add(data[0])
        try:
            check(data)
        except AssertionError as error:
            error.add_note(name)
            raise
    assert kinds == set(range(6))
