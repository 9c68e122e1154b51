"""The console of an MqttBroker: what is made of ``spec.console``, who may reach whom, what is said.

What the console does is tested with it; that its configuration is one, in test_render.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.brokers import (
    CONSOLE_USERS,
    NAMESPACE,
    inputs_for,
    pick,
    rendered,
    secret_data,
    spec_of,
)
from support.operator_harness import Harness
from tidegate.console.models.overview import Resource
from tidegate.console.resource import read_resource
from tidegate_operator import names
from tidegate_operator.render import Manifest
from tidegate_operator.secrets import console_files
from tidegate_operator.secrets.owned_secrets import LiveSecrets
from tidegate_operator.spec.problems import SpecError, parse

ON: dict[str, Any] = {"enabled": True}


def of_console(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return the objects of the console, by kind and name."""
    return {
        (one["kind"], one["metadata"]["name"]): one
        for one in manifests
        if one["metadata"]["labels"][names.COMPONENT_LABEL] == "console"
    }


def config_of(manifests: list[Manifest]) -> dict[str, Any]:
    file = pick(manifests, "ConfigMap", "demo-console")["data"][names.CONFIG_FILE]
    return dict(yaml.safe_load(file))


def peers_of(manifests: list[Manifest], policy: str, port: int) -> list[dict[str, Any]]:
    (rule,) = (
        rule
        for rule in pick(manifests, "NetworkPolicy", policy)["spec"]["ingress"]
        if port in {one["port"] for one in rule["ports"]}
    )
    return list(rule.get("from", []))


def test_without_a_console_nothing_of_it_is_made() -> None:
    for spec in (spec_of(), spec_of(console={"enabled": False, "replicas": 3})):
        assert not of_console(rendered(spec))


def test_its_objects() -> None:
    found = of_console(rendered(spec_of(console=ON)))
    assert set(found) == {
        ("ServiceAccount", "demo-console"),
        ("NetworkPolicy", "demo-console"),
        ("Secret", "demo-console-token"),
        ("Secret", "demo-console"),
        ("ConfigMap", "demo-console"),
        ("Service", "demo-console"),
        ("Service", "demo-console-edges"),
        ("Service", "demo-console-routers"),
        ("Deployment", "demo-console"),
        ("PodDisruptionBudget", "demo-console"),
        ("ServiceMonitor", "demo-console"),
    }
    deployment = found["Deployment", "demo-console"]["spec"]
    assert deployment["replicas"] == 1
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["command"][:2] == ["tidegate", "console"]
    assert [one["containerPort"] for one in container["ports"]] == [18080]
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container[probe]["httpGet"] == {"path": path, "port": 18080, "scheme": "HTTP"}
    service = found["Service", "demo-console"]["spec"]
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["ports"][0] | {"port": 80, "targetPort": 18080} == service["ports"][0]


