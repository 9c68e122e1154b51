"""What `helm test` runs: against the operator's pages, an API behind HTTP, and a real broker.

Input: a spec and a broker that is like it, or not. Output: the line that is printed, or the
reason why a check fails.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import pytest

from support.broker import StartBroker, Tidegate
from support.brokers import NAMESPACE, UID
from support.certificates import Certificates
from support.fake_api import FakeApi
from support.fake_cluster import FakeCluster
from tidegate_operator import names, smoke
from tidegate_operator.health import OperatorHealth, admin_server
from tidegate_operator.smoke import BrokerEndpoint, CheckFailed
from tidegate_operator.spec.problems import parse
from tidegate_operator.spec.status import not_observed

READY = {"type": "Ready", "status": "True", "reason": "Serving", "message": "all is well"}


@pytest.fixture(autouse=True)
def cluster_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services are on this machine."""
    look_up = socket.getaddrinfo

    def found(host: Any, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if str(host).endswith(".svc") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)


# The operator


async def test_the_operator_is_asked_through_its_service(
    capsys: pytest.CaptureFixture[str],
) -> None:
    health = OperatorHealth()
    server = admin_server(health, "127.0.0.1", 0)
    await server.start()
    try:
        arguments = ["--operator", f"{server.url}/", "--timeout-s", "0"]
        with pytest.raises(CheckFailed, match="operator is not ready: starting"):
            await smoke.check(smoke.parser().parse_args(arguments))
        health.waiting_for = ""
        await smoke.check(smoke.parser().parse_args(arguments))
        assert capsys.readouterr().out == "operator: ready\n"
    finally:
        await server.stop()
    async with aiohttp.ClientSession() as http:
        with pytest.raises(CheckFailed, match="does not respond"):
            await smoke.operator_is_ready(http, server.url)


def test_what_is_not_so_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It gives the process a user's name if there is none: only for this test.
    monkeypatch.setenv("LOGNAME", "somebody")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        assert smoke.main(["--operator", f"http://127.0.0.1:{port}", "--timeout-s", "0"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("FAILED: operator does not respond")
    assert err.count("\n") == 1


# The broker


@pytest.mark.parametrize(
    ("listeners", "chosen"),
    [
        ([{"name": "a", "protocol": "ws"}, {"name": "b"}], "b"),
        ([{"name": "a", "protocol": "auto"}], "a"),
        (
            [
                {"name": "a", "proxyProtocol": "required", "trustedProxies": ["10.0.0.0/8"]},
                {"name": "b", "port": 2000},
            ],
            "b",
        ),
        (
            [
                {
                    "name": "a",
                    "protocol": "tls",
                    "tls": {
                        "selfSigned": True,
                        "clientCa": {"secretName": "ca"},
                        "clientCertificates": "required",
                    },
                }
            ],
            None,
        ),
    ],
)
def test_a_listener_is_chosen_that_needs_nothing_else(
    listeners: list[dict[str, Any]], chosen: str | None
) -> None:
    listener = smoke.listener_of("demo", parse("demo", {"listeners": listeners}))
    assert (listener.name if listener else None) == chosen


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ([], "no status yet"),
        (not_observed()["conditions"], "no status yet"),
        (
            [
                READY | {"observedGeneration": 2},
                READY | {"type": "Stalled", "reason": "InvalidSpec", "message": "spec.x is bad"},
            ],
            "demo: InvalidSpec: spec.x is bad",
        ),
        (
            [READY | {"status": "False", "reason": "EdgesNotReady", "message": "pod x waits"}],
            r"\(EdgesNotReady\): pod x waits",
        ),
        ([READY | {"observedGeneration": 2}], "has changed"),
    ],
)
def test_a_broker_that_is_not_ready_says_why(
    conditions: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(CheckFailed, match=sentence):
        smoke.is_ready(
            {
                "metadata": {"name": "demo", "generation": 3},
                "status": {
                    "conditions": [
                        {"observedGeneration": 3} | condition for condition in conditions
                    ]
                },
            }
        )


@contextlib.asynccontextmanager
async def cluster_with(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], authority: str = ""
) -> AsyncIterator[None]:
    cluster = FakeCluster()
    api = FakeApi(cluster)
    await api.start()

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=api.url)

    monkeypatch.setattr(smoke, "log_in", log_in)
    metadata = {"name": "demo", "namespace": NAMESPACE, "uid": UID, "generation": 1}
    cluster.objects[names.API_VERSION, names.KIND, NAMESPACE, "demo"] = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": metadata,
        "spec": spec,
        "status": {"conditions": [READY | {"observedGeneration": 1}]},
    }
    if authority:
        cluster.objects["v1", "ConfigMap", NAMESPACE, "demo-ca"] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "demo-ca", "namespace": NAMESPACE},
            "data": {"ca.crt": authority},
        }
    try:
        yield
    finally:
        await api.stop()


