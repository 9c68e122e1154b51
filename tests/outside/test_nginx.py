"""nginx in front of the broker, with the headers that its users copy from recipes.

Input: nginx with a given set of proxy directives, clients that talk to nginx. Output: what the
client gets, and the client's own address in the broker's log.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from support.broker import Address, Server, StartBroker
from support.nginx import FORWARDED, UPGRADE, nginx_before
from support.paho_client import V5, V31, V311, PahoClient, properties
from support.waiting import wait_for

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "mqtt",
}


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for one nginx."""
    return tmp_path_factory.mktemp("nginx")


class Behind:
    """What PahoClient needs to know of a server: here it is nginx's port."""

    def __init__(self, port: int) -> None:
        self._address = Address("ws", "127.0.0.1", port)

    def address(self, name: str) -> Address:
        """Return nginx's address whatever is asked for."""
        return self._address


@pytest.mark.parametrize(
    "version",
    [pytest.param(V31, id="3.1"), pytest.param(V311, id="3.1.1"), pytest.param(V5, id="5.0")],
)
def test_a_client_behind_nginx_publishes_and_receives(
    broker: Server, directory: Path, version: MQTTProtocolVersion
) -> None:
    with (
        nginx_before(broker.address("ws"), directory, UPGRADE + FORWARDED) as port,
        PahoClient(Behind(port), f"nginx-{version}", protocol=version, transport="ws") as client,
    ):
        client.subscribe("through/nginx", 2)
        for qos in range(3):
            client.publish("through/nginx", b"%d" % qos, qos)
        assert client.payloads(3) == [b"0", b"1", b"2"]
        payload = bytes(range(256)) * 1024
        client.publish("through/nginx", payload, 1)
        assert client.payloads(4)[-1] == payload


def test_the_automatic_port_works_behind_nginx_too(broker: Server, directory: Path) -> None:
    if not broker.has("auto"):
        pytest.skip(f"{broker.product} has no listener auto")
    with (
        nginx_before(broker.address("auto"), directory, UPGRADE) as port,
        PahoClient(Behind(port), "nginx-auto", transport="ws") as client,
    ):
        assert client.reason == 0


def be_refused(port: int, client_id: str) -> None:
    """Break a rule, so that the broker logs who did it: a topic alias above the maximum."""
    with PahoClient(Behind(port), client_id, protocol=V5, transport="ws") as client:
        alias = properties(PacketTypes.PUBLISH, TopicAlias=60_000)
        client.paho.publish("t", b"", 0, properties=alias)
        wait_for(lambda: client.disconnected is not None, 10, "the client is refused")


def test_the_address_that_a_trusted_proxy_forwards_is_the_clients_address(
    start_broker: StartBroker, directory: Path
) -> None:
    listener = {"name": "ws", "protocol": "ws", "address": "127.0.0.1", "port": 0}
    broker = start_broker(listeners=[listener | {"trusted_proxies": ["127.0.0.1/32"]}])
    # Another address of the loopback network stands for a client somewhere else, with its port.
    forwarded = '            proxy_set_header X-Forwarded-For "127.9.8.7:4711";\n'
    with nginx_before(broker.address("ws"), directory, UPGRADE + forwarded) as port:
        be_refused(port, "forwarded")
        wait_for(lambda: "client_id=forwarded" in broker.stderr(), 10, "the client in the log")
        assert "address=127.9.8.7" in broker.stderr()


def test_the_address_that_an_untrusted_proxy_forwards_is_not_believed(
    start_broker: StartBroker, directory: Path
) -> None:
    listener = {"name": "ws", "protocol": "ws", "address": "127.0.0.1", "port": 0}
    broker = start_broker(listeners=[listener])
    forwarded = '            proxy_set_header X-Forwarded-For "127.9.8.7";\n'
    with nginx_before(broker.address("ws"), directory, UPGRADE + forwarded) as port:
        be_refused(port, "not-forwarded")
        wait_for(lambda: "client_id=not-forwarded" in broker.stderr(), 10, "the client in the log")
        assert "address=127.0.0.1" in broker.stderr()


@pytest.fixture
def misconfigured(start_broker: StartBroker, directory: Path) -> Iterator[int]:
    """Yield the port of an nginx that speaks HTTP/1.0 to the broker and drops Upgrade."""
    broker = start_broker()
    with nginx_before(broker.address("ws"), directory, "") as port:
        yield port


def test_without_http_11_in_the_proxy_one_sentence_says_what_is_wrong(misconfigured: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", misconfigured, timeout=10)
    connection.request("GET", "/mqtt", headers=HANDSHAKE)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    assert response.status in {400, 426}
    assert response.headers["Content-Type"].startswith("text/plain")
    assert "upgrade" in body.lower()
    assert body.strip().count("\n") == 0
    assert body.strip().endswith(".")
