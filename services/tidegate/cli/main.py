"""The command line: parses arguments, calls one command, prints one line for whatever failed.

The entry point of the console script. The commands are in ``cli.processes``, ``cli.files``,
``cli.convert``, ``cli.doctor``, ``cli.backup`` and ``cli.ctl``; they import the broker when they
are called, so that ``version`` and ``passwd`` answer at once. Never holds a rule of the broker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from tidegate.cli import backup, convert, ctl, doctor, files, processes
from tidegate.cli.api import commands
from tidegate.cli.exit import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    missing_extra,
    print_error,
)

app = typer.Typer(
    name="tidegate",
    help="An MQTT 3.1, 3.1.1 and 5.0 broker that keeps all state in Redis or Valkey.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # Commands below take it over.
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: What the argument parser raises. typer has carried its own copy of click since 0.26, and does not
#: name this class itself.
UsageError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError"
)


#: What the scripts of ``ctl completion`` set.
COMPLETION_VARIABLE = "_TIDEGATE_COMPLETE"


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
    """Take the options that stand before the command."""


@app.command()
def version() -> None:
    """Print the version, and whether it is the interpreted or the compiled build."""
    from tidegate import __version__  # noqa: PLC0415 - imported where it is needed
    from tidegate.runtime.process.build import current_build  # noqa: PLC0415

    print(f"tidegate {__version__} ({current_build()})")


for _command in (
    processes.serve,
    processes.edge,
    processes.router,
    processes.console,
    files.check,
    files.passwd,
    convert.convert,
    doctor.doctor,
    backup.backup,
    backup.restore,
):
    app.command()(_command)
commands.add_to(ctl.app)
app.add_typer(ctl.app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: the console script's entry point."""
    if COMPLETION_VARIABLE in os.environ:
        from typer._completion_classes import completion_init  # noqa: PLC0415 - rarely needed

        completion_init()
    sys.exit(_exit_code(lambda: app(arguments, prog_name="tidegate", standalone_mode=False)))


def _exit_code(command: Callable[[], object]) -> int:
    """Run ``command``; return its exit code, and print one line for whatever failed."""
    try:
        result = command()
    except UsageError as error:
        text: str = error.format_message()  # type: ignore[attr-defined] # see UsageError
        print_error(text if "\n" in text else f"tidegate: {text}")
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ImportError as error:
        package = missing_extra(error)
        if package is None:
            raise
        print_error(f"tidegate: {package}")
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
