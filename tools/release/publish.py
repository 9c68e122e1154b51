"""The commands that publish and sign a release, as a script beside its files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SCRIPT: Final = """\
#!/bin/sh
# Publishes Tidegate {version}, and signs it. Needs skopeo, helm, cosign and gpg, and a login at the
# registry for each of the first three (docker login, helm registry login, cosign login).
set -eu
cd "$(dirname "$0")"
sha256sum --check --quiet SHA256SUMS
gpg --armor --detach-sign SHA256SUMS
{image}
helm push tidegate-{version}-chart.tgz oci://{charts}
cosign sign --yes {charts}/tidegate:{version}

bundle="$(mktemp -d)"
tar --extract --file tidegate-{version}-olm-bundle.tar --directory "$bundle"
name={registry}/tidegate-bundle:v{version}
docker build --file "$bundle/bundle.Dockerfile" --tag "$name" "$bundle"
docker push "$name"
cosign sign --yes "$name"
"""

_IMAGE: Final = """
skopeo copy --all --preserve-digests oci-archive:tidegate-{version}-oci.tar docker://{name}:{version}
cosign sign --yes --recursive {name}@{digest}
cosign attest --yes --type cyclonedx --predicate tidegate-{version}.cdx.json {name}@{digest}
"""


def write(directory: Path, version: str, registry: str, digest: str) -> None:
    """Write publish.sh. Without an image (``digest`` is empty), none is pushed."""
    name = f"{registry}/tidegate"
    image = _IMAGE.format(name=name, version=version, digest=digest) if digest else ""
    script = _SCRIPT.format(
        version=version, registry=registry, charts=f"{registry}/charts", image=image
    )
    file = directory / "publish.sh"
    file.write_text(script, encoding="utf-8")
    file.chmod(0o755)
