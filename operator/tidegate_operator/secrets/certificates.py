"""Certificates: reading, issuing, renewal times, and rotation of certificate authorities.

Pure except for the randomness of keys: the time is an argument. The age of an authority is read
from its certificate, so there is no other state. Called by ``owned_secrets`` and ``references``.

An authority is rotated in three steps, each at least ``trust_delay`` after the previous one, so
that all processes trust each other at any time: the new one is trusted beside the old one; the new
one signs, and the certificates signed by the old one are reissued; the old one is removed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tidegate.edge.transport.client_trust import check_lists_of_bundle, revocation_lists

#: Clock skew: ``notBefore`` of a new certificate is this much before now.
BACKDATED: Final = timedelta(hours=1)
_MAX_COMMON_NAME: Final = 64


class CertificateProblem(ValueError):
    """A certificate or its private key cannot be used; the message says why."""


@dataclass(slots=True, frozen=True)
class KeyPair:
    """A certificate (and its chain) with its private key, both as PEM."""

    certificate: bytes
    key: bytes


@dataclass(slots=True, frozen=True)
class CertificateInfo:
    """Fields of a certificate."""

    subject: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime


@dataclass(slots=True, frozen=True)
class CertificateRequest:
    """A certificate to issue. ``server`` and ``client`` are its extended key usages."""

    common_name: str
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    server: bool = False
    client: bool = False


@dataclass(slots=True, frozen=True)
class RotationPolicy:
    """Validity periods, and how long before expiry things are replaced.

    ``trust_delay``: how long a new authority is trusted before it signs, and an old one stays
    trusted after it has stopped signing: the time that its certificate needs to reach all peers.
    """

    validity: timedelta
    renew_before: timedelta
    authority_validity: timedelta
    trust_delay: timedelta

    @property
    def authority_renew_before(self) -> timedelta:
        """When the successor is created: early enough for all three steps and one leaf validity."""
        needed = self.validity + 3 * self.trust_delay
        return min(needed, self.authority_validity / 2)


@dataclass(slots=True, frozen=True)
class Authorities:
    """The trusted authorities, oldest first, and the one that signs."""

    trusted: tuple[KeyPair, ...]
    signer: KeyPair

    @property
    def bundle(self) -> bytes:
        """The certificates of all trusted authorities, as PEM."""
        return b"".join(pair.certificate for pair in self.trusted)


# Reading


def certificate_info(certificate: bytes) -> CertificateInfo:
    """Return the fields of the first certificate of a PEM text. Raises CertificateProblem."""
    return _certificate_info(_load(certificate))


def _certificate_info(certificate: x509.Certificate) -> CertificateInfo:
    names: list[str] = []
    try:
        alternatives = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except x509.ExtensionNotFound:
        alternatives = None
    if alternatives is not None:
        names += alternatives.get_values_for_type(x509.DNSName)
        names += [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]
    return CertificateInfo(
        certificate.subject.rfc4514_string(),
        tuple(names),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def check_pair(certificate: bytes, key: bytes) -> CertificateInfo:
    """Return the fields of a certificate that matches a key. Raises CertificateProblem."""
    loaded = _load(certificate)
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        encrypted = isinstance(error, TypeError)
        why = "is encrypted with a passphrase" if encrypted else "is not valid PEM"
        raise CertificateProblem(f"the private key {why}") from None
    if _public(private.public_key()) != _public(loaded.public_key()):
        raise CertificateProblem("the private key does not match the certificate")
    return _certificate_info(loaded)


def check_authorities(bundle: bytes) -> None:
    """Raise CertificateProblem unless a bundle has at least one certificate, and usable CRLs."""
    try:
        x509.load_pem_x509_certificates(bundle)
    except ValueError:
        raise CertificateProblem("no PEM certificate found") from None
    try:
        check_lists_of_bundle(bundle)
    except ValueError as error:
        raise CertificateProblem(str(error)) from None


def check_revocation_lists(content: bytes) -> None:
    """Raise CertificateProblem unless a file has at least one revocation list and nothing else."""
    try:
        revocation_lists(content)
    except ValueError as error:
        raise CertificateProblem(str(error)) from None


def _load(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise CertificateProblem("the certificate is not valid PEM") from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# Issuing


def new_authority(name: str, now: datetime, policy: RotationPolicy) -> KeyPair:
    """Create a self-signed authority. A random suffix makes its common name unique."""
    serial = x509.random_serial_number()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{name[: _MAX_COMMON_NAME - 9]} {serial & 0xFFFFFFFF:08x}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + policy.authority_validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(
    authority: KeyPair, request: CertificateRequest, now: datetime, policy: RotationPolicy
) -> KeyPair:
    """Issue a certificate with a new key. It never expires after its authority."""
    issuer = _load(authority.certificate)
    signing_key = load_pem_private_key(authority.key, password=None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] if request.server else []
    usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if request.client else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(request.common_name[:_MAX_COMMON_NAME]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + policy.validity, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    alternatives = _alternatives(request)
    if alternatives:
        names = x509.SubjectAlternativeName(alternatives)
        builder = builder.add_extension(names, critical=False)
    return _pair(builder.sign(signing_key, hashes.SHA256()), key)


def _alternatives(request: CertificateRequest) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in request.dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in request.ip_addresses]
    return names


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), private)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


# Replacing


def reissue_reason(
    pair: KeyPair | None,
    request: CertificateRequest,
    signer: KeyPair,
    now: datetime,
    policy: RotationPolicy,
) -> str:
    """Return why a certificate has to be reissued; "" if it need not be."""
    if pair is None:
        return "missing"
    try:
        current = check_pair(pair.certificate, pair.key)
    except CertificateProblem as problem:
        return str(problem)
    names = set(request.dns_names) | {
        str(ipaddress.ip_address(address)) for address in request.ip_addresses
    }
    if set(current.names) != names:
        return "names changed"
    if not _is_signed_by(pair, signer):
        return "certificate authority rotated"
    if now >= renewal_time(current, policy) and not _is_limited_by_signer(current, signer):
        return "expires soon"
    return ""


def renewal_time(info: CertificateInfo, policy: RotationPolicy) -> datetime:
    """Return when a certificate is to be renewed: as configured, or after two thirds of its
    validity if that is later."""
    third = (info.not_after - info.not_before) / 3
    return info.not_after - min(policy.renew_before, third)


def _is_limited_by_signer(info: CertificateInfo, signer: KeyPair) -> bool:
    """Whether a certificate lasts as long as its signer, so that a new one would expire no later.
    It is reissued once another authority signs."""
    return info.not_after >= certificate_info(signer.certificate).not_after


def _is_signed_by(pair: KeyPair, signer: KeyPair) -> bool:
    try:
        _load(pair.certificate).verify_directly_issued_by(_load(signer.certificate))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def authorities(
    existing: Sequence[KeyPair],
    leaves: Iterable[KeyPair],
    name: str,
    now: datetime,
    policy: RotationPolicy,
) -> Authorities:
    """Return the desired authorities.

    ``leaves`` are the certificates in use. Unreadable and expired authorities are left out.
    """
    usable = sorted(
        (pair for pair in existing if _is_usable(pair, now)),
        key=lambda pair: certificate_info(pair.certificate).not_before,
    )
    if (
        not usable
        or now >= certificate_info(usable[-1].certificate).not_after - policy.authority_renew_before
    ):
        usable.append(new_authority(name, now, policy))
    signer = next(
        (pair for pair in reversed(usable) if _age(pair, now) >= policy.trust_delay), usable[0]
    )
    if all(_is_distributed(leaf, signer, now, policy) for leaf in leaves):
        usable = usable[usable.index(signer) :]
    return Authorities(tuple(usable), signer)


def _is_usable(pair: KeyPair, now: datetime) -> bool:
    try:
        return check_pair(pair.certificate, pair.key).not_after > now
    except CertificateProblem:
        return False


def _age(pair: KeyPair, now: datetime) -> timedelta:
    return now - certificate_info(pair.certificate).not_before - BACKDATED


def _is_distributed(leaf: KeyPair, signer: KeyPair, now: datetime, policy: RotationPolicy) -> bool:
    """Whether ``signer`` has signed ``leaf``, and all peers have it by now."""
    return _is_signed_by(leaf, signer) and _age(leaf, now) >= policy.trust_delay


def next_change(
    current: Authorities, leaves: Iterable[KeyPair], now: datetime, policy: RotationPolicy
) -> datetime:
    """Return when the next renewal or rotation step is due."""
    leaves = list(leaves)
    newest = certificate_info(current.trusted[-1].certificate)
    times = [newest.not_after - policy.authority_renew_before]
    used = [certificate_info(leaf.certificate) for leaf in leaves]
    times += [
        renewal_time(leaf, policy)
        for leaf in used
        if not _is_limited_by_signer(leaf, current.signer)
    ]
    if len(current.trusted) > 1:
        waiting = [newest.not_before + BACKDATED + policy.trust_delay]
        waiting += [leaf.not_before + BACKDATED + policy.trust_delay for leaf in used]
        times += [time for time in waiting if time > now]
    return max(now, min(times))
