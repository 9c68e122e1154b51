"""Certificates: which context serves a name, and who a certificate says it is."""

from __future__ import annotations

import errno
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

from support.certificates import Authority, KeyPair
from tidegate.edge.transport.accepted_connection import ListenerCounters
from tidegate.edge.transport.tls import TlsConfigurationError, TlsContexts, names_in
from tidegate.runtime.config.model import ListenerConfig, TlsConfig


def listener(*pairs: KeyPair) -> ListenerConfig:
    certificates = [{"certificate": pair.certificate, "key": pair.key} for pair in pairs]
    return ListenerConfig.model_validate(
        {"name": "secure", "protocol": "tls", "tls": {"certificates": certificates}}
    )


def self_signed(
    *attributes: tuple[x509.ObjectIdentifier, str],
    key: ec.EllipticCurvePrivateKey | None = None,
    extension: x509.ExtensionType | None = None,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def test_names_are_found_exactly_then_by_wildcard_then_by_default(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    default = authority.server("default.test", file="default")
    exact = authority.server("a.example.org", file="exact")
    wildcard = authority.server("*.example.org", "*.example.net", file="wildcard")
    contexts = TlsContexts(listener(default, exact, wildcard)).current
    assert contexts.find("default.test") is contexts.default
    assert contexts.find("A.EXAMPLE.ORG.") is contexts.exact["a.example.org"]
    by_wildcard = contexts.find("b.example.org")
    assert by_wildcard is contexts.find("c.example.net")
    assert by_wildcard not in {contexts.default, contexts.find("a.example.org")}
    for name in ("example.org", "x.y.example.org", "elsewhere.net", ""):
        assert contexts.find(name) is contexts.default


def test_of_two_certificates_for_a_name_the_first_serves_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first = authority.server("a.test", file="first")
    second = authority.server("a.test", file="second")
    contexts = TlsContexts(listener(first, second)).current
    assert contexts.find("a.test") is contexts.default


def test_a_certificate_without_alternative_names_is_known_by_its_common_name() -> None:
    assert names_in(self_signed((NameOID.COMMON_NAME, "old.test"))) == ["old.test"]


def test_an_encrypted_key_is_refused_instead_of_asked_for(tmp_path: Path) -> None:
    pair = Authority(tmp_path).server("a.test")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsConfigurationError, match="encrypted"):
        TlsContexts(listener(pair))


def test_files_are_looked_at_once_per_interval(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server("a.test")
    contexts = TlsContexts(listener(pair))
    counters = ListenerCounters()
    assert contexts.is_due(100.0)
    contexts.reload(100.0, counters)
    assert not contexts.is_due(101.9)
    assert contexts.is_due(102.0)
    before = contexts.current
    contexts.reload(102.0, counters)
    assert contexts.current is before
    authority.server("b.test")
    contexts.reload(120.0, counters)
    assert contexts.current is not before
    assert (counters.reloads, counters.reload_failures) == (1, 0)


def test_what_could_not_be_read_is_tried_again_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    contexts = TlsContexts(listener(authority.server("a.test")))
    before, counters = contexts.current, ListenerCounters()

    def refused(_path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    authority.server("b.test")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        for now in (100.0, 102.0, 104.0):
            contexts.reload(now, counters)
    assert contexts.current is before
    assert (counters.reloads, counters.reload_failures) == (0, 1)
    contexts.reload(106.0, counters)
    assert contexts.current is not before
    assert (counters.reloads, counters.reload_failures) == (1, 1)


def test_a_certificate_whose_names_cannot_be_read_is_refused_by_its_file(tmp_path: Path) -> None:
    """OpenSSL takes it; while it runs, nothing else may be kept from being looked at by it."""
    pair = Authority(tmp_path).server("a.test")
    broken = x509.UnrecognizedExtension(ExtensionOID.AUTHORITY_INFORMATION_ACCESS, b"no names")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed((NameOID.COMMON_NAME, "a.test"), key=key, extension=broken)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(TlsConfigurationError, match=str(pair.certificate)):
        TlsContexts(listener(pair))


def test_the_first_expiry_counts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pairs = [authority.server(name, file=name) for name in ("a.test", "b.test")]
    ends = [
        x509.load_pem_x509_certificate(pair.certificate.read_bytes()).not_valid_after_utc
        for pair in pairs
    ]
    contexts = TlsContexts(listener(*pairs))
    assert contexts.certificate_not_after == min(end.timestamp() for end in ends)


def test_what_has_expired_is_logged_once_at_the_start_and_while_it_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    end = authority.server("a.test")
    bundle = tmp_path / "chain.pem"
    bundle.write_bytes(
        end.certificate.read_bytes()
        + Authority(tmp_path / "old", "old", expired=True).certificate.read_bytes()
    )
    pair = KeyPair(bundle, end.key)
    now = [datetime.now(UTC).timestamp()]
    contexts = TlsContexts(listener(pair), wall_clock=lambda: now[0])
    assert contexts.certificate_not_after < now[0]
    problems = [record.problem for record in caplog.records]  # type: ignore[attr-defined]
    (problem,) = problems
    assert problem.startswith("certificate CN=old expired at ")
    assert problem.endswith(" UTC: clients do not accept it")
    now[0] += timedelta(days=3).total_seconds()
    for tick in (100.0, 200.0):
        contexts.reload(tick, ListenerCounters())
    problems = [record.problem for record in caplog.records]  # type: ignore[attr-defined]
    assert len(problems) == 2
    assert problems[1].startswith("certificate CN=a.test expired at ")


OPERATIONS = Path(__file__).parents[4] / "docs" / "operations.md"


def suites(pair: KeyPair, **tls: str) -> list[str]:
    certificates = [{"certificate": pair.certificate, "key": pair.key}]
    config = ListenerConfig.model_validate(
        {"protocol": "tls", "tls": {"certificates": certificates, **tls}}
    )
    context = TlsContexts(config).current.default
    return [suite["name"] for suite in context.get_ciphers()]


def test_the_suites_of_tls_1_2_can_be_chosen(tmp_path: Path) -> None:
    pair = Authority(tmp_path).server("a.test")
    chosen = "ECDHE-ECDSA-CHACHA20-POLY1305"
    found = suites(pair, ciphers=chosen)
    assert [name for name in found if not name.startswith("TLS_")] == [chosen]
    assert {name for name in found if name.startswith("TLS_")} == {
        name for name in suites(pair) if name.startswith("TLS_")
    }


def test_the_default_suites_are_those_of_the_documentation(tmp_path: Path) -> None:
    text = OPERATIONS.read_text().partition("### Cipher suites")[2].partition("\n## ")[0]
    documented = re.findall(r"`((?:TLS_|ECDHE-|DHE-)[A-Z0-9_-]+)`", text)
    assert suites(Authority(tmp_path).server("a.test")) == documented


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        ({"ciphers": "NONSENSE"}, "OpenSSL has no such cipher suites"),
        ({"ciphers": "ECDHE+AESGCM:TLS_AES_128_GCM_SHA256"}, "TLS_AES_128_GCM_SHA256 is a suite"),
        ({"ciphers": "AES", "minimum_version": "1.3"}, "ciphers needs minimum_version 1.2"),
    ],
)
def test_suites_that_would_be_ignored_are_refused(tls: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TlsConfig.model_validate(tls)


def test_no_old_versions_and_no_renegotiation(tmp_path: Path) -> None:
    context = TlsContexts(listener(Authority(tmp_path).server("a.test"))).current.default
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
