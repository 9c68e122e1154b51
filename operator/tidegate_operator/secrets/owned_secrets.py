"""Secrets that the operator creates: authorities, certificates, store password, admin token.

``renew_secrets`` takes the live values and returns the desired ones: the same bytes unless
something is due. ``reconcile`` calls it, and writes the result as Secrets. Pure except for
randomness.

There are two authorities with different audiences: edges and routers trust the link's, clients
trust the one of self-signed listeners.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tidegate.runtime.config.model import LinkTlsConfig
from tidegate_operator.names import client_service, routers_service
from tidegate_operator.secrets.certificates import (
    Authorities,
    CertificateRequest,
    KeyPair,
    RotationPolicy,
    authorities,
    issue,
    next_change,
    reissue_reason,
)
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import service_name
from tidegate_operator.spec.listeners import ListenerSpec, ListenerTls

SecretData = Mapping[str, bytes]

LINK: Final = "link"
LISTENERS: Final = "listeners"

#: How long a changed Secret may take to reach all pods (kubelets sync about once a minute).
LINK_TRUST_DELAY: Final = timedelta(hours=1)
#: How long clients have to trust a new authority.
LISTENERS_TRUST_DELAY: Final = timedelta(days=30)
#: The link's authority is internal, so its validity is not configurable.
LINK_VALIDITY: Final = timedelta(days=90)
LINK_RENEW_BEFORE: Final = timedelta(days=30)
LINK_AUTHORITY_VALIDITY: Final = timedelta(days=3650)

_TOKEN_BYTES: Final = 32


@dataclass(slots=True, frozen=True)
class LiveSecrets:
    """Data of the live Secrets; empty where the Secret is missing."""

    authorities: SecretData = field(default_factory=dict)
    edge: SecretData = field(default_factory=dict)
    router: SecretData = field(default_factory=dict)
    admin: SecretData = field(default_factory=dict)
    redis: SecretData = field(default_factory=dict)
    console: SecretData = field(default_factory=dict)
    console_token: SecretData = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class OwnedSecrets:
    """The desired secrets. ``listener_pairs`` is by the names of self-signed listeners."""

    link: Authorities
    edge_link: KeyPair
    router_link: KeyPair
    listeners: Authorities | None
    listener_pairs: Mapping[str, KeyPair]
    admin_token: bytes
    redis_password: bytes
    #: A token with which an administrator enters the console.
    console_token: bytes
    #: When the next renewal or rotation step is due.
    next_change: datetime
    #: What was created or reissued, and why, for the log.
    changes: tuple[str, ...]
    #: Authorities of listeners while no listener is self-signed, kept unchanged: clients may still
    #: trust them when a listener becomes self-signed again.
    unused_listener_authorities: SecretData = field(default_factory=dict)

    def authorities_data(self) -> dict[str, bytes]:
        """Return the data of the Secret with all authorities."""
        data = dict(self.unused_listener_authorities)
        for kind, group in ((LINK, self.link), (LISTENERS, self.listeners)):
            for number, pair in enumerate(group.trusted if group is not None else ()):
                data[f"{kind}-{number}.crt"] = pair.certificate
                data[f"{kind}-{number}.key"] = pair.key
        return data


def link_policy() -> RotationPolicy:
    """The rotation policy of the link's certificates."""
    return RotationPolicy(
        LINK_VALIDITY, LINK_RENEW_BEFORE, LINK_AUTHORITY_VALIDITY, LINK_TRUST_DELAY
    )


def listeners_policy(spec: MqttBrokerSpec) -> RotationPolicy:
    """The rotation policy of self-signed listeners' certificates."""
    given = spec.certificates
    authority = timedelta(days=given.authority_validity_days)
    return RotationPolicy(
        timedelta(days=given.validity_days),
        timedelta(days=given.renew_before_days),
        authority,
        min(LISTENERS_TRUST_DELAY, authority / 8),
    )


