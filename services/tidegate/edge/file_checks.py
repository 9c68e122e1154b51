"""Checks the files that a configuration names: certificates, passwords, access rules, sockets.

Called by ``tidegate check`` and by the supervisor. Opens and parses; changes nothing, and never
listens.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from tidegate.edge.auth.acl import AclFile, AclFileError
from tidegate.edge.auth.passwords import PasswordFile, PasswordFileError
from tidegate.edge.transport.client_trust import (
    UnusableFile,
    Validity,
    client_trust,
    problems_of,
    validities_in,
)
from tidegate.edge.transport.tls import NOT_ACCEPTED
from tidegate.runtime.config.model import (
    AdminConfig,
    AuthConfig,
    Config,
    LinkTlsConfig,
    ListenerConfig,
    ListenerProtocol,
    TlsConfig,
)
from tidegate.runtime.config.referenced_files import read_authorities, read_token

_AuthFile: TypeAlias = PasswordFile | AclFile


def problems_of_files(config: Config) -> list[str]:
    """Return one line for each problem that stops the start, beginning with the key of the file."""
    problems = [*problems_of_auth_files(config), *_of_admin(config.admin)]
    for index, listener in enumerate(config.listeners):
        key = f"listeners[{index}]"
        problems += _of_tls(f"{key}.tls", listener.tls)
        if listener.protocol is ListenerProtocol.UNIX:
            directory = Path(listener.address).parent
            if not directory.is_dir():
                problems.append(f"{key}.address: {directory} is not a directory")
    return problems


def ignored_lines_of_files(config: Config) -> list[str]:
    """Return one line for each line of a password or ACL file that is logged and ignored."""
    found: list[str] = []
    for name, path, load in _auth_files(config):
        with contextlib.suppress(AclFileError, PasswordFileError):
            found += (f"{name}: {path}: {problem}" for problem in load(path).problems)
    return found


def problems_of_link(tls: LinkTlsConfig) -> list[str]:
    """Return the same for the files of the link, which only edges and routers read."""
    named = (("certificate", tls.certificate), ("key", tls.key), ("ca", tls.ca))
    problems = [
        f"link.tls.{name}: {path}: cannot be read: {problem}"
        for name, path in named
        if path is not None and (problem := _unreadable(path))
    ]
    if problems or tls.certificate is None or tls.ca is None:
        return problems
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except (OSError, ValueError) as error:
        problems.append(f"link.tls: unusable certificate and key: {_reason(error)}")
    try:
        context.load_verify_locations(tls.ca)
    except OSError as error:
        reason = f"no CA certificates in the file: {_reason(error)}"
        problems.append(f"link.tls.ca: {tls.ca}: {reason}")
    try:
        read_authorities(tls.ca)
    except OSError as error:
        problems.append(f"link.tls.ca: {tls.ca}: {error.strerror}")
    return problems


def _auth_files(config: Config) -> Iterator[tuple[str, Path, Callable[[Path], _AuthFile]]]:
    sections: list[tuple[str, AuthConfig | ListenerConfig]] = [("auth", config.auth)]
    sections += ((f"listeners[{index}]", each) for index, each in enumerate(config.listeners))
    for key, section in sections:
        if section.password_file is not None:
            yield f"{key}.password_file", section.password_file, PasswordFile.load
        if section.acl_file is not None:
            yield f"{key}.acl_file", section.acl_file, AclFile.load


def problems_of_auth_files(config: Config) -> Iterator[str]:
    """Yield the same for password and ACL files, those of listeners included."""
    for name, path, load in _auth_files(config):
        try:
            load(path)
        except PasswordFileError as error:
            yield f"{name}: {path}: {error}"
        except AclFileError as error:
            yield from (f"{name}: {path}: {problem}" for problem in error.problems)


def _of_admin(admin: AdminConfig) -> Iterator[str]:
    if admin.token_file is not None:
        try:
            read_token(admin.token_file)
        except OSError as error:
            yield f"admin.token_file: {admin.token_file}: {error.strerror or 'the file is empty'}"


def _of_tls(key: str, tls: TlsConfig) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for index, pair in enumerate(tls.certificates):
        pair_key = f"{key}.certificates[{index}]"
        unreadable = [
            f"{pair_key}.{name}: {path}: cannot be read: {problem}"
            for name, path in (("certificate", pair.certificate), ("key", pair.key))
            if (problem := _unreadable(path))
        ]
        yield from unreadable
        if unreadable:
            continue
        try:
            context.load_cert_chain(pair.certificate, pair.key, password=_no_password)
        except (OSError, ValueError) as error:
            yield f"{pair_key}: unusable certificate and key: {_reason(error)}"
    if tls.client_ca is not None:
        problem = _unreadable(tls.client_ca)
        if problem:
            yield f"{key}.client_ca: {tls.client_ca}: cannot be read: {problem}"
            return
        try:
            context.load_verify_locations(tls.client_ca)
        except OSError as error:
            problem = f"no CA certificates in the file: {_reason(error)}"
            yield f"{key}.client_ca: {tls.client_ca}: {problem}"
        try:
            client_trust(tls)
        except UnusableFile as error:
            name = "client_ca" if error.path == tls.client_ca else "client_crl"
            yield f"{key}.{name}: {error.path}: {error}"
        except OSError as error:
            yield f"{key}.client_crl: {tls.client_crl}: cannot be read: {error.strerror}"


def notes_on_certificates(config: Config) -> list[str]:
    """Return one line for each certificate or revocation list that is not valid now or is missing.

    Nothing of it stops the start. Files that cannot be read are left out.
    """
    found: list[str] = []
    now_s = time.time()
    for index, listener in enumerate(config.listeners):
        tls, key = listener.tls, f"listeners[{index}].tls"
        validities: list[Validity] = []
        for pair in tls.certificates:
            with contextlib.suppress(OSError, UnusableFile):
                validities += validities_in(pair.certificate, NOT_ACCEPTED)
        with contextlib.suppress(OSError, UnusableFile):
            trust = client_trust(tls)
            validities += (*trust.authorities, *trust.lists)
            found += (f"{key}: {gap}" for gap in trust.gaps)
        found += (f"{key}: {path}: {text}" for path, text in problems_of(validities, now_s))
    link, store = config.link.tls, config.store
    for key, file in (
        ("link.tls.ca", link.ca),
        ("link.tls.certificate", link.certificate),
        ("store.tls_ca", store.tls_ca),
        ("store.tls_certificate", store.tls_certificate),
    ):
        if file is not None:
            with contextlib.suppress(OSError, UnusableFile):
                invalid = problems_of(validities_in(file, "connections may fail"), now_s)
                found += (f"{key}: {path}: {text}" for path, text in invalid)
    return found


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ValueError("the private key is encrypted, which is not supported")


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return str(error.strerror)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error)
