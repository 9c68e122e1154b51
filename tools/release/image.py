"""The image for several architectures, as an OCI image layout: built and checked, not pushed.

``docker buildx`` or ``buildah`` build it from the Dockerfile; another architecture than that of the
machine needs qemu-user with binfmt_misc, as always.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from release.versions import ROOT

_INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)


@dataclass(slots=True, frozen=True)
class Layout:
    """An image layout: its digest in a registry, and the layers of each platform."""

    directory: Path
    digest: str
    platforms: dict[str, list[str]]


def build(builder: str, options: str, platforms: str, version: str, directory: Path) -> Layout:
    """Build the image for ``platforms`` (comma-separated); exit if one of them is missing."""
    shutil.rmtree(directory, ignore_errors=True)
    command = shlex.split(builder)
    labels = ["--label", f"org.opencontainers.image.version={version}"]
    arguments = [*labels, "--platform", platforms, *shlex.split(options)]
    if Path(command[0]).name == "buildah":
        name = f"localhost/tidegate-release:{version}"
        subprocess.run([*command, "rmi", "--force", name], capture_output=True, check=False)
        _run([*command, "build", *arguments, "--manifest", name, str(ROOT)])
        target = f"oci:{directory}:{version}"
        _run([*command, "manifest", "push", "--all", "--format", "oci", name, target])
    else:
        output = f"type=oci,tar=false,dest={directory},name=tidegate:{version}"
        _run([*command, "buildx", "build", *arguments, "--output", output, str(ROOT)])
    layout = read(directory)
    missing = set(platforms.split(",")) - set(layout.platforms)
    if missing:
        sys.exit(f"the image layout lacks {', '.join(sorted(missing))}")
    return layout


def read(directory: Path) -> Layout:
    """Return what an image layout has; exit if a blob is missing."""
    (entry,) = json.loads((directory / "index.json").read_text(encoding="utf-8"))["manifests"]
    top = _blob(directory, entry["digest"])
    entries = top["manifests"] if entry["mediaType"] in _INDEXES else [entry]
    found = {}
    for one in entries:
        manifest = _blob(directory, one["digest"])
        config = _blob(directory, manifest["config"]["digest"])
        layers = [layer["digest"] for layer in manifest["layers"]]
        for digest in layers:
            if not _path(directory, digest).is_file():
                sys.exit(f"the image layout has no blob {digest}")
        if config.get("os") != "unknown":  # attestations of buildx
            variant = f"/{config['variant']}" if config.get("variant", "v8") != "v8" else ""
            found[f"{config['os']}/{config['architecture']}{variant}"] = layers
    return Layout(directory, entry["digest"], found)


def _blob(directory: Path, digest: str) -> Any:
    return json.loads(_path(directory, digest).read_text(encoding="utf-8"))


def _path(directory: Path, digest: str) -> Path:
    return directory / "blobs" / digest.replace(":", "/")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run ({error.strerror}); BUILDER names another program")
    if done.returncode != 0:
        sys.exit(f"failed: {shlex.join(command)}")