def renew_secrets(
    name: str,
    namespace: str,
    spec: MqttBrokerSpec | None,
    live: LiveSecrets,
    now: datetime,
    addresses: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> OwnedSecrets:
    """Return the desired secrets; live ones are kept unless something is due.

    With an invalid spec (None) only the secrets that do not depend on it are renewed. ``addresses``
    of load balancers, by Service, are added to the certificates of self-signed listeners.
    """
    changes: list[str] = []
    policy = link_policy()
    edge_pair, router_pair = pair_in(live.edge, LINK), pair_in(live.router, LINK)
    link = _authorities(
        live.authorities, LINK, [edge_pair, router_pair], f"{name} link", now, policy, changes
    )
    edge_link = _keep_or_reissue(edge_pair, edge_request(name), link, now, policy, changes)
    router_link = _keep_or_reissue(
        router_pair, router_request(name, namespace), link, now, policy, changes
    )
    due = [next_change(link, [edge_link, router_link], now, policy)]

    listeners: Authorities | None = None
    pairs: dict[str, KeyPair] = {}
    if spec is not None and _self_signed(spec):
        listeners, pairs = _renew_listeners(name, namespace, spec, live, now, addresses, changes)
        due.append(next_change(listeners, pairs.values(), now, listeners_policy(spec)))
    return OwnedSecrets(
        link=link,
        edge_link=edge_link,
        router_link=router_link,
        listeners=listeners,
        listener_pairs=pairs,
        admin_token=_token(live.admin.get("token"), "admin token", changes),
        redis_password=_token(
            live.redis.get("password"),
            "store password",
            changes if spec is not None and spec.redis.own is not None else [],
        ),
        console_token=_token(
            live.console_token.get("token"),
            "console token",
            changes if spec is not None and spec.console.has_own_token else [],
        ),
        next_change=min(due),
        changes=tuple(changes),
        unused_listener_authorities={}
        if listeners is not None
        else _listener_authorities(live.authorities),
    )


def _renew_listeners(
    name: str,
    namespace: str,
    spec: MqttBrokerSpec,
    live: LiveSecrets,
    now: datetime,
    addresses: Mapping[str, Sequence[str]],
    changes: list[str],
) -> tuple[Authorities, dict[str, KeyPair]]:
    """Return the authorities of self-signed listeners, and their certificates by listener."""
    policy, listeners = listeners_policy(spec), _self_signed(spec)
    current = {
        listener.name: pair_in(live.edge, f"listener.{listener.name}") for listener in listeners
    }
    group = _authorities(live.authorities, LISTENERS, current.values(), name, now, policy, changes)
    pairs = {}
    for listener in listeners:
        assert listener.tls is not None
        service = service_name(name, listener) or client_service(name)
        request = listener_request(service, namespace, listener.tls, addresses.get(service, ()))
        pairs[listener.name] = _keep_or_reissue(
            current[listener.name], request, group, now, policy, changes
        )
    return group, pairs


def _listener_authorities(authorities_data: SecretData) -> dict[str, bytes]:
    prefix = f"{LISTENERS}-"
    return {file: kept for file, kept in authorities_data.items() if file.startswith(prefix)}


def _self_signed(spec: MqttBrokerSpec) -> list[ListenerSpec]:
    return [listener for listener in spec.listeners if listener.tls and listener.tls.self_signed]


def edge_request(name: str) -> CertificateRequest:
    """The edges' certificate on the link: for clients only, so an edge cannot act as a router."""
    return CertificateRequest(f"{name} edge", (f"{name}-edge",), client=True)


def router_request(name: str, namespace: str) -> CertificateRequest:
    """The routers' certificate on the link, with the one server name that edges verify."""
    service = routers_service(name)
    server_name = str(LinkTlsConfig.model_fields["server_name"].default)
    return CertificateRequest(
        f"{name} router", (server_name, service, f"{service}.{namespace}.svc"), server=True
    )


def listener_request(
    service: str, namespace: str, tls: ListenerTls, addresses: Sequence[str] = ()
) -> CertificateRequest:
    """The certificate of a self-signed listener: configured names and addresses, and those of the
    Service that publishes it (without one, of the broker's)."""
    service_names = (service, f"{service}.{namespace}", f"{service}.{namespace}.svc")
    # Certificates cannot have addresses with a zone, or names that are not ASCII.
    valid = (address for address in addresses if address.isascii() and "%" not in address)
    external = {address: _ip_address(address) for address in valid}
    hosts = (host.lower() for host, ip_address in external.items() if not ip_address)
    names = dict.fromkeys((*tls.dns_names, *service_names, *hosts))
    configured = (_ip_address(address) for address in tls.ip_addresses)
    ip_addresses = dict.fromkeys((*configured, *filter(None, external.values())))
    return CertificateRequest(next(iter(names)), tuple(names), tuple(ip_addresses), server=True)


def _ip_address(text: str) -> str:
    """Return the canonical form of an IP address; "" if it is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def pair_in(data: SecretData, file: str) -> KeyPair | None:
    """Return the pair FILE.crt and FILE.key, if both are present."""
    certificate, key = data.get(f"{file}.crt"), data.get(f"{file}.key")
    return None if certificate is None or key is None else KeyPair(certificate, key)


def _authorities(
    data: SecretData,
    kind: str,
    leaves: Iterable[KeyPair | None],
    name: str,
    now: datetime,
    policy: RotationPolicy,
    changes: list[str],
) -> Authorities:
    live: list[KeyPair] = []
    while (pair := pair_in(data, f"{kind}-{len(live)}")) is not None:
        live.append(pair)
    used = [leaf for leaf in leaves if leaf is not None]
    current = authorities(live, used, f"{name} authority", now, policy)
    if tuple(live) != current.trusted:
        known = set(live)
        created = sum(pair not in known for pair in current.trusted)
        dropped = len(known - set(current.trusted))
        changes.append(f"certificate authorities of {kind}: {created} created, {dropped} removed")
    return current


def _keep_or_reissue(
    pair: KeyPair | None,
    request: CertificateRequest,
    group: Authorities,
    now: datetime,
    policy: RotationPolicy,
    changes: list[str],
) -> KeyPair:
    reason = reissue_reason(pair, request, group.signer, now, policy)
    if not reason and pair is not None:
        return pair
    changes.append(f"certificate of {request.common_name}: {reason}")
    return issue(group.signer, request, now, policy)


def _token(existing: bytes | None, what: str, changes: list[str]) -> bytes:
    if existing and existing.strip():
        return existing
    changes.append(f"{what}: missing")
    return secrets.token_hex(_TOKEN_BYTES).encode()
