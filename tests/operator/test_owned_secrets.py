"""The secrets of a broker's own: made once, kept, and renewed when they are due."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from cryptography import x509

from support.brokers import DAY, NAMESPACE, NOW, pick, rendered, secret_data, spec_of
from tidegate_operator.secrets.certificates import certificate_info
from tidegate_operator.secrets.owned_secrets import (
    LINK_AUTHORITY_VALIDITY,
    LiveSecrets,
    OwnedSecrets,
    link_policy,
    listeners_policy,
    renew_secrets,
)
from tidegate_operator.spec.problems import parse


def owned_secrets(
    existing: LiveSecrets | None = None,
    now: datetime.datetime = NOW,
    spec: dict[str, Any] | None = None,
    addresses: Sequence[str] = (),
) -> OwnedSecrets:
    parsed = parse("demo", spec or spec_of("headline"))
    return renew_secrets(
        "demo", NAMESPACE, parsed, existing or LiveSecrets(), now, {"demo": addresses}
    )


def stored(now: datetime.datetime = NOW, **options: Any) -> LiveSecrets:
    """Return what the Secrets hold after a first time."""
    manifests = rendered(spec_of("headline"), now=now, **options)
    return existing_in(manifests)


def existing_in(manifests: list[dict[str, Any]]) -> LiveSecrets:
    return LiveSecrets(
        **{
            part: secret_data(pick(manifests, "Secret", f"demo-{part}"))
            for part in ("authorities", "edge", "router", "admin", "redis")
        }
    )


def test_everything_is_made_once() -> None:
    found = owned_secrets()
    assert len(found.changes) == 7
    assert len(found.admin_token) >= 64
    assert found.redis_password != found.admin_token
    assert set(found.listener_pairs) == {"mqtt"}
    assert found.next_change == NOW + 60 * DAY


def test_no_password_is_made_for_a_store_that_is_not_bundled() -> None:
    external = spec_of("headline", redis={"external": {"url": "redis://elsewhere"}})
    assert not any("store" in change for change in owned_secrets(spec=external).changes)


def test_the_addresses_of_the_load_balancer_are_in_the_certificate() -> None:
    addresses = ("203.0.113.7", "2001:DB8::1", "LB-1.Example.com", "fe80::1%eth0", "bücher.example")
    before, found = owned_secrets(), owned_secrets(stored(), addresses=addresses)
    assert found.changes == ("certificate of demo: names changed",)
    names = set(certificate_info(found.listener_pairs["mqtt"].certificate).names)
    assert names == {
        *certificate_info(before.listener_pairs["mqtt"].certificate).names,
        *("203.0.113.7", "2001:db8::1", "lb-1.example.com"),
    }


def test_what_is_there_is_kept_to_the_byte() -> None:
    existing = stored()
    found = owned_secrets(existing, NOW + 10 * DAY)
    assert found.changes == ()
    assert found.authorities_data() == existing.authorities
    assert found.edge_link.certificate == existing.edge["link.crt"]
    assert found.listener_pairs["mqtt"].key == existing.edge["listener.mqtt.key"]
    assert found.admin_token == existing.admin["token"]
    assert found.redis_password == existing.redis["password"]


def test_certificates_are_renewed_before_they_end() -> None:
    existing = stored()
    found = owned_secrets(existing, NOW + 61 * DAY)
    assert [one.partition(":")[2].strip() for one in found.changes] == ["expires soon"] * 3
    assert found.edge_link.certificate != existing.edge["link.crt"]
    assert found.authorities_data() == existing.authorities


def test_a_secret_that_was_deleted_or_damaged_is_made_again() -> None:
    existing = stored()
    found = owned_secrets(dataclasses.replace(existing, admin={"token": b" \n"}, redis={}))
    assert [one.partition(":")[0] for one in found.changes] == [
        "admin token",
        "store password",
    ]
    broken = dict(existing.edge) | {"link.key": b"nonsense"}
    found = owned_secrets(dataclasses.replace(existing, edge=broken))
    assert found.changes == ("certificate of demo edge: the private key is not valid PEM",)


def test_edges_are_clients_and_routers_are_servers_with_the_name_that_edges_look_for() -> None:
    found = owned_secrets()
    usages = {}
    for name, pair in (("edge", found.edge_link), ("router", found.router_link)):
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        usages[name] = [one._name for one in usage]
    assert usages == {"edge": ["clientAuth"], "router": ["serverAuth"]}
    assert "tidegate-router" in certificate_info(found.router_link.certificate).names


def test_a_self_signed_listener_has_the_names_of_the_service_and_its_own() -> None:
    spec = spec_of(
        listeners=[
            {
                "name": "mqtt",
                "protocol": "tls",
                "tls": {
                    "selfSigned": True,
                    "dnsNames": ["mqtt.example.com", "demo"],
                    "ipAddresses": ["192.0.2.7"],
                },
            }
        ]
    )
    found = owned_secrets(spec=spec).listener_pairs["mqtt"]
    assert certificate_info(found.certificate).names == (
        "mqtt.example.com",
        "demo",
        "demo.iot",
        "demo.iot.svc",
        "192.0.2.7",
    )


def test_new_names_are_in_the_certificate_at_once() -> None:
    existing = stored()
    spec = spec_of("headline")
    spec["listeners"][0]["tls"]["dnsNames"] = ["mqtt.example.com"]
    found = owned_secrets(existing, spec=spec)
    assert found.changes == ("certificate of mqtt.example.com: names changed",)


def test_without_self_signed_listeners_there_is_no_second_authority() -> None:
    found = owned_secrets(spec=spec_of())
    assert found.listeners is None
    assert set(found.authorities_data()) == {"link-0.crt", "link-0.key"}


def test_the_authority_of_clients_rests_while_no_listener_is_self_signed() -> None:
    existing = stored()
    without = owned_secrets(existing, NOW + DAY, spec_of())
    assert without.listeners is None
    assert without.listener_pairs == {}
    assert without.authorities_data() == existing.authorities
    kept = LiveSecrets(authorities=without.authorities_data())
    again = owned_secrets(kept, NOW + 100 * DAY)
    assert again.listeners is not None
    assert again.listeners.bundle == existing.authorities["listeners-0.crt"]


def test_an_authority_that_has_ended_while_it_rested_is_not_used_again() -> None:
    existing = stored()
    late = NOW + 4000 * DAY
    without = owned_secrets(existing, late, spec_of())
    again = owned_secrets(LiveSecrets(authorities=without.authorities_data()), late)
    assert again.listeners is not None
    assert existing.authorities["listeners-0.crt"] not in again.listeners.bundle
    assert set(again.authorities_data()) == {
        *("link-0.crt", "link-0.key"),
        *("listeners-0.crt", "listeners-0.key"),
    }


def test_both_authorities_are_trusted_while_one_is_replaced() -> None:
    existing = stored()
    late = NOW + LINK_AUTHORITY_VALIDITY - 80 * DAY
    found = owned_secrets(existing, late)
    assert len(found.link.trusted) == 2
    assert found.link.bundle.count(b"BEGIN CERTIFICATE") == 2
    assert "certificate authorities of link: 1 created, 0 removed" in found.changes
    assert set(found.authorities_data()) >= {"link-0.key", "link-1.key", "listeners-1.key"}
    data = found.authorities_data()
    edge = dict(existing.edge) | {
        "link.crt": found.edge_link.certificate,
        "link.key": found.edge_link.key,
    }
    again = owned_secrets(dataclasses.replace(existing, authorities=data, edge=edge), late)
    assert again.link == found.link


def test_a_new_authority_of_the_link_signs_when_all_pods_can_trust_it() -> None:
    """Kubelets take a minute or more to bring a Secret; pods of a slow node longer."""
    existing = stored()
    late = NOW + LINK_AUTHORITY_VALIDITY - 80 * DAY
    before = owned_secrets(existing, late)
    existing = dataclasses.replace(
        existing,
        authorities=before.authorities_data(),
        edge=dict(existing.edge)
        | {"link.crt": before.edge_link.certificate, "link.key": before.edge_link.key},
        router=dict(existing.router)
        | {"link.crt": before.router_link.certificate, "link.key": before.router_link.key},
    )
    (old, new) = before.link.trusted
    assert before.link.signer == old
    hour = datetime.timedelta(hours=1)
    second = datetime.timedelta(seconds=1)
    assert owned_secrets(existing, late + hour - second).link.signer == old
    after = owned_secrets(existing, late + hour)
    assert after.link.signer == new
    # And the old one is trusted for as long after that, for pods that have its certificates still.
    assert after.link.trusted == (old, new)


def test_clients_have_a_month_to_take_up_a_new_authority() -> None:
    parsed = parse("demo", spec_of("headline"))
    assert listeners_policy(parsed).trust_delay == 30 * DAY
    assert link_policy().trust_delay < DAY
    short = parse(
        "demo",
        spec_of(certificates={"validityDays": 2, "renewBeforeDays": 1, "authorityValidityDays": 8}),
    )
    assert listeners_policy(short).trust_delay == DAY
