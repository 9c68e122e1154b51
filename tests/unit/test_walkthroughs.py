"""The documents that follow one thing through the source: every name in them is there.

A name in backticks counts as code when it has the form ``Class``, ``Class.method`` or ``function``,
unless it is one of the words in ``NOT_CODE``.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted((ROOT / "docs").glob("*-path.md"))
CODE = re.compile(r"`(_?[A-Za-z]\w*(?:\.(?!py`)\w+)?)`")
#: MQTT packets, Kubernetes objects, attributes and keys that are no definitions.
NOT_CODE = {
    "connection.error", "data_received", "deliver", "push", "publish", "out", "slow", "limits",
    "link.gather_s", "limits.receive_maximum", "limits.connect_timeout_s",
    "limits.max_cached_topics", "limits.max_connections", "limits.max_subscriptions",
    "MqttBroker", "ConfigApplied",
    "CONNECTING", "ANSWERING", "NO_ROUTER", "ClientRegistry.connecting",
}  # fmt: skip


@cache
def _definitions() -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    """All functions and classes, and the methods of each class (those of its parts included)."""
    names: set[str] = set()
    methods: dict[str, set[str]] = {}
    for folder in ("services", "operator"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    names.add(node.name)
                if isinstance(node, ast.ClassDef):
                    methods.setdefault(node.name, set()).update(_members(node))
    return frozenset(names), {name: frozenset(members) for name, members in methods.items()}


def _members(owner: ast.ClassDef) -> set[str]:
    """Methods, and what is handed on from a part (``self.publish = part.publish``)."""
    found: set[str] = set()
    for node in ast.walk(owner):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_in_a_walkthrough_is_in_the_source(document: Path) -> None:
    names, methods = _definitions()
    missing = []
    for name in CODE.findall(document.read_text(encoding="utf-8")):
        if name in NOT_CODE:
            continue
        owner, _, member = name.partition(".")
        if owner not in names or (member and member not in methods.get(owner, ())):
            missing.append(name)
    assert not missing


def test_the_walkthroughs_are_there() -> None:
    assert [path.name for path in DOCUMENTS] == [
        "connect-path.md", "publish-path.md", "reconcile-path.md", "subscribe-path.md",
    ]  # fmt: skip
