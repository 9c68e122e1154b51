"""Password files in mosquitto's formats: parsing them, and verifying one hash.

Called by `Authenticator`, `PasswordVerifier` and, for `PasswordFileError`, by ``password_file``. A
line is ``user:hash`` with one of

- ``$6$salt$hash``: SHA-512 of password and salt, in base64 (mosquitto up to 1.6);
- ``$7$iterations$salt$hash``: PBKDF2 with SHA-512 (mosquitto 1.6 to 2.0);
- ``$argon2id$…``: the usual encoded form (mosquitto 2.1, and what ``tidegate passwd`` writes).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.edge.auth import argon2_hash

_BLANKS: Final = " \t\n\v\f\r"
_MAX_SALT_BYTES: Final = 256
_DIGEST_BYTES: Final = 64
#: PBKDF2 iterations above this are a mistake.
_MAX_ITERATIONS: Final = 100_000_000
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
    cost = "6"

    def verify(self, password: bytes, threads: int = 1) -> bool:
        """Return whether this is the password; one thread computes it."""
        return hmac.compare_digest(hashlib.sha512(password + self.salt).digest(), self.digest)


@dataclass(slots=True, frozen=True)
class Pbkdf2Hash:
    """``$7$``: PBKDF2 with HMAC-SHA-512."""

    salt: bytes
    digest: bytes
    iterations: int
    costly = True

    @property
    def cost(self) -> str:
        """What decides how long it takes: equal for hashes that take the same time."""
        return f"7:{self.iterations}"

    def verify(self, password: bytes, threads: int = 1) -> bool:
        """Return whether this is the password; one thread computes it."""
        digest = hashlib.pbkdf2_hmac("sha512", password, self.salt, self.iterations, _DIGEST_BYTES)
        return hmac.compare_digest(digest, self.digest)


@dataclass(slots=True, frozen=True)
class Argon2Hash:
    """``$argon2id$``: the encoded form, unparsed."""

    encoded: bytes
    costly = True

    @property
    def cost(self) -> str:
        """See ``Pbkdf2Hash.cost``."""
        return self.encoded.decode().rpartition("$")[0].rpartition("$")[0]

    def verify(self, password: bytes, threads: int = 1) -> bool:
        """Return whether this is the password, computing it in ``threads`` threads at most.

        Raises MemoryError.
        """
        return argon2_hash.verify(self.encoded.decode(), password, threads)


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

    parameters = argon2_hash.parse(text)
    if parameters is None:
        raise PasswordFileError("malformed argon2id hash")
    if parameters.memory_kib > _MAX_ARGON2_MEMORY:
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

    __slots__ = ("_decoys", "problems", "users")

    def __init__(self, users: dict[str, PasswordHash], problems: Sequence[str] = ()) -> None:
        self.users = users
        self.problems = list(problems)
        self._decoys = list(users.values()) or [_decoy()]

    def decoy(self, number: int) -> PasswordHash:
        """Return the hash of some user, for a user name that the file has not."""
        return self._decoys[number % len(self._decoys)]

    @classmethod
    def parse(cls, text: str) -> PasswordFile:
        """Parse the text of a file; a malformed line is ignored.

        Empty lines and those that begin with # are skipped. Of two lines of a user the later
        counts. Bytes that are not UTF-8 are lone surrogates in ``text``; a user name has none.
        """
        users: dict[str, PasswordHash] = {}
        problems: list[str] = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.startswith("#") or not line.strip(_BLANKS):
                continue
            if not is_utf8(line):
                problems.append(f"line {number}: not UTF-8")
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
            return cls.parse(path.read_bytes().decode("utf-8", "surrogateescape"))
        except OSError as error:
            raise PasswordFileError(f"cannot be read: {error.strerror}") from None


def is_utf8(line: str) -> bool:
    """Whether a line that was read with ``surrogateescape`` is UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoy() -> PasswordHash:
    return Pbkdf2Hash(secrets.token_bytes(12), secrets.token_bytes(_DIGEST_BYTES), 101)
