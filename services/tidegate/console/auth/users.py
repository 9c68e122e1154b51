"""Users of the console: ``USER:HASH:ROLE`` in a file that `tidegate passwd` writes.

Used by ``authority``. The file is read again when it has changed, so that a user who is removed is
refused from then on. A hash is verified in a thread, a few at a time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.console.caller import Role
from tidegate.edge.auth.passwords import PasswordFileError, PasswordHash, parse_hash

log = logging.getLogger(__name__)

_MAX_FILE_BYTES: Final = 1_048_576
_MAX_PASSWORD_BYTES: Final = 4096
#: Hashes that are computed at once; each takes 64 MiB and a core for 50 ms.
_AT_ONCE: Final = 2
#: Logins that wait for one of them.
MAX_WAITING: Final = 32


class TooManyLogins(Exception):
    """More logins wait than are verified in reasonable time."""


@dataclass(slots=True, frozen=True)
class User:
    """One line of the file."""

    role: Role
    hash: PasswordHash


class Users:
    """See the module's docstring."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._users: dict[str, User] = {}
        self._verifying = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    def role_of(self, name: str) -> Role | None:
        """Return a user's role; None if there is no such user."""
        user = self._current().get(name)
        return None if user is None else user.role

    async def verify(self, name: str, password: str) -> Role | None:
        """Return the role of the user with this password. Raises TooManyLogins.

        A user who does not exist takes as long as one who does.
        """
        users = self._current()
        if not users:
            return None
        user = users.get(name)
        known = user or next(iter(users.values()))
        secret = password.encode("utf-8", "surrogatepass")[:_MAX_PASSWORD_BYTES]
        if user is None:
            secret = secrets.token_bytes(16)
        if self._waiting >= MAX_WAITING:
            raise TooManyLogins
        self._waiting += 1
        try:
            async with self._verifying:
                same = await asyncio.to_thread(known.hash.verify, secret)
        finally:
            self._waiting -= 1
        return user.role if same and user is not None else None

    def _current(self) -> dict[str, User]:
        if self._path is None:
            return {}
        try:
            status = self._path.stat()
            version = status.st_mtime_ns, status.st_size, status.st_ino
            if version != self._version:
                self._users = read_users(self._path)
                self._version = version
        except (OSError, ValueError) as error:
            if self._version is not None or not self._users:
                log.warning("users file unusable", extra={"reason": str(error)})
            self._version = None
            if isinstance(error, FileNotFoundError):
                self._users = {}
        return self._users


def read_users(path: Path) -> dict[str, User]:
    """Read the file. Raises OSError, or PasswordFileError with the number of the line."""
    with path.open("rb") as stream:
        content = stream.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise PasswordFileError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    return parse_users(content, str(path))


def parse_users(content: bytes, where: str) -> dict[str, User]:
    """Read the content of a file. Raises PasswordFileError with the number of the line."""
    users: dict[str, User] = {}
    for number, line in enumerate(content.decode("utf-8", "surrogateescape").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        encoded, _, role = rest.partition(":")
        try:
            users[name] = User(_role(role.strip()), _argon2id(encoded.strip()))
        except ValueError as error:
            raise PasswordFileError(f"{where}, line {number}: {error}") from None
    return users


def _argon2id(text: str) -> PasswordHash:
    if not text.startswith("$argon2id$"):
        raise PasswordFileError("expected a hash of argon2id, as `tidegate passwd` makes it")
    return parse_hash(text)


def _role(text: str) -> Role:
    if not text:
        return Role.VIEWER
    try:
        return Role(text)
    except ValueError:
        raise PasswordFileError(f"{text!r} is no role: viewer, operator or admin") from None
