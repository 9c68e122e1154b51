"""Clients that show a certificate, and what the broker takes from it.

Input: paho with and without a client certificate. Output: who gets in and what an ACL file then
lets them do. How listeners choose and reload their own certificates is tested with the listeners.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from support.broker import Server, StartBroker
from support.certificates import Authority, Certificates
from support.paho_client import V5, V311, PahoClient


def listener(certificates: Certificates, protocol: str, **tls: Any) -> dict[str, Any]:
    """Return a listener with TLS that knows the authority of clients."""
    pair = certificates.server
    return {
        "name": protocol,
        "protocol": protocol,
        "address": "127.0.0.1",
        "port": 0,
        "tls": {
            "certificates": [{"certificate": str(pair.certificate), "key": str(pair.key)}],
            "client_ca": str(certificates.authority.certificate),
            **tls,
        },
    }


@pytest.fixture
def broker(
    start_broker: StartBroker,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    """Start a broker that knows its clients by the common name of their certificate only."""
    rules: Path = tmp_path_factory.mktemp("acl") / "acl"
    rules.write_text("user device-1\ntopic readwrite devices/device-1/#\n")
    tls = {"client_certificates": "required", "identity_as_username": "cn"}
    return start_broker(
        listeners=[listener(certificates, protocol, **tls) for protocol in ("tls", "wss")],
        auth={"allow_anonymous": False, "acl_file": str(rules)},
    )


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("transport", ["tls", "wss"])
def test_the_common_name_is_the_user_that_the_acl_file_knows(
    broker: Server, certificates: Certificates, transport: str, version: Any
) -> None:
    with PahoClient(
        broker,
        "any-name",
        protocol=version,
        transport=transport,
        authority=certificates.authority,
        certificate=certificates.client,
    ) as client:
        assert client.reason == 0
        client.subscribe("devices/#", 1)
        client.publish("devices/device-2/state", b"not mine", 1)
        client.publish("devices/device-1/state", b"mine", 1)
        assert client.payloads(1) == [b"mine"]


def test_a_client_without_a_certificate_does_not_get_in(
    broker: Server, certificates: Certificates
) -> None:
    # With TLS 1.3 the client learns of it after its own part of the handshake.
    with pytest.raises((ssl.SSLError, ConnectionError)):
        refused_or_raise(broker, certificates, None)


def test_a_certificate_of_another_authority_does_not_get_in(
    broker: Server, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "somebody else").client("device-1")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        refused_or_raise(broker, certificates, stranger)


def refused_or_raise(broker: Server, certificates: Certificates, certificate: Any) -> None:
    """Connect; a connection that ends before CONNACK raises as one that TLS refuses."""
    client = PahoClient(
        broker,
        "stranger",
        transport="tls",
        authority=certificates.authority,
        certificate=certificate,
        connect=False,
    )
    try:
        client.connect()
        if client.reason is None:
            raise ConnectionRefusedError("ended before CONNACK")
    finally:
        client.close()
