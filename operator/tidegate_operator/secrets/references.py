"""Secrets and ConfigMaps that a spec refers to, and the files that pods get from them. Pure.

``references`` lists them, ``reconcile`` reads them, ``collect`` validates their content and returns
the files. If a source becomes missing or invalid, the file that pods already have is kept, and the
problem is reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from tidegate.edge.auth.acl import AclFile, AclFileError
from tidegate.edge.transport.client_trust import expired_trust
from tidegate_operator.names import Reader, console_certificate, listener_certificate
from tidegate_operator.secrets.certificates import (
    CertificateInfo,
    CertificateProblem,
    certificate_info,
    check_authorities,
    check_pair,
    check_revocation_lists,
)
from tidegate_operator.secrets.console_files import tokens_problem, users_problem
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.console import ConsoleTokens, ConsoleUsers
from tidegate_operator.spec.listeners import ListenerSpec
from tidegate_operator.spec.sources import AclSpec, FileSource, PasswordsSource
from tidegate_operator.spec.workloads import ExternalRedis

Kind = Literal["Secret", "ConfigMap"]
#: Kind and name of an object.
ObjectKey = tuple[Kind, str]
#: Data of Secrets and ConfigMaps; None: the object does not exist.
Contents = Mapping[ObjectKey, Mapping[str, bytes] | None]
#: The limit of a Secret is 1 MiB; the rest is for what the operator adds.
MAX_FILES_BYTES: Final = 900_000

NO_CERT_MANAGER: Final = "cert-manager is not installed in this cluster"

_SHOWN_PROBLEMS: Final = 3

CERTIFICATE_KEY: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"


#: The file of ``spec.acl``; those of listeners have a prefix.
ACL_FILE: Final = "acl"
#: How names of files begin that are credentials of an external store.
STORE_FILE_PREFIX: Final = "store-"
#: Those of ``spec.console``.
USERS_FILE: Final = "users"
TOKENS_FILE: Final = "tokens"
CONSOLE_PAIR: Final = "console"


class FileFormat(StrEnum):
    """What a file must contain."""

    PAIR = "pair"  # a certificate and its key: two files
    AUTHORITIES = "authorities"
    REVOCATION_LISTS = "revocation lists"
    ACL = "acl"
    PASSWORDS = "passwords"  # a format, not a secret
    CONSOLE_USERS = "users of the console"
    CONSOLE_TOKENS = "tokens of the console"
    TEXT = "text"


_CERTIFICATES: Final = frozenset(
    {FileFormat.PAIR, FileFormat.AUTHORITIES, FileFormat.REVOCATION_LISTS}
)


@dataclass(slots=True, frozen=True)
class Reference:
    """A reference of the spec. ``file`` is the file name in pods, without extension for pairs.

    ``listener``: the listener that it belongs to. ``pending``: cert-manager creates the object.
    """

    kind: Kind
    name: str
    key: str
    field: str
    component: Reader
    file: str
    file_format: FileFormat
    listener: str = ""
    pending: bool = False

    @property
    def object_key(self) -> ObjectKey:
        """The kind and name of the object."""
        return (self.kind, self.name)

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Pairs of the key in the object and the name of the file."""
        if self.file_format is FileFormat.PAIR:
            return ((CERTIFICATE_KEY, f"{self.file}.crt"), (PRIVATE_KEY, f"{self.file}.key"))
        return ((self.key, self.file),)


class Fault(StrEnum):
    """What is wrong with a reference."""

    MISSING = "missing"  # the object, or a key in it
    PENDING = "pending"  # cert-manager has not issued it yet
    INVALID = "invalid"


@dataclass(slots=True, frozen=True)
class Problem:
    """``sentence`` names the field; ``blocking``: pods cannot run without the reference.

    ``is_awaited``: cert-manager is about to issue the certificate, and only new pods of the console
    wait for it.
    """

    fault: Fault
    sentence: str
    blocking: bool
    is_certificate: bool
    is_awaited: bool = False


@dataclass(slots=True)
class ReferencedFiles:
    """The files for pods, problems, and the certificates of listeners.

    A problem of the console's files blocks nothing: it runs without them.
    """

    edge: dict[str, bytes] = field(default_factory=dict)
    router: dict[str, bytes] = field(default_factory=dict)
    console: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    certificates: dict[str, list[CertificateInfo]] = field(default_factory=dict)
    console_certificate: CertificateInfo | None = None

    @property
    def is_complete(self) -> bool:
        """Whether pods can run with these files."""
        return not any(problem.blocking for problem in self.problems)


