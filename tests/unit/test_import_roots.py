"""The source roots shadow nothing: a directory called operator/ must never become a package."""

from __future__ import annotations

import operator
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_standard_librarys_operator_is_the_one_imported() -> None:
    assert operator.__file__ is not None
    assert Path(operator.__file__).is_relative_to(sysconfig.get_paths()["stdlib"])
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_package_has_the_name_of_a_standard_module() -> None:
    for root in (ROOT, ROOT / "services", ROOT / "operator"):
        packages = {path.parent.name for path in root.glob("*/__init__.py")}
        assert not packages & sys.stdlib_module_names, root
