"""Which build runs, and that half a build does not start (``runtime.process.build``).

Which one-line fault would this find? A wheel without some of its compiled modules that starts, and
a suite of the compiled build that runs the sources.
"""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import typer

from tidegate.cli import processes
from tidegate.mqtt import decode
from tidegate.runtime.process import build
from tidegate.runtime.process.build import MANIFEST, MixedBuild, check_build, current_build

SUFFIX = EXTENSION_SUFFIXES[0]


def installed(directory: Path, compiled: list[str], manifest: list[str] | None) -> Path:
    """Make a package's directory with compiled modules, and with a list of them."""
    for name in ("mqtt/decode", "mqtt/enums", "core/window"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / f"{name}.py").touch()
    for name in compiled:
        (directory / f"{name}{SUFFIX}").touch()
    if manifest is not None:
        (directory / MANIFEST).write_text("".join(f"{name}\n" for name in manifest))
    return directory


def test_the_build_under_test_is_the_one_that_was_asked_for() -> None:
    assert current_build() == os.environ.get("BUILD_UNDER_TEST", current_build())
    assert current_build() == ("interpreted" if decode.__file__.endswith(".py") else "compiled")
    check_build(build.package_directory())


def test_a_whole_build_is_accepted(tmp_path: Path) -> None:
    check_build(installed(tmp_path, [], None))
    check_build(installed(tmp_path, ["mqtt/decode", "core/window"], ["core.window", "mqtt.decode"]))


def test_a_compiled_build_that_lacks_modules_is_refused(tmp_path: Path) -> None:
    directory = installed(tmp_path, ["mqtt/decode"], ["core.window", "mqtt.decode"])
    with pytest.raises(
        MixedBuild,
        match=r"mixed: 1 of its 2 compiled modules are missing \(tidegate\.core\.window\); install",
    ):
        check_build(directory)


def test_a_compiled_build_for_another_python_is_refused(tmp_path: Path) -> None:
    directory = installed(tmp_path, [], ["mqtt.decode"])
    (directory / "mqtt" / "decode.cpython-27-sparc.so").touch()
    with pytest.raises(MixedBuild, match="1 of its 1 compiled modules"):
        check_build(directory)


def test_compiled_modules_among_sources_are_refused(tmp_path: Path) -> None:
    directory = installed(tmp_path, ["mqtt/decode", "mqtt/enums"], None)
    with pytest.raises(MixedBuild, match=r"tidegate\.mqtt\.decode, tidegate\.mqtt\.enums should"):
        check_build(directory)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("serve", ""),
        ("edge", "link: {routers: ['127.0.0.1:1']}"),
        ("router", "store: {url: 'redis://127.0.0.1:1'}"),
        ("console", "store: {url: 'redis://127.0.0.1:1'}"),
    ],
    ids=["serve", "edge", "router", "console"],
)
def test_a_mixed_build_does_not_start(
    command: str,
    settings: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = installed(tmp_path, ["mqtt/decode"], None)
    monkeypatch.setattr(build, "package_directory", lambda: directory)
    config = tmp_path / "tidegate.yaml"
    config.write_text(f"{settings}\n")
    with pytest.raises(typer.Exit) as raised:
        getattr(processes, command)(config=config)
    assert raised.value.exit_code == 1
    line = capsys.readouterr().err.splitlines()[-1]  # after warnings of the configuration
    assert line.startswith("tidegate: cannot start: this build of Tidegate is mixed: ")
