"""MQTT.js in Node over TCP, TLS, WebSocket and secure WebSocket, in every protocol version.

Input: a script that uses the client as an application does (tests/support/node/client.mjs). Output:
what the client saw. Each test runs Node once per transport and version.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from support.broker import Server
from support.certificates import Certificates
from support.node_clients import run_script

VERSIONS = [
    pytest.param("MQIsdp", 3, id="3.1"),
    pytest.param("MQTT", 4, id="3.1.1"),
    pytest.param("MQTT", 5, id="5.0"),
]
_SCHEME = {"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss"}


@pytest.mark.parametrize(("protocol_id", "version"), VERSIONS)
@pytest.mark.parametrize("transport", ["tcp", "tls", "ws", "wss", "auto-ws", "auto-wss"])
def test_mqttjs_subscribes_publishes_and_receives(
    broker: Server,
    certificates: Certificates,
    transport: str,
    protocol_id: str,
    version: int,
) -> None:
    listener, _, spoken = transport.partition("-")
    spoken = spoken or listener
    if not broker.has(listener):
        pytest.skip(f"{broker.product} has no listener {listener}")
    path = "/mqtt" if spoken in {"ws", "wss"} else ""
    job: dict[str, Any] = {
        "url": f"{_SCHEME[spoken]}://127.0.0.1:{broker.address(listener).port}{path}",
        "protocolId": protocol_id,
        "protocolVersion": version,
        "clientId": f"js-{uuid4().hex[:8]}",
        "topic": f"js/{uuid4().hex}",
    }
    if spoken in {"tls", "wss"}:
        job["ca"] = str(certificates.authority.certificate)
    seen = run_script("client.mjs", job)
    assert "error" not in seen, seen
    assert seen["granted"] == [2]
    assert [(m["text"], m["qos"], m["retain"]) for m in seen["messages"][:3]] == [
        ("of qos 0", 0, False),
        ("of qos 1", 1, False),
        ("of qos 2", 2, False),
    ]
    large = seen["messages"][3]
    assert (large["size"], large["qos"]) == (300_000, 2)
    if version == 5:
        assert large["properties"]["contentType"] == "text/plain"
        assert dict(large["properties"]["userProperties"]) == {"b": ["1", "3"], "a": "2"}


@pytest.mark.parametrize("path", ["", "/", "/ws", "/mqtt?token=1"])
def test_mqttjs_connects_on_every_path_that_people_use(broker: Server, path: str) -> None:
    job = {
        "url": f"ws://127.0.0.1:{broker.address('ws').port}{path}",
        "protocolId": "MQTT",
        "protocolVersion": 4,
        "clientId": f"js-{uuid4().hex[:8]}",
        "topic": f"js/{uuid4().hex}",
    }
    seen = run_script("client.mjs", job)
    assert "error" not in seen, seen
    assert len(seen["messages"]) == 4