# References of a spec


def references(broker: str, spec: MqttBrokerSpec) -> list[Reference]:
    """Return all references of a spec."""
    auth = [reference for access in _access(spec) for reference in _auth_references(access)]
    return [
        *_listener_references(broker, spec),
        *auth,
        *_redis_references(spec),
        *_console_references(broker, spec),
    ]


def listener_file(listener: ListenerSpec) -> str:
    """Return how the names of a listener's files begin."""
    return f"listener.{listener.name}"


@dataclass(slots=True, frozen=True)
class _Access:
    """Passwords and rules of the broker or of a listener, and how their fields and files begin."""

    passwords: PasswordsSource | None
    acl: AclSpec | None
    passwords_field: str
    acl_field: str
    file: str


def _access(spec: MqttBrokerSpec) -> Iterator[_Access]:
    yield _Access(spec.auth.passwords, spec.acl, "spec.auth.passwords", "spec.acl", "")
    for index, each in enumerate(spec.listeners):
        path, file = f"spec.listeners[{index}]", f"{listener_file(each)}."
        yield _Access(each.passwords, each.acl, f"{path}.passwords", f"{path}.acl", file)


def _listener_references(broker: str, spec: MqttBrokerSpec) -> Iterator[Reference]:
    for index, listener in enumerate(spec.listeners):
        tls, file = listener.tls, listener_file(listener)
        if tls is None:
            continue
        path = f"spec.listeners[{index}].tls"
        pairs = []
        if tls.secret_name is not None:
            pairs.append((tls.secret_name, f"{path}.secretName", file, False))
        if tls.issuer is not None:
            made = listener_certificate(broker, listener.name)
            pairs.append((made, f"{path}.issuer", file, True))
        for number, more in enumerate(tls.additional_certificates, 1):
            where = f"{path}.additionalCertificates[{number - 1}].secretName"
            pairs.append((more.secret_name, where, f"{file}.{number}", False))
        for name, where, pair_file, pending in pairs:
            yield Reference(
                kind="Secret",
                name=name,
                key=CERTIFICATE_KEY,
                field=where,
                component="edge",
                file=pair_file,
                file_format=FileFormat.PAIR,
                listener=listener.name,
                pending=pending,
            )
        if tls.client_ca is not None:
            yield _file_reference(
                tls.client_ca,
                f"{path}.clientCa",
                "edge",
                f"{file}.client-ca",
                FileFormat.AUTHORITIES,
            )
        if tls.client_crl is not None:
            yield _file_reference(
                tls.client_crl,
                f"{path}.clientCrl",
                "edge",
                f"{file}.client-crl",
                FileFormat.REVOCATION_LISTS,
            )


def _auth_references(access: _Access) -> Iterator[Reference]:
    passwords, acl = access.passwords, access.acl
    if passwords is not None:
        yield Reference(
            kind="Secret",
            name=passwords.secret_name,
            key=passwords.key,
            field=access.passwords_field,
            component="edge",
            file=f"{access.file}passwords",
            file_format=FileFormat.PASSWORDS,
        )
    if acl is not None and acl.source is not None:
        field = f"{access.acl_field}.source"
        yield _file_reference(acl.source, field, "edge", f"{access.file}{ACL_FILE}", FileFormat.ACL)


def _redis_references(spec: MqttBrokerSpec) -> Iterator[Reference]:
    external = spec.redis.external
    if external is None:
        return
    path = "spec.redis.external"
    for secret, name, file in (
        (external.password_secret, "passwordSecret", "password"),
        (external.sentinel_password_secret, "sentinelPasswordSecret", "sentinel-password"),
    ):
        if secret is not None:
            yield Reference(
                kind="Secret",
                name=secret.name,
                key=secret.key,
                field=f"{path}.{name}",
                component="router",
                file=store_file(external, file),
                file_format=FileFormat.TEXT,
            )
    tls = external.tls
    if tls is not None and tls.ca is not None:
        file = store_file(external, "ca.crt")
        yield _file_reference(tls.ca, f"{path}.tls.ca", "router", file, FileFormat.AUTHORITIES)
    if tls is not None and tls.certificate_secret_name is not None:
        yield Reference(
            kind="Secret",
            name=tls.certificate_secret_name,
            key=CERTIFICATE_KEY,
            field=f"{path}.tls.certificateSecretName",
            component="router",
            file=store_file(external, "client"),
            file_format=FileFormat.PAIR,
        )


