"""Examines the files and directories that a configuration names: who may read and write them.

Looks as the user who runs the command, who should be the broker's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tidegate.doctor.findings import Finding, advice, ok, problem, size_text
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config, ListenerConfig, ListenerProtocol
from tidegate.runtime.config.referenced_files import referenced_paths
from tidegate.runtime.config.store_url import parse_store_url

_AREA: Final = "files"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LEAST_FREE_BYTES: Final = 1 << 30
_LEAST_FREE_PERCENT: Final = 10


def examine_files(config: Config, role: Role, file: Path | None = None) -> Iterator[Finding]:
    """Yield what is wrong with permissions and with the room for data.

    ``file`` is the configuration's own; it is secret if it has the store's password.
    """
    paths = [path for path in referenced_paths(config) if path != config.store.data_dir]
    secret = set(_secret_files(config))
    if file is not None:
        paths.insert(0, file)
        url = config.store.url
        if url is not None and parse_store_url(url).password:
            secret.add(file)
    found = [each for path in dict.fromkeys(paths) for each in _of_mode(path, path in secret)]
    found += _of_sockets(config)
    yield from found
    if not found:
        yield ok(_AREA, "nobody but their owners may change files, or read keys and passwords")
    if role == "serve" and config.store.url is None:
        yield from _of_data_directory(config.store.data_dir)


def _secret_files(config: Config) -> Iterator[Path]:
    sections: list[ListenerConfig] = list(config.listeners)
    named = [pair.key for listener in sections for pair in listener.tls.certificates]
    named += [listener.password_file for listener in sections if listener.password_file]
    store = config.store
    for path in (
        *named,
        *(config.auth.password_file, config.admin.token_file, config.link.tls.key),
        *(store.password_file, store.sentinel_password_file, store.tls_key),
    ):
        if path is not None:
            yield path


def _of_mode(path: Path, is_secret: bool) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield problem(
            _AREA,
            f"{path}: {error.strerror}",
            "make it, and let the broker's user read it: the process does not start without it",
        )
        return
    if not os.access(path, os.R_OK):
        yield problem(_AREA, f"{path}: this user may not read it", "let the broker's user read it")
    if mode & stat.S_IWOTH:
        yield problem(
            _AREA, f"{path}: every user of this machine may change it", f"chmod o-w {path}"
        )
    if is_secret and mode & stat.S_IROTH:
        yield advice(
            _AREA,
            f"{path}: every user of this machine may read what is secret in it",
            f"chmod o-r {path}",
        )


def _of_sockets(config: Config) -> Iterator[Finding]:
    for listener in config.listeners:
        directory = Path(listener.address).parent
        is_socket = listener.protocol is ListenerProtocol.UNIX
        if is_socket and not os.access(directory, os.W_OK | os.X_OK):
            yield problem(
                _AREA,
                f"{directory}: this user may not make the socket {listener.address} in it",
                "let the broker's user write to the directory",
            )


def _of_data_directory(directory: Path) -> Iterator[Finding]:
    there = directory.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        yield problem(
            _AREA,
            f"{there}: this user may not write the store's data there",
            "let the broker's user own it, or choose another `store.data_dir`",
        )
        return
    if directory.is_dir() and directory.stat().st_mode & _OTHERS_WRITE:
        yield problem(
            _AREA,
            f"{directory}: other users may change the store's data",
            f"chmod go-w {directory}",
        )
    status = os.statvfs(there)
    free = status.f_bavail * status.f_frsize
    percent = 100 * status.f_bavail // max(status.f_blocks, 1)
    text = f"{size_text(free)} ({percent} %) are free for the store's data in {directory}"
    if free < _LEAST_FREE_BYTES or percent < _LEAST_FREE_PERCENT:
        yield advice(
            _AREA,
            text,
            "make room: when the disk is full the store refuses writes, and publishers wait",
        )
    else:
        yield ok(_AREA, text)
