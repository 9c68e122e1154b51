"""The commands about files: ``tidegate check`` and ``tidegate passwd``.

Added to the command line by ``cli.main``. ``check`` reads a configuration and the files that it
names and looks whether the store can be used, ``passwd`` writes a password file. Neither starts
anything.
"""

# ruff: noqa: PLC0415 - imports inside the commands keep the quick ones quick

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.exit import EXIT_FAILED, fail, missing_extra, print_error, usage_error

if TYPE_CHECKING:
    from tidegate.runtime.config.model import Config


class ConsoleRole(StrEnum):
    """What a user of the console may do."""

    viewer = "viewer"
    operator = "operator"
    admin = "admin"


class HashName(StrEnum):
    """The hash that ``passwd`` writes."""

    argon2id = "argon2id"
    sha512_pbkdf2 = "sha512-pbkdf2"
    sha512 = "sha512"


def check(
    file: Annotated[
        Path | None, typer.Argument(help="Configuration file (YAML).", metavar="FILE")
    ] = None,
) -> None:
    """Check a configuration file, and the settings in environment variables (TIDEGATE_…).

    Without a file only those are checked. Certificates, password file and ACL file that are named
    are checked as well, and whether the addresses can be bound on this machine and the store can be
    used. Prints a summary, and which settings are from variables, or one line for each problem.
    """
    from tidegate.console.auth.files import problems_of_console_files
    from tidegate.edge.address_checks import problems_of_addresses
    from tidegate.edge.file_checks import (
        ignored_lines_of_files,
        notes_on_certificates,
        problems_of_files,
        problems_of_link,
    )
    from tidegate.runtime.config import config_file
    from tidegate.runtime.config.environment import read_environment

    notes: list[str] = []
    environment = read_environment(os.environ)
    if file is None and not environment.settings and not environment.problems:
        usage_error("nothing to check: name a file, or set TIDEGATE_… variables")
    try:
        content = b"" if file is None else config_file.read(file)
        settings, said = config_file.parse_with_origins(content, file, environment)
        problems = config_file.problems_of_cluster(settings)
        problems += problems_of_files(settings) + problems_of_addresses(settings)
        problems += ignored_lines_of_files(settings)
        problems += problems_of_console_files(settings.console)
        store_problems, store_notes = _check_store(settings)
        problems += problems_of_link(settings.link.tls) + store_problems
        problems += _missing_packages(settings)
        notes = [
            *environment.warnings,
            *config_file.warnings_of_file(settings),
            *notes_on_certificates(settings),
            *store_notes,
        ]
    except config_file.ConfigError as error:
        problems = error.problems
    if problems:
        for problem in problems:
            print(problem)
        raise typer.Exit(EXIT_FAILED)
    print(f"OK: {file or 'the environment'}")
    for line in (*_summary(settings), *said):
        print(f"  {line}")
    for note in notes:
        print(f"  note: {note}")


def _check_store(settings: Config) -> tuple[list[str], list[str]]:
    """Return problems and notes; an edge may be installed without the packages that this needs."""
    try:
        from tidegate.store.store_check import check_store
    except ImportError as error:
        text = missing_extra(error)
        if text is None:
            raise
        return [], [f"the store was not checked: {text}"]
    return check_store(settings)


def _missing_packages(settings: Config) -> list[str]:
    """Return a line if what only some configurations need is not installed."""
    if settings.telemetry.otlp_endpoint is None:
        return []
    try:
        import tidegate.runtime.telemetry.otlp  # noqa: F401 - whether it can be
    except ImportError as error:
        text = missing_extra(error)
        if text is None:
            raise
        return [f"telemetry.otlp_endpoint: {text}"]
    return []


def _summary(settings: Config) -> list[str]:
    lines = []
    for listener in settings.listeners:
        where = listener.address
        if listener.protocol.value != "unix":
            where = f"[{where}]" if ":" in where else where
            where = f"{where}:{listener.port}"
        lines.append(f"listener {listener.label}: {listener.protocol.value}://{where}")
    if not settings.listeners:
        lines.append("no listeners configured: `tidegate serve` uses its default listeners")
    store = settings.store
    lines.append(
        f"store: embedded Valkey, data in {store.data_dir}"
        if store.url is None
        else "store: external server (store.url)"
    )
    admin = settings.admin
    lines.append(f"admin: {admin.address}:{admin.port}" if admin.enabled else "admin: off")
    return lines


def passwd(
    file: Annotated[Path, typer.Argument(help="Password file.", metavar="FILE")],
    user: Annotated[str | None, typer.Argument(help="User name.", metavar="USER")] = None,
    password: Annotated[
        str | None, typer.Argument(help="Password (only with -b).", metavar="PASSWORD")
    ] = None,
    create: Annotated[
        bool, typer.Option("-c", "--create", help="Create the file; an existing one is replaced.")
    ] = False,
    batch: Annotated[
        bool, typer.Option("-b", "--batch", help="Take the password from the command line.")
    ] = False,
    delete: Annotated[bool, typer.Option("-D", "--delete", help="Delete the user.")] = False,
    upgrade: Annotated[
        bool, typer.Option("-U", "--upgrade", help="Hash the plain-text passwords of a file.")
    ] = False,
    hash_name: Annotated[
        HashName, typer.Option("-H", "--hash", help="Hash algorithm.")
    ] = HashName.argon2id,
    role: Annotated[
        ConsoleRole | None,
        typer.Option(help="Role of a user of the console (a file of console.users_file)."),
    ] = None,
) -> None:
    """Manage the users of a password file.

    File format and options are those of mosquitto_passwd; --role is for users of the console.
    """
    from tidegate.edge.auth import password_file as files

    if role is not None and (delete or upgrade):
        usage_error("--role takes a file and a user name")

    if sum((create, delete, upgrade)) > 1:
        usage_error("-c, -D and -U are mutually exclusive")
    if password is not None and not batch:
        usage_error("a password on the command line requires -b")
    try:
        if upgrade:
            if user is not None:
                usage_error("-U takes only a file")
            changed = files.hash_plain_file(file, hash_name.value)
            print_error(f"{changed} passwords hashed")
            return
        if user is None:
            usage_error("missing user name")
        files.check_username(user)
        if delete:
            if batch or password is not None:
                usage_error("-D takes a file and a user name, no password")
            files.delete_user(file, user)
            return
        if batch and password is None:
            usage_error("-b requires the password as the last argument")
        secret = password if password is not None else _prompted_password()
        replaced = files.set_user(
            file,
            user,
            secret,
            hash_name.value,
            create=create,
            role=role.value if role is not None else "",
        )
    except files.PasswordFileError as error:
        fail(str(error))
    print_error(f"{'Updated' if replaced else 'Added'} user {user}")


def _prompted_password() -> str:
    import getpass

    try:
        first = getpass.getpass("Password: ")
        second = getpass.getpass("Reenter password: ")
    except (EOFError, KeyboardInterrupt):
        usage_error("no password entered")
    if first != second:
        usage_error("the passwords do not match")
    return first
