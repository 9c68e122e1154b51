"""Clients that people use, at the address of the Service, on the one port for everything."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.kube.node_product import Broker
from support.node_clients import run_script
from support.tools import require

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

TOPIC = "greetings/world"


@pytest.fixture
def authority(broker: Broker, tmp_path: Path) -> Path:
    """What the ConfigMap NAME-ca holds, as a file."""
    file = tmp_path / "ca.crt"
    file.write_text(broker.authority())
    return file


def test_mosquitto_publishes_and_subscribes_over_tls(broker: Broker, authority: Path) -> None:
    place = ["-h", broker.address(), "-p", "443", "--cafile", str(authority), "-V", "5"]
    retained = [require("mosquitto_pub"), *place, "-t", TOPIC, "-q", "2", "-r"]
    run([*retained, "-m", "hello"])
    subscribe = [require("mosquitto_sub"), *place, "-t", TOPIC, "-q", "2", "-C", "1", "-W", "30"]
    assert run(subscribe) == "hello\n"
    run([*retained, "-n"])


def run(command: list[str]) -> str:
    """Run a client that ends by itself; what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_mqttjs_subscribes_and_publishes(broker: Broker, authority: Path, scheme: str) -> None:
    job: dict[str, Any] = {
        "url": f"{scheme}://{broker.address()}:443" + ("/mqtt" if scheme == "wss" else ""),
        "ca": str(authority),
        "protocolId": "MQTT",
        "protocolVersion": 5,
        "clientId": f"js-{scheme}",
        "topic": f"js/{scheme}",
    }
    seen = run_script("client.mjs", job)
    assert "error" not in seen, seen
    assert [(one["text"], one["qos"]) for one in seen["messages"][:3]] == [
        ("of qos 0", 0),
        ("of qos 1", 1),
        ("of qos 2", 2),
    ]
    assert seen["messages"][3]["size"] == 300_000


@pytest.mark.usefixtures("scripts")
def test_a_page_in_a_browser_subscribes_and_publishes(broker: Broker, tmp_path: Path) -> None:
    call = {
        "name": "page",
        "client": "useMqttJs",
        "url": f"wss://{broker.address()}/mqtt",
        # As in pages of users: a first connection that fails is tried again, and told of.
        "options": {
            "protocolId": "MQTT",
            "protocolVersion": 5,
            "clientId": "page",
            "reconnectPeriod": 1000,
        },
    }
    job = {"chromium": require("chromium"), "profile": str(tmp_path), "calls": [call]}
    answer = run_script("browser.mjs", job)["page"]
    assert "error" not in answer, answer
    wanted = [["of qos 0", 0], ["of qos 1", 1], ["of qos 2", 2], [200_000, 1]]
    assert sorted(answer["result"], key=str) == sorted(wanted, key=str)
