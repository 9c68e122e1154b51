"""Password files in mosquitto's formats: parsing, and verifying without blocking the event loop.

Called by `Authenticator` and, for `PasswordFileError`, by ``password_file``. A line is
``user:hash`` with one of

- ``$6$salt$hash``: SHA-512 of password and salt, in base64 (mosquitto up to 1.6);
- ``$7$iterations$salt$hash``: PBKDF2 with SHA-512 (mosquitto 1.6 to 2.0);
- ``$argon2id$…``: the usual encoded form (mosquitto 2.1, and what ``tidegate passwd`` writes).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tidegate.runtime.telemetry.counters import Counters

_BLANKS: Final = " \t\n\v\f\r"
_MAX_SALT_BYTES: Final = 256
_DIGEST_BYTES: Final = 64
#: PBKDF2 iterations above this are a mistake.
_MAX_ITERATIONS: Final = 100_000_000
_ARGON2: Final = re.compile(
    r"\$argon2id\$(?:v=\d{1,3}\$)?m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,8})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"
)
#: KiB; what one verification may use of memory.
_MAX_ARGON2_MEMORY: Final = 4 * 1024 * 1024


class PasswordFileError(ValueError):
    """The file (or a request to change it) cannot be used; the message is for the user."""


@dataclass(slots=True, frozen=True)
class Sha512Hash:
    """``$6$``: one SHA-512, cheap enough for the event loop."""

    salt: bytes
    digest: bytes
    costly = False

    def verify(self, password: bytes) -> bool:
        """Return whether this is the password."""
        return hmac.compare_digest(hashlib.sha512(password + self.salt).digest(), self.digest)


@dataclass(slots=True, frozen=True)
class Pbkdf2Hash:
    """``$7$``: PBKDF2 with HMAC-SHA-512."""

    salt: bytes
    digest: bytes
    iterations: int
    costly = True

    def verify(self, password: bytes) -> bool:
        """Return whether this is the password."""
        digest = hashlib.pbkdf2_hmac("sha512", password, self.salt, self.iterations, _DIGEST_BYTES)
        return hmac.compare_digest(digest, self.digest)


@dataclass(slots=True, frozen=True)
class Argon2Hash:
    """``$argon2id$``: the encoded form, unparsed."""

    encoded: bytes
    costly = True

    def verify(self, password: bytes) -> bool:
        """Return whether this is the password."""
        from argon2.exceptions import (  # noqa: PLC0415 - only files with such hashes need argon2
            VerificationError,
        )
        from argon2.low_level import Type, verify_secret  # noqa: PLC0415

        try:
            return verify_secret(self.encoded, password, Type.ID)
        except VerificationError:
            return False


PasswordHash = Sha512Hash | Pbkdf2Hash | Argon2Hash


def parse_hash(text: str) -> PasswordHash:
    """Parse what follows the user name. Raises PasswordFileError."""
    if text.startswith("$argon2"):
        return _parse_argon2(text)
    parts = text.split("$")
    kind = parts[1] if len(parts) > 1 and not parts[0] else ""
    if kind == "6" and len(parts) == 4:
        return Sha512Hash(_salt(parts[2]), _digest(parts[3]))
    if kind == "7" and len(parts) == 5:
        iterations = parts[2]
        if not (iterations.isascii() and iterations.isdigit()) or not (
            1 <= int(iterations) <= _MAX_ITERATIONS
        ):
            raise PasswordFileError("invalid number of iterations")
        return Pbkdf2Hash(_salt(parts[3]), _digest(parts[4]), int(iterations))
    if kind in {"6", "7"}:
        raise PasswordFileError("malformed hash: wrong number of fields")
    raise PasswordFileError("expected a hash that begins with $6$, $7$ or $argon2id$")


def _parse_argon2(text: str) -> Argon2Hash:
    import argon2  # noqa: F401, PLC0415 - a missing module is reported now, not at CONNECT

    found = _ARGON2.fullmatch(text)
    if found is None:
        raise PasswordFileError("malformed argon2id hash")
    if int(found[1]) > _MAX_ARGON2_MEMORY:
        raise PasswordFileError(f"argon2id memory cost above {_MAX_ARGON2_MEMORY} KiB")
    return Argon2Hash(text.encode())


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise PasswordFileError("salt or hash is not base64") from None


def _salt(text: str) -> bytes:
    salt = _decoded(text)
    if not 1 <= len(salt) <= _MAX_SALT_BYTES:
        raise PasswordFileError("invalid length of the salt")
    return salt


def _digest(text: str) -> bytes:
    digest = _decoded(text)
    if len(digest) != _DIGEST_BYTES:
        raise PasswordFileError("invalid length of the hash")
    return digest


class PasswordFile:
    """Users and their hashes. ``problems`` has a line for each bad line of the file."""

    __slots__ = ("problems", "users")

    def __init__(self, users: dict[str, PasswordHash], problems: Sequence[str] = ()) -> None:
        self.users = users
        self.problems = list(problems)

    @classmethod
    def parse(cls, text: str) -> PasswordFile:
        """Parse the text of a file; a malformed line is ignored.

        Empty lines and those that begin with # are skipped. Of two lines of a user the later
        counts.
        """
        users: dict[str, PasswordHash] = {}
        problems: list[str] = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.startswith("#") or not line.strip(_BLANKS):
                continue
            name, colon, hashed = line.partition(":")
            name = name.strip(_BLANKS)
            if not colon or not name:
                problems.append(f"line {number}: expected user:hash")
                continue
            if name in users:
                problems.append(f"line {number}: duplicate user {name!r}, this line is used")
            try:
                users[name] = parse_hash(hashed.strip(_BLANKS))
            except PasswordFileError as error:
                problems.append(f"line {number}: user {name!r}: {error}")
        return cls(users, problems)

    @classmethod
    def load(cls, path: Path) -> PasswordFile:
        """Read and parse a file. Raises PasswordFileError when it cannot be read."""
        try:
            return cls.parse(path.read_bytes().decode("utf-8"))
        except OSError as error:
            raise PasswordFileError(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise PasswordFileError(f"line {line}: not UTF-8") from None


class PasswordCheck(Enum):
    """The result of a verification. The values are reasons of ``Counters.auth_failures``."""

    ACCEPTED = "accepted"
    BAD_PASSWORD = "bad_password"  # noqa: S105 - a reason, not a secret
    UNKNOWN_USER = "unknown_user"
    BUSY = "busy"


class PasswordVerifier:
    """Verifies passwords against a file that may be replaced at any time.

    Costly hashes run in ``threads`` threads; at most ``max_pending`` wait for one, then the result
    is BUSY. A password that was accepted is remembered as a MAC with a key of this process, so that
    a storm of reconnects costs one hash per user. Unknown users take as long as known ones.
    """

    __slots__ = (
        "_counters",
        "_executor",
        "_file",
        "_hashes",
        "_key",
        "_max_pending",
        "_max_remembered",
        "_pending",
        "_remembered",
        "_threads",
    )

    def __init__(
        self,
        file: PasswordFile,
        counters: Counters,
        *,
        threads: int = 2,
        max_pending: int = 1000,
        max_remembered: int = 10_000,
    ) -> None:
        self._counters = counters
        self._threads = threads
        self._max_pending = max_pending
        self._max_remembered = max_remembered
        self._key = secrets.token_bytes(32)
        self._executor: ThreadPoolExecutor | None = None
        self._pending: dict[tuple[bytes, PasswordHash], asyncio.Future[bool]] = {}
        self._remembered: dict[bytes, PasswordHash] = {}
        self.replace(file)

    def replace(self, file: PasswordFile) -> None:
        """Use another file; remembered passwords of unchanged users stay valid."""
        self._file = file
        self._hashes = list(file.users.values()) or [_decoy()]

    def knows(self, username: str | None) -> bool:
        """Whether the file has a user."""
        return username in self._file.users

    def reconfigure(self, *, threads: int, max_pending: int, max_remembered: int) -> None:
        """Take other bounds; hashes that wait or are being computed are finished."""
        if threads != self._threads:
            self.release_threads()
        self._threads = threads
        self._max_pending = max_pending
        self._max_remembered = max_remembered
        while len(self._remembered) > max_remembered:
            self._remembered.pop(next(iter(self._remembered)))

    def release_threads(self) -> None:
        """Shut the threads down when all that waits for them is done."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def close(self) -> None:
        """Shut the threads down; hashes that wait are cancelled."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def verify_now(self, username: str, password: bytes) -> PasswordCheck | None:
        """Return the result if it is cheap (remembered, or a cheap hash), else None."""
        hashed, known = self._hash_of(username)
        if hashed.costly:
            remembered = self._remembered.get(self._mac(username, password))
            return PasswordCheck.ACCEPTED if known and remembered == hashed else None
        self._counters.password_hashes += 1
        return _result(known=known, right=hashed.verify(password))

    async def verify(self, username: str, password: bytes) -> PasswordCheck:
        """Return the result, computing the hash in a thread if it is a costly one."""
        result = self.verify_now(username, password)
        if result is not None:
            return result
        hashed, known = self._hash_of(username)
        mac = self._mac(username, password)
        key = (mac, hashed)
        future = self._pending.get(key)
        if future is None:
            if len(self._pending) >= self._max_pending:
                return PasswordCheck.BUSY
            future = self._begin(key, password)
        # A client that disconnects must not cancel what others wait for.
        right = await asyncio.shield(future)
        result = _result(known=known, right=right)
        if result is PasswordCheck.ACCEPTED and self._max_remembered:
            if len(self._remembered) >= self._max_remembered:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[mac] = hashed
        return result

    def _begin(self, key: tuple[bytes, PasswordHash], password: bytes) -> asyncio.Future[bool]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, "passwords")
        loop = asyncio.get_running_loop()
        self._counters.password_hashes += 1
        future = loop.run_in_executor(self._executor, key[1].verify, password)
        self._pending[key] = future
        future.add_done_callback(lambda _: self._pending.pop(key, None))
        return future

    def _hash_of(self, username: str) -> tuple[PasswordHash, bool]:
        """Return the user's hash; for an unknown one always the same other user's, as a decoy."""
        hashed = self._file.users.get(username)
        if hashed is not None:
            return hashed, True
        digest = hmac.digest(self._key, username.encode(), "sha256")
        return self._hashes[int.from_bytes(digest[:8]) % len(self._hashes)], False

    def _mac(self, username: str, password: bytes) -> bytes:
        return hmac.digest(self._key, username.encode() + b"\0" + password, "sha256")


def _result(*, known: bool, right: bool) -> PasswordCheck:
    if not known:
        return PasswordCheck.UNKNOWN_USER
    return PasswordCheck.ACCEPTED if right else PasswordCheck.BAD_PASSWORD


def _decoy() -> PasswordHash:
    return Pbkdf2Hash(secrets.token_bytes(12), secrets.token_bytes(_DIGEST_BYTES), 101)
