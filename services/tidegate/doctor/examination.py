"""All examinations of one role, in the order in which a person reads them.

Called by the command line. Each is imported when it is its turn: edges and routers are installed
without what only the others need.
"""

# ruff: noqa: PLC0415 - see the docstring

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tidegate.doctor.findings import Finding, advice
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config


def role_of(config: Config) -> Role:
    """Return the role that a configuration is for, as far as it says so."""
    if config.link.routers:
        return "edge"
    if config.console.edges:
        return "console"
    is_router = "listen" in config.link.model_fields_set and not config.listeners
    return "router" if is_router and config.store.url is not None else "serve"


def examine(config: Config, role: Role, said: list[str], file: Path | None = None) -> list[Finding]:
    """Return all findings about a configuration, which was read from ``file``.

    ``said``: a sentence for each setting from the environment.
    """
    about_store, ahead_s = _store(config) if role != "edge" else ([], None)
    return [
        *_tried("configuration", lambda: _configuration(config, role, said)),
        *_tried("files", lambda: _files(config, role, file)),
        *_tried("certificates", lambda: _certificates(config)),
        *about_store,
        *_tried("ports", lambda: _ports(config, role)),
        *_here(config, role, ahead_s),
    ]


def _tried(area: str, examination: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(examination())
    except ImportError as error:
        return [_not_installed(area, error)]


def _not_installed(area: str, error: ImportError) -> Finding:
    text = f"not looked at: {error.name or error} is not installed"
    return advice(area, text, "run this where all of Tidegate is installed (the image has it)")


def _configuration(config: Config, role: Role, said: list[str]) -> Iterable[Finding]:
    from tidegate.doctor.configuration import examine_configuration

    return examine_configuration(config, role, said)


def _files(config: Config, role: Role, file: Path | None) -> Iterable[Finding]:
    from tidegate.doctor.files import examine_files

    return examine_files(config, role, file)


def _certificates(config: Config) -> Iterable[Finding]:
    from tidegate.doctor.certificates import examine_certificates

    return examine_certificates(config)


def _store(config: Config) -> tuple[list[Finding], float | None]:
    """Return what there is to say, and by how much the store's clock is ahead."""
    try:
        from tidegate.doctor.store import examine_store
    except ImportError as error:
        return [_not_installed("store", error)], None
    found, facts = examine_store(config)
    return found, None if facts is None else facts.clock_ahead_s


def _ports(config: Config, role: Role) -> Iterable[Finding]:
    from tidegate.doctor.ports import examine_ports

    return examine_ports(config, role)


def _here(config: Config, role: Role, ahead_s: float | None) -> list[Finding]:
    from tidegate.doctor.clocks import examine_clocks
    from tidegate.doctor.limits import examine_limits
    from tidegate.doctor.names import examine_names

    return [
        *examine_names(config, role),
        *examine_clocks(ahead_s),
        *examine_limits(config, role),
    ]
