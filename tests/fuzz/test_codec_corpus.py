"""Every input that the fuzzer began with or stumbled over is harmless."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from support.codec_checks import check

CORPUS: Final = sorted((Path(__file__).parent / "corpus" / "codec").iterdir())


@pytest.mark.parametrize("seed", CORPUS, ids=lambda path: path.name)
def test_an_input_of_the_corpus_is_harmless(seed: Path) -> None:
    check(seed.read_bytes())


def test_the_corpus_has_inputs_of_every_kind() -> None:
    assert {path.read_bytes()[0] for path in CORPUS} == set(range(6))
