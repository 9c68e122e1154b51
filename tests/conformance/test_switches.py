"""Parts of the protocol that the configuration limits: what is then announced and refused."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.broker import Server, Tidegate
from support.mqtt_bytes import V5, V311, Property, Will
from support.peers import Peers
from support.raw_client import RawClient

statement = pytest.mark.statement


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Yield a broker with everything switched off or limited that can be."""
    if request.config.getoption("--broker") != "tidegate":
        pytest.skip("our own settings")
    with tempfile.TemporaryDirectory(prefix="tg-") as directory:
        settings = {
            "listeners": [
                {
                    "name": "tcp",
                    "protocol": "tcp",
                    "address": "127.0.0.1",
                    "port": 0,
                    "max_qos": 1,
                }
            ],
            "auth": {"allow_anonymous": True},
            "limits": {"max_keep_alive_s": 20, "max_client_id_bytes": 30, "max_topic_alias": 0},
            "features": {
                "retain": False,
                "wildcard_subscriptions": False,
                "shared_subscriptions": False,
                "response_information": "answers/{client_id}",
                "allow_empty_client_id": False,
            },
            "store": {"data_dir": directory},
            "admin": {"port": 0},
        }
        server = Tidegate(Path(directory), settings, [])
        try:
            server.start()
            yield server
        finally:
            server.cleanup()


@statement("MQTT-3.2.2-9")
async def test_what_is_switched_off_is_announced(peers: Peers) -> None:
    client = await peers.connect()
    assert client.connack is not None
    found = dict(client.connack.properties)
    assert found["maximum_qos"] == 1
    assert found["retain_available"] == 0
    assert found["wildcard_available"] == 0
    assert found["shared_available"] == 0


@statement("MQTT-3.2.2-10", "MQTT-3.8.4-7")
async def test_subscribe_with_a_higher_qos_is_granted_what_there_is(peers: Peers) -> None:
    client = await peers.connect()
    topics = [(peers.topic(str(qos)), qos) for qos in range(3)]
    assert (await client.subscribe(*topics)).codes == [0, 1, 1]


@statement("MQTT-3.2.2-12", "MQTT-3.2.2-7")
async def test_will_above_the_maximum_qos_is_refused_with_0x9b(peers: Peers) -> None:
    client = await peers.open()
    await client.send(mqtt_bytes.connect(peers.client_id(), will=Will("t", qos=2)))
    await client.expect_refused(reasons=[0x9B])


@statement("MQTT-3.2.2-11", "MQTT-4.13.1-1")
async def test_publish_above_the_maximum_qos_is_refused_with_0x9b(
    peers: Peers, publisher: RawClient
) -> None:
    await publisher.publish(peers.topic(), qos=2)
    await publisher.expect_closed(reasons=[0x9B])


@statement("MQTT-3.2.2-13", "MQTT-3.2.2-7")
async def test_retained_will_is_refused_with_0x9a(peers: Peers) -> None:
    client = await peers.open()
    await client.send(mqtt_bytes.connect(peers.client_id(), will=Will("t", retain=True)))
    await client.expect_refused(reasons=[0x9A])


@statement("MQTT-3.2.2-14", "MQTT-4.13.1-1")
async def test_retained_publish_is_refused_with_0x9a(peers: Peers, publisher: RawClient) -> None:
    await publisher.publish(peers.topic(), retain=True)
    await publisher.expect_closed(reasons=[0x9A])


@pytest.mark.parametrize(("topic_filter", "code"), [("a/+", 0xA2), ("$share/g/a", 0x9E)])
async def test_filter_of_a_switched_off_kind_is_refused(
    peers: Peers, topic_filter: str, code: int
) -> None:
    client = await peers.connect()
    await client.send(mqtt_bytes.subscribe(1, [topic_filter]))
    answer = await client.receive()
    assert code in (answer.codes if answer.kind == "SUBACK" else [answer.reason])


@statement("MQTT311-3.8.3-2")
async def test_wildcard_filter_is_refused_in_311(peers: Peers) -> None:
    client = await peers.connect(version=V311)
    assert (await client.subscribe("a/+", "b")).codes == [0x80, 0]


@pytest.mark.parametrize(("asked", "announced"), [(0, 20), (10, None), (20, None), (60, 20)])
@statement("MQTT-3.2.2-22")
async def test_server_keep_alive_is_announced_where_it_differs(
    peers: Peers, asked: int, announced: int | None
) -> None:
    client = await peers.connect(keep_alive=asked)
    assert client.connack is not None
    assert client.connack.get("server_keep_alive") == announced


@pytest.mark.parametrize("asked", [None, 0, 1])
@statement("MQTT-3.1.2-28")
async def test_response_information_is_given_only_on_request(
    peers: Peers, asked: int | None
) -> None:
    props: list[Property] = [] if asked is None else [("request_response", asked)]
    client = await peers.connect(props=props)
    assert client.connack is not None
    wanted = f"answers/{peers.client_id()}" if asked else None
    assert client.connack.get("response_information") == wanted


@pytest.mark.parametrize("client_id", ["", "x" * 31])
@statement("MQTT-3.1.3-8", "MQTT-3.2.2-6", "MQTT-3.2.2-7")
async def test_unwanted_client_identifier_is_refused_with_0x85(
    peers: Peers, client_id: str
) -> None:
    client = await peers.open()
    await client.send(mqtt_bytes.connect(client_id))
    await client.expect_refused(reasons=[0x85])


@statement("MQTT311-3.1.3-9", "MQTT311-3.2.2-4", "MQTT311-3.2.2-5")
async def test_unwanted_client_identifier_is_refused_with_2_in_311(peers: Peers) -> None:
    client = await peers.open(V311)
    await client.send(mqtt_bytes.connect("x" * 31, version=V311))
    await client.expect_refused(reasons=[2])


@statement("MQTT-3.2.2-18", "MQTT-3.3.2-9")
async def test_topic_alias_is_refused_where_none_was_announced(
    peers: Peers, publisher: RawClient
) -> None:
    assert publisher.connack is not None
    assert not publisher.connack.number("topic_alias_maximum")
    await publisher.publish(peers.topic(), props=[("topic_alias", 1)])
    await publisher.expect_closed(reasons=[0x94])


@statement("MQTT-3.1.4-2", "MQTT-3.2.2-7", "MQTT-4.13.2-1", "MQTT311-3.2.2-5")
@pytest.mark.parametrize(("version", "reason"), [(V5, 0x87), (V311, 5)], ids=["5.0", "3.1.1"])
async def test_client_without_user_name_is_refused_where_one_is_needed(
    start_broker: Callable[..., Tidegate], version: int, reason: int
) -> None:
    server = start_broker(auth={"allow_anonymous": False})
    address = server.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)
    await client.send(mqtt_bytes.connect("c", version=version))
    await client.expect_refused(reasons=[reason, 0x86 if version == V5 else 4])
    client.close()


@pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5.0"])
@pytest.mark.parametrize("asked", [0, 600])
@statement("MQTT-3.2.2-22", "MQTT-3.1.2-22", "MQTT311-3.1.2-24")
async def test_longest_keep_alive_is_enforced(
    start_broker: Callable[..., Tidegate], version: int, asked: int
) -> None:
    server = start_broker(limits={"max_keep_alive_s": 1})
    address = server.address("tcp")
    client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)
    began = time.monotonic()
    await client.connect("c", keep_alive=asked)
    await client.expect_closed(reasons=[0x8D])
    assert time.monotonic() - began >= 1.5
    client.close()
