"""The command ``tidegate doctor``: prints what the examinations found, and what to change.

Added to the command line by ``cli.main``. Owns the output and the exit codes.
"""

# ruff: noqa: PLC0415 - imports inside the command keep the quick ones quick

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.exit import EXIT_FAILED, EXIT_USAGE, print_error

if TYPE_CHECKING:
    from tidegate.doctor.findings import Finding
    from tidegate.runtime.config.config_file import Role
    from tidegate.runtime.config.model import Config


class RoleName(StrEnum):
    """Whose surroundings are looked at."""

    serve = "serve"
    edge = "edge"
    router = "router"
    console = "console"


def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="Configuration file (YAML).", metavar="FILE")
    ] = None,
    role: Annotated[
        RoleName | None,
        typer.Option(help="Which process is to run here. Default: what the configuration is for."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at what a broker needs here, and say what to change.

    Looks at the configuration (file and environment variables), the files that it names and who may
    read them, certificates that expire, the store (version, memory, persistence, latency, rights),
    ports, clocks, limits of the system, and names in DNS. Changes nothing, and can be run beside
    a running broker, best as its user. Exit codes: 0 no problem, 1 at least one problem, 2 wrong
    usage, or a configuration that cannot be read.
    """
    from tidegate.doctor.examination import examine
    from tidegate.runtime.config.config_file import ConfigError

    try:
        config, found_role, said = _load(file, None if role is None else role.value)
    except ConfigError as error:
        for problem in error.problems:
            print_error(f"tidegate: {problem}")
        raise typer.Exit(EXIT_USAGE) from None
    findings = examine(config, found_role, said, file)
    if as_json:
        print(json.dumps(_data(findings, found_role), indent=2))
    else:
        _print(findings, found_role)
    if _count(findings, "problem"):
        raise typer.Exit(EXIT_FAILED)


def _load(file: Path | None, role: Role | None) -> tuple[Config, Role, list[str]]:
    """Return the configuration as the process would have it, its role, and what variables set."""
    from tidegate.doctor.examination import role_of
    from tidegate.runtime.config import config_file
    from tidegate.runtime.config.environment import read_environment

    environment = read_environment(os.environ)
    content = b"" if file is None else config_file.read(file)
    config, said = config_file.parse_with_origins(content, file, environment)
    found = role if role is not None else role_of(config)
    return config_file.with_flags(config, config_file.Flags(), found), found, said


def _count(findings: Sequence[Finding], level: str) -> int:
    return sum(finding.level.value == level for finding in findings)


def _data(findings: Sequence[Finding], role: str) -> dict[str, Any]:
    return {
        "role": role,
        "problems": _count(findings, "problem"),
        "advice": _count(findings, "advice"),
        "findings": [finding.data() for finding in findings],
    }


def _print(findings: Sequence[Finding], role: str) -> None:
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            print(area)
        mark = "" if finding.level.value == "ok" else f"{finding.level.value}: "
        print(f"  {mark}{finding.text}")
        if finding.change:
            print(f"    change: {finding.change}")
    problems, advice = _count(findings, "problem"), _count(findings, "advice")
    print(f"{role}: {problems} problem{_s(problems)}, {advice} piece{_s(advice)} of advice")


def _s(count: int) -> str:
    return "" if count == 1 else "s"
