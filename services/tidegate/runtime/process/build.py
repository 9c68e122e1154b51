"""Which build runs: interpreted, or with its hot modules compiled by mypyc.

A compiled wheel has a file with the names of its compiled modules (``tools/compiled_wheel.py``
writes it); a source tree and an interpreted wheel have none. Called by every command that starts a
process, and by what reports the build. Reads names of files, and imports nothing.
"""

from __future__ import annotations

from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, Literal, TypeAlias

import tidegate

Build: TypeAlias = Literal["interpreted", "compiled"]

#: In the package's directory: names of modules relative to the package, one a line.
MANIFEST: Final = "compiled_modules.txt"
#: Of modules that a message names.
_SHOWN: Final = 3


class MixedBuild(Exception):
    """Some modules are compiled and others are not: compiled code cannot use the others' classes.

    The message is one sentence that says what to do.
    """


def package_directory() -> Path:
    """Return the directory of the package ``tidegate``."""
    assert tidegate.__file__ is not None
    return Path(tidegate.__file__).parent


@cache
def current_build() -> Build:
    """Return which build runs."""
    return "compiled" if (package_directory() / MANIFEST).exists() else "interpreted"


def check_build(directory: Path) -> None:
    """Compare the compiled modules in a package's directory with what should be there.

    Raises MixedBuild.
    """
    manifest = directory / MANIFEST
    wanted = set(manifest.read_text(encoding="utf-8").split()) if manifest.exists() else set()
    found = _compiled_modules(directory)
    if missing := sorted(wanted - found):
        raise MixedBuild(
            f"this build of Tidegate is mixed: {len(missing)} of its {len(wanted)} compiled modules"
            f" are missing ({_list(missing)}); install its wheel again, with Python's own version:"
            " pip install --force-reinstall --no-deps WHEEL"
        )
    if surplus := sorted(found - wanted):
        raise MixedBuild(
            f"this build of Tidegate is mixed: {_list(surplus)} should not be compiled; remove"
            f" {directory} and install Tidegate again, or in a source tree remove the files *"
            f"{EXTENSION_SUFFIXES[0]}"
        )


def _compiled_modules(directory: Path) -> set[str]:
    """Return the names of the modules that this Python would load from an extension."""
    found = set()
    for suffix in EXTENSION_SUFFIXES:
        for path in directory.rglob(f"*{suffix}"):
            name = path.relative_to(directory).as_posix().removesuffix(suffix)
            # Of another Python: cpython-312-… also ends with the plain suffix ".so".
            if "." not in name:
                found.add(name.replace("/", "."))
    return found


def _list(modules: list[str]) -> str:
    shown = ", ".join(f"tidegate.{name}" for name in modules[:_SHOWN])
    return f"{shown}, …" if len(modules) > _SHOWN else shown
