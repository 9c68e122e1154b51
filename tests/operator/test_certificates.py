"""Certificates of the operator's own: issued, renewed, and their authorities replaced in time."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from support.brokers import DAY, NOW
from tidegate_operator.secrets.certificates import (
    CertificateProblem,
    CertificateRequest,
    KeyPair,
    RotationPolicy,
    authorities,
    certificate_info,
    check_authorities,
    check_pair,
    issue,
    new_authority,
    next_change,
    reissue_reason,
    renewal_time,
)

HOUR = datetime.timedelta(hours=1)
POLICY = RotationPolicy(90 * DAY, 30 * DAY, 3650 * DAY, HOUR)
REQUEST = CertificateRequest(
    "broker", ("broker", "*.example.com"), ("192.0.2.7", "::1"), server=True
)


def shake_hands(server: KeyPair, client: KeyPair, trusted: bytes, directory: Path) -> None:
    """Let two TLS endpoints that trust the same authorities meet. Raises ssl.SSLError."""
    contexts = []
    for name, pair, purpose in (
        ("server", server, ssl.PROTOCOL_TLS_SERVER),
        ("client", client, ssl.PROTOCOL_TLS_CLIENT),
    ):
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)
        context = ssl.SSLContext(purpose)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(cadata=trusted.decode())
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        contexts.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        contexts[0].wrap_bio(to_server, to_client, server_side=True),
        contexts[1].wrap_bio(to_client, to_server, server_side=False),
    ]
    for _ in range(10):
        waiting = 0
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return
    raise AssertionError("the handshake does not end")


def now() -> datetime.datetime:
    """The real time: OpenSSL does not know another one."""
    return datetime.datetime.now(datetime.UTC)


def test_edges_and_routers_accept_each_others_certificates(tmp_path: Path) -> None:
    authority = new_authority("link", now(), POLICY)
    server = issue(
        authority, CertificateRequest("router", ("tidegate-router",), server=True), now(), POLICY
    )
    client = issue(authority, CertificateRequest("edge", ("edge",), client=True), now(), POLICY)
    shake_hands(server, client, authority.certificate, tmp_path)


def test_an_edge_cannot_pass_for_a_router(tmp_path: Path) -> None:
    authority = new_authority("link", now(), POLICY)
    client = issue(
        authority, CertificateRequest("edge", ("tidegate-router",), client=True), now(), POLICY
    )
    with pytest.raises(ssl.SSLError, match=r"(?i)purpose|certificate"):
        shake_hands(client, client, authority.certificate, tmp_path)


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    authority, other = (new_authority("link", now(), POLICY) for _ in range(2))
    pair = issue(other, CertificateRequest("x", ("x",), server=True, client=True), now(), POLICY)
    with pytest.raises(ssl.SSLError):
        shake_hands(pair, pair, authority.certificate, tmp_path)


def test_a_certificate_says_what_was_asked_for() -> None:
    authority = new_authority("name " * 20, NOW, POLICY)
    pair = issue(authority, REQUEST, NOW, POLICY)
    found = check_pair(pair.certificate, pair.key)
    assert found.names == ("broker", "*.example.com", "192.0.2.7", "::1")
    assert found.not_after == NOW + POLICY.validity
    assert found.not_before == NOW - HOUR
    assert found.subject == "CN=broker"


def test_a_certificate_never_outlives_its_authority() -> None:
    authority = new_authority("x", NOW - 3600 * DAY, POLICY)
    pair = issue(authority, REQUEST, NOW, POLICY)
    assert (
        certificate_info(pair.certificate).not_after
        == certificate_info(authority.certificate).not_after
    )


def test_two_authorities_are_never_called_the_same() -> None:
    subjects = {
        certificate_info(new_authority("x", NOW, POLICY).certificate).subject for _ in range(4)
    }
    assert len(subjects) == 4


def test_names_may_be_missing() -> None:
    authority = new_authority("x", NOW, POLICY)
    assert certificate_info(authority.certificate).names == ()
    assert (
        certificate_info(
            issue(authority, CertificateRequest("x", client=True), NOW, POLICY).certificate
        ).names
        == ()
    )


# Reading what people bring


def test_what_is_wrong_with_a_pair_is_said() -> None:
    authority = new_authority("x", NOW, POLICY)
    pair = issue(authority, REQUEST, NOW, POLICY)
    key = load_pem_private_key(pair.key, None)
    encrypted = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    for certificate, private, words in (
        (b"nonsense", pair.key, "the certificate is not valid PEM"),
        (pair.certificate, b"nonsense", "the private key is not valid PEM"),
        (pair.certificate, encrypted, "the private key is encrypted with a passphrase"),
        (pair.certificate, authority.key, "the private key does not match the certificate"),
    ):
        with pytest.raises(CertificateProblem, match=words):
            check_pair(certificate, private)


def test_other_kinds_of_keys_are_fine() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert check_pair(certificate.public_bytes(Encoding.PEM), private).not_after == NOW + DAY


def test_a_bundle_has_at_least_one_certificate() -> None:
    check_authorities(new_authority("x", NOW, POLICY).certificate * 2)
    with pytest.raises(CertificateProblem, match="no PEM certificate"):
        check_authorities(b"")


# Renewing


def test_a_certificate_is_due_when_something_about_it_is_not_right() -> None:
    authority = new_authority("x", NOW, POLICY)
    pair = issue(authority, REQUEST, NOW, POLICY)

    def due(at: datetime.datetime = NOW, **changes: object) -> str:
        values = {"pair": pair, "request": REQUEST, "signer": authority} | changes
        return reissue_reason(**values, now=at, policy=POLICY)  # type: ignore[arg-type]  # all given

    assert due() == ""
    assert due(pair=None) == "missing"
    assert due(pair=KeyPair(b"", b"")) == "the certificate is not valid PEM"
    assert due(request=CertificateRequest("broker", ("broker",), server=True)) == "names changed"
    other = new_authority("x", NOW, POLICY)
    assert due(signer=other) == "certificate authority rotated"
    assert due(NOW + 60 * DAY - HOUR) == ""
    assert due(NOW + 60 * DAY) == "expires soon"


def test_the_way_an_address_is_written_does_not_count() -> None:
    authority = new_authority("x", NOW, POLICY)
    request = CertificateRequest("x", (), ("2001:DB8:0::1",), server=True)
    pair = issue(authority, request, NOW, POLICY)
    assert reissue_reason(pair, request, authority, NOW, POLICY) == ""


def test_a_short_certificate_is_not_renewed_all_the_time() -> None:
    policy = RotationPolicy(90 * DAY, 30 * DAY, 91 * DAY, HOUR)
    authority = new_authority("x", NOW - 80 * DAY, policy)
    pair = issue(authority, REQUEST, NOW, policy)
    found = certificate_info(pair.certificate)
    assert found.not_after - NOW == 11 * DAY
    assert renewal_time(found, policy) > NOW + 7 * DAY


def test_a_certificate_whose_authority_ends_at_once_is_not_renewed_in_vain() -> None:
    """A broker that was paused for years: the old authority signs until the new one is trusted."""
    old = new_authority("x", NOW - POLICY.authority_validity + HOUR / 6, POLICY)
    found = authorities([old], [], "x", NOW, POLICY)
    assert found.signer == old
    leaf = issue(old, REQUEST, NOW, POLICY)
    assert reissue_reason(leaf, REQUEST, old, NOW, POLICY) == ""
    assert next_change(found, [leaf], NOW, POLICY) > NOW
    later = NOW + HOUR / 5
    after = authorities(found.trusted, [leaf], "x", later, POLICY)
    assert reissue_reason(leaf, REQUEST, after.signer, later, POLICY)


# Replacing an authority


class Harness:
    """A broker's link over years: what the operator has stored, and what pods have by now.

    The operator looks every ``step``; each pod has what was stored ``delay`` before.
    """

    def __init__(self, policy: RotationPolicy) -> None:
        self.policy = policy
        self.now = NOW
        self.authorities: tuple[KeyPair, ...] = ()
        self.leaves: dict[str, KeyPair | None] = {"edge": None, "router": None}
        self.stored: list[tuple[datetime.datetime, bytes, dict[str, KeyPair]]] = []
        self.made = 0

    def look(self) -> datetime.datetime:
        leaves = [leaf for leaf in self.leaves.values() if leaf is not None]
        found = authorities(self.authorities, leaves, "link", self.now, self.policy)
        self.made += sum(one not in self.authorities for one in found.trusted)
        self.authorities = found.trusted
        for name, leaf in self.leaves.items():
            request = CertificateRequest(name, (name,), server=True, client=True)
            if reissue_reason(leaf, request, found.signer, self.now, self.policy):
                self.leaves[name] = issue(found.signer, request, self.now, self.policy)
        current = {name: leaf for name, leaf in self.leaves.items() if leaf is not None}
        self.stored.append((self.now, found.bundle, current))
        return next_change(found, current.values(), self.now, self.policy)

    def at(self, moment: datetime.datetime) -> tuple[bytes, dict[str, KeyPair]]:
        """What a pod has that last looked at ``moment``."""
        return next(
            ((bundle, leaves) for time, bundle, leaves in reversed(self.stored) if time <= moment),
            self.stored[0][1:],
        )

    def check(self, delay: datetime.timedelta) -> None:
        """Let every pair of a quick and a slow pod meet."""
        views = [self.at(self.now), self.at(self.now - delay)]
        for bundle, _ in views:
            trusted = x509.load_pem_x509_certificates(bundle)
            for _, leaves in views:
                for leaf in leaves.values():
                    certificate = x509.load_pem_x509_certificate(leaf.certificate)
                    assert certificate.not_valid_after_utc > self.now
                    assert any(_signed(certificate, one) for one in trusted), self.now


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except ValueError:
        return False
    return authority.not_valid_after_utc > NOW


@pytest.mark.parametrize("step", [20, 60, 600], ids=lambda minutes: f"every-{minutes}-minutes")
def test_no_two_pods_ever_meet_that_do_not_trust_each_other(step: int) -> None:
    policy = RotationPolicy(9 * DAY, 3 * DAY, 30 * DAY, HOUR)
    harness = Harness(policy)
    most = 1
    due = harness.now
    while harness.now < NOW + 75 * DAY:
        if harness.now >= due:
            due = harness.look()
            most = max(most, len(harness.authorities))
        harness.check(delay=datetime.timedelta(minutes=59))
        near = harness.now + datetime.timedelta(minutes=step)
        # Nothing happens far from a change; near one, every step counts.
        harness.now = near if len(harness.authorities) > 1 else max(near, min(due, near + 6 * HOUR))
    assert most == 2
    assert 3 <= harness.made <= 6


def test_an_authority_is_replaced_in_three_steps() -> None:
    old = new_authority("x", NOW - 3600 * DAY, POLICY)
    leaf = issue(old, REQUEST, NOW - DAY, POLICY)

    first = authorities([old], [leaf], "x", NOW, POLICY)
    assert first.trusted[0] == old
    assert first.signer == old
    new = first.trusted[1]

    assert authorities(first.trusted, [leaf], "x", NOW + 0.9 * HOUR, POLICY).signer == old
    second = authorities(first.trusted, [leaf], "x", NOW + HOUR, POLICY)
    assert second.signer == new
    assert second.trusted == (old, new)

    fresh = issue(new, REQUEST, NOW + HOUR, POLICY)
    third = authorities(second.trusted, [fresh], "x", NOW + 1.9 * HOUR, POLICY)
    assert third.trusted == (old, new)
    last = authorities(third.trusted, [fresh], "x", NOW + 2 * HOUR, POLICY)
    assert last.trusted == (new,)


def test_an_operator_that_was_away_takes_no_step_too_many() -> None:
    """Long after the new authority could sign, pods still have what the old one has signed."""
    old = new_authority("x", NOW - 3600 * DAY, POLICY)
    leaf = issue(old, REQUEST, NOW - DAY, POLICY)
    first = authorities([old], [leaf], "x", NOW, POLICY)
    back = authorities(first.trusted, [leaf], "x", NOW + 20 * HOUR, POLICY)
    assert back.trusted == first.trusted
    assert back.signer == first.trusted[1]


def test_what_cannot_be_used_is_left_out() -> None:
    ended = new_authority("x", NOW - 4000 * DAY, POLICY)
    good = new_authority("x", NOW - DAY, POLICY)
    broken = KeyPair(good.certificate, b"")
    assert authorities([broken, ended, good], [], "x", NOW, POLICY).trusted == (good,)
    assert len(authorities([broken], [], "x", NOW, POLICY).trusted) == 1


def test_the_next_change_is_the_first_one() -> None:
    found = authorities([], [], "x", NOW, POLICY)
    leaf = issue(found.signer, REQUEST, NOW, POLICY)
    assert next_change(found, [leaf], NOW, POLICY) == NOW + 60 * DAY
    overdue = NOW + 80 * DAY
    assert next_change(found, [leaf], overdue, POLICY) == overdue
    assert next_change(found, [], NOW, POLICY) == NOW + (3650 - 90) * DAY - 3 * HOUR
