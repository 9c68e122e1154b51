"""Changes that running pods take up: no restart, no connection lost, confirmed in the status."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.certificates import Authority
from support.kube.node_load import away, lost_connections, under_load
from support.kube.node_product import CLIENT_PORT, Broker, same
from support.raw_client import RawClient

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

ALL = ("edge", "router", "redis")
NOT_AUTHORIZED = 0x87
OWN_PORT = 8883


async def test_limits_listeners_and_rules_change_without_a_restart(
    broker: Broker, seed: int, kept_logs: Path
) -> None:
    address = await away(broker.address)
    async with under_load(broker, seed, kept_logs) as harness:
        since = time.monotonic()
        before = await away(broker.seen, *ALL)
        plain = {"name": "plain", "protocol": "tcp", "port": 1883}
        await away(
            broker.change,
            {
                "listeners": [*broker.spec["listeners"], plain],
                "limits": {"maxPacketSizeBytes": 100_000},
                "acl": {"rules": "topic readwrite #\ntopic deny secret/#\n"},
            },
        )
        settled = await away(broker.wait_until_settled)
        (applied,) = (
            one for one in settled["status"]["conditions"] if one["type"] == "ConfigApplied"
        )
        assert "2 of 2" in applied["message"]
        client = await RawClient.open(f"tcp://{address}:1883")
        connack = await client.connect("newcomer")
        assert connack.get("maximum_packet_size") == 100_000
        await client.send(mqtt_bytes.publish("secret/x", b"", qos=1, packet_id=1))
        assert (await client.receive()).reason == NOT_AUTHORIZED
        await client.send(mqtt_bytes.publish("open/x", b"", qos=1, packet_id=2))
        assert (await client.receive()).reason < 0x80
        await away(broker.change, {"listeners": broker.spec["listeners"][:1], "acl": None})
        await away(broker.wait_until_settled)
        with pytest.raises(OSError):
            await RawClient.open(f"tcp://{address}:1883")
        same(before, await away(broker.seen, *ALL))
        assert lost_connections(harness, since) == []


async def test_a_new_certificate_is_shown_and_no_connection_is_dropped(
    broker: Broker, seed: int, kept_logs: Path
) -> None:
    address = await away(broker.address)
    async with under_load(broker, seed, kept_logs) as harness:
        since = time.monotonic()
        before = await away(broker.seen, *ALL)
        old = await away(shown_names, broker, address)
        assert "new.example.com" not in old
        (listener,) = broker.spec["listeners"]
        tls = listener["tls"] | {"dnsNames": ["new.example.com"]}
        await away(broker.change, {"listeners": [listener | {"tls": tls}]})
        await away(broker.wait_until_settled)
        assert await away(shown_names, broker, address) == old | {"new.example.com"}
        await harness.still_publishing()
        same(before, await away(broker.seen, *ALL))
        assert lost_connections(harness, since) == []


async def test_a_renewed_certificate_of_somebody_else_is_shown(
    broker: Broker, seed: int, kept_logs: Path, tmp_path: Path
) -> None:
    address = await away(broker.address)
    authority = Authority(tmp_path)
    trust = ssl.create_default_context(cafile=str(authority.certificate))

    async def renew(name: str) -> None:
        pair = authority.server(name, addresses=(address,))
        data = {"tls.crt": pair.certificate.read_bytes(), "tls.key": pair.key.read_bytes()}
        await away(broker.secret, "bought", data)

    await renew("first.example.com")
    own = {"name": "own", "protocol": "tls", "tls": {"secretName": "bought"}}
    async with under_load(broker, seed, kept_logs) as harness:
        since = time.monotonic()
        before = await away(broker.seen, *ALL)
        await away(broker.change, {"listeners": [*broker.spec["listeners"], own]})
        await away(broker.wait_until_settled)
        await away(broker.wait_until_forwarded, address, OWN_PORT)
        assert await away(shown, trust, address, OWN_PORT) == {"first.example.com"}
        await renew("second.example.com")
        began = time.monotonic()
        while await away(shown, trust, address, OWN_PORT) != {"second.example.com"}:
            assert time.monotonic() < began + 60
            await asyncio.sleep(0.1)
        print(f"a new certificate is shown after {time.monotonic() - began:.1f} s")
        same(before, await away(broker.seen, *ALL))
        assert lost_connections(harness, since) == []


def shown_names(broker: Broker, address: str) -> set[str]:
    """Return the names in the certificate that the port for everything shows."""
    return shown(broker.client_tls(), address, CLIENT_PORT)


def shown(context: ssl.SSLContext, address: str, port: int) -> set[str]:
    """Return the names in the certificate that a new client sees."""
    with (
        socket.create_connection((address, port), 10) as raw,
        context.wrap_socket(raw, server_hostname=address) as secure,
    ):
        certificate = secure.getpeercert()
    assert certificate is not None
    return {str(one[1]) for one in certificate["subjectAltName"] if one[0] == "DNS"}


async def test_a_changed_password_reaches_the_pods(broker: Broker, tmp_path: Path) -> None:
    address = await away(broker.address)
    await away(broker.secret, "users", {"passwords": await away(password_file, tmp_path, "first")})
    auth = {"allowAnonymous": False, "passwords": {"secretName": "users"}}
    await away(broker.change, {"auth": auth})
    await away(broker.wait_until_settled)
    before = await away(broker.seen, *ALL)
    assert await login(address, broker, "first")
    assert not await login(address, broker, "second")
    await away(broker.secret, "users", {"passwords": await away(password_file, tmp_path, "second")})
    began = asyncio.get_running_loop().time()
    while not await login(address, broker, "second"):
        assert asyncio.get_running_loop().time() < began + 60
    print(f"a new password counts after {asyncio.get_running_loop().time() - began:.1f} s")
    assert not await login(address, broker, "first")
    await away(broker.wait_until_settled)
    same(before, await away(broker.seen, *ALL))


def password_file(directory: Path, password: str) -> bytes:
    """Return the password file of one user, as the project's own tool makes it."""
    file = directory / "passwords"
    tool = Path(sys.executable).with_name("tidegate")
    subprocess.run(
        [str(tool), "passwd", "-c", "-b", str(file), "alice", password],
        capture_output=True,
        check=True,
    )
    return file.read_bytes()


async def login(address: str, broker: Broker, password: str) -> bool:
    """Whether alice gets in."""
    tls = await away(broker.client_tls)
    client = await RawClient.open(f"tls://{address}:{CLIENT_PORT}", ssl_context=tls)
    await client.send(mqtt_bytes.connect("login", username="alice", password=password.encode()))
    accepted = (await client.receive()).reason == 0
    client.close()
    return accepted