def test_it_finds_all_edges_and_routers_ready_or_not() -> None:
    manifests = rendered(spec_of(console=ON))
    console = config_of(manifests)["console"]
    for key, component in (("edges", "edge"), ("routers", "router")):
        (address,) = console[key]
        host, _, port = address.partition(":")
        name, namespace, rest = host.split(".", 2)
        assert (namespace, rest, port) == (NAMESPACE, "svc", "18083")
        service = pick(manifests, "Service", name)["spec"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"]
        assert service["selector"] == names.selector("demo", component)  # type: ignore[arg-type]  # of the table


def test_it_has_the_store_and_the_token_of_the_nodes() -> None:
    manifests = rendered(spec_of(console=ON))
    config = config_of(manifests)
    routers = yaml.safe_load(pick(manifests, "ConfigMap", "demo-router")["data"][names.CONFIG_FILE])
    assert config["store"] == routers["store"]
    files = secret_data(pick(manifests, "Secret", "demo-console"))
    theirs = secret_data(pick(manifests, "Secret", "demo-router"))
    assert files["admin-token"] == theirs["admin-token"]
    assert files["store-password"] == theirs["store-password"]
    assert "link.key" not in files
    named = [config["store"]["password_file"], config["console"]["token_file"]]
    assert all(one.removeprefix(f"{names.FILES_DIR}/") in files for one in named)


def test_it_has_the_credentials_of_an_external_store() -> None:
    manifests = rendered(spec_of("sentinel", console=ON))
    files = secret_data(pick(manifests, "Secret", "demo-console"))
    store = config_of(manifests)["store"]
    named = [store[key] for key in store if key.endswith("_file") or key.startswith("tls_")]
    assert len(named) == 5
    assert {one.removeprefix(f"{names.FILES_DIR}/") for one in named} <= files.keys()
    assert "store-password" not in files


def test_the_operator_makes_a_first_token_when_the_spec_names_none() -> None:
    inputs = inputs_for(spec_of(console=ON))
    token = inputs.owned_secrets.console_token
    assert len(token) == 64
    assert (
        inputs_for(
            spec_of(console=ON), existing=LiveSecrets(console_token={"token": token})
        ).owned_secrets.console_token
        == token
    )
    manifests = rendered(spec_of(console=ON), owned_secrets=inputs.owned_secrets)
    assert secret_data(pick(manifests, "Secret", "demo-console-token")) == {"token": token}
    assert config_of(manifests)["console"]["tokens_file"].endswith("/first-token")
    assert secret_data(pick(manifests, "Secret", "demo-console"))["first-token"] == (
        b"admin " + token + b"\n"
    )


async def test_a_first_token_that_is_deleted_is_replaced_by_another() -> None:
    broker = Harness(spec_of(console=ON))
    await broker.settle()
    before = secret_data(broker.fake.get("Secret", "demo-console-token"))["token"]
    del broker.fake.objects["v1", "Secret", NAMESPACE, "demo-console-token"]
    await broker.settle()
    after = secret_data(broker.fake.get("Secret", "demo-console-token"))["token"]
    assert after != before
    files = secret_data(broker.fake.get("Secret", "demo-console"))
    assert files["first-token"] == b"admin " + after + b"\n"


@pytest.mark.parametrize("kind", ["users", "tokens"])
def test_users_and_tokens_of_the_spec_replace_it(kind: str) -> None:
    manifests = rendered(spec_of(console=ON | {kind: {"secretName": "mine"}}))
    assert ("Secret", "demo-console-token") not in of_console(manifests)
    console = config_of(manifests)["console"]
    assert {key for key in ("users_file", "tokens_file") if key in console} == {f"{kind}_file"}
    files = secret_data(pick(manifests, "Secret", "demo-console"))
    assert files[kind] == {"users": CONSOLE_USERS, "tokens": b"viewer something\n"}[kind]
    assert "first-token" not in files


async def test_a_secret_that_is_missing_is_said_and_keeps_nothing_from_running() -> None:
    spec = spec_of(console=ON | {"users": {"secretName": "mine"}})
    broker = Harness(spec)
    await broker.settle()
    await broker.reconcile()
    assert broker.conditions()["Degraded"] == ("True", "ReferenceMissing")
    assert "spec.console.users: Secret mine not found" in broker.message("Degraded")
    assert broker.conditions()["Ready"] == ("True", "Serving")
    before = broker.fake.get("Deployment", "demo-console")["spec"]["template"]
    files = secret_data(broker.fake.get("Secret", "demo-console"))
    assert files["users"] == b""
    broker.put_data("Secret", "mine", {"users": CONSOLE_USERS})
    await broker.settle()
    files = secret_data(broker.fake.get("Secret", "demo-console"))
    assert files["users"] == CONSOLE_USERS
    assert broker.conditions()["Degraded"][0] == "False"
    # Its pods read the file again; none is replaced.
    assert broker.fake.get("Deployment", "demo-console")["spec"]["template"] == before


async def test_a_file_that_the_console_would_refuse_never_reaches_it() -> None:
    spec = spec_of(console=ON | {"tokens": {"secretName": "mine"}})
    broker = Harness(spec)
    broker.put_data("Secret", "mine", {"tokens": b"admin first\n"})
    await broker.settle()
    broker.put_data("Secret", "mine", {"tokens": b"# ours\nadmin first\nroot second\n"})
    await broker.settle()
    assert broker.conditions()["Degraded"] == ("True", "ReferenceInvalid")
    message = broker.message("Degraded")
    assert "spec.console.tokens: Secret mine: line 3: expected ROLE TOKEN" in message
    assert "the previous content stays in use" in message
    assert "second" not in message
    files = secret_data(broker.fake.get("Secret", "demo-console"))
    assert files["tokens"] == b"admin first\n"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (CONSOLE_USERS, ""),
        (b"# nothing\n\n", ""),
        (CONSOLE_USERS.replace(b":admin", b""), ""),
        (CONSOLE_USERS.replace(b":admin", b":root"), "line 1:"),
        (b"alice:$7$101$c2FsdA==$aGFzaA==:admin\n" * 5, "line 1, 2, 3, …:"),
    ],
)
def test_lines_that_are_no_users_are_counted(content: bytes, lines: str) -> None:
    problem = console_files.users_problem(content)
    assert problem.startswith(lines)
    assert bool(problem) == bool(lines)


