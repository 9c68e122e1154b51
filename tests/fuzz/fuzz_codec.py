"""Atheris target for the codec and the connection machine.

``python tests/fuzz/fuzz_codec.py -max_total_time=60`` (and libFuzzer's other options) needs the
package atheris. It begins with the packet vectors and ``regressions/codec``, accepts documented
errors only, and leaves an input that fails in the working directory: that belongs into
``regressions/codec``, which ``test_codec_regressions.py`` replays. A directory among the arguments
keeps what the fuzzer finds worth keeping.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import atheris

with atheris.instrument_imports(include=["tidegate.mqtt"]):
    from support.codec_checks import check, seeds

REGRESSIONS = Path(__file__).parent / "regressions" / "codec"


def main() -> int:
    """Run until a limit or a failure; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as name:
        for number, (_name, data) in enumerate(seeds()):
            (Path(name) / f"{number:04}").write_bytes(data)
        child = os.fork()
        if not child:
            # In a process of its own, because libFuzzer ends it without a chance to clean up. The
            # first directory is the one that it writes to.
            atheris.Setup([*sys.argv, name, str(REGRESSIONS)], check)
            atheris.Fuzz()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
