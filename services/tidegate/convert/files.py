"""The password and ACL files of a configuration: which of their lines are not taken as they are.

Called by ``conversion``. The files stay where they are, unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tidegate.convert.findings import Findings
from tidegate.edge.auth.acl import AclFile, AclFileError
from tidegate.edge.auth.passwords import PasswordFile, PasswordFileError

_LINE: Final = re.compile(r"line (\d+): (.*)", re.DOTALL)


def check_files(config: Mapping[str, Any], findings: Findings) -> None:
    """Say what is wrong with each password, ACL, certificate and key file that is named."""
    sections = [config.get("auth", {}), *config.get("listeners", ())]
    for name, check in (("password_file", _check_passwords), ("acl_file", _check_rules)):
        for path in _distinct(section.get(name) for section in sections):
            for problem, advice in check(path):
                found = _LINE.fullmatch(problem)
                number, text = (int(found[1]), found[2]) if found else (0, problem)
                findings.remark_on_file(path, number, f"{text}: {advice}")
    for path in _distinct(_tls_files(config)):
        try:
            path.read_bytes()
        except OSError as error:
            findings.remark_on_file(
                path,
                0,
                f"cannot be read: {error.strerror}: Tidegate's user must be able to read it, or "
                "it does not start",
            )


def _check_passwords(path: Path) -> Iterator[tuple[str, str]]:
    try:
        for problem in PasswordFile.load(path).problems:
            advice = "this line is ignored; write the user again with `tidegate passwd`"
            if problem.endswith("this line is used"):
                advice = "as in mosquitto; delete the earlier one, `tidegate check` fails with both"
            yield problem, advice
    except PasswordFileError as error:
        yield str(error), "Tidegate does not start without it"


def _check_rules(path: Path) -> Iterator[tuple[str, str]]:
    try:
        for problem in AclFile.load(path).problems:
            yield problem, "this line matches nothing; write it in UTF-8"
    except AclFileError as error:
        for problem in error.problems:
            yield problem, "Tidegate does not start with it; correct it"


def _tls_files(config: Mapping[str, Any]) -> Iterator[str | None]:
    for listener in config.get("listeners", ()):
        tls = listener.get("tls", {})
        for pair in tls.get("certificates", ()):
            yield from (pair["certificate"], pair["key"])
        yield from (tls.get("client_ca"), tls.get("client_crl"))


def _distinct(paths: Iterator[str | None]) -> list[Path]:
    return [Path(path) for path in dict.fromkeys(paths) if path is not None]
