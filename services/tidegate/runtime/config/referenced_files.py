"""Files that a configuration names, and those of them that are read at every use.

The admin token, the store's passwords and certificates and the link's certificates are not kept in
memory: each connection or request reads them. ``ReadAtUse`` checks them, so that /status can say
which content the next one will use, and whether it is valid. Called by ``roles``.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config, Section


@dataclass(slots=True, frozen=True)
class ReadAtUse:
    """Files that are used together. ``check`` raises OSError or ValueError if they are invalid."""

    name: str
    paths: tuple[Path, ...]
    check: Callable[[], object]


def has_revocation_lists(content: bytes) -> bool:
    """Whether a bundle of CA certificates has revocation lists (CRLs), too.

    OpenSSL takes them in and does not check them unless it is told to; gRPC cannot check them.
    """
    return b"-----BEGIN X509 CRL-----" in content


def read_authorities(path: Path) -> bytes:
    """Read a bundle of CA certificates for gRPC. Raises OSError, also if it has CRLs."""
    content = path.read_bytes()
    if has_revocation_lists(content):
        problem = "revocation lists (CRLs) in the CA certificates of the link are not supported"
        raise OSError(errno.EINVAL, problem, str(path))
    return content


def read_token(path: Path) -> bytes:
    """Read a token file. Raises OSError when it contains no token."""
    token = path.read_bytes().strip()
    if not token:
        raise OSError(f"{path} contains no token")
    return token


def referenced_paths(section: Section) -> Iterator[Path]:
    """Every path that a configuration names, directories included."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, Path):
                yield item
            elif isinstance(item, Section):
                yield from referenced_paths(item)


def read_at_use(config: Config, role: Role) -> list[ReadAtUse]:
    """Return the files that a process of this role reads at every use."""
    found: list[ReadAtUse] = []
    token = config.admin.token_file
    if role == "console":
        found += _of_console(config)
    elif config.admin.enabled and token is not None:
        found.append(ReadAtUse("admin.token_file", (token,), lambda: read_token(token)))
    tls = config.link.tls
    if role in {"edge", "router"} and tls.ca and tls.certificate and tls.key:
        ca, certificate, key = tls.ca, tls.certificate, tls.key

        def check() -> None:
            read_authorities(ca)
            _check_tls(ca, certificate, key)

        found.append(ReadAtUse("link.tls", (certificate, key, ca), check))
    if role != "edge":
        found += _of_store(config)
    return found


def _of_console(config: Config) -> Iterator[ReadAtUse]:
    token = config.console.token_file or config.admin.token_file
    if token is not None:
        yield ReadAtUse("console.token_file", (token,), lambda: read_token(token))


def _of_store(config: Config) -> Iterator[ReadAtUse]:
    store = config.store
    for name in ("password_file", "sentinel_password_file"):
        path: Path | None = getattr(store, name)
        if path is not None:
            yield ReadAtUse(f"store.{name}", (path,), path.read_text)
    named = (store.tls_ca, store.tls_certificate, store.tls_key)
    paths = tuple(path for path in named if path is not None)
    if paths:
        yield ReadAtUse("store.tls", paths, lambda: _check_tls(*named))


def _check_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        reason = error.reason.replace("_", " ").lower() if error.reason else str(error)
        raise ValueError(reason) from None


def _no_password() -> str:
    raise ValueError("the private key is encrypted, which is not supported")
