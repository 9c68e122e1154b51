"""Atheris target for the codec and the connection machine.

``python tests/fuzz/fuzz_codec.py -max_total_time=60 tests/fuzz/corpus/codec`` (see libFuzzer's
options) needs the package atheris. It accepts documented errors only. An input that fails belongs
into the corpus, which ``test_codec_corpus.py`` replays.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import atheris

with atheris.instrument_imports(include=["tidegate.mqtt"]):
    from support.codec_checks import check


def main() -> None:
    """Run until a limit or a failure."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
