"""Members of shared subscriptions without the right to read, and subscriptions that are refused.

Input: raw clients against ``tidegate serve`` with an ACL file that changes. Output: SUBACK, who
gets which message, and what the counters say.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V31, V311, Packet
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

GROUP = "$share/g/t"
#: What everybody may do, whatever becomes of the reader ``lost``.
COMMON = "pattern write t\npattern write jobs/#\npattern readwrite %c/#\n"
BOTH = COMMON + "pattern read t\n"
REMOVED = COMMON + "user kept\ntopic read t\ntopic read jobs/#\n"
VERSIONS = [pytest.param(V31, id="3.1"), pytest.param(V311, id="3.1.1"), pytest.param(V5, id="5.0")]


class _Ruled:
    """A broker with an ACL file."""

    def __init__(self, start_broker: StartBroker, file: Path, rules: str, **auth: Any) -> None:
        self.file = file
        file.write_text(rules)
        settings = {"allow_anonymous": True, "acl_file": str(file), "reload_interval_s": 3600}
        self.broker: Tidegate = start_broker(
            auth=settings | auth, listeners=[{"name": "tcp", "port": 0}]
        )

    def change(self, rules: str) -> None:
        """Another content, in use when this returns."""
        self.file.write_text(rules)
        before = self.metric('tidegate_config_reloads_total{result="ok"}')
        os.kill(self.broker.pid, signal.SIGHUP)
        wait_for(
            lambda: self.metric('tidegate_config_reloads_total{result="ok"}') > before,
            DEADLINE_S,
            "the rules are in use",
        )

    def metric(self, name: str) -> float:
        """One value of /metrics."""
        found = re.search(f"^{re.escape(name)} (.*)$", self._metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def _metrics(self) -> str:
        address = self.broker.addresses["admin"]
        url = f"http://{address.host}:{address.port}/metrics"
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as reply:
            text: str = reply.read().decode()
        return text

    def unaccounted(self) -> float:
        """Copies that are neither delivered nor queued nor dropped."""
        text = self._metrics()
        total = Counter[str]()
        pattern = r"^tidegate_messages_(\w+?)(?:_total)?(?:\{.*\})? (\S+)$"
        for name, value in re.findall(pattern, text, re.MULTILINE):
            total[name] += int(float(value))
        return total["published"] - total["delivered"] - total["queued"] - total["dropped"]

    async def connect(
        self, client_id: str, version: int = V5, *, durable: bool = False, **options: Any
    ) -> RawClient:
        """A client whose user name is its client identifier."""
        address = self.broker.address("tcp")
        client = await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)
        if durable and version == V5:
            options["props"] = [*options.get("props", ()), ("session_expiry", 300)]
        await client.connect(client_id, clean=not durable, username=client_id, **options)
        return client


async def _publish(
    ruled: _Ruled, count: int, qos: int, first: int = 1, topic: str = "t"
) -> list[bytes]:
    writer = await ruled.connect(f"writer{first}")
    numbers = [b"%d" % number for number in range(first, first + count)]
    for number in numbers:
        await writer.deliver(topic, number, qos=qos, packet_id=int(number))
    await writer.disconnect()
    return numbers


async def _take(client: RawClient, count: int) -> list[bytes]:
    """So many messages, acknowledged."""
    found: list[bytes] = []
    released = 0
    while len(found) < count or released:
        packet: Packet = await client.receive()
        if packet.kind == "PUBREL":
            await client.send(mqtt_bytes.acknowledge("PUBCOMP", packet.packet_id))
            released -= 1
            continue
        assert packet.kind == "PUBLISH", packet
        found.append(packet.payload)
        if packet.qos:
            answer = "PUBACK" if packet.qos == 1 else "PUBREC"
            released += packet.qos == 2
            await client.send(mqtt_bytes.acknowledge(answer, packet.packet_id))
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("denied", ["refuse", "grant"])
async def test_a_member_that_may_not_read_is_never_chosen(
    start_broker: StartBroker, tmp_path: Path, version: int, denied: str
) -> None:
    ruled = _Ruled(start_broker, tmp_path / "acl", REMOVED, denied_subscribe=denied)
    for durable, qos in itertools.product((False, True), (0, 1, 2)):
        kept = await ruled.connect("kept", version, durable=durable)
        lost = await ruled.connect("lost", version, durable=durable)
        topic = f"jobs/{durable}/{qos}"
        group = f"$share/g/{topic}"
        assert (await kept.subscribe((group, qos))).codes == [qos]
        refusal = {V31: 0, V311: 0x80, V5: 0x87}[version]
        wanted = refusal if denied == "refuse" else qos
        assert (await lost.subscribe((group, qos))).codes == [wanted]
        numbers = await _publish(ruled, 12, qos, topic=topic)
        assert sorted(await _take(kept, 12), key=int) == numbers
        assert not lost.pipe.buffer
        await kept.unsubscribe(group, packet_id=9)
        await kept.disconnect()
        await lost.disconnect()
    assert ruled.metric('tidegate_acl_denied_total{action="subscribe"}') == 6
    assert ruled.metric('tidegate_acl_denied_total{action="read"}') == 0
    assert "not authorized to read client_id=lost username=lost" in ruled.broker.stderr()
    wait_for(lambda: not ruled.unaccounted(), DEADLINE_S, "every copy is accounted for")


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_member_that_loses_its_right_leaves_with_what_waits_for_it(
    start_broker: StartBroker, tmp_path: Path, durable: bool, qos: int
) -> None:
    ruled = _Ruled(start_broker, tmp_path / "acl", BOTH)
    lost = await ruled.connect("lost", durable=durable, props=[("receive_maximum", 1)])
    await lost.subscribe((GROUP, qos))
    if qos:
        await _publish(ruled, 10, qos)
        begun = await lost.expect("PUBLISH", payload=b"1")
    kept = await ruled.connect("kept", durable=durable)
    await kept.subscribe((GROUP, qos))
    ruled.change(REMOVED)
    later = await _publish(ruled, 8, qos, 11)
    if qos:
        kinds = ["PUBACK"] if qos == 1 else ["PUBREC", "PUBCOMP"]
        for kind in kinds:
            await lost.send(mqtt_bytes.acknowledge(kind, begun.packet_id))
            if kind == "PUBREC":
                await lost.expect("PUBREL")
        numbers = [b"%d" % number for number in range(2, 11)] + later
    else:
        numbers = later
    assert sorted(await _take(kept, len(numbers)), key=int) == numbers
    await kept.expect_nothing()
    await lost.expect_nothing()
    wait_for(lambda: not ruled.unaccounted(), DEADLINE_S, "every copy is accounted for")
    ruled.change(BOTH)
    back = await _publish(ruled, 10, qos, 30)
    if qos == 2:
        return  # the order of two exchanges at two clients is not what this is about
    found = await _take(lost, 5)
    assert sorted(found + await _take(kept, 5), key=int) == back


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_resumed_sessions_backlog_goes_to_other_members(
    start_broker: StartBroker, tmp_path: Path, qos: int
) -> None:
    ruled = _Ruled(start_broker, tmp_path / "acl", BOTH)
    lost = await ruled.connect("lost", durable=True)
    kept = await ruled.connect("kept", durable=True)
    await lost.subscribe((GROUP, qos))
    await kept.subscribe((GROUP, qos))
    await lost.disconnect()
    # ``kept`` takes nothing: what is sent to it stays at its place, and ``lost`` has its share.
    await kept.disconnect()
    numbers = await _publish(ruled, 250, qos)
    ruled.change(REMOVED)
    back = await ruled.connect("lost", durable=True)
    kept = await ruled.connect("kept", durable=True)
    assert sorted(await _take(kept, 250), key=int) == numbers
    await kept.expect_nothing()
    await back.expect_nothing()
    wait_for(lambda: not ruled.unaccounted(), DEADLINE_S, "every copy is accounted for")


@pytest.mark.parametrize("durable", [False, True], ids=["clean", "durable"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_where_nobody_may_read_a_message_is_dropped_and_counted(
    start_broker: StartBroker, tmp_path: Path, durable: bool, qos: int
) -> None:
    ruled = _Ruled(start_broker, tmp_path / "acl", BOTH)
    members = [await ruled.connect(f"m{n}", durable=durable) for n in range(3)]
    for member in members:
        await member.subscribe((GROUP, qos))
    if qos:
        await _publish(ruled, 150, qos)
    ruled.change(COMMON)
    await _publish(ruled, 5, qos, 200)
    for member in members:
        # What had been sent before, one window; the rest goes nowhere.
        await _take(member, 32 if qos else 0)
    dropped = 150 - 3 * 32 + 5 if qos else 5
    wait_for(
        lambda: ruled.metric('tidegate_messages_dropped_total{reason="no_subscriber"}') == dropped,
        DEADLINE_S,
        "they are dropped",
    )
    wait_for(lambda: not ruled.unaccounted(), DEADLINE_S, "every copy is accounted for")
    assert ruled.broker.stderr().count("removed from shared subscription") == 3
    assert not any(member.pipe.buffer for member in members)
