"""Certificates made for one test run: an authority, a server and a client. Nothing is kept."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = datetime.timedelta(days=2)


@dataclass(slots=True, frozen=True)
class KeyPair:
    """PEM files of a certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority that lives in a directory and signs on demand."""

    __slots__ = ("_certificate", "_key", "certificate", "directory")

    def __init__(
        self,
        directory: Path,
        name: str = "Tidegate test authority",
        *,
        parent: Authority | None = None,
        expired: bool = False,
    ) -> None:
        """Without ``parent`` it signs itself."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        public_key = self._key.public_key()
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        issuer = subject if parent is None else parent._certificate.subject
        self._certificate: x509.Certificate = (
            _builder(subject, issuer, public_key, expired=expired)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key if parent is None else parent._key, hashes.SHA256())
        )
        self.certificate = directory / "authority.pem"
        self.certificate.write_bytes(_pem(self._certificate))

    def server(
        self, *names: str, addresses: tuple[str, ...] = ("127.0.0.1", "::1"), file: str = "server"
    ) -> KeyPair:
        """Sign a server certificate for DNS names and IP addresses."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses]
        return self._sign(
            file,
            names[0],
            ExtendedKeyUsageOID.SERVER_AUTH,
            x509.SubjectAlternativeName(alternatives),
        )

    def client(self, common_name: str, file: str = "client") -> KeyPair:
        """Sign a client certificate."""
        return self._sign(file, common_name, ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def revocation_list(
        self, *revoked: Path, file: str = "crl.pem", expired: bool = False, delta: bool = False
    ) -> Path:
        """Sign a list (CRL) that revokes the certificates of some files."""
        now = datetime.datetime.now(datetime.UTC)
        hour = datetime.timedelta(hours=1)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - 2 * hour)
            .next_update(now - hour if expired else now + _LIFETIME)
        )
        if delta:
            builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
        for path in revoked:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        content = builder.sign(self._key, hashes.SHA256())
        made = self.directory / f"{file}.new"
        made.write_bytes(content.public_bytes(serialization.Encoding.PEM))
        return made.replace(self.directory / file)

    def _sign(
        self,
        file: str,
        common_name: str,
        usage: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None,
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_name(common_name), self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(authority_key, critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        pair = KeyPair(self.directory / f"{file}.pem", self.directory / f"{file}.key")
        pair.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        pair.key.chmod(0o600)
        return pair


class Certificates:
    """An authority with one server and one client certificate."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.server: KeyPair = self.authority.server("localhost", "broker.test")
        self.client: KeyPair = self.authority.client("device-1")


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    expired: bool = False,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    if expired:
        now -= 2 * _LIFETIME
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
    )


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
