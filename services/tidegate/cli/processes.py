"""The commands that run a process: ``tidegate serve``, ``edge``, ``router`` and ``console``.

Added to the command line by ``cli.main``. Each reads the configuration, imports its role and runs
it until its end. Never builds a part of the broker itself.
"""

# ruff: noqa: PLC0415 - imports inside the commands keep the quick ones quick

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from tidegate.cli import options
from tidegate.cli.exit import EXIT_USAGE, fail, missing_extra, print_error

if TYPE_CHECKING:
    from tidegate.runtime.config.config_file import Flags, Role
    from tidegate.runtime.config.source import LoadedConfig


def serve(
    listener: options.Listener = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    redis: options.Redis = None,
    allow_anonymous: options.AllowAnonymous = None,
    password_file: options.PasswordFile = None,
    acl_file: options.AclFile = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    edges: options.Edges = None,
    routers: options.Routers = None,
    name: options.Name = None,
    admin: options.Admin = None,
    log_level: options.LogLevel = None,
) -> None:
    """Run a complete broker on this machine.

    Settings are from flags, else from environment variables (TIDEGATE_STORE__URL is store.url),
    else from the file of --config.

    Without --redis it starts an embedded Valkey server, which keeps its data in --data-dir. With
    several edges or routers it starts them as separate processes and supervises them.
    """
    loaded = load_config(options.flags_of(locals()), "serve")
    split = loaded.config.cluster.is_split
    _run("tidegate.roles.supervisor" if split else "tidegate.roles.serve", loaded)


def edge(
    config: options.Config = None,
    listener: options.Listener = None,
    router: options.Router = None,
    name: options.Name = None,
    allow_anonymous: options.AllowAnonymous = None,
    password_file: options.PasswordFile = None,
    acl_file: options.AclFile = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    admin: options.Admin = None,
    log_level: options.LogLevel = None,
    supervisor: options.Supervisor = None,
) -> None:
    """Run one edge of a cluster.

    An edge accepts MQTT clients; its routers route their messages and keep their sessions.
    """
    flags = options.flags_of(locals())
    _exit_with(supervisor)
    _run("tidegate.roles.edge", load_config(flags, "edge", quiet=supervisor is not None), "edge")


def router(
    config: options.Config = None,
    link: options.Link = None,
    redis: options.Redis = None,
    name: options.Name = None,
    admin: options.Admin = None,
    log_level: options.LogLevel = None,
    supervisor: options.Supervisor = None,
) -> None:
    """Run one router of a cluster.

    A router routes messages between edges and keeps sessions in Redis or Valkey.
    """
    flags = options.flags_of(locals())
    _exit_with(supervisor)
    _run(
        "tidegate.roles.router",
        load_config(flags, "router", quiet=supervisor is not None),
        "router",
    )


def console(
    config: options.Config = None,
    redis: options.Redis = None,
    name: options.Name = None,
    log_level: options.LogLevel = None,
    supervisor: options.Supervisor = None,
) -> None:
    """Run the console of a cluster: its API and its page.

    It asks edges and routers at their admin servers (console.edges and console.routers), and reads
    the store. `tidegate serve` starts one itself.
    """
    flags = options.flags_of(locals())
    _exit_with(supervisor)
    _run(
        "tidegate.roles.console",
        load_config(flags, "console", quiet=supervisor is not None),
        "console",
    )


def _exit_with(supervisor: int | None) -> None:
    if supervisor is not None:
        from tidegate.runtime.process.parent import exit_with_parent

        exit_with_parent(supervisor)


def load_config(flags: Flags, role: Role, *, quiet: bool = False) -> LoadedConfig:
    """Read the configuration; print its problems and exit, or (not ``quiet``) its warnings."""
    from tidegate.runtime.config import config_file
    from tidegate.runtime.config.source import ConfigSource

    source = ConfigSource(flags, role, os.environ)
    try:
        loaded = source.load()
    except config_file.ConfigError as error:
        for problem in error.problems:
            print_error(f"tidegate: {problem}")
        raise typer.Exit(EXIT_USAGE) from None
    warnings = [*source.environment.warnings, *config_file.warnings_of(loaded.config, role)]
    for warning in [] if quiet else warnings:
        print_error(f"tidegate: {warning}")
    return loaded


def _run(module_name: str, loaded: LoadedConfig, extra: str = "all") -> None:
    """Run a role until its end; print one line if it cannot start."""
    import importlib

    from tidegate.runtime.process.build import MixedBuild, check_build, package_directory

    try:
        check_build(package_directory())
    except MixedBuild as error:
        fail(f"cannot start: {error}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        text = missing_extra(error, extra)
        if text is None:
            raise
        fail(text)
    try:
        module.run(loaded.config, lambda line: print(line, flush=True), loaded)
    except module.STARTUP_ERRORS as error:
        from tidegate.runtime.reload.errors import error_text

        fail(f"cannot start: {error_text(error)}")
