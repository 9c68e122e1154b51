"""Checks before the embedded server is started: files that an edge reads, addresses that it binds.

Called by ``tidegate serve`` (in a cluster, only for the admin server: the supervisor reserves the
ports and checks the files itself), so that a start that cannot succeed leaves no data directory and
does not wait for the server to load. What another process does in between is found
when the edge opens its listeners.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from tidegate.edge.address_checks import bind_for_a_moment
from tidegate.edge.file_checks import problems_of_auth_files
from tidegate.edge.transport import tls
from tidegate.edge.transport.acceptor import bind
from tidegate.runtime.config.model import AdminConfig, Config, ListenerProtocol


def check_edge(config: Config) -> None:
    """Raise OSError or TlsConfigurationError, as the start of the edge would."""
    if problems := list(problems_of_auth_files(config)):
        raise OSError("; ".join(problems))
    for listener in config.listeners:
        if listener.tls.certificates:
            tls.load(listener)
    with contextlib.ExitStack() as bound:
        for listener in config.listeners:
            for sock in bind(listener):
                bound.enter_context(sock)
                if listener.protocol is ListenerProtocol.UNIX:
                    bound.callback(Path(listener.address).unlink, missing_ok=True)


def check_admin(admin: AdminConfig) -> None:
    """Raise OSError when the admin server cannot listen, with the setting and the address."""
    if not admin.enabled or admin.address.startswith("unix:"):
        return
    bind_for_a_moment("admin", admin.address, admin.port)
