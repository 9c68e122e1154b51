"""Compiles the hot modules with mypyc when a wheel is built: a build hook of hatchling.

Off unless ``HATCH_BUILD_HOOK_ENABLE_CUSTOM=true``, so that every other installation, an editable
one above all, is the interpreted build and needs no compiler. Which modules are compiled stands in
pyproject.toml (``tool.hatch.build.targets.wheel.hooks.custom``). Everything is built outside the
source tree: an extension module there would shadow its source. The wheel also gets the list of what
is compiled, with which a process checks its build at its start (``runtime.process.build``).

``python tools/compiled_wheel.py --modules`` prints the list, ``--requirements`` the compiler's
requirements.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
#: The source root that the patterns are relative to.
SERVICES: Final = "services"
#: In the package's directory; ``runtime.process.build`` reads it.
MANIFEST: Final = "compiled_modules.txt"
#: Name of the extension module with all the code; those of the modules only refer to it.
GROUP: Final = "tidegate.compiled"
_HOOK: Final = ("tool", "hatch", "build", "targets", "wheel", "hooks", "custom")
#: Code of mypyc is checked by the type checker first; third-party packages need not be there.
_MYPY: Final = (
    "--config-file=",
    "--python-version=3.11",
    "--ignore-missing-imports",
    "--explicit-package-bases",
    "--namespace-packages",
)


def settings(root: Path = ROOT) -> dict[str, Any]:
    """Return the hook's table in pyproject.toml."""
    found: Any = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for key in _HOOK:
        found = found[key]
    assert isinstance(found, dict)
    return found


def modules(table: dict[str, Any], root: Path = ROOT) -> list[str]:
    """Return the files to compile, relative to ``services``. Raises ValueError for dead patterns.

    Files named ``__init__.py`` are left out.
    """
    base = root / SERVICES

    def matching(patterns: list[str]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            files = {file.relative_to(base).as_posix() for file in base.glob(pattern)}
            if not files:
                raise ValueError(f"no file matches {pattern} (compiled modules, pyproject.toml)")
            found |= files
        return found

    chosen = matching(table["compiled"]) - matching(table["interpreted"])
    return sorted(file for file in chosen if not file.endswith("__init__.py"))


def build(target: Path, files: list[str], optimization: str, root: Path = ROOT) -> dict[Path, str]:
    """Compile modules into a directory; return each file made, and its place in the wheel.

    The manifest is among them. Raises CalledProcessError.
    """
    job = {"files": files, "optimization": optimization, "target": str(target)}
    # mypyc names modules by their paths from the current directory.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--compile", json.dumps(job)]
    subprocess.run(command, cwd=root / SERVICES, check=True)
    suffix = EXTENSION_SUFFIXES[0]
    library = target / "lib"
    made = {file: file.relative_to(library).as_posix() for file in library.rglob(f"*{suffix}")}
    manifest = target / MANIFEST
    names = sorted(
        place.removeprefix("tidegate/").removesuffix(suffix).replace("/", ".")
        for place in made.values()
    )
    manifest.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return made | {manifest: f"tidegate/{MANIFEST}"}


def _compile(job: dict[str, Any]) -> None:
    """Run mypyc and the C compiler; the current directory is ``services``."""
    import setuptools  # noqa: PLC0415 - only there where a compiled wheel is built
    from mypyc.build import mypycify  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    target = Path(job["target"])

    class ParallelBuild(build_ext):  # type: ignore[misc]  # setuptools may not be there
        """Compiles the C files of an extension at the same time, as many as there are cores."""

        def build_extensions(self) -> None:
            compile_all = self.compiler.compile

            def compile_each(sources: list[str], **options: Any) -> list[str]:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    made = pool.map(lambda source: compile_all([source], **options), sources)
                    return [file for files in made for file in files]

            self.compiler.compile = compile_each
            super().build_extensions()

    extensions = mypycify(
        [*_MYPY, *job["files"]],
        opt_level=job["optimization"],
        debug_level="0",
        multi_file=True,
        group_name=GROUP,
        target_dir=str(target / "c"),
    )
    for extension in extensions:
        # Where mypyc puts the headers of a group with this name.
        extension.include_dirs.append(str(target / "c" / "tidegate"))
    setuptools.setup(
        name="tidegate-compiled",
        packages=[],
        py_modules=[],
        ext_modules=extensions,
        cmdclass={"build_ext": ParallelBuild},
        script_args=[
            *("--quiet", "build_ext"),
            *("--build-lib", str(target / "lib"), "--build-temp", str(target / "o")),
        ],
    )


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # the list, or the compiler's process
    pass
else:

    class CompiledWheelHook(BuildHookInterface):  # type: ignore[misc]  # nor hatchling
        """Adds the compiled modules to a wheel."""

        _directory: Path | None = None

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile, and say what the wheel gets besides the sources."""
            if self.target_name != "wheel" or version == "editable":
                return
            root = Path(self.root)
            self._directory = Path(tempfile.mkdtemp(prefix="tidegate-compiled-"))
            files = modules(self.config, root)
            try:
                made = build(self._directory, files, self.config["optimization"], root)
            except BaseException:
                self._remove()
                raise
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"].update({str(file): made[file] for file in made})

        def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
            """Remove what has been built: the wheel has it."""
            self._remove()

        def _remove(self) -> None:
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1] == "--compile":
        _compile(json.loads(sys.argv[2]))
    elif sys.argv[1] == "--requirements":
        print("\n".join(settings()["dependencies"]))
    else:
        print("\n".join(modules(settings())))
