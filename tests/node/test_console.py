"""The console of a broker in its pod: it finds edges and routers by DNS, and reaches the store.

Its page in Chromium, the conditions that the operator has a kubelet write for it, and pods that
wait for their certificate, are tried here, too, since all of it needs a kubelet.
"""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from support.certificates import Authority
from support.console_page import DEADLINE_MS, launch
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
    address = broker.service_address("demo-console", 80)

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


@pytest.mark.usefixtures("page")
def test_the_page_says_what_the_operator_says(broker: Broker, tmp_path: Path) -> None:
    broker.change({"console": {"enabled": True, "resources": SMALL}})
    status = broker.wait_until_settled()["status"]["console"]
    token = base64.b64decode(_value(broker, "secret", status["tokenSecret"], "{.data.token}"))
    address = broker.service_address("demo-console", 80)
    with _opened(tmp_path, f"http://{address}/#token={token.decode()}") as page:
        expect(page.get_by_role("heading", level=1)).to_contain_text("Overview")
        conditions = page.get_by_role("table", name=f"MqttBroker {broker.namespace}/demo")
        expect(conditions).to_contain_text("CertificatesReady")
        # The kubelet brings what is wrong, and that it is so no more.
        said = page.locator(".finding").filter(has_text="is degraded (ReferenceMissing)")
        broker.change({"acl": {"source": {"configMapName": "nowhere"}}})
        expect(said).to_contain_text("ConfigMap nowhere not found")
        broker.change({"acl": None})
        expect(said).to_have_count(0)


def test_its_pods_wait_for_their_certificate_and_serve_no_plain_http(
    broker: Broker, tmp_path: Path
) -> None:
    tls = {"secretName": "of-the-console"}
    broker.change({"console": {"enabled": True, "resources": SMALL, "tls": tls}})
    broker.wait_until(
        "the certificate is missed",
        lambda _: broker.condition("CertificatesReady").get("reason") == "Missing",
    )

    def waits() -> bool:
        found = [status for pod in broker.pods("console") for status in _containers(pod)]
        return bool(found) and all(
            one["state"].get("waiting", {}).get("reason") == "ContainerCreating" for one in found
        )

    wait_for(waits, PATIENCE_S, "a pod that has no certificate")
    assert broker.condition("Degraded")["reason"] == "ReferenceMissing"
    authority = Authority(tmp_path)
    pair = authority.server("console.example.com")
    content = {"tls.crt": pair.certificate.read_bytes(), "tls.key": pair.key.read_bytes()}
    broker.secret("of-the-console", content)
    # The kubelet tries again after at most two minutes.
    status = broker.wait_until_settled(180)["status"]["console"]
    assert (status["service"], status["ready"]) == ("demo-console:443", 1)
    (container,) = (one for pod in broker.pods("console") for one in _containers(pod))
    assert container["restartCount"] == 0
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.check_hostname = False
    address = broker.service_address("demo-console", 443)
    with urllib.request.urlopen(f"https://{address}/readyz", timeout=10, context=context) as reply:
        assert reply.status == 200


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return list(pod["status"].get("containerStatuses", ()))


@contextlib.contextmanager
def _opened(downloads: Path, url: str) -> Iterator[Page]:
    """Open the page in a browser of its own."""
    with sync_playwright() as playwright, launch(playwright, downloads) as browser:
        context = browser.new_context()
        context.set_default_timeout(DEADLINE_MS)
        found = context.new_page()
        found.goto(url)
        yield found


def _value(broker: Broker, kind: str, name: str, path: str) -> str:
    """Return a value of an object in the broker's namespace."""
    where = ("--namespace", broker.namespace)
    return broker.node.kubectl("get", kind, name, *where, "--output", f"jsonpath={path}")
