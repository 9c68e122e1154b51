"""Verifying an argon2id hash in as many threads as there are processors for it.

Called by ``passwords``. A hash has lanes (p), and the library's own function computes each of them
in a thread of its own, made anew for every quarter of a pass. Where these threads share a processor
with the event loop, they have four times the part of it that one thread has. The result does not
depend on the number of threads.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass
from typing import Final

_ENCODED: Final = re.compile(
    r"\$argon2id\$(?:v=(\d{1,3})\$)?m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,8})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)
#: What a hash without a version is.
_FIRST_VERSION: Final = 0x10
#: ARGON2_OK and ARGON2_MEMORY_ALLOCATION_ERROR of argon2.h.
_OK: Final = 0
_NO_MEMORY: Final = -22


@dataclass(slots=True, frozen=True)
class Argon2Parameters:
    """An encoded hash, taken apart. ``memory_kib``, passes and lanes are what it costs."""

    version: int
    memory_kib: int
    passes: int
    lanes: int
    salt: bytes
    digest: bytes


def parse(encoded: str) -> Argon2Parameters | None:
    """Take an encoded hash apart; None if it is none."""
    found = _ENCODED.fullmatch(encoded)
    if found is None:
        return None
    version, memory_kib, passes, lanes = (
        int(part or _FIRST_VERSION) for part in found.groups()[:4]
    )
    try:
        salt, digest = _decoded(found[5]), _decoded(found[6])
    except binascii.Error:
        return None
    return Argon2Parameters(version, memory_kib, passes, lanes, salt, digest)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def verify(encoded: str, password: bytes, threads: int) -> bool:
    """Return whether this is the password, computing the lanes in ``threads`` threads at most.

    One is the calling thread. Raises MemoryError. A hash with impossible parameters verifies none.
    """
    from argon2.low_level import Type, core, ffi  # noqa: PLC0415 - only files with such hashes need it

    hashed = parse(encoded)
    if hashed is None:
        return False
    # They have to live as long as what points to them.
    digest = ffi.new("uint8_t[]", len(hashed.digest))
    given = ffi.new("uint8_t[]", password)
    salt = ffi.new("uint8_t[]", hashed.salt)
    context = ffi.new(
        "argon2_context *",
        {
            "out": digest,
            "outlen": len(hashed.digest),
            "pwd": given,
            "pwdlen": len(password),
            "salt": salt,
            "saltlen": len(hashed.salt),
            "t_cost": hashed.passes,
            "m_cost": hashed.memory_kib,
            "lanes": hashed.lanes,
            "threads": max(1, min(threads, hashed.lanes)),
            "version": hashed.version,
        },
    )
    error = core(context, Type.ID.value)
    if error == _NO_MEMORY:
        raise MemoryError("argon2id: memory allocation error")
    return error == _OK and hmac.compare_digest(bytes(ffi.buffer(digest)), hashed.digest)
