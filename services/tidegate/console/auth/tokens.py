"""Tokens: bearer secrets with a name, a role and perhaps an end. Pure, but for reading a file.

Only a token's SHA-256 is kept: it has 256 random bits, so nothing slower is needed. Used by
``authority`` and ``shared``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tidegate.console.caller import Role

#: What a token begins with, so that a scanner for secrets finds it.
PREFIX: Final = "tgc_"
_MAX_FILE_BYTES: Final = 65_536


@dataclass(slots=True, frozen=True)
class Token:
    """One token without its secret. Times in seconds since 1970; ``expires_at`` 0: no end."""

    id: str
    name: str
    role: Role
    digest: str
    created_at: float = 0.0
    created_by: str = ""
    expires_at: float = 0.0

    def is_valid(self, now_s: float) -> bool:
        """Whether it has not expired."""
        return not self.expires_at or now_s < self.expires_at


def new_secret() -> str:
    """Return a new token as its owner gets it."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def encode(token: Token) -> bytes:
    """Return a token for the store."""
    return json.dumps(asdict(token)).encode()


def decode(raw: bytes) -> Token | None:
    """Return a token from the store; None if it is none (a later version's, say)."""
    try:
        found = json.loads(raw)
        return Token(
            id=str(found["id"]),
            name=str(found["name"]),
            role=Role(found["role"]),
            digest=str(found["digest"]),
            created_at=float(found["created_at"]),
            created_by=str(found["created_by"]),
            expires_at=float(found["expires_at"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def read_tokens(path: Path) -> list[Token]:
    """Read a file with lines ``ROLE TOKEN``. Raises OSError or ValueError with the line."""
    with path.open("rb") as stream:
        content = stream.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    return parse_tokens(content, str(path))


def parse_tokens(content: bytes, where: str) -> list[Token]:
    """Read the content of a file. Raises ValueError with the line."""
    found = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or words[0] not in list(Role):
            raise ValueError(f"{where}, line {number}: expected ROLE TOKEN")
        digest = digest_of(words[1])
        found.append(Token(f"file-{digest[:8]}", f"file-{number}", Role(words[0]), digest))
    return found
