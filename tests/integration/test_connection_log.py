"""Lines about connections in the log of a running process: both formats, bounds, live changes.

Input: raw clients of ``tidegate serve``. Output: its standard error. What each line says in which
case is in ``unit/edge/client/test_connection_log.py``.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.live import Live
from support.mqtt_bytes import V5, V311
from support.raw_client import DEADLINE_S, RawClient
from support.waiting import wait_for_async

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

TCP = {"name": "tcp", "protocol": "tcp", "address": "127.0.0.1", "port": 0}
WS = {"name": "ws", "protocol": "ws", "address": "127.0.0.1", "port": 0}


def _lines(broker: Tidegate) -> list[dict[str, Any]]:
    """Return the lines of the client's side, whichever format they have."""
    found = []
    for line in broker.stderr().splitlines():
        if line.startswith("{"):
            fields = json.loads(line)
        else:
            message = re.search(r"edge\.client\.connection_log: (.*?)(?= \w+=)", line)
            fields = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
            fields["message"] = message[1] if message else ""
        if fields.get("message") and "client_id" in fields:
            found.append(fields)
    return found


async def _open(broker: Tidegate, listener: str, version: int) -> RawClient:
    place = broker.address(listener)
    return await RawClient.open(f"{listener}://{place.host}:{place.port}", version=version)


async def _until(broker: Tidegate, count: int) -> list[dict[str, Any]]:
    await wait_for_async(lambda: len(_lines(broker)) >= count, DEADLINE_S, f"{count} lines")
    return _lines(broker)


@pytest.mark.parametrize("style", ["text", "json"])
async def test_one_line_each_for_all_that_happens_to_connections(
    start_broker: StartBroker, tmp_path: Path, style: str
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite own/#\n")
    broker = start_broker(
        listeners=[TCP, WS],
        auth={"allow_anonymous": True, "acl_file": str(rules)},
        limits={"max_client_id_bytes": 23},
        log={"format": style},
    )
    client = await _open(broker, "ws", V311)
    await client.connect("c 1", keep_alive=30)
    await client.send(*[mqtt_bytes.publish("denied", version=V311)] * 3)
    await client.send(mqtt_bytes.subscribe(1, ["denied/#"], version=V311))
    await client.expect("SUBACK")
    await client.disconnect()
    await client.expect_closed()
    refused = await _open(broker, "tcp", V5)
    await refused.send(mqtt_bytes.connect("x" * 24))
    await refused.expect("CONNACK", reason=0x85)
    await refused.expect_closed()
    lines = await _until(broker, 5)
    assert [line["message"] for line in lines] == [
        "client connected",
        "publish refused: not authorized to write",
        "subscription refused: not authorized to read",
        "client disconnected",
        "connection refused",
    ]
    connected, gone = lines[0], lines[3]
    assert connected["client_id"].strip('"') == "c 1"
    assert (connected["listener"], connected["transport"], connected["version"]) == (
        "ws",
        "ws",
        "3.1.1",
    )
    assert (str(connected["clean"]), str(connected["keep_alive_s"])) == ("True", "30")
    assert str(connected["session_present"]) == "False"
    assert (gone["reason"], gone["by"], str(gone["received_packets"])) == (
        "disconnect",
        "client",
        "6",
    )
    assert (lines[4]["reason"], lines[4]["address"]) == ("client_identifier_not_valid", "127.0.0.1")


async def test_a_flood_from_one_address_is_a_bounded_number_of_lines(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(
        listeners=[TCP], log={"connections_rate_per_address": 1, "connections_rate": 1}
    )
    start_s = time.monotonic()
    for number in range(200):
        client = await _open(broker, "tcp", V5)
        if number % 2:
            await client.send(b"\x00\x00")
            await client.expect_closed()
        else:
            await client.connect(f"c{number}")
            client.reset()
    lines = _lines(broker)
    # The edge's clock for this is that of its ticks.
    seconds = time.monotonic() - start_s + 1
    faults = [line for line in lines if line["message"].startswith("closing connection")]
    assert 0 < len(faults) <= 10 + 10 * seconds
    assert 0 < len(lines) - len(faults) <= 10 + seconds


async def test_the_setting_changes_while_it_runs(start_broker: StartBroker) -> None:
    broker = start_broker(listeners=[TCP])
    live = Live(broker, broker.settings)
    for is_on, name in ((True, "first"), (False, "second"), (True, "third")):
        live.settings["log"] = {"connections": is_on}
        await live.take()
        client = await _open(broker, "tcp", V5)
        await client.connect(name)
        await client.disconnect()
        await client.expect_closed()
    lines = await _until(broker, 4)
    assert [line["client_id"] for line in lines] == ["first", "first", "third", "third"]
