"""``tidegate ctl``: calls the admin API of a running process, and prints the response as text.

The commands are here, ``tidegate.cli.main`` adds them to the command line. With ``--json``
the response is printed as it came. Exit codes: 0 done, 1 refused or not reachable, 2 wrong usage.
"""

# ruff: noqa: PLC0415 - imports inside keep the other commands quick; printing is the job

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

#: Where the options for the console are, for ``cli.api``.
API_OPTIONS: Final = "tidegate.api"
#: Where it is whether an option names the admin API.
ADMIN_IS_NAMED: Final = "tidegate.admin"
DEFAULT_ADMIN: Final = "http://127.0.0.1:18083"
TIMEOUT_S: Final = 10.0
#: Between two requests while a drain is waited for.
POLL_S: Final = 0.5
#: Clients in one request: as many as the admin API returns.
PAGE: Final = 1000

EXIT_FAILED: Final = 1
NOT_OURS: Final = "the response is not from Tidegate's admin API"
#: Widest column of a table.
MAX_WIDTH: Final = 60

Json = dict[str, Any]

app = typer.Typer(
    name="ctl",
    help="Inspect and control a running broker, through its console or its admin API.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the response as JSON.")]


class AdminError(Exception):
    """The admin API refused or did not respond. The text is one line; ``status`` 0: no response."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Admin:
    """The admin API of one process."""

    host: str
    port: int
    token: str = ""
    wants_json: bool = False

    @classmethod
    def at(cls, url: str, token_file: Path | None, wants_json: bool) -> Admin:
        """Read ``http://HOST:PORT`` or ``HOST:PORT``, and the token. Raises ValueError, OSError."""
        from urllib.parse import urlsplit

        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"expected http://HOST:PORT, got {url}")
        token = token_file.read_text().strip() if token_file is not None else ""
        return cls(parts.hostname, parts.port or 18083, token, wants_json)

    def ask(self, method: str, path: str) -> bytes:
        """Send one request and return the body. Raises AdminError."""
        from http.client import HTTPConnection, HTTPException

        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection = HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminError(f"no response from {self.host}:{self.port}: {reason}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            text = body.decode(errors="replace").strip() or answer.reason
            raise AdminError(text, answer.status)
        return body

    def json(self, method: str, path: str) -> Json:
        """Send one request and return the decoded response. Raises AdminError."""
        import json

        try:
            value = json.loads(self.ask(method, path))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise AdminError(NOT_OURS)
        return value


# Commands


@app.callback()
def _options(
    context: typer.Context,
    admin: Annotated[
        str, typer.Option(help="URL of the admin API.", metavar="URL")
    ] = DEFAULT_ADMIN,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the admin token (admin.token_file).", metavar="FILE"),
    ] = None,
    as_json: JsonOption = False,
    api: Annotated[
        str | None,
        typer.Option(
            help="URL of the console, for the commands that ask the whole broker; also in the "
            "environment, TIDEGATECTL_API. Default: that of tidegate.yaml or "
            "/etc/tidegate/tidegate.yaml, else http://127.0.0.1:18080.",
            metavar="URL",
        ),
    ] = None,
    api_context: Annotated[
        str | None,
        typer.Option(
            "--context",
            help="Context of ~/.config/tidegate/ctl.yaml, with the URL and the token.",
            metavar="NAME",
        ),
    ] = None,
    api_token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a token of the console; the token itself may be in the environment, "
            "TIDEGATECTL_TOKEN.",
            metavar="FILE",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Configuration file of `tidegate serve` on this machine: its console, with the "
            "first token that it has made.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    context.meta[API_OPTIONS] = (api, api_context, api_token_file, config)
    source = context.get_parameter_source("admin")
    is_given = source is not None and source.name == "COMMANDLINE"
    context.meta[ADMIN_IS_NAMED] = is_given or token_file is not None
    try:
        context.obj = Admin.at(admin, token_file, as_json)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--admin") from None
    except OSError as error:
        raise typer.BadParameter(
            f"{token_file}: {error.strerror}", param_hint="--token-file"
        ) from None


@app.command()
def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show role, readiness, connections and configuration."""
    admin = _admin(context, as_json)
    _print_response(admin, lambda: admin.json("GET", "/status"), status_lines)


def drain(
    context: typer.Context,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all clients are disconnected.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Close the listeners and disconnect all clients.

    Clients are disconnected at the rate of drain.rate. Draining cannot be cancelled.
    """
    admin = _admin(context, as_json)

    def begin() -> Json:
        progress = admin.json("POST", "/drain")
        said = ""
        while wait and not progress.get("done"):
            if not admin.wants_json and said != drain_line(progress):
                said = drain_line(progress)
                print(said, flush=True)
            time.sleep(POLL_S)
            try:
                progress = admin.json("GET", "/drain")
            except AdminError as error:
                if error.status:
                    raise
                # The process has ended, and so have its connections.
                return {**progress, "done": True, "clients_left": 0}
        return progress

    _print_response(admin, begin, lambda progress: [drain_line(progress)])


@app.command()
def shed(
    context: typer.Context,
    count: Annotated[
        int,
        typer.Argument(
            min=0,
            help="Number of clients; 0 cancels what is left of the last request.",
            metavar="N",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Disconnect N clients, chosen at random.

    Clients are disconnected at the rate of drain.rate, MQTT 5 clients with reason code 0x9C (Use
    another server). Used for rebalancing.
    """
    admin = _admin(context, as_json)
    _print_response(
        admin,
        lambda: admin.json("POST", f"/shed?connections={count}"),
        lambda answer: [shed_line(answer)],
    )


def clients(context: typer.Context, limit: int, after: str, as_json: bool) -> None:
    """List the clients of one admin API; ``cli.api.clients`` has the command."""
    admin = _admin(context, as_json)
    # What follows a mount point is printed as \x00: no argument of a command can hold it.
    position = after.replace("\\x00", "\0")
    _print_response(admin, lambda: all_clients(admin, limit, position), client_lines)


@app.command()
def disconnect(
    context: typer.Context,
    client_id: Annotated[str, typer.Argument(help="Client identifier.", metavar="ID")],
    mount_point: Annotated[
        str | None,
        typer.Option(
            help="Mount point of the client's listener, if several have this identifier.",
            metavar="PREFIX",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Disconnect a client.

    MQTT 5 clients get reason code 0x98 (Administrative action). The client may reconnect.
    """
    admin = _admin(context, as_json)
    _print_response(
        admin,
        lambda: admin.json("DELETE", _target("/clients", client_id, mount_point)),
        lambda answer: [f"Disconnected {printable(answer.get('disconnected'))}."],
    )


@app.command(name="end-session")
def end_session(
    context: typer.Context,
    client_id: Annotated[str, typer.Argument(help="Client identifier.", metavar="ID")],
    mount_point: Annotated[
        str, typer.Option(help="Mount point of the client's listener.", metavar="PREFIX")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """End a session with its queue and subscriptions.

    Whichever user owns it (auth.session_owner). A connected client is disconnected. Another user
    may then connect with the client identifier.
    """
    admin = _admin(context, as_json)
    _print_response(
        admin,
        lambda: admin.json("DELETE", _target("/sessions", client_id, mount_point)),
        lambda answer: [f"Ended the session of {printable(answer.get('ended'))}."],
    )


@app.command()
def metrics(context: typer.Context) -> None:
    """Print the metrics in Prometheus text format."""
    admin = _admin(context, False)
    try:
        text = admin.ask("GET", "/metrics").decode()
    except AdminError as error:
        _failed(error)
    print(text, end="")


def _target(page: str, client_id: str, mount_point: str | None) -> str:
    from urllib.parse import quote

    target = f"{page}/{quote(client_id, safe='')}"
    return target if mount_point is None else f"{target}?mount_point={quote(mount_point, safe='')}"


def _admin(context: typer.Context, as_json: bool) -> Admin:
    admin = context.obj
    assert isinstance(admin, Admin)
    admin.wants_json = admin.wants_json or as_json
    return admin


def _print_response(
    admin: Admin, ask: Callable[[], Json], lines: Callable[[Json], Iterable[str]]
) -> None:
    try:
        answer = ask()
    except AdminError as error:
        _failed(error)
    if admin.wants_json:
        import json

        print(json.dumps(answer, ensure_ascii=False))
        return
    for line in lines(answer):
        print(line)


def _failed(error: AdminError) -> NoReturn:
    print(f"tidegate: {printable(error)}", file=sys.stderr)
    raise typer.Exit(EXIT_FAILED)


def all_clients(admin: Admin, limit: int, after: str) -> Json:
    """Ask page by page until there are ``limit`` clients (0: all). Raises AdminError."""
    from urllib.parse import quote

    found: list[Json] = []
    position: str | None = after
    while position is not None and (not limit or len(found) < limit):
        count = min(PAGE, limit - len(found)) if limit else PAGE
        page = admin.json("GET", f"/clients?limit={count}&after={quote(position, safe='')}")
        if not isinstance(page.get("clients"), list):
            raise AdminError(NOT_OURS)
        found += page["clients"]
        position = page.get("next")
    return {"clients": found, "next": position}


# Text output


def printable(value: object) -> str:
    """A text without control characters: client identifiers may hold any."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in str(value)
    )


def duration(seconds: float) -> str:
    """Seconds in two units: 3 d 4 h, 5 min 6 s."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def drain_line(progress: Json) -> str:
    """One sentence about a drain."""
    if not progress.get("draining"):
        return "Not draining."
    left, start = progress.get("clients_left", 0), progress.get("clients_at_start", 0)
    if progress.get("done") and not left:
        return f"Drained: all {start} clients disconnected."
    return f"Draining: {left} of {start} clients still connected."


def shed_line(answer: Json) -> str:
    """One sentence about clients that will be disconnected."""
    count = answer.get("shedding", 0)
    return f"{count} client{'' if count == 1 else 's'} will be disconnected."


def status_lines(facts: Json) -> Iterator[str]:
    """The answer of /status, one fact a line; what is not known here is printed as it is."""
    facts = dict(facts)
    name = printable(facts.pop("name", ""))
    role, version = facts.pop("role", "?"), facts.pop("version", "?")
    build = f" ({printable(facts.pop('build'))})" if "build" in facts else ""
    up = duration(facts.pop("uptime_s", 0))
    yield f"Tidegate {printable(version)}{build}, {printable(role)} {name}, up for {up}"
    ready, reason = facts.pop("ready", False), facts.pop("reason", "")
    yield printable(reason or "ready") if ready else f"NOT READY: {printable(reason)}"
    progress = facts.pop("drain", None)
    configuration = facts.pop("configuration", None)
    rows = [row for key, value in facts.items() for row in _facts(key, value)]
    if isinstance(configuration, dict):
        rows += _configuration_facts(configuration)
    yield from _table([], rows)
    if isinstance(progress, dict) and progress.get("draining"):
        yield drain_line(progress)


def _configuration_facts(configuration: Json) -> Iterator[tuple[str, str]]:
    """Which configuration is in use, and why a changed one is not."""
    yield "configuration", _in_use(configuration)
    restart = configuration.get("restart_needed") or ()
    if restart:
        yield "restart needed", ", ".join(printable(key) for key in restart)
    for path, file in configuration.get("files", {}).items():
        yield f"file {printable(path)}", _in_use(file)


def _in_use(one: Json) -> str:
    digest, problem = printable(one.get("digest") or "-"), one.get("problem")
    return f"{digest}, CHANGE NOT APPLIED: {printable(problem)}" if problem else digest


def _facts(key: str, value: object) -> Iterator[tuple[str, str]]:
    label = printable(key).replace("_", " ")
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _facts(f"{key} {inner}", one)
    elif isinstance(value, list):
        yield label, ", ".join(printable(one) for one in value) or "none"
    elif isinstance(value, bool):
        yield label, "yes" if value else "no"
    else:
        yield label, printable("-" if value is None else value)


_COLUMNS: Final = (
    ("CLIENT", "client_id"),
    ("USER", "username"),
    ("MQTT", "version"),
    ("ADDRESS", "address"),
    ("LISTENER", "listener"),
    ("SINCE", "since"),
    ("SESSION", "durable"),
    ("SUBSCRIPTIONS", "subscriptions"),
    ("IN FLIGHT", "in_flight"),
    ("QUEUED", "queued"),
)


def client_lines(answer: Json) -> Iterator[str]:
    """The table of clients, and whether there are more."""
    rows = []
    clients = answer["clients"]
    columns = list(_COLUMNS)
    if any(client.get("mount_point") for client in clients):
        columns.insert(1, ("MOUNT POINT", "mount_point"))
    for client in clients:
        shown = {**client, "durable": "durable" if client.get("durable") else "-"}
        values = (shown.get(key) for _, key in columns)
        rows.append(tuple("-" if value is None else printable(value) for value in values))
    if not rows:
        yield "No clients."
        return
    yield from _table([title for title, _ in columns], rows)
    if answer.get("next") is not None:
        yield f"More clients: --after {printable(answer['next'])}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [row for row in (head, *rows) if row]
    widths = (
        [min(MAX_WIDTH, max(len(row[column]) for row in lines)) for column in range(len(lines[0]))]
        if lines
        else []
    )
    for row in lines:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
