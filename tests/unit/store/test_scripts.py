"""The script's loader."""

from __future__ import annotations

from hashlib import sha1

from tidegate.store import scripts


def test_the_script_is_whole_and_named_by_its_digest() -> None:
    source, name = scripts.load()
    assert name == sha1(source).hexdigest().encode()
    for part in (b"local function append", b"local function disconnect", b"return results"):
        assert part in source
    assert source.rstrip().endswith(b"return results")
