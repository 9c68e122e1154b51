"""The secrets that a broker has of its own: authorities, certificates, passwords, the admin token.

``renewed`` takes what there is (from the live Secrets) and returns what there should be; as long as
nothing is due, that is the same bytes. The caller stores it.

Two authorities, because they are trusted by different people: that of the link between edges and
routers is known to these alone, that of self-signed listeners is given to clients.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tidegate.runtime.config.model import LinkTlsConfig
from tidegate_operator.names import client_service, routers_service
from tidegate_operator.secrets.certificates import (
    Authorities,
    KeyPair,
    Policy,
    Request,
    authorities,
    is_due,
    issue,
    next_change,
)
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.listeners import ListenerSpec, ListenerTls

Data = Mapping[str, bytes]

LINK: Final = "link"
LISTENERS: Final = "listeners"

#: How long a changed Secret may take to reach every pod (the kubelet looks every minute or so).
LINK_TRUST_DELAY: Final = timedelta(hours=1)
#: How long clients have to take up a new authority.
LISTENERS_TRUST_DELAY: Final = timedelta(days=30)
#: Nobody sees the link's authority, so nobody has to choose how long it is valid.
LINK_VALIDITY: Final = timedelta(days=90)
LINK_RENEW_BEFORE: Final = timedelta(days=30)
LINK_AUTHORITY_VALIDITY: Final = timedelta(days=3650)

_TOKEN_BYTES: Final = 32


@dataclass(slots=True, frozen=True)
class Existing:
    """What the live Secrets hold, empty where there is none."""

    authorities: Data = field(default_factory=dict)
    edge: Data = field(default_factory=dict)
    router: Data = field(default_factory=dict)
    admin: Data = field(default_factory=dict)
    redis: Data = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class OwnedSecrets:
    """What there should be. ``listener_pairs`` is by the names of self-signed listeners."""

    link: Authorities
    edge_link: KeyPair
    router_link: KeyPair
    listeners: Authorities | None
    listener_pairs: Mapping[str, KeyPair]
    admin_token: bytes
    redis_password: bytes
    #: When something will be due next.
    next_change: datetime
    #: What was made new, and why, for the log.
    changes: tuple[str, ...]
    #: The clients' authorities while no listener is self-signed. They are kept as they are: devices
    #: may still trust them, and are not asked before a listener is self-signed again.
    resting: Data = field(default_factory=dict)

    def authorities_data(self) -> dict[str, bytes]:
        """Return what is kept of the authorities."""
        found = dict(self.resting)
        for kind, group in ((LINK, self.link), (LISTENERS, self.listeners)):
            for number, pair in enumerate(group.trusted if group is not None else ()):
                found[f"{kind}-{number}.crt"] = pair.certificate
                found[f"{kind}-{number}.key"] = pair.key
        return found


def link_policy() -> Policy:
    """How the link's certificates are kept."""
    return Policy(LINK_VALIDITY, LINK_RENEW_BEFORE, LINK_AUTHORITY_VALIDITY, LINK_TRUST_DELAY)


def listeners_policy(spec: MqttBrokerSpec) -> Policy:
    """How the certificates of self-signed listeners are kept."""
    given = spec.certificates
    authority = timedelta(days=given.authority_validity_days)
    return Policy(
        timedelta(days=given.validity_days),
        timedelta(days=given.renew_before_days),
        authority,
        min(LISTENERS_TRUST_DELAY, authority / 8),
    )


def renewed(
    name: str,
    namespace: str,
    spec: MqttBrokerSpec | None,
    existing: Existing,
    now: datetime,
    addresses: Sequence[str] = (),
) -> OwnedSecrets:
    """Return what there should be; what will do is kept as it is.

    Without a spec (one that cannot be used), that is what edges and routers have in any case.
    ``addresses`` are those of the load balancer: clients that connect there find them in the
    certificates of self-signed listeners.
    """
    changes: list[str] = []
    policy = link_policy()
    edge_pair, router_pair = pair_in(existing.edge, LINK), pair_in(existing.router, LINK)
    link = _authorities(
        existing.authorities, LINK, [edge_pair, router_pair], f"{name} link", now, policy, changes
    )
    edge_link = _kept(edge_pair, edge_request(name), link, now, policy, changes)
    router_link = _kept(router_pair, router_request(name, namespace), link, now, policy, changes)
    due = [next_change(link, [edge_link, router_link], now, policy)]

    listeners: Authorities | None = None
    pairs: dict[str, KeyPair] = {}
    signed = [] if spec is None else _self_signed(spec)
    if spec is not None and signed:
        policy = listeners_policy(spec)
        old = {one.name: pair_in(existing.edge, f"listener.{one.name}") for one in signed}
        listeners = _authorities(
            existing.authorities, LISTENERS, old.values(), name, now, policy, changes
        )
        for listener in signed:
            assert listener.tls is not None
            request = listener_request(name, namespace, listener.tls, addresses)
            pairs[listener.name] = _kept(
                old[listener.name], request, listeners, now, policy, changes
            )
        due.append(next_change(listeners, pairs.values(), now, policy))
    return OwnedSecrets(
        link=link,
        edge_link=edge_link,
        router_link=router_link,
        listeners=listeners,
        listener_pairs=pairs,
        admin_token=_token(existing.admin.get("token"), "admin token", changes),
        redis_password=_token(
            existing.redis.get("password"),
            "password of the store",
            changes if spec is not None and spec.redis.own is not None else [],
        ),
        next_change=min(due),
        changes=tuple(changes),
        resting={} if listeners is not None else _of_listeners(existing.authorities),
    )


def _of_listeners(authorities_data: Data) -> dict[str, bytes]:
    prefix = f"{LISTENERS}-"
    return {file: kept for file, kept in authorities_data.items() if file.startswith(prefix)}


def _self_signed(spec: MqttBrokerSpec) -> list[ListenerSpec]:
    return [listener for listener in spec.listeners if listener.tls and listener.tls.self_signed]


def edge_request(name: str) -> Request:
    """What edges show to routers: they are clients, and can never pass for a router."""
    return Request(f"{name} edge", (f"{name}-edge",), client=True)


def router_request(name: str, namespace: str) -> Request:
    """What routers show to edges, which look for the one name that all routers have."""
    service = routers_service(name)
    wanted = str(LinkTlsConfig.model_fields["server_name"].default)
    return Request(f"{name} router", (wanted, service, f"{service}.{namespace}.svc"), server=True)


def listener_request(
    name: str, namespace: str, tls: ListenerTls, addresses: Sequence[str] = ()
) -> Request:
    """What a self-signed listener shows: the names and addresses that are given, and those of the
    Service."""
    service = client_service(name)
    own = (service, f"{service}.{namespace}", f"{service}.{namespace}.svc")
    # What a certificate cannot have is left out: a zone, a name that is not ASCII.
    fitting = (one for one in addresses if one.isascii() and "%" not in one)
    outside = {one: _ip_address(one) for one in fitting}
    hosts = (one.lower() for one, address in outside.items() if not address)
    names = dict.fromkeys((*tls.dns_names, *own, *hosts))
    given = (_ip_address(one) for one in tls.ip_addresses)
    numbers = dict.fromkeys((*given, *filter(None, outside.values())))
    return Request(next(iter(names)), tuple(names), tuple(numbers), server=True)


def _ip_address(text: str) -> str:
    """Return an IP address as it is written usually; "" if it is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def pair_in(data: Data, file: str) -> KeyPair | None:
    """Return the pair FILE.crt and FILE.key, if both are there."""
    certificate, key = data.get(f"{file}.crt"), data.get(f"{file}.key")
    return None if certificate is None or key is None else KeyPair(certificate, key)


def _authorities(
    data: Data,
    kind: str,
    leaves: Iterable[KeyPair | None],
    name: str,
    now: datetime,
    policy: Policy,
    changes: list[str],
) -> Authorities:
    existing: list[KeyPair] = []
    while (pair := pair_in(data, f"{kind}-{len(existing)}")) is not None:
        existing.append(pair)
    used = [leaf for leaf in leaves if leaf is not None]
    found = authorities(existing, used, f"{name} authority", now, policy)
    if tuple(existing) != found.trusted:
        known = set(existing)
        made = sum(pair not in known for pair in found.trusted)
        dropped = len(known - set(found.trusted))
        changes.append(f"authorities of {kind}: {made} made, {dropped} dropped")
    return found


def _kept(
    pair: KeyPair | None,
    request: Request,
    group: Authorities,
    now: datetime,
    policy: Policy,
    changes: list[str],
) -> KeyPair:
    why = is_due(pair, request, group.signer, now, policy)
    if not why and pair is not None:
        return pair
    changes.append(f"certificate of {request.common_name}: {why}")
    return issue(group.signer, request, now, policy)


def _token(existing: bytes | None, what: str, changes: list[str]) -> bytes:
    if existing and existing.strip():
        return existing
    changes.append(f"{what}: there is none")
    return secrets.token_hex(_TOKEN_BYTES).encode()
