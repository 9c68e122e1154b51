"""What a spec refers to: named, checked, and what was good is kept."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from support.brokers import DAY, NOW, contents_for, pair, revocation_list, spec_of
from support.certificates import Authority
from tidegate_operator.secrets.references import (
    MAX_FILES_BYTES,
    Contents,
    Fault,
    Kind,
    ReferencedFiles,
    collect,
    references,
)
from tidegate_operator.spec.problems import parse

Live = dict[str, dict[str, bytes]]


def referenced_files(
    spec: dict[str, Any],
    contents: Contents | None = None,
    live: Live | None = None,
    now: datetime.datetime = NOW,
    *,
    has_cert_manager: bool = True,
) -> ReferencedFiles:
    parsed = parse("demo", spec)
    there = live or {}
    return collect(
        "demo",
        parsed,
        contents if contents is not None else contents_for(parsed),
        {"edge": there.get("edge", {}), "router": there.get("router", {})},
        now,
        has_cert_manager=has_cert_manager,
    )


def listener(tls: dict[str, Any], name: str = "mqtt") -> dict[str, Any]:
    return spec_of(listeners=[{"name": name, "protocol": "tls", "tls": tls}])


def test_everything_that_is_referred_to_is_named_with_its_field() -> None:
    found = {
        (one.kind, one.name, one.field) for one in references("demo", parse("demo", EVERYTHING))
    }
    assert found == {
        ("Secret", "devices-tls", "spec.listeners[0].tls.secretName"),
        ("Secret", "more-tls", "spec.listeners[0].tls.additionalCertificates[0].secretName"),
        ("ConfigMap", "device-ca", "spec.listeners[0].tls.clientCa"),
        ("ConfigMap", "device-ca", "spec.listeners[0].tls.clientCrl"),
        ("Secret", "web-users", "spec.listeners[1].passwords"),
        ("Secret", "demo-web-tls", "spec.listeners[1].tls.issuer"),
        ("Secret", "users", "spec.auth.passwords"),
    }
    keys = {(one.name, one.key, one.field) for one in references("demo", parse("demo", SENTINEL))}
    assert keys == {
        ("redis", "password", "spec.redis.external.passwordSecret"),
        ("redis", "sentinel", "spec.redis.external.sentinelPasswordSecret"),
        ("redis-ca", "ca.crt", "spec.redis.external.tls.ca"),
        ("redis-client", "tls.crt", "spec.redis.external.tls.certificateSecretName"),
    }


EVERYTHING, SENTINEL = spec_of("everything"), spec_of("sentinel")


def test_what_is_there_and_good_becomes_files() -> None:
    found = referenced_files(EVERYTHING)
    assert found.problems == []
    assert set(found.edge) == {
        "acl",
        "passwords",
        "listener.devices.crt",
        "listener.devices.key",
        "listener.devices.1.crt",
        "listener.devices.1.key",
        "listener.devices.client-ca",
        "listener.devices.client-crl",
        "listener.web.acl",
        "listener.web.passwords",
        "listener.web.crt",
        "listener.web.key",
    }
    assert {name: len(certificates) for name, certificates in found.certificates.items()} == {
        "devices": 2,
        "web": 1,
    }
    files = {file.split("-", 2)[2] for file in referenced_files(SENTINEL).router}
    assert files == {"password", "sentinel-password", "ca.crt", "client.crt", "client.key"}


def test_names_of_files_never_meet() -> None:
    """A listener's second certificate is not the first one of a listener called like it."""
    spec = spec_of(
        listeners=[
            {
                "name": "a",
                "protocol": "tls",
                "tls": {
                    "secretName": "s",
                    "additionalCertificates": [{"secretName": "t"}],
                },
            },
            {"name": "a-1", "protocol": "tls", "port": 8884, "tls": {"secretName": "u"}},
        ]
    )
    files = [file for one in references("demo", parse("demo", spec)) for _, file in one.files]
    assert len(files) == len(set(files)) == 6


def test_what_is_missing_blocks_and_is_named() -> None:
    (problem,) = referenced_files(listener({"secretName": "mine"}), {}).problems
    assert problem.sentence == (
        "spec.listeners[0].tls.secretName: Secret mine not found: create it with keys tls.crt and "
        "tls.key"
    )
    assert problem.fault is Fault.MISSING
    assert problem.blocking
    assert problem.is_certificate


def test_a_key_that_is_missing_is_named() -> None:
    contents = {("Secret", "mine"): {"tls.crt": pair().certificate, "tls.key": b""}}
    (problem,) = referenced_files(listener({"secretName": "mine"}), contents).problems  # type: ignore[arg-type] # a literal's keys
    assert problem.sentence.endswith("Secret mine has no key tls.key")


