"""Which password or ACL file counts for a listener: its own, else the one of ``auth``.

Owned by `Authenticator` and `Authorizer`, one each. A file is read once, however many listeners
name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, Literal, TypeVar

from tidegate.runtime.config.model import AuthConfig, ListenerConfig

F = TypeVar("F")

#: The setting, which has the same name in ``auth`` and in a listener.
Key = Literal["password_file", "acl_file"]


class ListenerFiles(Generic[F]):
    """See the module's docstring.

    ``load`` raises an error of its own for a file that cannot be used. ``empty``, which grants
    nothing, stands for a file that is not loaded any more.
    """

    __slots__ = ("_default", "_empty", "_files", "_is_any", "_key", "_load", "_own")

    def __init__(self, key: Key, load: Callable[[Path], F], empty: F) -> None:
        self._key: Key = key
        self._load = load
        self._empty = empty
        self._default: Path | None = None
        #: By the label of a listener; None: it has none of its own.
        self._own: dict[str, Path | None] = {}
        self._files: dict[Path, F] = {}
        #: Whether settings name one at all.
        self._is_any = False

    def paths(self) -> list[Path]:
        """Return the files in use."""
        named = (self._default, *self._own.values())
        return list(dict.fromkeys(path for path in named if path is not None))

    def reload(self, path: Path) -> None:
        """Read one of them again. Raises what ``load`` raises; then the old one stays."""
        loaded = self._load(path)
        if path in self._files:
            self._files[path] = loaded

    def prepare(self, auth: AuthConfig, listeners: Iterable[ListenerConfig]) -> dict[Path, F]:
        """Read what other settings name and is not in use yet. Raises what ``load`` raises."""
        in_use = set(self.paths())
        named = (self._path_in(auth), *(self._path_in(each) for each in listeners))
        wanted = dict.fromkeys(path for path in named if path is not None and path not in in_use)
        return {path: self._load(path) for path in wanted}

    def apply(
        self,
        auth: AuthConfig,
        listeners: Iterable[ListenerConfig],
        loaded: Mapping[Path, F],
        connected: Iterable[ListenerConfig] = (),
    ) -> bool:
        """Take other settings, and what ``prepare`` returned for them.

        ``connected``: what clients came through. Of a listener that is removed or has another name
        now, they keep the file. Returns whether the file of one that stays has changed.
        """
        old, old_default = self._own, self._default
        self._default = self._path_in(auth)
        self._own = {each.label: self._path_in(each) for each in listeners}
        self._is_any = bool(self.paths())
        removed = (self._path_in(each) for each in connected if each.label not in self._own)
        wanted = {*self.paths(), *removed}
        files = {**self._files, **loaded}
        self._files = {path: file for path, file in files.items() if path in wanted}
        return self._default != old_default or any(
            path != self._own.get(label, path) for label, path in old.items()
        )

    def of(self, listener: ListenerConfig) -> F | None:
        """Return the file that counts for clients of a listener; None: there is none."""
        named = self._path_in(listener)
        if named is None and not self._is_any:
            return None  # as in most installations, so at once
        path = self._own.get(listener.label, named) or self._default
        return None if path is None else self._files.get(path, self._empty)

    def _path_in(self, section: AuthConfig | ListenerConfig) -> Path | None:
        path: Path | None = getattr(section, self._key)
        return path