def test_the_service_is_as_the_spec_says() -> None:
    service = {
        "type": "LoadBalancer",
        "port": 8080,
        "class": "example.com/lb",
        "annotations": {"example.com/a": "b"},
        "labels": {"team": "iot"},
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
    }
    found = pick(rendered(spec_of(console=ON | {"service": service})), "Service", "demo-console")
    assert found["metadata"]["annotations"] == {"example.com/a": "b"}
    assert found["metadata"]["labels"]["team"] == "iot"
    assert found["spec"]["ports"][0]["port"] == 8080
    assert found["spec"]["loadBalancerClass"] == "example.com/lb"
    assert found["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]


def test_it_answers_to_the_names_of_its_service_and_those_of_the_spec() -> None:
    console = ON | {"allowedHosts": ["console.example.com"]}
    assert config_of(rendered(spec_of(console=console)))["console"]["allowed_hosts"] == [
        "demo-console",
        "demo-console.iot",
        "demo-console.iot.svc",
        "console.example.com",
    ]


def test_only_the_console_is_let_in_to_admin_ports_and_the_store() -> None:
    without, manifests = rendered(spec_of()), rendered(spec_of(console=ON))
    itself = {"podSelector": {"matchLabels": names.selector("demo", "console")}}
    for policy, port in (("demo-edge", 18083), ("demo-router", 18083), ("demo-redis", 6379)):
        added = [
            one
            for one in peers_of(manifests, policy, port)
            if one not in peers_of(without, policy, port)
        ]
        assert added == [itself], policy
    three = rendered(spec_of(console=ON, redis={"bundled": {"replicas": 3}}))
    assert itself in peers_of(three, "demo-redis", 26379)


def test_prometheus_finds_it_by_the_port_that_only_its_service_has() -> None:
    manifests = rendered(spec_of(console=ON))
    monitor = pick(manifests, "ServiceMonitor", "demo-console")
    (endpoint,) = monitor["spec"]["endpoints"]
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert [
        one["metadata"]["name"]
        for one in manifests
        if one["kind"] == "Service"
        and selected <= one["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in one["spec"]["ports"]}
    ] == ["demo-console"]


def test_who_may_connect_to_it() -> None:
    assert peers_of(rendered(spec_of(console=ON)), "demo-console", 18080) == []
    peers = [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]
    console = ON | {"networkPolicyPeers": peers}
    assert peers_of(rendered(spec_of(console=console)), "demo-console", 18080) == peers
    metrics = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    watched = rendered(spec_of(console=console, networkPolicy={"metrics": metrics}))
    assert peers_of(watched, "demo-console", 18080) == [*peers, *metrics]
    unprotected = rendered(spec_of(console=ON, networkPolicy={"enabled": False}))
    assert ("NetworkPolicy", "demo-console") not in of_console(unprotected)


def test_a_listener_cannot_have_the_name_of_its_service() -> None:
    listeners = [{"name": "console", "service": {}}, {"name": "mqtt", "port": 1884}]
    assert parse("demo", spec_of(listeners=listeners))
    with pytest.raises(SpecError, match="demo-console is the name of another Service"):
        parse("demo", spec_of(listeners=listeners, console=ON))


def _spec_hash(broker: Harness) -> str:
    """Return by what a change of the edges is known to come from the spec."""
    edges = broker.fake.get("Deployment", "demo-edge")
    return str(edges["metadata"]["annotations"][names.SPEC_HASH])


async def test_it_goes_when_it_is_not_wanted_any_more() -> None:
    broker = Harness(spec_of(console=ON))
    await broker.settle()
    assert broker.status["console"] == {
        "service": "demo-console:80",
        "tokenSecret": "demo-console-token",
        "desired": 1,
        "ready": 1,
    }
    broker.put_spec(spec_of())
    await broker.settle()
    await broker.reconcile()
    assert not of_console([one for one in broker.fake.all() if one["metadata"].get("labels")])
    assert "console" not in broker.status
    assert broker.conditions()["Ready"] == ("True", "Serving")


def test_its_pods_have_the_conditions_as_a_file_and_no_right_to_the_api_server() -> None:
    manifests = rendered(spec_of(console=ON))
    pod = pick(manifests, "Deployment", "demo-console")["spec"]["template"]["spec"]
    (volume,) = (one for one in pod["volumes"] if "downwardAPI" in one)
    (item,) = volume["downwardAPI"]["items"]
    assert item["fieldRef"] == {"fieldPath": f"metadata.annotations['{names.CONDITIONS}']"}
    (mount,) = (
        one for one in pod["containers"][0]["volumeMounts"] if one["name"] == volume["name"]
    )
    file = config_of(manifests)["console"]["conditions_file"]
    assert file == f"{mount['mountPath']}/{item['path']}"
    assert pod["automountServiceAccountToken"] is False
    assert not [one for one in manifests if one["kind"] in {"Role", "RoleBinding"}]


async def test_its_pods_are_given_the_conditions_at_each_change(tmp_path: Path) -> None:
    broker = Harness(spec_of(console=ON))
    await broker.settle()
    # Nobody else's pods; and without a change nothing is written again.
    assert {name for name, _ in broker.cluster.shown} == {"demo-console-0"}
    written = len(broker.cluster.shown)
    await broker.reconcile()
    assert len(broker.cluster.shown) == written

    def read() -> Resource:
        (tmp_path / "conditions").write_text(broker.cluster.shown[-1][1])
        found = read_resource(tmp_path / "conditions")
        assert found is not None
        return found

    status = {one.type: (one.status, one.reason) for one in read().conditions}
    assert status == broker.conditions()
    assert status["Degraded"][0] == "False"
    broker.put_spec(spec_of(console=ON | {"users": {"secretName": "mine"}}))
    await broker.settle()
    found = read()
    assert (found.name, found.namespace) == ("demo", NAMESPACE)
    assert found.generation == found.observed_generation == 2
    (degraded,) = (one for one in found.conditions if one.type == "Degraded")
    assert (degraded.status, degraded.reason) == ("True", "ReferenceMissing")
    assert degraded.message == broker.message("Degraded")
    # A refused spec is said there, too; a pod that cannot be annotated holds up nothing.
    broker.put_spec(spec_of(console=ON | {"replicas": 0}))
    broker.cluster.pod_refusal = 404
    await broker.settle()
    assert broker.conditions()["Degraded"] == ("True", "InvalidSpec")
    broker.cluster.pod_refusal = 0
    await broker.reconcile()
    assert "InvalidSpec" in {one.reason for one in read().conditions}


async def test_its_pods_are_no_part_of_what_serves() -> None:
    broker = Harness(spec_of(console=ON))
    await broker.settle()
    edges = [broker.hashes(), _spec_hash(broker)]
    (pod,) = (
        one for one in broker.cluster.pods_there if one["metadata"]["name"] == "demo-console-0"
    )
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off restarting"}
    pod["status"] = {
        "containerStatuses": [{"name": "tidegate", "state": {"waiting": waiting}}],
        "podIP": "10.0.0.1",
    }
    broker.fake.get("Deployment", "demo-console")["status"]["readyReplicas"] = 0
    await broker.reconcile()
    assert broker.conditions()["Ready"] == ("True", "Serving")
    assert broker.conditions()["Degraded"] == ("True", "PodsFailing")
    assert "demo-console-0" in broker.message("Degraded")
    assert broker.conditions()["Progressing"] == ("True", "RollingOut")
    assert "the console: 0 of 1 ready" in broker.message("Progressing")
    # A change of it replaces no edge and no router.
    broker.put_spec(spec_of(console=ON | {"allowedHosts": ["a.example.com"]}))
    await broker.settle()
    assert [broker.hashes(), _spec_hash(broker)] == edges


async def test_a_refused_spec_keeps_what_it_runs_with() -> None:
    broker = Harness(spec_of(console=ON))
    await broker.settle()
    files = secret_data(broker.fake.get("Secret", "demo-console"))
    broker.put_spec(spec_of(console=ON | {"replicas": 0}))
    await broker.settle()
    assert broker.conditions()["Degraded"] == ("True", "InvalidSpec")
    assert secret_data(broker.fake.get("Secret", "demo-console")) == files
    assert broker.fake.get("Deployment", "demo-console")
