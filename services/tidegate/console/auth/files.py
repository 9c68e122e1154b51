"""Whether the files of users and tokens can be used, before somebody needs them.

Called by ``tidegate check`` and at the start of a console. Needs none of the console's packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tidegate.console.auth.tokens import read_tokens
from tidegate.console.auth.users import read_users
from tidegate.runtime.config.console import ConsoleConfig


def problems_of_console_files(console: ConsoleConfig) -> Iterator[str]:
    """Yield one line for each file that cannot be used, beginning with its key."""
    for key, path, read in _files(console):
        if path is None:
            continue
        try:
            read(path)
        except OSError as error:
            yield f"console.{key}: {path}: {error.strerror}"
        except ValueError as error:
            yield f"console.{key}: {error}"


def _files(
    console: ConsoleConfig,
) -> Iterator[tuple[str, Path | None, Callable[[Path], object]]]:
    yield "users_file", console.users_file, read_users
    yield "tokens_file", console.tokens_file, read_tokens
