"""What client certificates are verified with, and until when certificates are valid.

Called by `TlsContexts` and ``file_checks``. Reads PEM files of authorities and revocation lists
(CRLs) before OpenSSL does, which ignores what it is not asked to check.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from tidegate.runtime.config.model import TlsConfig

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_CRL: Final = b"X509 CRL"
_CERTIFICATE: Final = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"})


@dataclass(slots=True, frozen=True)
class Validity:
    """From when to when something in a file is valid, seconds since the epoch."""

    what: str
    path: Path
    not_before: float
    not_after: float
    #: What follows when it is not valid.
    consequence: str

    def problem(self, now_s: float) -> str:
        """Return why it is not valid now, and what that means; "" if it is."""
        if now_s > self.not_after:
            return f"{self.what} expired at {_time(self.not_after)}: {self.consequence}"
        if now_s < self.not_before:
            return f"{self.what} is not valid before {_time(self.not_before)}: {self.consequence}"
        return ""


@dataclass(slots=True, frozen=True)
class ClientTrust:
    """Authorities and revocation lists of a listener. ``flags``: what OpenSSL is to check."""

    authorities: tuple[Validity, ...] = ()
    lists: tuple[Validity, ...] = ()
    flags: ssl.VerifyFlags = ssl.VerifyFlags.VERIFY_DEFAULT
    #: What the lists do not cover, one sentence each.
    gaps: tuple[str, ...] = ()

    def load_into(self, context: ssl.SSLContext, tls: TlsConfig) -> None:
        """Let a context verify with the files of these settings. Raises OSError."""
        for path in (tls.client_ca, tls.client_crl):
            if path is not None:
                context.load_verify_locations(path)
        context.verify_flags |= self.flags


@dataclass(slots=True, frozen=True)
class _Bundle:
    certificates: list[x509.Certificate]
    #: Certificates that `cryptography` cannot read, though OpenSSL may.
    unread: int
    lists: list[x509.CertificateRevocationList]


class UnusableFile(ValueError):
    """A file cannot be used, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path


def client_trust(tls: TlsConfig) -> ClientTrust:
    """Read the files. Raises OSError, UnusableFile.

    With a list in either file, the certificate of a client needs a list of the authority that
    signed it. Where each root in ``client_ca`` has one, so do the authorities between them.
    """
    if tls.client_ca is None:
        return ClientTrust()
    trusted = _read(tls.client_ca)
    lists = [(each, tls.client_ca) for each in trusted.lists]
    if tls.client_crl is not None:
        try:
            listed = revocation_lists(tls.client_crl.read_bytes())
        except ValueError as error:
            raise UnusableFile(tls.client_crl, str(error)) from None
        lists += ((each, tls.client_crl) for each in listed)
    authorities = tuple(
        _validity_of(each, tls.client_ca, "clients with certificates from it are refused")
        for each in trusted.certificates
    )
    if not lists:
        return ClientTrust(authorities)
    flags = ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    issuers = {each.issuer for each, _ in lists}
    missing = [each for each in trusted.certificates if each.subject not in issuers]
    if not any(each.subject == each.issuer for each in missing):
        flags = ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    return ClientTrust(
        authorities, tuple(_validity_of_list(*each) for each in lists), flags, tuple(_gaps(missing))
    )


def validities_in(path: Path, consequence: str) -> list[Validity]:
    """Return those of all certificates in a file. Raises OSError, UnusableFile."""
    return [_validity_of(each, path, consequence) for each in _read(path).certificates]


def problems_of(validities: Sequence[Validity], now_s: float) -> Iterator[tuple[Path, str]]:
    """Yield the file of each that is not valid now, and why."""
    for each in validities:
        problem = each.problem(now_s)
        if problem:
            yield each.path, problem


def _gaps(missing: list[x509.Certificate]) -> Iterator[str]:
    for each in missing:
        name = each.subject.rfc4514_string()
        text = f"no revocation list of {name}: clients with certificates that it signed are refused"
        if each.subject == each.issuer:
            text += ", and authorities that were revoked are accepted"
        yield text


def revocation_lists(content: bytes) -> list[x509.CertificateRevocationList]:
    """Return the lists of a file that has nothing else. Raises ValueError."""
    bundle = _bundle(content)
    if bundle.certificates or bundle.unread:
        # OpenSSL would trust them.
        raise ValueError("certificates belong into the file of CA certificates")
    if not bundle.lists:
        raise ValueError("no revocation list in PEM format in the file")
    return bundle.lists


def check_lists_of_bundle(content: bytes) -> None:
    """Raise ValueError if a bundle of CA certificates has lists that cannot be used."""
    _bundle(content)


def expired_trust(authorities: bytes, lists: bytes, now_s: float) -> list[str]:
    """Return why clients with good certificates are refused now: all authorities have expired, or
    the newest list of one. Raises ValueError for content that cannot be used."""
    trusted = _bundle(authorities)
    newest: dict[x509.Name, Validity] = {}
    for crl in (*trusted.lists, *_bundle(lists).lists):
        found, before = _validity_of_list(crl, Path()), newest.get(crl.issuer)
        if before is None or before.not_after < found.not_after:
            newest[crl.issuer] = found
    refused = "clients with certificates from it are refused"
    certificates = [_validity_of(each, Path(), refused) for each in trusted.certificates]
    ended = [each for each in certificates if now_s > each.not_after]
    if trusted.unread or len(ended) < len(certificates):
        ended = []
    ended += (each for each in newest.values() if now_s > each.not_after)
    return [each.problem(now_s) for each in ended]


def _read(path: Path) -> _Bundle:
    try:
        return _bundle(path.read_bytes())
    except ValueError as error:
        raise UnusableFile(path, str(error)) from None


def _bundle(content: bytes) -> _Bundle:
    certificates: list[x509.Certificate] = []
    lists: list[x509.CertificateRevocationList] = []
    unread = 0
    for block in _BLOCK.finditer(content):
        if block[1] == _CRL:
            lists.append(_list(block[0]))
        elif block[1] in _CERTIFICATE:
            certificate = _certificate(block[0])
            if certificate is None:
                unread += 1
            else:
                certificates.append(certificate)
    return _Bundle(certificates, unread, lists)


def _list(pem: bytes) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_pem_x509_crl(pem)
        extensions = crl.extensions
    except (ValueError, x509.DuplicateExtension) as error:
        raise ValueError(f"malformed revocation list: {error}") from None
    if any(isinstance(each.value, x509.DeltaCRLIndicator) for each in extensions):
        raise ValueError("delta revocation lists are not supported")
    return crl


def _certificate(pem: bytes) -> x509.Certificate | None:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        _ = certificate.subject, certificate.issuer
    except (ValueError, x509.InvalidVersion):
        return None
    return certificate


def _validity_of(certificate: x509.Certificate, path: Path, consequence: str) -> Validity:
    return Validity(
        f"certificate {certificate.subject.rfc4514_string()}",
        path,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        consequence,
    )


def _validity_of_list(crl: x509.CertificateRevocationList, path: Path) -> Validity:
    next_update = crl.next_update_utc
    return Validity(
        f"revocation list of {crl.issuer.rfc4514_string()}",
        path,
        crl.last_update_utc.timestamp(),
        float("inf") if next_update is None else next_update.timestamp(),
        "clients with certificates from it are refused",
    )


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
