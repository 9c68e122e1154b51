"""Argon2id with fewer threads than lanes: the same result, and no thread besides the caller's."""

from __future__ import annotations

from typing import Any

import argon2.low_level
import pytest
from argon2.low_level import Type, hash_secret

from tidegate.edge.auth import argon2_hash


def encoded(lanes: int, version: int = 19) -> str:
    hashed = hash_secret(b"secret", b"saltsalt", 2, 8 * lanes, lanes, 32, Type.ID, version)
    return hashed.decode()


@pytest.mark.parametrize("threads", [1, 2, 9])
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_the_number_of_threads_does_not_change_the_result(lanes: int, threads: int) -> None:
    hashed = encoded(lanes)
    assert argon2_hash.verify(hashed, b"secret", threads)
    assert not argon2_hash.verify(hashed, b"Secret", threads)
    assert not argon2_hash.verify(hashed, b"", threads)


def test_a_hash_without_a_version_is_of_the_first_one() -> None:
    """As the library reads what was written before versions were."""
    hashed = encoded(1, version=16).replace("v=16$", "")
    assert argon2_hash.verify(hashed, b"secret", 1)
    assert not argon2_hash.verify(encoded(1).replace("v=19$", ""), b"secret", 1)


@pytest.mark.parametrize(("threads", "computing"), [(0, 1), (1, 1), (3, 3), (9, 4)])
def test_lanes_are_computed_in_the_threads_that_there_are(
    monkeypatch: pytest.MonkeyPatch, threads: int, computing: int
) -> None:
    """Four threads at nice 10 would keep an event loop from its processor for a third of it."""
    found: list[int] = []
    compute = argon2.low_level.core

    def core(context: Any, kind: int) -> int:
        found.append(context.threads)
        return compute(context, kind)

    monkeypatch.setattr(argon2.low_level, "core", core)
    assert argon2_hash.verify(encoded(4), b"secret", threads)
    assert found == [computing]


def test_no_memory_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argon2.low_level, "core", lambda _context, _kind: -22)
    with pytest.raises(MemoryError):
        argon2_hash.verify(encoded(1), b"secret", 1)


@pytest.mark.parametrize(
    "hashed",
    [
        "",
        "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$a",
        "$argon2id$v=19$m=8,t=0,p=1$c2FsdHNhbHQ$aGFzaA",
        "$argon2id$v=7$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
    ],
)
def test_what_is_no_hash_verifies_nothing(hashed: str) -> None:
    assert not argon2_hash.verify(hashed, b"secret", 1)
