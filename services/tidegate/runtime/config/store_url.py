"""``store.url`` in its parts: which servers, what kind of installation, with TLS or without.

Called by ``model`` (to refuse an invalid URL before anything starts) and by ``tidegate.store`` (to
connect). Never repeats a password in an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
#: Where a URL may point: (host, port), or the path of a Unix socket and 0.
Address = tuple[str, int]

_FORMS: Final = (
    "expected redis://HOST:PORT[/DB], rediss://…, unix:///PATH, "
    "redis+sentinel://HOST:PORT,…/MASTER, redis+cluster://HOST:PORT,…, or these with rediss"
)


class StoreKind(Enum):
    """How the servers behind a URL belong together."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class StoreUrlError(ValueError):
    """The URL cannot be used; the message says why, without its password."""


@dataclass(slots=True, frozen=True)
class StoreUrl:
    """A parsed URL. ``addresses`` are the server's, the sentinels', or some of the cluster's."""

    kind: StoreKind
    addresses: tuple[Address, ...]
    tls: bool = False
    unix: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    master: str = ""


def parse_store_url(url: str) -> StoreUrl:
    """Parse ``url``. Raises StoreUrlError."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreUrlError(_FORMS) from None
    scheme, _, kind_name = parts.scheme.partition("+")
    if parts.scheme == "unix":
        return _unix(url)
    if scheme not in {"redis", "rediss"} or kind_name not in {"", "sentinel", "cluster"}:
        raise StoreUrlError(_FORMS)
    if parts.query or parts.fragment:
        raise StoreUrlError("query and fragment are not supported in a store URL")
    kind = StoreKind(kind_name or "single")
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, password = _credentials(userinfo)
    port = DEFAULT_SENTINEL_PORT if kind is StoreKind.SENTINEL else DEFAULT_PORT
    addresses = tuple(_address(host, port) for host in hosts.split(","))
    if kind is StoreKind.SINGLE and len(addresses) > 1:
        raise StoreUrlError("several servers require redis+sentinel:// or redis+cluster://")
    path = parts.path.strip("/").split("/")
    master = ""
    if kind is StoreKind.SENTINEL:
        master = unquote(path.pop(0))
        if not master:
            raise StoreUrlError("redis+sentinel:// requires the name of the master after the hosts")
    database = _database("/".join(path))
    if kind is StoreKind.CLUSTER and database:
        raise StoreUrlError("a cluster supports database 0 only")
    return StoreUrl(
        kind,
        addresses,
        tls=scheme == "rediss",
        username=username,
        password=password,
        database=database,
        master=master,
    )


def _unix(url: str) -> StoreUrl:
    parts = urlsplit(url)
    userinfo, _, host = parts.netloc.rpartition("@")
    if host or not parts.path:
        raise StoreUrlError("expected unix:// and the absolute path of a socket")
    username, password = _credentials(userinfo)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    database = _database(query.pop("db", ""))
    if query or parts.fragment:
        raise StoreUrlError("only ?db=NUMBER is supported after the path of a socket")
    return StoreUrl(
        StoreKind.SINGLE,
        ((unquote(parts.path), 0),),
        unix=True,
        username=username,
        password=password,
        database=database,
    )


def _credentials(userinfo: str) -> tuple[str, str]:
    name, _, password = userinfo.partition(":")
    if name and not password:
        raise StoreUrlError("a user name requires a password (name:password@, or password_file)")
    return unquote(name), unquote(password)


def _address(text: str, default_port: int) -> Address:
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, port = text, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise StoreUrlError("IPv6 addresses must be in brackets, as in [::1]:6379")
    if not host:
        raise StoreUrlError("missing host")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise StoreUrlError("port must be a number from 1 to 65535")
    return host, int(port)


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise StoreUrlError("database must be a number")
    return int(text)
