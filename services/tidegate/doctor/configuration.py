"""Examines the configuration itself, and what the files that it names contain.

What stops a start is found by the same checks as in ``tidegate check``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tidegate.doctor.findings import Finding, advice, ok, problem
from tidegate.edge.file_checks import (
    ignored_lines_of_files,
    problems_of_files,
    problems_of_link,
)
from tidegate.runtime.config.config_file import Role, problems_of_cluster, warnings_of
from tidegate.runtime.config.model import Config

_AREA: Final = "configuration"


def examine_configuration(config: Config, role: Role, said: list[str]) -> Iterator[Finding]:
    """Yield what stops a start, what is probably not intended, and what variables set.

    ``said`` has a sentence for each setting from the environment.
    """
    before = 0
    for text in (
        *problems_of_cluster(config),
        *(problems_of_files(config) if role != "router" else []),
        *(problems_of_link(config.link.tls) if role != "serve" else []),
    ):
        before += 1
        yield problem(_AREA, text, "correct it: the process does not start with it")
    for text in ignored_lines_of_files(config) if role != "router" else []:
        before += 1
        yield problem(_AREA, text, "correct the line: it has no effect as it is")
    for text in warnings_of(config, role):
        before += 1
        yield advice(_AREA, text, "if this is not intended, change the setting")
    if not before:
        yield ok(_AREA, f"nothing stops `tidegate {role}`")
    for text in said:
        yield ok(_AREA, text)
