"""Certificates: what is in one, issuing one, when to replace it, and changing authorities.

Pure but for the randomness of keys: the time is an argument. Everything that has to be known about
an authority's age is in its certificate, so that there is no other state to lose.

An authority is replaced in three steps, each at least ``trust_delay`` after the one before, so that
no two processes ever meet that do not trust each other: the new one is trusted beside the old one;
the new one signs, and what the old one has signed is replaced; the old one is dropped.
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

#: Clocks differ: a certificate is valid from a little before it was made.
BACKDATED: Final = timedelta(hours=1)
_MAX_COMMON_NAME: Final = 64


class CertificateProblem(ValueError):
    """What should be a certificate, or its key, is not; the message says which, in words."""


@dataclass(slots=True, frozen=True)
class KeyPair:
    """A certificate (and its chain) with its private key, both as PEM."""

    certificate: bytes
    key: bytes


@dataclass(slots=True, frozen=True)
class Facts:
    """What a certificate says."""

    subject: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime


@dataclass(slots=True, frozen=True)
class Request:
    """A certificate that is wanted. ``server`` and ``client`` are what it may be used for."""

    common_name: str
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    server: bool = False
    client: bool = False


@dataclass(slots=True, frozen=True)
class Policy:
    """How long things are valid, and how long before their end they are replaced.

    ``trust_delay`` is how long a new authority is only trusted before it signs, and an old one is
    still trusted after that: the time that its certificate needs to reach everybody.
    """

    validity: timedelta
    renew_before: timedelta
    authority_validity: timedelta
    trust_delay: timedelta

    @property
    def authority_renew_before(self) -> timedelta:
        """When the successor is made: in time for all three steps and a whole leaf certificate."""
        wanted = self.validity + 3 * self.trust_delay
        return min(wanted, self.authority_validity / 2)


@dataclass(slots=True, frozen=True)
class Authorities:
    """Authorities that are trusted, the oldest first, and the one that signs."""

    trusted: tuple[KeyPair, ...]
    signer: KeyPair

    @property
    def bundle(self) -> bytes:
        """What those who must trust them are given."""
        return b"".join(pair.certificate for pair in self.trusted)


# Reading


def facts(certificate: bytes) -> Facts:
    """Return what the first certificate of a PEM text says. Raises CertificateProblem."""
    return _facts(_load(certificate))


def _facts(certificate: x509.Certificate) -> Facts:
    names: list[str] = []
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = None
    if found is not None:
        names += found.get_values_for_type(x509.DNSName)
        names += [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return Facts(
        certificate.subject.rfc4514_string(),
        tuple(names),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def check_pair(certificate: bytes, key: bytes) -> Facts:
    """Return what a certificate says that belongs to a key. Raises CertificateProblem."""
    loaded = _load(certificate)
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        encrypted = isinstance(error, TypeError)
        why = "is encrypted with a passphrase" if encrypted else "is not a private key in PEM form"
        raise CertificateProblem(f"the key {why}") from None
    if _public(private.public_key()) != _public(loaded.public_key()):
        raise CertificateProblem("the key does not belong to the certificate")
    return _facts(loaded)


def check_authorities(bundle: bytes) -> None:
    """Raise CertificateProblem unless there is at least one certificate, and nothing else."""
    try:
        x509.load_pem_x509_certificates(bundle)
    except ValueError:
        raise CertificateProblem("there is no certificate in PEM form in it") from None


def _load(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise CertificateProblem("the certificate is not in PEM form") from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# Issuing


def new_authority(name: str, now: datetime, policy: Policy) -> KeyPair:
    """Make a self-signed authority. Its name gets a random end: no two are called the same."""
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


def issue(authority: KeyPair, request: Request, now: datetime, policy: Policy) -> KeyPair:
    """Sign a new certificate with a new key. It never outlives its authority."""
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


def _alternatives(request: Request) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in request.dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in request.ip_addresses]
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


def is_due(
    pair: KeyPair | None, request: Request, signer: KeyPair, now: datetime, policy: Policy
) -> str:
    """Say why a new certificate is due, in words; "" while the one that is there will do."""
    if pair is None:
        return "there is none"
    try:
        found = check_pair(pair.certificate, pair.key)
    except CertificateProblem as problem:
        return str(problem)
    wanted = set(request.dns_names) | {
        str(ipaddress.ip_address(address)) for address in request.ip_addresses
    }
    if set(found.names) != wanted:
        return "it is for other names"
    if not _signed_by(pair, signer):
        return "its authority is being replaced"
    if now >= renewal_time(found, policy) and not _lasts_as_long(found, signer):
        return "it ends soon"
    return ""


def renewal_time(found: Facts, policy: Policy) -> datetime:
    """Return when a certificate is to be replaced: as configured, or after two thirds of its life
    if that is shorter than what was configured for it."""
    third = (found.not_after - found.not_before) / 3
    return found.not_after - min(policy.renew_before, third)


def _lasts_as_long(found: Facts, signer: KeyPair) -> bool:
    """Whether a new certificate would end no later: that authority's own end is so near. It is
    replaced when there is another authority that may sign."""
    return found.not_after >= facts(signer.certificate).not_after


def _signed_by(pair: KeyPair, signer: KeyPair) -> bool:
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
    policy: Policy,
) -> Authorities:
    """Return the authorities as they should be now.

    ``leaves`` are the certificates in use. What cannot be read, or has ended, is left out.
    """
    usable = sorted(
        (pair for pair in existing if _is_usable(pair, now)),
        key=lambda pair: facts(pair.certificate).not_before,
    )
    if not usable or now >= facts(usable[-1].certificate).not_after - policy.authority_renew_before:
        usable.append(new_authority(name, now, policy))
    signer = next(
        (pair for pair in reversed(usable) if _age(pair, now) >= policy.trust_delay), usable[0]
    )
    if all(_has_settled(leaf, signer, now, policy) for leaf in leaves):
        usable = usable[usable.index(signer) :]
    return Authorities(tuple(usable), signer)


def _is_usable(pair: KeyPair, now: datetime) -> bool:
    try:
        return check_pair(pair.certificate, pair.key).not_after > now
    except CertificateProblem:
        return False


def _age(pair: KeyPair, now: datetime) -> timedelta:
    return now - facts(pair.certificate).not_before - BACKDATED


def _has_settled(leaf: KeyPair, signer: KeyPair, now: datetime, policy: Policy) -> bool:
    """Whether everybody who uses ``leaf`` has it by now, and ``signer`` has signed it."""
    return _signed_by(leaf, signer) and _age(leaf, now) >= policy.trust_delay


def next_change(
    found: Authorities, leaves: Iterable[KeyPair], now: datetime, policy: Policy
) -> datetime:
    """Return when something will be due next, if nobody changes anything."""
    leaves = list(leaves)
    newest = facts(found.trusted[-1].certificate)
    times = [newest.not_after - policy.authority_renew_before]
    used = [facts(leaf.certificate) for leaf in leaves]
    times += [renewal_time(leaf, policy) for leaf in used if not _lasts_as_long(leaf, found.signer)]
    if len(found.trusted) > 1:
        waiting = [newest.not_before + BACKDATED + policy.trust_delay]
        waiting += [leaf.not_before + BACKDATED + policy.trust_delay for leaf in used]
        times += [time for time in waiting if time > now]
    return max(now, min(times))
