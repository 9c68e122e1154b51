"""``make release``: everything that a release consists of, in build/release.

Nothing is published: ``publish.sh``, which is made beside the files, does that and signs them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from release import bundle, image, publish, sbom, versions
from release.versions import CHART, ROOT

#: Makes a wheel the compiled build (tools/compiled_wheel.py).
COMPILED: Final = {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"}
#: The image of the chart in the repository; a packaged chart has that of the registry.
_REPOSITORY: Final = "tidegate/tidegate"


def main() -> None:
    """Make a release."""
    options = _options()
    version = versions.current()
    target = Path(options.output).resolve()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", str(_commit_time()))
    python_packages(target)
    layout = None
    if options.platforms:
        layout = image.build(
            options.builder,
            options.build_options,
            options.platforms,
            version,
            target / "layout",
        )
    _sbom(target / f"tidegate-{version}.cdx.json", version, layout)
    if layout is not None:
        pack(layout.directory, target / f"tidegate-{version}-oci.tar")
        shutil.rmtree(layout.directory)
    digest = layout.digest if layout else ""
    reference = f"{options.registry}/tidegate"
    reference += f"@{digest}" if digest else f":{version}"
    chart(options.helm, options.registry, target)
    olm = target / "olm"
    platforms = layout.platforms if layout else ["linux/amd64"]
    objects = rendered(options.helm, reference, version)
    bundle.write(objects, olm, version, reference, platforms)
    pack(olm, target / f"tidegate-{version}-olm-bundle.tar")
    shutil.rmtree(olm)
    publish.write(target, version, options.registry, digest)
    checksums(target)
    _report(target, layout)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    add = parser.add_argument
    add("--registry", required=True, help="where images and charts will be: HOST/PATH")
    add("--platforms", default="", help="of the image, comma-separated; empty: no image")
    add("--builder", default="docker", help="docker (with buildx) or buildah, with options")
    add("--build-options", default="", help="further options of the build")
    add("--helm", default="helm", help="the program helm")
    add("--output", default=str(ROOT / "build" / "release"))
    return parser.parse_args()


def python_packages(target: Path) -> None:
    """Build the sdist, and from it the interpreted wheel and this machine's compiled one."""
    command = [sys.executable, "-m", "build", "--outdir", str(target)]
    _run([*command, str(ROOT)])
    (sdist,) = target.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as name:
        shutil.unpack_archive(sdist, name, filter="data")
        (source,) = Path(name).iterdir()
        _run([*command, "--wheel", str(source)], COMPILED)


def chart(helm: str, registry: str, target: Path) -> None:
    """Package the chart; its default image is the one of the registry."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "tidegate"
        shutil.copytree(CHART, copy)
        for file, before, after in (
            ("values.yaml", f"repository: {_REPOSITORY}\n", f"repository: {registry}/tidegate\n"),
            ("Chart.yaml", f"image: {_REPOSITORY}:", f"image: {registry}/tidegate:"),
            ("README.md", f'`"{_REPOSITORY}"`', f'`"{registry}/tidegate"`'),
        ):
            text = (copy / file).read_text(encoding="utf-8")
            assert before in text, f"{file} does not have {before}"
            (copy / file).write_text(text.replace(before, after), encoding="utf-8")
        _run([helm, "package", str(copy), "--destination", str(target)])
        (packed,) = target.glob("tidegate-*.tgz")
        packed.rename(target / f"{packed.stem}-chart.tgz")


def rendered(helm: str, reference: str, version: str) -> list[dict[str, Any]]:
    """Return what the chart renders for the bundle."""
    repository, _, digest = reference.partition("@")
    values = [*bundle.VALUES, f"image.repository={repository.removesuffix(f':{version}')}"]
    if digest:
        values.append(f"image.digest={digest}")
    settings = [word for value in values for word in ("--set", value)]
    done = subprocess.run(
        [helm, "template", bundle.PACKAGE, str(CHART), *settings],
        capture_output=True,
        text=True,
        check=True,
    )
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def pack(directory: Path, file: Path) -> None:
    """Write a directory into a tar file, the same bytes for the same content."""

    def normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            archive.add(path, name, recursive=False, filter=normal)


def checksums(target: Path) -> None:
    """Write SHA256SUMS over all files."""
    lines = []
    for file in sorted(one for one in target.iterdir() if one.is_file()):
        with file.open("rb") as content:
            lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {file.name}\n")
    (target / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _sbom(file: Path, version: str, layout: image.Layout | None) -> None:
    packages = {}
    for platform, layers in layout.platforms.items() if layout else ():
        status = sbom.dpkg_status(layout.directory, layers) if layout else ""
        packages[platform.split("/")[1]] = status
    text = json.dumps(sbom.generate(version, packages), indent=2)
    file.write_text(text + "\n", encoding="utf-8")


def _commit_time() -> int:
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout or 0)


def _report(target: Path, layout: image.Layout | None) -> None:
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>12,}  {file.name}")
    if layout is None:
        print("No image has been built (PLATFORMS is empty).")
    else:
        print(f"The image is for {', '.join(layout.platforms)}; its digest is {layout.digest}.")
    print(f"Nothing has been published: see {target}/publish.sh, and RELEASING.md.")


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(command, env=os.environ | (environment or {}), check=False)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run ({error.strerror})")
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
