"""The list of compiled modules (pyproject.toml), and the hook that compiles them.

That a wheel of them works is what ``make test BUILD=compiled`` tests.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import compiled_wheel
from tidegate.runtime.process import build

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "services"
FILES = compiled_wheel.modules(compiled_wheel.settings())


def test_the_hook_is_off_unless_it_is_asked_for() -> None:
    assert compiled_wheel.settings()["enable-by-default"] is False


def test_the_hook_and_the_broker_agree_about_the_list_of_modules() -> None:
    assert compiled_wheel.MANIFEST == build.MANIFEST


def test_the_codec_and_the_rules_are_compiled_with_what_uses_them() -> None:
    packages = {file.rpartition("/")[0] for file in FILES}
    assert {"tidegate/mqtt", "tidegate/core", "tidegate/edge/client", "tidegate/router"} <= packages
    # A class attribute of a compiled exception is not found, and so no compiled module has one.
    assert not {"tidegate/mqtt/enums.py", "tidegate/mqtt/errors.py"} & set(FILES)


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    table = {"compiled": ["tidegate/mqtt/gone.py"], "interpreted": []}
    with pytest.raises(ValueError, match=r"no file matches tidegate/mqtt/gone\.py"):
        compiled_wheel.modules(table, ROOT)


@pytest.mark.parametrize("file", FILES)
def test_what_mypyc_does_not_tell_from_a_list_is_not_used(file: str) -> None:
    # It makes a list of the argument of next(… for …), of which next() takes nothing.
    text = (SERVICES / file).read_text(encoding="utf-8")
    assert not re.search(r"\bnext\(\s*\(?[^()]*(?:\([^()]*\)[^()]*)*\bfor\b", text)


def test_the_image_is_built_with_the_compiler_that_is_locked() -> None:
    (wanted,) = compiled_wheel.settings()["dependencies"]
    version = wanted.partition("==")[2]
    lock = (ROOT / "image" / "requirements-build.lock").read_text(encoding="utf-8")
    assert f"\nmypy=={version} " in lock, "run: make lock"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (
        "/tools/compiled_wheel.py"
        in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    )
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "HATCH_BUILD_HOOK_ENABLE_CUSTOM=true" in dockerfile


def _empty_functions(tree: ast.Module) -> list[str]:
    """Return functions that have only a docstring and do not return None, outside of protocols."""
    protocols = {
        member
        for one in ast.walk(tree)
        if isinstance(one, ast.ClassDef) and any("Protocol" in ast.unparse(b) for b in one.bases)
        for member in one.body
    }
    return [
        one.name
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
        and one not in protocols
        and len(one.body) == 1
        and isinstance(one.body[0], ast.Expr)
        and one.returns is not None
        and ast.unparse(one.returns) != "None"
    ]


@pytest.mark.parametrize("file", FILES)
def test_what_returns_none_says_so(file: str) -> None:
    # mypyc compiles such a body, of a function that may return something else, to nothing at all.
    assert not _empty_functions(ast.parse((SERVICES / file).read_text(encoding="utf-8")))
