"""What a spec refers to: Secrets and ConfigMaps of its namespace, and what must be in them.

``references`` names them, the caller reads them, ``collect`` checks their content and puts it
together as the files that pods get. What was good once is kept when its source breaks: a file that
cannot be used is replaced by the one that pods have already, and said to be a problem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from tidegate.edge.auth.acl import AclFile, AclFileError
from tidegate_operator.names import listener_certificate
from tidegate_operator.secrets.certificates import (
    CertificateProblem,
    Facts,
    check_authorities,
    check_pair,
    facts,
)
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.listeners import FileSource, ListenerSpec
from tidegate_operator.spec.workloads import ExternalRedis

Kind = Literal["Secret", "ConfigMap"]
#: Where an object is found: kind and name.
ObjectKey = tuple[Kind, str]
#: What a Secret or ConfigMap holds; None: there is no such object.
Contents = Mapping[ObjectKey, Mapping[str, bytes] | None]
#: Whose pods get a file.
Owner = Literal["edge", "router"]

#: A Secret may have 1 MiB; a part of it is for what the operator adds.
MAX_FILES_BYTES: Final = 900_000

NO_CERT_MANAGER: Final = "cert-manager is not installed in this cluster"

_SHOWN_PROBLEMS: Final = 3

CERTIFICATE_KEY: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"


class Check(StrEnum):
    """What a file must be."""

    PAIR = "pair"  # a certificate and its key: two files
    AUTHORITIES = "authorities"
    ACL = "acl"
    TEXT = "text"


@dataclass(slots=True, frozen=True)
class Reference:
    """One thing that is referred to. ``file`` is its name for the pods, without the end for pairs.

    ``listener`` is the listener that it belongs to, ``pending`` whether cert-manager makes it.
    """

    kind: Kind
    name: str
    key: str
    field: str
    owner: Owner
    file: str
    check: Check
    listener: str = ""
    pending: bool = False

    @property
    def object_key(self) -> ObjectKey:
        """Where it is found."""
        return (self.kind, self.name)

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Pairs of the key in the object and the name of the file."""
        if self.check is Check.PAIR:
            return ((CERTIFICATE_KEY, f"{self.file}.crt"), (PRIVATE_KEY, f"{self.file}.key"))
        return ((self.key, self.file),)


class Trouble(StrEnum):
    """What is wrong with something that is referred to."""

    MISSING = "missing"  # the object, or the key in it
    PENDING = "pending"  # cert-manager has not made it yet
    INVALID = "invalid"


@dataclass(slots=True, frozen=True)
class Problem:
    """``sentence`` names the field; ``blocking``: without it, pods cannot run."""

    trouble: Trouble
    sentence: str
    blocking: bool
    is_certificate: bool


