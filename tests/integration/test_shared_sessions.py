"""Members of shared subscriptions that go with messages still to deliver (MQTT5 §4.8.2).

Input: raw clients against ``tidegate serve``. Output: what the members that stay receive, what
those that come back find, and what the counters say.
"""

from __future__ import annotations

import re
import urllib.request

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, Packet, Property
from support.peers import let_pass
from support.raw_client import DEADLINE_S, RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")


#: Longer than a member that has gone has to come back, and a sweep.
GONE_S = 2.5


async def _open(broker: Tidegate) -> RawClient:
    address = broker.address("tcp")
    return await RawClient.open(f"tcp://{address.host}:{address.port}", version=V5)


async def _member(
    broker: Tidegate, client_id: str, receive_maximum: int = 100, *, durable: bool = True
) -> RawClient:
    client = await _open(broker)
    limits: list[Property] = [("receive_maximum", receive_maximum)]
    if durable:
        limits.append(("session_expiry", 3600))
    await client.connect(client_id, clean=not durable, props=limits)
    await client.subscribe(("$share/g/t/+", 2))
    return client


async def _deliver(broker: Tidegate, *levels: int) -> None:
    """Publish "1", "2", … with these QoS."""
    writer = await _open(broker)
    await writer.connect("writer")
    for number, qos in enumerate(levels, 1):
        await writer.deliver("t/1", b"%d" % number, qos=qos, packet_id=number)
    writer.close()


async def _take(client: RawClient, timeout_s: float = DEADLINE_S) -> Packet:
    """The next PUBLISH, acknowledged; PUBREL is answered on the way."""
    message = await client.receive(timeout_s)
    while message.kind == "PUBREL":
        await client.send(mqtt_bytes.acknowledge("PUBCOMP", message.packet_id))
        message = await client.receive()
    assert message.kind == "PUBLISH", message
    answer = "PUBACK" if message.qos == 1 else "PUBREC"
    await client.send(mqtt_bytes.acknowledge(answer, message.packet_id))
    return message


def _assert_in_order(found: list[Packet], payloads: list[bytes]) -> None:
    """All have come, and those of each QoS in their order [MQTT-4.6.0-5].

    A QoS 2 message is claimed in the store first: one of QoS 1 may pass it.
    """
    assert sorted(packet.payload for packet in found) == payloads
    for qos in (1, 2):
        came = [packet.payload for packet in found if packet.qos == qos]
        assert came == sorted(came)


@pytest.mark.parametrize(
    ("first_qos", "others"),
    [
        pytest.param(2, [b"2", b"3", b"4"], id="qos2-begun-stays"),
        pytest.param(1, [b"1", b"2", b"3", b"4"], id="qos1-begun-goes"),
    ],
)
@pytest.mark.statement("MQTT-4.8.2-5")
async def test_an_ended_sessions_shared_messages_go_to_another_member(
    start_broker: StartBroker, first_qos: int, others: list[bytes]
) -> None:
    broker = start_broker()
    ending = await _member(broker, "ending", 1)
    await _deliver(broker, first_qos, 2, 1, 2)
    begun = await ending.expect("PUBLISH", payload=b"1")
    assert begun.qos == first_qos
    staying = await _member(broker, "staying")
    await ending.disconnect(0, [("session_expiry", 0)])
    _assert_in_order([await _take(staying) for _ in others], others)
    staying.close()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "ephemeral"])
@pytest.mark.parametrize(
    ("first_qos", "others"),
    [
        pytest.param(2, [b"2", b"3", b"4"], id="qos2-begun-stays"),
        pytest.param(1, [b"1", b"2", b"3", b"4"], id="qos1-begun-goes"),
    ],
)
@pytest.mark.statement("MQTT-4.8.2-4")
async def test_a_gone_members_messages_go_to_a_connected_one_while_its_session_lives(
    start_broker: StartBroker, first_qos: int, others: list[bytes], durable: bool
) -> None:
    broker = start_broker()
    gone = await _member(broker, "gone", 1)
    await _deliver(broker, first_qos, 2, 1, 2)
    begun = await gone.expect("PUBLISH", payload=b"1")
    staying = await _member(broker, "staying", durable=durable)
    gone.close()
    found = [await _take(staying) for _ in others]
    _assert_in_order(found, others)
    assert not any(packet.dup for packet in found)
    gone = await _open(broker)
    await gone.connect("gone", clean=False, props=[("session_expiry", 3600)])
    if first_qos == 2:
        again = await gone.expect("PUBLISH", payload=b"1", packet_id=begun.packet_id, dup=True)
        await gone.acknowledge(again)
    await gone.expect_nothing()
    for client in (gone, staying):
        client.close()


