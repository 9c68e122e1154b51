"""Keys and certificates of a node's control plane, made anew for every node."""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Who has a kubeconfig: file name, user, group.
USERS: Final = (
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
)


def write(directory: Path, address: str, service_address: str, nodes: dict[str, str]) -> None:
    """Write everything: the API server's files, those of the kubelets of ``nodes`` (addresses by
    name), and kubeconfigs."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node under test")])
    authority = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    _write_key(directory / "ca.key", key)
    accounts = ec.generate_private_key(ec.SECP256R1())
    _write_key(directory / "accounts.key", accounts)
    issuer = _Issuer(directory, authority.subject, key)
    kubernetes = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    kubernetes += ["kubernetes.default.svc.cluster.local", "localhost"]
    issuer.issue(
        "apiserver", "kube-apiserver", "", kubernetes, ["127.0.0.1", service_address, address]
    )
    issuer.issue("apiserver-to-kubelet", "kube-apiserver-to-kubelet", "system:masters")
    for node, own in nodes.items():
        file = f"kubelet-{node}"
        issuer.issue(file, f"system:node:{node}", "system:nodes", [node], [own])
        _write_kubeconfig(directory, file, address)
    for file, user, group in USERS:
        issuer.issue(file, user, group)
        _write_kubeconfig(directory, file, address)


class _Issuer:
    def __init__(self, directory: Path, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> None:
        self._directory = directory
        self._name = name
        self._key = key

    def issue(
        self,
        file: str,
        user: str,
        group: str = "",
        names: list[str] | None = None,
        addresses: list[str] | None = None,
    ) -> None:
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        if group:
            parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(x509.Name(parts), self._name, key.public_key()).add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names or ()]
        alternatives += [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses or ()]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (self._directory / f"{file}.crt").write_bytes(pem)
        _write_key(self._directory / f"{file}.key", key)


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def _write_kubeconfig(directory: Path, file: str, address: str) -> None:
    cluster = {
        "server": f"https://{address}:6443",
        "certificate-authority": str(directory / "ca.crt"),
    }
    user = {
        "client-certificate": str(directory / f"{file}.crt"),
        "client-key": str(directory / f"{file}.key"),
    }
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "node", "cluster": cluster}],
        "users": [{"name": file, "user": user}],
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": file}}],
        "current-context": "node",
    }
    (directory / f"{file}.kubeconfig").write_text(json.dumps(found))


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )
