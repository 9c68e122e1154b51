"""Rendezvous hashing: which of several names a key belongs to.

Every edge computes the same answer from the same names, without communication. When a name is added
or removed, only the keys that it owns or owned move.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

#: What BLAKE2b takes as a key.
LONGEST_KEY_BYTES: Final = 64


def owner(key: str, names: Iterable[str]) -> str:
    """Return the name with the highest weight for ``key``. Raises ValueError without names."""
    encoded = key.encode()
    return max(names, key=lambda name: (_weight(name, encoded), name))


def _weight(name: str, key: bytes) -> bytes:
    encoded = name.encode()
    if len(encoded) > LONGEST_KEY_BYTES:
        encoded = blake2b(encoded).digest()
    return blake2b(key, digest_size=8, key=encoded).digest()
