"""The console of the ``tidegate serve`` of this machine, from its configuration file.

Called by ``caller`` where nothing else says where the console is. The first token that ``serve``
has made is sent to that console only, and only if nobody but its owner can read or change its file.
"""

# ruff: noqa: PLC0415 - imports inside keep the other commands quick

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate.runtime.config.model import Config

#: Where configuration files are looked for.
PLACES: Final = (Path("tidegate.yaml"), Path("/etc/tidegate/tidegate.yaml"))
_EVERY_ADDRESS: Final = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # which it stands for


class UnusableFile(ValueError):
    """What `serve` has left for `ctl` is there, and cannot be used. The text is a sentence."""


@dataclass(slots=True, frozen=True)
class Console:
    """Where the console is, and the file of its first token, if there may be one."""

    url: str
    tokens_file: Path | None


def named(file: Path) -> Console | None:
    """Return the console of a configuration file, if it has one and its port is known.

    Raises ValueError with one line for every problem of the file.
    """
    from tidegate.runtime.config.config_file import ConfigError

    try:
        return _console(_load(file))
    except ConfigError as error:
        raise ValueError("; ".join(error.problems)) from None


def found() -> Console | None:
    """Return the console of the first file that is in one of the usual places, and can be used.

    One that others could have written is left alone: it could have the token sent to them. Raises
    UnusableFile.
    """
    from tidegate.runtime.config.config_file import ConfigError

    for place in PLACES:
        try:
            status = place.stat()
        except OSError:
            continue
        if status.st_uid in {0, os.geteuid()} and not status.st_mode & 0o022:
            try:
                return _console(_load(place))
            except ConfigError:
                return None
    return None


def _load(file: Path) -> Config:
    from tidegate.runtime.config.config_file import Flags
    from tidegate.runtime.config.source import ConfigSource

    return ConfigSource(Flags(config=file), "serve", os.environ).load().config


def _console(config: Config) -> Console | None:
    from tidegate.roles.console_child import first_token_file

    console = config.console
    if not console.enabled:
        return None
    if not console.port:
        url = _chosen_address(config.store.data_dir)
        return Console(url, first_token_file(config)) if url else None
    host = _EVERY_ADDRESS.get(console.address, console.address)
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if console.tls_certificate is None else "https"
    return Console(f"{scheme}://{shown}:{console.port}", first_token_file(config))


def _chosen_address(data_dir: Path) -> str:
    """Return the URL of a console whose port the system has chosen; "" while it does not run.

    Raises UnusableFile.
    """
    from tidegate.roles.console_child import ADDRESS_FILE

    url, _, pid = read_private(data_dir / ADDRESS_FILE, "address").strip().rpartition(" ")
    if not pid.isascii() or not pid.isdigit():
        return ""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        pass  # it runs as another user, and this one is allowed to read its file
    except (OSError, OverflowError):
        return ""
    return url


def read_private(file: Path, what: str = "first token") -> str:
    """Read a file of this user; "" if there is none. Raises UnusableFile."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UnusableFile(
            f"{file}, which has the {what} of the console of `tidegate serve`: {error.strerror}. "
            "Run this as the user of `tidegate serve`, or with --api URL --api-token-file FILE"
        ) from None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as stream:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise UnusableFile(
                f"{file}, which has the {what} of the console of `tidegate serve`, is open to "
                f"others than its owner (mode {stat.S_IMODE(mode):04o}): delete it and start "
                "`tidegate serve` again, which makes another one, or at least: chmod 600"
            )
        return stream.read(65_536)