def test_a_key_of_another_certificate_is_refused() -> None:
    contents: Contents = {
        ("Secret", "mine"): {"tls.crt": pair().certificate, "tls.key": pair("other").key}
    }
    (problem,) = referenced_files(listener({"secretName": "mine"}), contents).problems
    assert problem.fault is Fault.INVALID
    assert "the private key does not match the certificate" in problem.sentence


def test_what_was_good_stays_in_use() -> None:
    spec = listener({"secretName": "mine"})
    good = referenced_files(spec)
    found = referenced_files(spec, {}, {"edge": good.edge})
    assert found.is_complete
    assert found.edge == good.edge
    assert found.certificates == good.certificates
    (problem,) = found.problems
    assert problem.sentence.endswith(
        "not found: create it with keys tls.crt and tls.key; the previous content stays in use"
    )


def test_what_was_damaged_does_not() -> None:
    spec = listener({"secretName": "mine"})
    damaged = {"listener.mqtt.crt": b"x", "listener.mqtt.key": b"y"}
    assert not referenced_files(spec, {}, {"edge": damaged}).is_complete


def test_a_first_certificate_of_cert_manager_is_waited_for() -> None:
    spec = listener({"issuer": {"name": "le"}, "dnsNames": ["a.example"]})
    (problem,) = referenced_files(spec, {}).problems
    assert problem.fault is Fault.PENDING
    assert problem.sentence == (
        "spec.listeners[0].tls.issuer: Secret demo-mqtt-tls not found: "
        "cert-manager has not issued it yet"
    )
    (problem,) = referenced_files(spec, {}, has_cert_manager=False).problems
    assert "(cert-manager is not installed in this cluster)" in problem.sentence


def test_an_expired_certificate_is_said_and_blocks_nothing() -> None:
    spec = listener({"secretName": "mine"})
    found = referenced_files(spec, now=NOW + 91 * DAY)
    assert found.is_complete
    (problem,) = found.problems
    assert problem.sentence == (
        "listener mqtt: certificate CN=mine expired at 2026-05-30 12:00 UTC; clients reject it"
    )


def test_rules_that_cannot_be_read_are_refused_with_their_line() -> None:
    bad = spec_of(acl={"rules": "frobnicate #\ntopic write a\n"})
    (problem,) = referenced_files(bad).problems
    assert problem.sentence.startswith("spec.acl.rules: line 1")
    assert problem.blocking
    found = referenced_files(bad, live={"edge": {"acl": b"topic read #\n"}})
    assert found.is_complete
    assert found.edge["acl"] == b"topic read #\n"
    from_map = spec_of(acl={"source": {"configMapName": "rules", "key": "acl"}})
    contents: Contents = {("ConfigMap", "rules"): {"acl": b"topic a\n\xff\nb"}}
    (problem,) = referenced_files(from_map, contents).problems
    assert problem.sentence.startswith("spec.acl.source: ConfigMap rules: line 3: expected topic")
    # What is not UTF-8 costs its line, in the edges.
    contents = {("ConfigMap", "rules"): {"acl": b"topic a\n\xff\n"}}
    assert referenced_files(from_map, contents).problems == []


def test_nothing_of_a_secret_is_quoted() -> None:
    lines = b"hunter2\ntopic hunter2 x\ntopic read hunter2/#/x\n"
    said = "invalid access rules: line 1, line 2, line 3"
    for source, kind, sentence in (
        ({"secretName": "db", "key": "password"}, "Secret", said),
        ({"configMapName": "db", "key": "password"}, "ConfigMap", "'hunter2'"),
    ):
        contents: Contents = {(kind, "db"): {"password": lines}}  # type: ignore[dict-item]
        (problem,) = referenced_files(spec_of(acl={"source": source}), contents).problems
        assert sentence in problem.sentence
        assert ("hunter2" in problem.sentence) == (kind == "ConfigMap")


def test_an_authority_that_is_none_is_refused() -> None:
    spec = listener(
        {"selfSigned": True, "clientCa": {"secretName": "ca"}, "clientCertificates": "required"}
    )
    (problem,) = referenced_files(spec, {("Secret", "ca"): {"ca.crt": b"hello"}}).problems
    assert "no PEM certificate found" in problem.sentence


def test_what_does_not_fit_into_a_secret_is_refused() -> None:
    spec = spec_of(auth={"passwords": {"secretName": "users"}})
    contents: Contents = {("Secret", "users"): {"passwords": b"x" * (MAX_FILES_BYTES + 1)}}
    (problem,) = referenced_files(spec, contents).problems
    assert problem.blocking
    assert "the limit is" in problem.sentence


