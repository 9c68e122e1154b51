"""Editing a password file, as mosquitto_passwd does: add, change, delete, hash plain passwords.

Called by ``tidegate passwd``. Comments, order and other users' lines stay as they are; the new
content replaces the old one atomically: a broker that reads meanwhile gets one of the two.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import Final

from tidegate.edge.auth.passwords import PasswordFileError

#: PBKDF2-SHA512 iterations; a verification takes about 0.1 s.
PBKDF2_ITERATIONS: Final = 210_000
#: The only size that mosquitto 2.0 accepts.
SALT_BYTES: Final = 12
_MAX_BYTES: Final = 65_535

__all__ = [
    "PasswordFileError",
    "check_username",
    "delete_user",
    "hash_password",
    "hash_plain_file",
    "set_user",
]


def check_username(username: str) -> None:
    """Raise PasswordFileError if a line of the file cannot hold the name."""
    if not username or username != username.strip():
        raise PasswordFileError("invalid user name: empty, or blanks around it")
    if username.startswith("#"):
        raise PasswordFileError("invalid user name: # at the beginning starts a comment")
    if ":" in username or any(ord(c) < 32 or ord(c) == 127 for c in username):
        raise PasswordFileError("invalid user name: it has a colon or a control character")
    if len(username.encode()) > _MAX_BYTES:
        raise PasswordFileError(f"invalid user name: longer than {_MAX_BYTES} bytes")


def hash_password(password: str, kind: str) -> str:
    """Return the hash of a password: ``argon2id``, ``sha512-pbkdf2`` or ``sha512``."""
    secret = password.encode("utf-8", "surrogateescape")
    if not secret:
        raise PasswordFileError("the password is empty")
    if len(secret) > _MAX_BYTES:
        raise PasswordFileError(f"the password is longer than {_MAX_BYTES} bytes")
    if kind == "argon2id":
        from argon2 import PasswordHasher  # noqa: PLC0415 - the other kinds do without it

        return PasswordHasher().hash(secret)
    salt = secrets.token_bytes(SALT_BYTES)
    salt_text = base64.b64encode(salt).decode()
    if kind == "sha512":
        digest = hashlib.sha512(secret + salt).digest()
        return f"$6${salt_text}${base64.b64encode(digest).decode()}"
    digest = hashlib.pbkdf2_hmac("sha512", secret, salt, PBKDF2_ITERATIONS)
    return f"$7${PBKDF2_ITERATIONS}${salt_text}${base64.b64encode(digest).decode()}"


def set_user(
    path: Path, username: str, password: str, kind: str, *, create: bool = False, role: str = ""
) -> bool:
    """Add a user or change a password; return whether the user was there before.

    ``create`` begins a new file, whatever was there. ``role`` is that of a user of the console; a
    user who has one keeps it. Raises PasswordFileError.
    """
    check_username(username)
    line = f"{username}:{hash_password(password, kind)}"
    lines = [] if create else _read(path)
    replaced = False
    for index, old in enumerate(lines):
        if _user_of(old) == username:
            kept = role or old.partition(":")[2].partition(":")[2].strip()
            lines[index] = f"{line}:{kept}" if kept else line
            replaced = True
    if not replaced:
        lines.append(f"{line}:{role}" if role else line)
    _write(path, lines)
    return replaced


def delete_user(path: Path, username: str) -> None:
    """Delete a user. Raises PasswordFileError, also when there is no such user."""
    lines = _read(path)
    kept = [line for line in lines if _user_of(line) != username]
    if len(kept) == len(lines):
        raise PasswordFileError(f"{path} has no user {username!r}")
    _write(path, kept)


def hash_plain_file(path: Path, kind: str) -> int:
    """Replace every plain password of the file by its hash; return how many there were.

    What is hashed already stays. Raises PasswordFileError and then changes nothing.
    """
    lines = _read(path)
    changed = 0
    for index, line in enumerate(lines):
        username = _user_of(line)
        if username is None:
            if line.strip() and not line.startswith("#"):
                raise PasswordFileError(f"{path}, line {index + 1}: expected user:password")
            continue
        password = line.partition(":")[2]
        if password.startswith(("$6$", "$7$", "$argon2id$")):
            continue
        try:
            check_username(username)
            lines[index] = f"{username}:{hash_password(password, kind)}"
        except PasswordFileError as error:
            raise PasswordFileError(f"{path}, line {index + 1}: {error}") from None
        changed += 1
    if changed:
        _write(path, lines)
    return changed


def _user_of(line: str) -> str | None:
    name, colon, _ = line.partition(":")
    return name.strip() if colon and not line.startswith("#") else None


def _read(path: Path) -> list[str]:
    try:
        # A line that is not UTF-8 stays as it is.
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise PasswordFileError(f"{path} does not exist; -c creates it") from None
    except OSError as error:
        raise PasswordFileError(f"{path} cannot be read: {error.strerror}") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _write(path: Path, lines: list[str]) -> None:
    """Write beside the file, then rename. Keeps mode and owner; a new file is 0600."""
    target = path.resolve()  # a symlink stays one
    try:
        try:
            status: os.stat_result | None = target.stat()
        except FileNotFoundError:
            status = None
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(
                handle, "w", encoding="utf-8", errors="surrogateescape", newline="\n"
            ) as stream:
                stream.writelines(f"{line}\n" for line in lines)
                stream.flush()
                os.fsync(stream.fileno())
                if status is not None:
                    with contextlib.suppress(PermissionError):
                        os.fchown(stream.fileno(), status.st_uid, status.st_gid)
                    os.fchmod(stream.fileno(), stat.S_IMODE(status.st_mode))
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PasswordFileError(f"{path} cannot be written: {error.strerror}") from None