async def test_a_member_that_is_back_at_once_finds_its_messages(
    start_broker: StartBroker,
) -> None:
    broker = start_broker()
    gone = await _member(broker, "gone", 1)
    await _deliver(broker, 1, 1)
    await gone.expect("PUBLISH", payload=b"1")
    staying = await _member(broker, "staying")
    gone.close()
    back = await _open(broker)
    await back.connect("gone", clean=False, props=[("session_expiry", 3600)])
    assert [(await _take(back)).payload for _ in range(2)] == [b"1", b"2"]
    await let_pass(GONE_S)
    await staying.expect_nothing()
    for client in (back, staying):
        client.close()


@pytest.mark.parametrize("comes", ["new", "known"])
async def test_messages_wait_for_a_gone_member_until_another_one_comes(
    start_broker: StartBroker, comes: str
) -> None:
    broker = start_broker()
    if comes == "known":
        late = await _member(broker, "late")
        await late.disconnect()
    gone = await _member(broker, "gone", 1)
    await _deliver(broker, 1, 1, 1)
    gone.close()
    await let_pass(GONE_S)
    late = await _open(broker)
    await late.connect("late", clean=False, props=[("session_expiry", 3600)])
    if comes == "new":
        await late.subscribe(("$share/g/t/+", 1))
    assert [(await _take(late)).payload for _ in range(3)] == [b"1", b"2", b"3"]
    late.close()


async def test_what_a_gone_member_kept_for_others_survives_the_broker(
    start_broker: StartBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """G1: a member without a durable session has a message when it acknowledges it, not before."""
    broker = start_broker(store={"data_dir": str(tmp_path_factory.mktemp("data"))})
    gone = await _member(broker, "gone", 1)
    await _deliver(broker, 1, 1)
    mute = await _member(broker, "mute", durable=False)
    gone.close()
    await mute.expect("PUBLISH", payload=b"1")
    broker.kill()
    broker.start()
    mute = await _member(broker, "mute", durable=False)
    # The broker that had claimed them does not come back: ten seconds later another one may.
    found = {(await _take(mute, 2 * DEADLINE_S)).payload for _ in range(2)}
    assert found == {b"1", b"2"}
    mute.close()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "ephemeral"])
async def test_copies_that_go_to_others_are_accounted_for(
    start_broker: StartBroker, durable: bool
) -> None:
    """G7: published = delivered + queued + dropped."""
    broker = start_broker(features={"sys_interval_s": 0})
    gone = await _member(broker, "gone", 1, durable=durable)
    await _deliver(broker, 1, 1, 1)
    await gone.expect("PUBLISH", payload=b"1")
    staying = await _member(broker, "staying")
    gone.close()
    for _ in range(3):
        await _take(staying)
    await staying.disconnect(0, [("session_expiry", 0)])

    def found() -> dict[str, float]:
        admin = broker.address("admin")
        url = f"http://{admin.host}:{admin.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = re.findall(
                r"^tidegate_messages_(\S+) (\S+)$", answer.read().decode(), re.MULTILINE
            )
        return {name: float(value) for name, value in lines if float(value)}

    for _ in range(100):
        if "queued" not in found():
            break
        await let_pass(0.05)
    counts = {name: value for name, value in found().items() if "_total" in name}
    assert counts["published_total"] == 6
    assert counts["delivered_total"] == 4  # the first one to both of them
    dropped = {name: value for name, value in counts.items() if name.startswith("dropped")}
    assert dropped == {'dropped_total{reason="redispatched"}': 2}