def spec_for(broker: Tidegate, listener: str, **tls: Any) -> dict[str, Any]:
    """Return a spec whose Service has the port of one of a broker's listeners."""
    one: dict[str, Any] = {
        "name": "mqtt",
        "protocol": listener,
        "servicePort": broker.address(listener).port,
    }
    return {"listeners": [one | ({"tls": tls} if tls else {})]}


async def test_a_message_goes_through_the_brokers_service_and_back(
    monkeypatch: pytest.MonkeyPatch, broker: Tidegate
) -> None:
    async with cluster_with(monkeypatch, spec_for(broker, "tcp")):
        assert await smoke.broker_answers(NAMESPACE, "demo") == (
            "listener mqtt: published and received a message with QoS 1"
        )
        with pytest.raises(CheckFailed, match="MqttBroker other not found in namespace iot"):
            await smoke.broker_answers(NAMESPACE, "other")


async def test_a_certificate_of_somebody_else_is_not_checked(
    monkeypatch: pytest.MonkeyPatch, broker: Tidegate
) -> None:
    async with cluster_with(monkeypatch, spec_for(broker, "auto", secretName="x")):
        assert "published and received" in await smoke.broker_answers(NAMESPACE, "demo")


async def test_the_brokers_own_certificate_is_checked(
    monkeypatch: pytest.MonkeyPatch,
    start_broker: StartBroker,
    certificates: Certificates,
) -> None:
    name = f"demo.{NAMESPACE}.svc"
    pair = certificates.authority.server(name, file="own")
    tls = {"certificates": [{"certificate": str(pair.certificate), "key": str(pair.key)}]}
    broker = start_broker(
        listeners=[
            {"name": "tls", "protocol": "tls", "address": "127.0.0.1", "port": 0, "tls": tls}
        ]
    )
    spec = spec_for(broker, "tls", selfSigned=True)
    authority = certificates.authority.certificate.read_text()
    async with cluster_with(monkeypatch, spec, authority):
        assert "published and received" in await smoke.broker_answers(NAMESPACE, "demo")
    async with cluster_with(monkeypatch, spec):
        with pytest.raises(CheckFailed, match="ConfigMap demo-ca not found"):
            await smoke.broker_answers(NAMESPACE, "demo")


async def test_a_certificate_for_other_names_is_noticed(
    broker: Tidegate, certificates: Certificates
) -> None:
    tls = ssl.create_default_context(cafile=str(certificates.authority.certificate))
    with pytest.raises(CheckFailed, match="certificate"):
        await smoke.exchange(BrokerEndpoint("demo.elsewhere.svc", broker.address("tls").port, tls))


async def test_being_refused_for_want_of_a_name_is_an_answer(start_broker: StartBroker) -> None:
    broker = start_broker(auth={"allow_anonymous": False})
    endpoint = BrokerEndpoint("127.0.0.1", broker.address("tcp").port, None)
    assert await smoke.exchange(endpoint) == "broker responds; CONNECT requires credentials"


async def test_other_limits_of_a_broker_are_respected(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read only/this\n")
    broker = start_broker(auth={"allow_anonymous": True, "acl_file": str(acl)})
    endpoint = BrokerEndpoint("127.0.0.1", broker.address("tcp").port, None)
    assert "does not allow the test topic" in await smoke.exchange(endpoint)
    listener = {"name": "tcp", "address": "127.0.0.1", "port": 0, "max_qos": 0}
    broker = start_broker(listeners=[listener])
    endpoint = BrokerEndpoint("127.0.0.1", broker.address("tcp").port, None)
    assert await smoke.exchange(endpoint) == "published and received a message with QoS 0"


async def test_nobody_there_is_said_with_the_place() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = BrokerEndpoint("127.0.0.1", nobody.getsockname()[1], None)
        with pytest.raises(CheckFailed, match=f"127.0.0.1 port {endpoint.port}"):
            await smoke.exchange(endpoint)
