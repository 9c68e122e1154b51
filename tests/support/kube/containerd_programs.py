"""containerd for a node under test: built once from its Go module, kept outside the tree.

``python -m support.kube.containerd_programs`` builds it (`make kubernetes`). Distributions carry
older ones than a new kubelet takes. runc, which it calls, is the system's.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from support import tools
from support.kube import binaries

SOURCE: Final = Path(__file__).parent / "containerd"
NAMES: Final = ("containerd", "ctr", "containerd-shim-runc-v2")
#: Storage that the tests do not use.
_LEFT_OUT: Final = "no_btrfs,no_devmapper,no_zfs"
_BUILD_TIMEOUT_S: Final = 1200


def programs() -> Path:
    """Return the directory with ``NAMES``; build it first if need be, else skip by name."""
    module = (SOURCE / "go.mod").read_bytes() + (SOURCE / "go.sum").read_bytes()
    found = re.search(rb"^\s+github\.com/containerd/containerd/v2 v(\S+)", module, re.MULTILINE)
    assert found is not None
    source = hashlib.sha256(module).hexdigest()[:12]
    return tools.cached(f"containerd-{found[1].decode()}-{source}", _build)


def _build(directory: Path) -> None:
    arguments = ("-tags", _LEFT_OUT, "-ldflags", "-s -w", "-o", f"{directory}{os.sep}", "tool")
    binaries.go_build("containerd", SOURCE, arguments, _BUILD_TIMEOUT_S)
    for name in NAMES:
        assert (directory / name).exists(), name


def main() -> int:
    """Build, and say where it is."""
    try:
        print(programs())
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
