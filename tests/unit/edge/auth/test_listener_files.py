"""Which file counts for a listener, also when the configuration changes under its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidegate.edge.auth.listener_files import ListenerFiles
from tidegate.runtime.config.model import AuthConfig, ListenerConfig

A, B, C = Path("/a"), Path("/b"), Path("/c")


class Files:
    """ListenerFiles whose files are their names, and a number that counts the readings."""

    def __init__(self) -> None:
        self.read: list[Path] = []
        self.files = ListenerFiles("acl_file", self._load, "nothing")

    def _load(self, path: Path) -> str:
        self.read.append(path)
        return f"{path} {self.read.count(path)}"

    def apply(
        self, default: Path | None, *listeners: ListenerConfig, connected: Any = ()
    ) -> tuple[list[Path], bool]:
        """Return what has been read, and whether somebody has other rules."""
        auth = AuthConfig(acl_file=default)
        before = len(self.read)
        loaded = self.files.prepare(auth, listeners)
        return self.read[before:], self.files.apply(auth, listeners, loaded, connected)


def listener(name: str, own: Path | None = None) -> ListenerConfig:
    return ListenerConfig(name=name, acl_file=own)


@pytest.fixture
def files() -> Files:
    return Files()


def test_a_listener_has_its_own_file_or_the_common_one(files: Files) -> None:
    files.apply(A, listener("x"), listener("y", B), listener("z", B))
    assert files.read == [A, B]  # each once
    assert files.files.paths() == [A, B]
    assert files.files.of(listener("x")) == "/a 1"
    assert files.files.of(listener("y", B)) == "/b 1"


def test_without_any_file_there_is_none(files: Files) -> None:
    files.apply(None, listener("x"), listener("y", B))
    assert files.files.of(listener("x")) is None


def test_one_file_is_reloaded_without_the_others(files: Files) -> None:
    files.apply(A, listener("y", B))
    files.files.reload(B)
    assert files.files.of(listener("y", B)) == "/b 2"
    assert files.files.of(listener("x")) == "/a 1"


def test_clients_have_the_file_of_the_listener_as_it_is_now(files: Files) -> None:
    files.apply(A, listener("x", B))
    assert files.apply(A, listener("x", C)) == ([C], True)
    assert files.files.of(listener("x", B)) == "/c 1"
    assert files.apply(A, listener("x")) == ([], True)
    assert files.files.of(listener("x", B)) == "/a 1"


def test_other_listeners_change_nothing_for_those_that_stay(files: Files) -> None:
    files.apply(A, listener("x"))
    assert files.apply(A, listener("x"), listener("new", B)) == ([B], False)
    assert files.apply(C, listener("x")) == ([C], True)


def test_clients_of_a_removed_listener_keep_its_file_as_long_as_they_are_there(
    files: Files,
) -> None:
    files.apply(A, listener("x", B), listener("y"))
    gone = listener("x", B)
    for _ in range(2):
        files.apply(A, listener("y"), connected=[gone])
        assert files.files.of(gone) == "/b 1"
    files.apply(A, listener("y"))
    assert files.files.of(gone) == "nothing"  # and not the common file, which may grant more


def test_a_file_that_was_only_kept_is_read_again_when_it_is_named_again(files: Files) -> None:
    files.apply(A, listener("x", B))
    files.apply(A, connected=[listener("x", B)])
    assert files.apply(A, listener("x", B)) == ([B], False)
    assert files.files.of(listener("x", B)) == "/b 2"
