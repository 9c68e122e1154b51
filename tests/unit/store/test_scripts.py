"""The script's loader."""

from __future__ import annotations

import re
from hashlib import sha1

from support.store_groups import ACL_RULES, STORAGE
from tidegate.store import operations, scripts


def test_the_script_is_whole_and_named_by_its_digest() -> None:
    source, name = scripts.load()
    assert name == sha1(source).hexdigest().encode()
    for part in (b"local function append", b"local function disconnect", b"return results"):
        assert part in source
    assert source.rstrip().endswith(b"return results")


def test_every_operation_has_its_letter_in_the_script_and_in_the_documentation() -> None:
    table = rb"^ +(\w) = (\w+), +-- (.+)$"
    found = re.findall(table, scripts.load()[0], re.MULTILINE)
    letters = {(name, letter) for letter, name, _ in found}
    names = [name for name in dir(operations) if name.isupper()]
    assert letters == {(name.lower().encode(), getattr(operations, name)) for name in names}
    text = STORAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w)` \| `(\w+)` \|", text, re.MULTILINE)
    assert letters == {(name.encode(), letter.encode()) for letter, name in rows}


def test_the_documented_rights_are_those_that_the_scripts_need() -> None:
    used = {"evalsha", "script|load", "info", "get", "set", "hscan", "exists", "lrange"}
    for name, word in re.findall(rb"\bp?call\('([A-Z]+)'(?:, '([A-Z]+)')?", scripts.load()[0]):
        # Only the commands that are groups of others have a second word in their rule.
        text = name.decode().lower()
        used.add(f"{text}|{word.decode().lower()}" if text in {"xinfo", "memory"} else text)
    allowed = {rule[1:] for rule in ACL_RULES.split() if rule.startswith("+")}
    assert allowed == used
