"""MQTT.js and Paho JS in a page in headless Chromium over WebSocket and secure WebSocket.

Input: a page served on loopback (tests/support/node/page.html), one browser for all combinations.
Output: what each client got back. Paho speaks MQTT 3.1 and 3.1.1 only; MQTT.js speaks all three.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.broker import Server
from support.node_clients import run_script
from support.tools import require

MQTTJS = {
    "3.1": {"protocolId": "MQIsdp", "protocolVersion": 3},
    "3.1.1": {"protocolId": "MQTT", "protocolVersion": 4},
    "5.0": {"protocolId": "MQTT", "protocolVersion": 5},
}
# Without a version Paho tries 3.1.1 and falls back to 3.1.
PAHO = {"3.1": 3, "3.1.1": 4, "any": None}
LISTENERS = ["ws", "wss", "auto-ws", "auto-wss"]

COMBINATIONS = [f"mqttjs {listener} {version}" for listener in LISTENERS for version in MQTTJS]
COMBINATIONS += [f"paho {listener} {version}" for listener in LISTENERS for version in PAHO]
ECHOED = [["of qos 0", 0], ["of qos 1", 1], ["of qos 2", 2], [200_000, 1]]


def _call(broker: Server, name: str) -> dict[str, Any] | None:
    client, transport, version = name.split()
    listener, _, spoken = transport.partition("-")
    if not broker.has(listener):
        return None
    url = f"{spoken or listener}://127.0.0.1:{broker.address(listener).port}/mqtt"
    client_id = name.replace(" ", "-").replace(".", "")
    if client == "mqttjs":
        options: dict[str, Any] = MQTTJS[version] | {"clientId": client_id}
        return {"name": name, "client": "useMqttJs", "url": url, "options": options}
    options = {"clientId": client_id, "mqttVersion": PAHO[version]}
    return {"name": name, "client": "usePaho", "url": url, "options": options}


@pytest.fixture(scope="module")
def answers(broker: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Open the page once and let it use every combination."""
    chromium = require("chromium")
    profile: Path = tmp_path_factory.mktemp("profile")
    calls = [call for name in COMBINATIONS if (call := _call(broker, name))]
    calls.append(_refused_at_first(broker))
    job = {"chromium": chromium, "profile": str(profile), "calls": calls}
    answered: dict[str, Any] = run_script("browser.mjs", job)
    return answered


def _refused_at_first(broker: Server) -> dict[str, Any]:
    call = _call(broker, "paho ws any")
    assert call is not None
    options = {"clientId": "paho-falls-back", "refuseFirst": True}
    return call | {"name": "paho falls back", "options": options}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_page_connects_subscribes_publishes_and_receives(
    broker: Server, answers: dict[str, Any], name: str
) -> None:
    if _call(broker, name) is None:
        pytest.skip(f"{broker.product} has no such listener")
    answer = answers[name]
    assert "error" not in answer, answer
    result = answer["result"]
    seen = result["seen"] if name.startswith("paho") else result
    # Messages of one QoS keep their order; between QoS levels the exchanges may overtake.
    assert sorted(seen, key=str) == sorted(ECHOED, key=str)
    if name.startswith("paho"):
        expected = {"3.1": [["mqttv3.1"]], "3.1.1": [["mqtt"]], "any": [["mqtt"]]}
        assert result["offered"] == expected[name.split()[2]]


def test_paho_falls_back_to_mqtt_31_when_311_is_refused(answers: dict[str, Any]) -> None:
    answer = answers["paho falls back"]
    assert "error" not in answer, answer
    assert answer["result"]["offered"] == [["mqtt"], ["mqttv3.1"]]
    assert len(answer["result"]["seen"]) == len(ECHOED)
