"""kube-state-metrics: built once from its Go module, kept outside the tree.

``python -m support.kube.state_metrics_program`` builds it (`make kubernetes`).
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from support import tools
from support.kube import binaries

SOURCE: Final = Path(__file__).parent / "state_metrics"
_BUILD_TIMEOUT_S: Final = 1200


def program(*, is_asked_for: bool = False) -> Path:
    """Return the program; build it first if that is asked for, or CI runs; else skip by name."""
    module = (SOURCE / "go.mod").read_bytes() + (SOURCE / "go.sum").read_bytes()
    found = re.search(
        rb"^\s*(?:require )?k8s\.io/kube-state-metrics/v2 v(\S+)", module, re.MULTILINE
    )
    assert found is not None
    version, source = found[1].decode(), hashlib.sha256(module).hexdigest()[:12]
    name = f"kube-state-metrics-{version}-{source}"
    is_built = (tools.cache_directory() / name / ".finished").exists()
    if not (is_built or is_asked_for or binaries.may_build()):
        tools.missing(f"kube-state-metrics {version} (`make kubernetes` builds it once)")
    return tools.cached(name, _build) / "kube-state-metrics"


def _build(directory: Path) -> None:
    target = directory / "kube-state-metrics"
    arguments = ("-ldflags", "-s -w", "-o", str(target), "k8s.io/kube-state-metrics/v2")
    binaries.go_build("kube-state-metrics", SOURCE, arguments, _BUILD_TIMEOUT_S)


def main() -> int:
    """Build, and say where it is."""
    try:
        print(program(is_asked_for=True))
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
