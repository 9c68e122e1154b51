"""The options of the commands that run a process, each defined once.

Used by ``cli.processes``. Holds names, types and help; ``flags_of`` makes the configuration's flags
of what was given. Never reads anything.
"""

# ruff: noqa: PLC0415 - imports inside keep the quick commands quick

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

if TYPE_CHECKING:
    from tidegate.runtime.config.config_file import Flags


class Level(StrEnum):
    """Lowest level that is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


Config: TypeAlias = Annotated[
    Path | None, typer.Option(help="Configuration file (YAML).", metavar="FILE")
]
Listener: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Address to listen on: tcp, tls, ws, wss, unix, or auto (all protocols on one port), "
        "such as tcp://127.0.0.1:1883, ws://[::1]:8083/mqtt or unix:///run/mqtt.sock. Can be "
        "repeated.",
        metavar="URL",
    ),
]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Data directory of the embedded Valkey server.", metavar="DIR"),
]
Redis: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="URL of the Redis or Valkey server, such as redis://HOST:PORT.", metavar="URL"
    ),
]
AllowAnonymous: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--allow-anonymous/--no-allow-anonymous",
        help="Allow clients to connect without a user name.",
    ),
]
PasswordFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="Password file (see `tidegate passwd`).", metavar="FILE")
]
AclFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="Access control list (ACL) file.", metavar="FILE")
]
TlsCert: TypeAlias = Annotated[
    Path | None, typer.Option(help="Certificate chain of the TLS listeners.", metavar="PEM")
]
TlsKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Private key of the certificate. Default: the file of --tls-cert.", metavar="PEM"
    ),
]
TlsCa: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="CA certificates that client certificates are verified with. Clients must then "
        "present one.",
        metavar="PEM",
    ),
]
Edges: TypeAlias = Annotated[
    int | None, typer.Option(help="Number of edge processes.", metavar="N", min=0)
]
Routers: TypeAlias = Annotated[
    int | None, typer.Option(help="Number of router processes.", metavar="M", min=0)
]
Router: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Address of a router; a host name stands for all of its addresses. Can be repeated.",
        metavar="HOST:PORT",
    ),
]
Link: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Address on which the router accepts edges.", metavar="ADDRESS:PORT"),
]
Name: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Name of this process. Default: the host name and four hexadecimal digits.",
        metavar="NAME",
    ),
]
Admin: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Address of the admin server (health, metrics, admin API), or off.",
        metavar="ADDRESS:PORT",
    ),
]
LogLevel: TypeAlias = Annotated[Level | None, typer.Option(help="Lowest level that is logged.")]
Supervisor: TypeAlias = Annotated[
    int | None,
    typer.Option(help="Exit when this process, the supervisor, has exited.", hidden=True),
]

#: Options that have another name among the flags; None: not a flag.
_FLAG_NAMES: Final[Mapping[str, str | None]] = {
    "listener": "listeners",
    "router": "routers",
    "edges": "edge_count",
    "routers": "router_count",
    "supervisor": None,
}


def flags_of(values: Mapping[str, Any]) -> Flags:
    """Return the flags of a command's parameters by name; those that are None are left out."""
    from tidegate.runtime.config.config_file import Flags

    flags: dict[str, Any] = {}
    for option, value in values.items():
        name = _FLAG_NAMES.get(option, option)
        if name is not None and value is not None:
            flags[name] = value.value if isinstance(value, Level) else value
    return Flags(**flags)
