"""What the commands of the API have in common: options, printing, repeating, exit codes.

Exit codes: 0 done; 1 refused, or no answer; 2 wrong usage; 3 done, but not all nodes answered.
"""

# ruff: noqa: PLC0415 - imports inside keep the other commands quick; printing is the job

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Final, NoReturn

import typer

from tidegate.cli.api.caller import Api, ApiFailure, Json, WrongContext
from tidegate.cli.api.output import painted
from tidegate.cli.ctl import ADMIN_IS_NAMED, API_OPTIONS, Admin, printable

EXIT_FAILED: Final = 1
EXIT_INCOMPLETE: Final = 3

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
WatchOption = Annotated[
    float | None,
    typer.Option("--watch", min=0.2, help="Ask again every so many seconds.", metavar="SECONDS"),
]
LimitOption = Annotated[int, typer.Option(min=0, help="Maximum number of lines; 0: all.")]
MountPointOption = Annotated[
    str, typer.Option(help="Mount point of the client's listener.", metavar="PREFIX")
]
ClientArgument = Annotated[str, typer.Argument(help="Client identifier.", metavar="ID")]


def api_of(context: typer.Context) -> Api:
    """Return the API that the options before the command name."""
    options = context.meta.get(API_OPTIONS, (None, None, None, None))
    try:
        return Api.found(*options)
    except WrongContext as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from None
    except ApiFailure as error:
        failed(error)
    except OSError as error:
        raise typer.BadParameter(
            f"{error.filename}: {error.strerror}", param_hint="--api-token-file"
        ) from None


def is_console_configured(context: typer.Context) -> bool:
    """Whether something says where the console is, and no option where the admin API is."""
    api, name, _, config = context.meta.get(API_OPTIONS, (None, None, None, None))
    if api or name or config:
        return True
    if context.meta.get(ADMIN_IS_NAMED):
        return False
    try:
        return Api.is_configured(api, name)
    except WrongContext as error:
        raise typer.BadParameter(str(error), param_hint="--context") from None


def show(
    context: typer.Context,
    ask: Callable[[Api], Json],
    lines: Callable[[Json], Iterable[str]],
    as_json: bool,
    watch: float | None = None,
) -> None:
    """Ask, and print the answer; again and again, if it is watched."""
    api = api_of(context)
    as_json = as_json or (isinstance(context.obj, Admin) and context.obj.wants_json)
    while True:
        try:
            answer = ask(api)
        except ApiFailure as error:
            if watch is None or not error.status:
                failed(error)
            answer, text = {}, [f"tidegate: {printable(error)}"]
        else:
            text = [_json(answer)] if as_json else list(lines(answer))
        if watch is not None and not as_json and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        print("\n".join(text), flush=True)
        missing = answer.get("missing") or []
        if missing and not as_json:
            said = f"not all answered: {'; '.join(printable(one) for one in missing)}"
            print(painted(said, "warning"), file=sys.stderr)
        if watch is None:
            if missing:
                raise typer.Exit(EXIT_INCOMPLETE)
            return
        time.sleep(watch)


def _json(answer: Json) -> str:
    import json

    return json.dumps(answer, ensure_ascii=False)


def failed(error: ApiFailure) -> NoReturn:
    """End the command with a line."""
    print(f"tidegate: {printable(error)}", file=sys.stderr)
    raise typer.Exit(EXIT_FAILED)


def nothing_or(lines: list[str], rows: int, nothing: str, after: object) -> list[str]:
    """Return lines of a table, a sentence where it has no rows, and whether there are more."""
    found = lines if rows else [nothing]
    return [*found, "There are more: --limit 0 shows all."] if after else found
