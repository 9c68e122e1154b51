"""The version, in one place: ``__version__`` of the package ``tidegate``.

pyproject.toml reads it from there; ``make version`` writes it into the chart, with
``make version VERSION=X.Y.Z`` after it has been changed. A test compares them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "services" / "tidegate" / "__init__.py"
CHART: Final = ROOT / "charts" / "tidegate"

_VERSION: Final = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)
_ALLOWED: Final = re.compile(r"\d+\.\d+\.\d+")


def current() -> str:
    """Return the version."""
    found = _VERSION.search(SOURCE.read_text(encoding="utf-8"))
    assert found is not None, f"{SOURCE} has no __version__"
    return found["version"]


def of_chart(text: str, version: str) -> str:
    """Return Chart.yaml with a version: of the chart, of the application, and of the image."""
    for pattern, value in (
        (r"^version: .+$", f"version: {version}"),
        (r"^appVersion: .+$", f'appVersion: "{version}"'),
        (r"^(?P<image> +image: \S+/tidegate):\S+$", rf"\g<image>:{version}"),
    ):
        text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
        assert count == 1, f"Chart.yaml has {count} times {pattern}"
    return text


def main(version: str = "") -> None:
    """Set the version, if one is given, and write it everywhere."""
    if version:
        if not _ALLOWED.fullmatch(version):
            sys.exit(f"not a version X.Y.Z: {version}")
        text = SOURCE.read_text(encoding="utf-8")
        SOURCE.write_text(_VERSION.sub(f'__version__ = "{version}"', text), encoding="utf-8")
    file = CHART / "Chart.yaml"
    file.write_text(of_chart(file.read_text(encoding="utf-8"), current()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