def _console_references(broker: str, spec: MqttBrokerSpec) -> Iterator[Reference]:
    if not spec.console.enabled:
        return
    tls = spec.console.tls
    if tls is not None:
        yield Reference(
            kind="Secret",
            name=tls.secret_name or console_certificate(broker),
            key=CERTIFICATE_KEY,
            field=f"spec.console.tls.{'secretName' if tls.issuer is None else 'issuer'}",
            component="console",
            file=CONSOLE_PAIR,
            file_format=FileFormat.PAIR,
            pending=tls.issuer is not None,
        )
    for name, file, file_format in (
        ("users", USERS_FILE, FileFormat.CONSOLE_USERS),
        ("tokens", TOKENS_FILE, FileFormat.CONSOLE_TOKENS),
    ):
        source: ConsoleUsers | ConsoleTokens | None = getattr(spec.console, name)
        if source is not None:
            yield Reference(
                kind="Secret",
                name=source.secret_name,
                key=source.key,
                field=f"spec.console.{name}",
                component="console",
                file=file,
                file_format=file_format,
            )


def store_file(external: ExternalRedis, what: str) -> str:
    """Return the file name for a credential of an external store; it depends on the URL and users.

    While the store is being changed, old and new routers mount the same Secret, and old routers
    reconnect with the credentials of the old store.
    """
    who = repr((external.url, external.username, external.sentinel_username))
    return f"{STORE_FILE_PREFIX}{hashlib.sha256(who.encode()).hexdigest()[:8]}-{what}"


def _file_reference(
    source: FileSource, path: str, component: Reader, file: str, file_format: FileFormat
) -> Reference:
    kind: Kind = "Secret" if source.secret_name is not None else "ConfigMap"
    name = source.secret_name or source.config_map_name
    assert name is not None
    return Reference(kind, name, source.key, path, component, file, file_format)


# Their content


def collect(
    broker: str,
    spec: MqttBrokerSpec,
    contents: Contents,
    live: Mapping[Reader, Mapping[str, bytes]],
    now: datetime,
    *,
    has_cert_manager: bool,
) -> ReferencedFiles:
    """Validate the content of all references, and return the files for pods.

    ``live``: the files that pods have now (from the Secrets that they mount).
    """
    collected = ReferencedFiles()
    for access in _access(spec):
        _add_inline_acl(access, live["edge"], collected)
    for reference in references(broker, spec):
        hint = f" ({NO_CERT_MANAGER})" if reference.pending and not has_cert_manager else ""
        _add(reference, contents, live.get(reference.component, {}), collected, hint)
    for listener in spec.listeners:
        subject = f"listener {listener.name}"
        collected.problems += _expired_certificates(
            subject, collected.certificates.get(listener.name, []), now
        )
        if listener.tls is not None and listener.tls.client_certificates != "off":
            file = listener_file(listener)
            ca, crl = (collected.edge.get(f"{file}.client-{one}", b"") for one in ("ca", "crl"))
            collected.problems += _expired_trust(subject, ca, crl, now)
    if (certificate := collected.console_certificate) is not None:
        collected.problems += _expired_certificates("the console", [certificate], now)
    _check_size(collected)
    return collected


def _add_inline_acl(access: _Access, live: Mapping[str, bytes], collected: ReferencedFiles) -> None:
    if access.acl is None or access.acl.rules is None:
        return
    file, rules = f"{access.file}{ACL_FILE}", access.acl.rules.encode()
    problem = _content_error(FileFormat.ACL, {file: rules})
    if not problem:
        collected.edge[file] = rules
        return
    kept = file in live
    if kept:
        collected.edge[file] = live[file]
    text = f"{access.acl_field}.rules: {problem}{_fallback_text(kept)}"
    collected.problems.append(Problem(Fault.INVALID, text, not kept, is_certificate=False))


def _add(
    reference: Reference,
    contents: Contents,
    live: Mapping[str, bytes],
    collected: ReferencedFiles,
    hint: str,
) -> None:
    target: dict[str, bytes] = getattr(collected, reference.component)
    files, fault, problem = _read(reference, contents)
    is_certificate = reference.file_format in _CERTIFICATES
    if problem:
        old = {file: live[file] for _, file in reference.files if file in live}
        kept = len(old) == len(reference.files) and not _content_error(reference.file_format, old)
        if reference.pending and fault is Fault.MISSING:
            fault = Fault.PENDING
        text = f"{reference.field}: {problem}{hint}{_fallback_text(kept)}"
        is_of_console = reference.component == "console"
        is_awaited = is_of_console and fault is Fault.PENDING and not (kept or hint)
        collected.problems.append(
            Problem(fault, text, not (kept or is_of_console), is_certificate, is_awaited)
        )
        if not kept:
            return
        files = old
    target.update(files)
    if reference.listener:
        pair = certificate_info(files[f"{reference.file}.crt"])
        collected.certificates.setdefault(reference.listener, []).append(pair)
    elif reference.file == CONSOLE_PAIR:
        collected.console_certificate = certificate_info(files[f"{CONSOLE_PAIR}.crt"])


