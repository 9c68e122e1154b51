"""The console of a broker in its pod: it finds edges and routers by DNS, and reaches the store."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from support.kube.node_product import PATIENCE_S, SMALL, Broker
from support.waiting import wait_for
from tidegate_operator.names import FILES_DIR
from tidegate_operator.render.console import FIRST_TOKEN_FILE

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]


def test_the_console_shows_every_node_and_the_store(broker: Broker) -> None:
    broker.change({"console": {"enabled": True, "resources": SMALL}})
    status = broker.wait_until_settled()["status"]["console"]
    assert (status["desired"], status["ready"]) == (1, 1)
    token = base64.b64decode(_value(broker, "secret", status["tokenSecret"], "{.data.token}"))
    address = _value(broker, "service", "demo-console", "{.spec.clusterIP}")

    def asked(path: str, token: str) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(f"http://{address}/api/v1/{path}")
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {}

    def found() -> bool:
        code, answer = asked("nodes", token.decode())
        return (
            code == 200
            and not answer["missing"]
            and {(one["role"], one["ready"]) for one in answer["items"]}
            == {("edge", True), ("router", True)}
        )

    wait_for(found, PATIENCE_S, "the edge and the router in /api/v1/nodes")
    assert asked("store", token.decode())[0] == 200
    assert asked("nodes", "another")[0] == 401
    # The program in the pod asks its own console.
    token_file = f"{FILES_DIR}/{FIRST_TOKEN_FILE}"
    said = broker.node.kubectl(
        *("exec", "--namespace", broker.namespace, "deployment/demo-console", "--"),
        *("tidegate", "ctl", "--api-token-file", token_file, "nodes"),
    )
    assert {pod["metadata"]["name"] for pod in broker.pods("edge")} <= set(said.split())


def _value(broker: Broker, kind: str, name: str, path: str) -> str:
    """Return a value of an object in the broker's namespace."""
    where = ("--namespace", broker.namespace)
    return broker.node.kubectl("get", kind, name, *where, "--output", f"jsonpath={path}")