@dataclass(slots=True)
class Collected:
    """Files for the pods, what is wrong, and what the listeners' certificates say."""

    edge: dict[str, bytes] = field(default_factory=dict)
    router: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    certificates: dict[str, list[Facts]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether pods can run with it."""
        return not any(problem.blocking for problem in self.problems)


# What is referred to


def references(broker: str, spec: MqttBrokerSpec) -> list[Reference]:
    """Return everything that a spec refers to."""
    return [*_of_listeners(broker, spec), *_of_access(spec), *_of_redis(spec)]


def _of_listeners(broker: str, spec: MqttBrokerSpec) -> Iterator[Reference]:
    for index, listener in enumerate(spec.listeners):
        tls, file = listener.tls, f"listener.{listener.name}"
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
                owner="edge",
                file=pair_file,
                check=Check.PAIR,
                listener=listener.name,
                pending=pending,
            )
        if tls.client_ca is not None:
            yield _file(
                tls.client_ca, f"{path}.clientCa", "edge", f"{file}.client-ca", Check.AUTHORITIES
            )


def _of_access(spec: MqttBrokerSpec) -> Iterator[Reference]:
    passwords = spec.auth.passwords
    if passwords is not None:
        yield Reference(
            kind="Secret",
            name=passwords.secret_name,
            key=passwords.key,
            field="spec.auth.passwords",
            owner="edge",
            file="passwords",
            check=Check.TEXT,
        )
    if spec.acl is not None and spec.acl.source is not None:
        yield _file(spec.acl.source, "spec.acl.source", "edge", "acl", Check.ACL)


def _of_redis(spec: MqttBrokerSpec) -> Iterator[Reference]:
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
                owner="router",
                file=store_file(external, file),
                check=Check.TEXT,
            )
    tls = external.tls
    if tls is not None and tls.ca is not None:
        file = store_file(external, "ca.crt")
        yield _file(tls.ca, f"{path}.tls.ca", "router", file, Check.AUTHORITIES)
    if tls is not None and tls.certificate_secret_name is not None:
        yield Reference(
            kind="Secret",
            name=tls.certificate_secret_name,
            key=CERTIFICATE_KEY,
            field=f"{path}.tls.certificateSecretName",
            owner="router",
            file=store_file(external, "client"),
            check=Check.PAIR,
        )


def store_file(external: ExternalRedis, what: str) -> str:
    """Return what a file for an external store is called: after the store and who we are there.

    While one store takes the other's place, old and new routers read the same Secret, and the old
    ones connect anew with what the old store wants.
    """
    who = repr((external.url, external.username, external.sentinel_username))
    return f"store-{hashlib.sha256(who.encode()).hexdigest()[:8]}-{what}"


def _file(source: FileSource, path: str, owner: Owner, file: str, check: Check) -> Reference:
    kind: Kind = "Secret" if source.secret_name is not None else "ConfigMap"
    name = source.secret_name or source.config_map_name
    assert name is not None
    return Reference(kind, name, source.key, path, owner, file, check)


# What is in it


def collect(
    broker: str,
    spec: MqttBrokerSpec,
    contents: Contents,
    live: Mapping[Owner, Mapping[str, bytes]],
    now: datetime,
    *,
    has_cert_manager: bool,
) -> Collected:
    """Check what is referred to, and put it together.

    ``live`` is what pods have already (the Secrets that were put together the last time).
    """
    found = Collected()
    if spec.acl is not None and spec.acl.rules is not None:
        _inline_acl(spec.acl.rules, live["edge"], found)
    for reference in references(broker, spec):
        hint = f" ({NO_CERT_MANAGER})" if reference.pending and not has_cert_manager else ""
        _add(reference, contents, live[reference.owner], found, hint)
    for listener in spec.listeners:
        found.problems += _of_time(listener, found.certificates.get(listener.name, []), now)
    _check_size(found)
    return found


def _inline_acl(rules: str, live: Mapping[str, bytes], found: Collected) -> None:
    problem = _content_problem(Check.ACL, {"acl": rules.encode()})
    if not problem:
        found.edge["acl"] = rules.encode()
        return
    kept = "acl" in live
    if kept:
        found.edge["acl"] = live["acl"]
    text = f"spec.acl.rules: {problem}{_consequence(kept)}"
    found.problems.append(Problem(Trouble.INVALID, text, not kept, is_certificate=False))


def _add(
    reference: Reference,
    contents: Contents,
    live: Mapping[str, bytes],
    found: Collected,
    hint: str,
) -> None:
    target = found.edge if reference.owner == "edge" else found.router
    files, trouble, problem = _read(reference, contents)
    is_certificate = reference.check in {Check.PAIR, Check.AUTHORITIES}
    if problem:
        old = {file: live[file] for _, file in reference.files if file in live}
        kept = len(old) == len(reference.files) and not _content_problem(reference.check, old)
        if reference.pending and trouble is Trouble.MISSING:
            trouble = Trouble.PENDING
        text = f"{reference.field}: {problem}{hint}{_consequence(kept)}"
        found.problems.append(Problem(trouble, text, not kept, is_certificate))
        if not kept:
            return
        files = old
    target.update(files)
    if reference.listener:
        pair = facts(files[f"{reference.file}.crt"])
        found.certificates.setdefault(reference.listener, []).append(pair)


def _consequence(kept: bool) -> str:
    return "; what was there before stays in use" if kept else ""


def _read(reference: Reference, contents: Contents) -> tuple[dict[str, bytes], Trouble, str]:
    """Return the files, or what is wrong."""
    content = contents.get(reference.object_key)
    where = f"{reference.kind} {reference.name}"
    if content is None:
        why = "cert-manager has not made it yet" if reference.pending else "there is none"
        return {}, Trouble.MISSING, f"{where}: {why}"
    missing = [key for key, _ in reference.files if not content.get(key)]
    if missing:
        return {}, Trouble.MISSING, f"{where} has no {' and no '.join(missing)}"
    files = {file: content[key] for key, file in reference.files}
    is_secret = reference.kind == "Secret"
    problem = _content_problem(reference.check, files, is_secret=is_secret)
    return files, Trouble.INVALID, f"{where}: {problem}" if problem else ""


def _content_problem(check: Check, files: Mapping[str, bytes], *, is_secret: bool = False) -> str:
    """Say what is wrong with a content, "" if nothing is. Nothing of a Secret is quoted: more
    people may read a status and events than Secrets."""
    first = next(iter(files.values()))
    try:
        match check:
            case Check.PAIR:
                certificate, key = files.values()
                check_pair(certificate, key)
            case Check.AUTHORITIES:
                check_authorities(first)
            case Check.ACL:
                AclFile.parse(first.decode())
            case _:
                first.decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    except CertificateProblem as problem:
        return str(problem)
    except AclFileError as error:
        problems = error.problems[:_SHOWN_PROBLEMS]
        if is_secret:
            lines = ", ".join(problem.partition(":")[0] for problem in problems)
            return f"{lines} cannot be read as access rules"
        return "; ".join(problems)
    return ""


def _of_time(listener: ListenerSpec, certificates: list[Facts], now: datetime) -> list[Problem]:
    """Certificates that have ended: they block nothing, for clients may still accept them."""
    return [
        Problem(
            Trouble.INVALID,
            f"listener {listener.name}: the certificate of {one.subject} has expired at "
            f"{one.not_after:%Y-%m-%d %H:%M} UTC; clients refuse it",
            blocking=False,
            is_certificate=True,
        )
        for one in certificates
        if one.not_after <= now
    ]


def _check_size(found: Collected) -> None:
    for owner, files in (("edges", found.edge), ("routers", found.router)):
        size = sum(map(len, files.values()))
        if size > MAX_FILES_BYTES:
            text = (
                f"the files of {owner} have {size} bytes together (certificates, passwords, access "
                f"rules); a Secret has room for {MAX_FILES_BYTES}"
            )
            found.problems.append(Problem(Trouble.INVALID, text, True, is_certificate=False))