def test_a_file_that_is_no_revocation_list_never_reaches_a_pod() -> None:
    tls = {
        "selfSigned": True,
        "clientCa": {"secretName": "ca"},
        "clientCertificates": "required",
        "clientCrl": {"configMapName": "ca"},
    }
    contents: Contents = {
        ("Secret", "ca"): {"ca.crt": pair("authority").certificate},
        ("ConfigMap", "ca"): {"ca.crl": pair("authority").certificate},
    }
    live = {"edge": {"listener.mqtt.client-crl": revocation_list()}}
    found = referenced_files(listener(tls), contents, live)
    (problem,) = found.problems
    assert problem.sentence == (
        "spec.listeners[0].tls.clientCrl: ConfigMap ca: certificates belong into the file of CA "
        "certificates; the previous content stays in use"
    )
    assert problem.is_certificate
    assert found.edge["listener.mqtt.client-crl"] == revocation_list()


def test_rules_of_a_listener_are_checked_like_those_of_the_broker() -> None:
    spec = spec_of(
        listeners=[
            {"name": "a", "acl": {"rules": "nonsense"}},
            {"name": "b", "port": 1884, "acl": {"source": {"configMapName": "rules", "key": "b"}}},
            {"name": "c", "port": 1885, "passwords": {"secretName": "nowhere"}},
        ]
    )
    contents: Contents = {("ConfigMap", "rules"): {"b": b"topic a\n"}}
    found = referenced_files(spec, contents, {"edge": {"listener.a.acl": b"topic old\n"}})
    assert found.edge == {"listener.a.acl": b"topic old\n", "listener.b.acl": b"topic a\n"}
    first, second = found.problems
    assert first.sentence.startswith("spec.listeners[0].acl.rules: line 1: expected topic")
    assert not first.blocking
    assert second.sentence == (
        "spec.listeners[2].passwords: Secret nowhere not found: create it with key passwords"
    )
    assert second.blocking


def trust_files(authority: Authority, *, expired_list: bool) -> dict[tuple[Kind, str], Any]:
    """Return what a listener that verifies client certificates refers to."""
    certificate = authority.certificate.read_bytes()
    lists = authority.revocation_list(expired=expired_list).read_bytes()
    made = pair("mine", 10_000)
    return {
        ("Secret", "mine"): {"tls.crt": made.certificate, "tls.key": made.key},
        ("ConfigMap", "ca"): {"ca.crt": certificate},
        ("ConfigMap", "crl"): {"ca.crl": lists},
    }


TRUST: dict[str, Any] = {
    "secretName": "mine",
    "clientCa": {"configMapName": "ca"},
    "clientCrl": {"configMapName": "crl"},
    "clientCertificates": "required",
}


def test_an_expired_revocation_list_is_said_as_it_lets_nobody_in(tmp_path: Path) -> None:
    authority, now = Authority(tmp_path), datetime.datetime.now(datetime.UTC)
    good = trust_files(authority, expired_list=False)
    assert referenced_files(listener(TRUST), good, now=now).problems == []
    bad = trust_files(authority, expired_list=True)
    found = referenced_files(listener(TRUST), bad, now=now)
    assert found.is_complete
    (problem,) = found.problems
    assert problem.is_certificate
    assert problem.sentence.startswith("listener mqtt: revocation list of CN=Tidegate test auth")
    assert problem.sentence.endswith("clients with certificates from it are refused")
    # The newest one of an authority counts.
    both = bad[("ConfigMap", "crl")]["ca.crl"] + good[("ConfigMap", "crl")]["ca.crl"]
    bad[("ConfigMap", "crl")] = {"ca.crl": both}
    assert referenced_files(listener(TRUST), bad, now=now).problems == []


def test_authorities_that_have_all_expired_are_said(tmp_path: Path) -> None:
    old, now = Authority(tmp_path / "a", expired=True), datetime.datetime.now(datetime.UTC)
    contents = trust_files(old, expired_list=False)
    (problem,) = referenced_files(listener(TRUST), contents, now=now).problems
    assert problem.sentence.startswith("listener mqtt: certificate CN=Tidegate test authority exp")
    unused = {key: value for key, value in TRUST.items() if key in {"secretName", "clientCa"}}
    assert referenced_files(listener(unused), contents, now=now).problems == []
    # Its successor is trusted beside it.
    new = Authority(tmp_path / "b", "other").certificate.read_bytes()
    both = contents[("ConfigMap", "ca")]["ca.crt"] + new
    contents[("ConfigMap", "ca")] = {"ca.crt": both}
    assert referenced_files(listener(TRUST), contents, now=now).problems == []