def _fallback_text(kept: bool) -> str:
    return "; the previous content stays in use" if kept else ""


def _read(reference: Reference, contents: Contents) -> tuple[dict[str, bytes], Fault, str]:
    """Return the files, or the fault and why."""
    content = contents.get(reference.object_key)
    where = f"{reference.kind} {reference.name}"
    if content is None:
        return {}, Fault.MISSING, f"{where} not found: {_remedy(reference)}"
    missing = [key for key, _ in reference.files if not content.get(key)]
    if missing:
        return {}, Fault.MISSING, f"{where} has no key {' and no key '.join(missing)}"
    files = {file: content[key] for key, file in reference.files}
    is_secret = reference.kind == "Secret"
    problem = _content_error(reference.file_format, files, is_secret=is_secret)
    return files, Fault.INVALID, f"{where}: {problem}" if problem else ""


def _remedy(reference: Reference) -> str:
    """Return what makes an object appear."""
    if reference.pending:
        return "cert-manager has not issued it yet"
    keys = [key for key, _ in reference.files]
    return f"create it with key{'' if len(keys) == 1 else 's'} {' and '.join(keys)}"


def _content_error(
    file_format: FileFormat, files: Mapping[str, bytes], *, is_secret: bool = False
) -> str:
    """Return why a content is invalid, "" if it is valid. Secrets are never quoted: more users may
    read a status and events than Secrets."""
    first = next(iter(files.values()))
    try:
        match file_format:
            case FileFormat.PAIR:
                certificate, key = files.values()
                check_pair(certificate, key)
            case FileFormat.AUTHORITIES:
                check_authorities(first)
            case FileFormat.REVOCATION_LISTS:
                check_revocation_lists(first)
            case FileFormat.ACL:
                AclFile.parse(first.decode("utf-8", "surrogateescape"))
            case FileFormat.CONSOLE_USERS:
                return users_problem(first)
            case FileFormat.CONSOLE_TOKENS:
                return tokens_problem(first)
            case FileFormat.PASSWORDS:
                pass  # edges skip and log a line that they cannot use
            case _:
                first.decode()
    except UnicodeDecodeError:
        return "content is not UTF-8"
    except CertificateProblem as problem:
        return str(problem)
    except AclFileError as error:
        problems = error.problems[:_SHOWN_PROBLEMS]
        if is_secret:
            lines = ", ".join(problem.partition(":")[0] for problem in problems)
            return f"invalid access rules: {lines}"
        return "; ".join(problems)
    return ""


def _expired_certificates(
    subject: str, certificates: list[CertificateInfo], now: datetime
) -> list[Problem]:
    """Return problems of expired certificates. They do not block: clients may still accept them."""
    return [
        Problem(
            Fault.INVALID,
            f"{subject}: certificate {certificate.subject} expired at "
            f"{certificate.not_after:%Y-%m-%d %H:%M} UTC; clients reject it",
            blocking=False,
            is_certificate=True,
        )
        for certificate in certificates
        if certificate.not_after <= now
    ]


def _expired_trust(subject: str, authorities: bytes, lists: bytes, now: datetime) -> list[Problem]:
    """Return problems of what client certificates are verified with. They do not block, as they
    come with time."""
    return [
        Problem(Fault.INVALID, f"{subject}: {text}", blocking=False, is_certificate=True)
        for text in expired_trust(authorities, lists, now.timestamp())
    ]


def _check_size(collected: ReferencedFiles) -> None:
    for component, files in (
        ("edges", collected.edge),
        ("routers", collected.router),
        ("the console", collected.console),
    ):
        size = sum(map(len, files.values()))
        if size > MAX_FILES_BYTES:
            text = (
                f"the files of {component} are {size} bytes in total (certificates, passwords, "
                f"access rules); the limit is {MAX_FILES_BYTES} bytes"
            )
            is_blocking = files is not collected.console
            if not is_blocking:
                files.clear()
            collected.problems.append(
                Problem(Fault.INVALID, text, is_blocking, is_certificate=False)
            )
