"""Images for a node under test, without a registry: the base, the pause container, and our own.

The project's Dockerfile is built as it is, on a Debian of debootstrap that carries the name of the
base image. Layers are kept outside the tree; a change of the sources builds the last ones anew.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support import tools

ROOT: Final = Path(__file__).parents[3]
PAUSE: Final = "localhost/pause:1"
#: What the image is made from, and what replaces it.
BASE: Final = "docker.io/library/python:3.11-slim-bookworm"
SUITE: Final = "bookworm"
_PACKAGES: Final = "python3-minimal,libpython3-stdlib,python3-venv,ca-certificates"
#: The one that the wheel is compiled in, and what it has besides.
BUILD_BASE: Final = "docker.io/library/python:3.11-bookworm"
_BUILD_PACKAGES: Final = f"{_PACKAGES},python3-dev,gcc,libc6-dev"
#: Everything that the Dockerfile copies (see .dockerignore), and what says how.
_SOURCES: Final = (
    *("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"),
    *("services", "operator", "image", "tools/compiled_wheel.py"),
)
_LEFT_OUT: Final = frozenset({"__pycache__", "node_modules"})
_KEPT_IMAGES: Final = 3
#: More than these in the storage: all but the newest build are forgotten.
_MOST_LAYERS: Final = 120
_BUILT: Final = "localhost/tidegate:newest"
_TIMEOUT_S: Final = 900


@dataclass(slots=True, frozen=True)
class Image:
    """An image in a file, and what it is called."""

    name: str
    archive: Path


def ours() -> Image:
    """Return the project's image, built of the tree as it is now."""
    key = _source_key()
    name = f"localhost/tidegate:{key}"

    def make(directory: Path) -> None:
        store = base()
        with _settings_of_pip() as volumes, _buildah(store) as run:
            build = ["bud", "--quiet", "--layers", "--isolation", "chroot", "--pull-never"]
            done = run.attempt([*build, *volumes, "--tag", _BUILT, str(ROOT)])
            # This one is the project's own, so it is no excuse.
            assert done.returncode == 0, f"the image cannot be built:\n{done.stderr[-4000:]}"
            run(["push", "--quiet", _BUILT, f"docker-archive:{directory}/image.tar:{name}"], "push")
            if len(run(["images", "--all", "--quiet"], "list").split()) > _MOST_LAYERS:
                run(["rmi", "--prune"], "prune")

    archive = tools.cached(f"node-image-{key}", make) / "image.tar"
    os.utime(archive.parent)
    _forget_old_ones()
    return Image(name, archive)


def pause() -> Image:
    """Return the image that holds the namespaces of every pod."""
    source = Path(__file__).parent / "pause" / "pause.c"

    def make(directory: Path) -> None:
        gcc = tools.require("gcc")
        program = directory / "pause"
        tools.run_or_missing(
            "a C compiler", [gcc, "-static", "-Os", "-o", str(program), str(source)]
        )
        (directory / "Containerfile").write_text(
            'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n'
        )
        with _buildah(base()) as run:
            run(["bud", "--quiet", "--isolation", "chroot", "-t", PAUSE, str(directory)], "pause")
            run(["push", "--quiet", PAUSE, f"docker-archive:{directory}/image.tar:{PAUSE}"], "push")

    key = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return Image(PAUSE, tools.cached(f"node-pause-{key}", make) / "image.tar")


def base() -> Path:
    """Return buildah's storage with the base images in it."""
    what = f"{SUITE} {_PACKAGES} {_BUILD_PACKAGES} {platform.machine()} 1"
    key = hashlib.sha256(what.encode()).hexdigest()[:12]
    return tools.cached(f"node-base-{key}", _make_base) / "storage"


def _make_base(directory: Path) -> None:
    _make_debian(directory, _PACKAGES, BASE)
    _make_debian(directory, _BUILD_PACKAGES, BUILD_BASE)


def _make_debian(directory: Path, packages: str, name: str) -> None:
    """Make a Debian with packages the image ``name`` of the storage in a directory."""
    debootstrap = tools.require("debootstrap")
    rootfs = directory / "rootfs"
    _run(
        [debootstrap, "--variant=minbase", f"--include={packages}", SUITE, str(rootfs), _mirror()],
        f"Debian's {SUITE} from debootstrap",
    )
    for kept in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(rootfs / kept, ignore_errors=True)
        (rootfs / kept).mkdir()
    # The image that it replaces has its Python there.
    (rootfs / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    with _buildah(directory / "storage") as run:
        container = run(["from", "scratch"], "an empty image").strip()
        run(["add", "--quiet", container, str(rootfs), "/"], "the base image")
        run(["commit", "--quiet", container, name], "the base image")
        run(["rm", container], "the base image")
    shutil.rmtree(rootfs)


def _mirror() -> str:
    """Return the Debian mirror that this machine is set up with."""
    for line in _apt_sources().splitlines():
        address, release, component = line.split()
        if (release, component) == (SUITE, "main"):
            return address
    return tools.missing(f"a mirror of Debian {SUITE} in apt's sources")


def _apt_sources() -> str:
    return subprocess.run(
        [
            *(tools.require("apt-get"), "indextargets", "Created-By: Packages"),
            *("--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout


def _source_key() -> str:
    """Return what changes when the image has to be built anew."""
    files: list[Path] = []
    for name in _SOURCES:
        path = ROOT / name
        files += [path] if path.is_file() else path.rglob("*")
    found = hashlib.sha256()
    for file in sorted(files):
        if file.is_file() and not _LEFT_OUT & set(file.parts) and file.suffix != ".pyc":
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            found.update(f"{file.relative_to(ROOT)} {content}\n".encode())
    return found.hexdigest()[:12]


def _forget_old_ones() -> None:
    entries = [path for path in tools.cache_directory().glob("node-image-*") if path.is_dir()]
    entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for entry in entries[_KEPT_IMAGES:]:
        shutil.rmtree(entry, ignore_errors=True)
        entry.with_name(f"{entry.name}.lock").unlink(missing_ok=True)


@contextlib.contextmanager
def _settings_of_pip() -> Iterator[list[str]]:
    """Yield the volumes by which pip in the build uses what pip uses here: index, certificates."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    settings: dict[str, str] = {}
    # Later lines win over earlier ones, and variables of the environment over files.
    for line in sorted(shown.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    with tempfile.TemporaryDirectory(prefix="tidegate-pip-") as name:
        file = Path(name) / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in settings.items()))
        mounted = {str(file): "/etc/pip.conf"}
        for key in ("cert", "find-links"):
            place = settings.get(key, "")
            if place.startswith("/") and Path(place).exists():
                mounted[place] = place
        yield [word for source, to in mounted.items() for word in ("--volume", f"{source}:{to}:ro")]


class _Buildah:
    """buildah with a storage of its own."""

    def __init__(self, storage: Path, run_root: str) -> None:
        self._command = [tools.require("buildah"), "--root", str(storage), "--runroot", run_root]

    def __call__(self, arguments: list[str], what: str) -> str:
        """Run a step of the preparation; if it fails, ``what`` is missing."""
        return _run([*self._command, *arguments], what)

    def attempt(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a step, and leave it to the caller what it means if it fails."""
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )


@contextlib.contextmanager
def _buildah(storage: Path) -> Iterator[_Buildah]:
    with tempfile.TemporaryDirectory(prefix="tidegate-buildah-") as name:
        try:
            yield _Buildah(storage, name)
        finally:
            # It leaves a mount of its storage onto itself.
            subprocess.run(["umount", storage / "overlay"], capture_output=True, check=False)


def _run(command: list[str], what: str) -> str:
    """Run a step; if it fails, ``what`` is missing. What is built here is not a test's fault."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        tools.missing(f"{what} ({error})")
    if done.returncode != 0:
        tools.missing(f"{what} ({(done.stdout + done.stderr).strip()[-1500:]})")
    return done.stdout


if __name__ == "__main__":
    for image in (pause(), ours()):
        print(image.name, image.archive)
