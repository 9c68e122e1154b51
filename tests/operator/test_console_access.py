"""The certificate of the console and its route of the Gateway API: what is made, and what is said.

What else is made of ``spec.console`` is in test_console; routes of listeners are in test_routes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml

from support.api_schema import with_defaults
from support.brokers import (
    ALL_OPTIONAL,
    NOW,
    inputs_for,
    pair,
    pick,
    rendered,
    secret_data,
    spec_of,
)
from support.operator_harness import Harness
from tidegate.runtime.config.console import ConsoleConfig
from tidegate_operator import names
from tidegate_operator.render import Manifest
from tidegate_operator.spec import crd
from tidegate_operator.spec.problems import SpecError, parse

KINDS = {
    "TLSRoute": "gateway.networking.k8s.io/v1",
    "TCPRoute": "gateway.networking.k8s.io/v1alpha2",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}
PARENT = {"name": "public", "namespace": "infra"}
ON: dict[str, Any] = {"enabled": True}
SECRET: dict[str, Any] = ON | {"tls": {"secretName": "mine"}}
ISSUER: dict[str, Any] = ON | {
    "tls": {"issuer": {"name": "ca"}, "dnsNames": ["console.example.com"]}
}
ROUTE: dict[str, Any] = {"parentRefs": [PARENT], "hostnames": ["console.example.com"]}


def config_of(manifests: list[Manifest]) -> dict[str, Any]:
    file = pick(manifests, "ConfigMap", "demo-console")["data"][names.CONFIG_FILE]
    return dict(yaml.safe_load(file))


def routes(it: Harness) -> list[dict[str, Any]]:
    return [one for one in it.fake.all() if one["kind"] in KINDS]


def answer(it: Harness, **said: str) -> None:
    """Have the Gateway answer; ``said`` has the status of each type of condition."""
    route = it.fake.get("HTTPRoute", "demo-console")
    conditions = [
        {
            "type": one,
            "status": status,
            "reason": "NotAllowedByListeners" if status == "False" else one,
            "message": "no listener takes it" if status == "False" else "",
            "observedGeneration": route["metadata"].get("generation", 0),
        }
        for one, status in said.items()
    ]
    route["status"] = {"parents": [{"parentRef": PARENT, "conditions": conditions}]}


def container_of(deployment: Manifest) -> dict[str, Any]:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def harness(console: dict[str, Any]) -> Harness:
    found = Harness(spec_of(console=console))
    found.cluster.kinds = {**ALL_OPTIONAL, **KINDS}
    return found


def put_pair(it: Harness, secret: str, name: str = "console.example.com", days: int = 90) -> None:
    made = pair(name, days)
    it.put_data("Secret", secret, {"tls.crt": made.certificate, "tls.key": made.key})


# The certificate


def test_with_a_certificate_everything_that_leads_to_it_speaks_tls() -> None:
    manifests = rendered(spec_of(console=SECRET))
    deployment = pick(manifests, "Deployment", "demo-console")
    container = container_of(deployment)
    assert container["ports"][0]["name"] == "https"
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    (port,) = pick(manifests, "Service", "demo-console")["spec"]["ports"]
    assert (port["name"], port["port"], port["appProtocol"]) == ("https", 443, "https")
    (endpoint,) = pick(manifests, "ServiceMonitor", "demo-console")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["scheme"]) == ("https", "https")
    own = SECRET | {"service": {"port": 8443}}
    (port,) = pick(rendered(spec_of(console=own)), "Service", "demo-console")["spec"]["ports"]
    assert port["port"] == 8443


@pytest.mark.parametrize(
    ("service", "without", "with_tls"),
    [({"type": "LoadBalancer"}, 80, 443), ({"port": 8443}, 8443, 8443), ({"port": 80}, 80, 80)],
)
def test_the_port_of_a_stored_resource_follows_tls_unless_it_was_set(
    service: dict[str, Any], without: int, with_tls: int
) -> None:
    """Stored with the defaults of the API server; then TLS is added to it, and taken away."""
    schema = crd.root_schema()["properties"]["spec"]
    stored = with_defaults(schema, spec_of(console=ON | {"service": service}))

    def ports() -> list[tuple[str, int]]:
        found = pick(rendered(stored), "Service", "demo-console")["spec"]["ports"]
        return [(port["name"], port["port"]) for port in found]

    assert ports() == [("http", without)]
    stored["console"]["tls"] = SECRET["tls"]
    stored = with_defaults(schema, stored)
    assert ports() == [("https", with_tls)]
    del stored["console"]["tls"]
    assert ports() == [("http", without)]


def test_its_pods_find_certificate_and_key_and_do_not_start_without() -> None:
    manifests = rendered(spec_of(console=SECRET))
    console = config_of(manifests)["console"]
    pod = pick(manifests, "Deployment", "demo-console")["spec"]["template"]["spec"]
    (volume,) = (one["secret"] for one in pod["volumes"] if one["name"] == "certificate")
    (mount,) = (one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "certificate")
    files = secret_data(pick(manifests, "Secret", volume["secretName"]))
    mounted = {f"{mount['mountPath']}/{one['path']}": files[one["key"]] for one in volume["items"]}
    made = pair("mine")
    ConsoleConfig.model_validate(console)
    assert mounted[console["tls_certificate"]] == made.certificate
    assert mounted[console["tls_key"]] == made.key
    # The kubelet starts no pod while a key that is named is missing.
    assert not volume.get("optional")
    without = rendered(spec_of(console=SECRET), contents={})
    assert "console.crt" not in secret_data(pick(without, "Secret", "demo-console"))
    assert (
        pick(without, "Deployment", "demo-console")["spec"]
        == (pick(manifests, "Deployment", "demo-console")["spec"])
    )


def test_edges_and_routers_do_not_get_its_key() -> None:
    manifests = rendered(spec_of(console=SECRET))
    for component in names.PROCESSES:
        assert (
            not {"console.key", "console.crt"}
            & secret_data(pick(manifests, "Secret", f"demo-{component}")).keys()
        )


def test_cert_manager_issues_it() -> None:
    manifests = rendered(spec_of(console=ISSUER))
    certificate = pick(manifests, "Certificate", "demo-console-tls")
    assert certificate["metadata"]["labels"][names.COMPONENT_LABEL] == "console"
    assert certificate["spec"]["secretName"] == "demo-console-tls"
    assert certificate["spec"]["issuerRef"]["name"] == "ca"
    assert certificate["spec"]["dnsNames"] == ["console.example.com"]
    made = pair("demo-console-tls")
    files = secret_data(pick(manifests, "Secret", "demo-console"))
    assert (files["console.crt"], files["console.key"]) == (made.certificate, made.key)
    off = ISSUER | {"enabled": False}
    assert not [one for one in rendered(spec_of(console=off)) if one["kind"] == "Certificate"]


async def test_a_certificate_that_is_missing_is_said_and_keeps_nothing_from_running() -> None:
    it = harness(SECRET)
    await it.settle()
    await it.reconcile()
    assert it.conditions()["Ready"] == ("True", "Serving")
    assert it.conditions()["Degraded"] == ("True", "ReferenceMissing")
    text = "spec.console.tls.secretName: Secret mine not found: create it with keys tls.crt and tls"
    assert text in it.message("Degraded")
    assert it.conditions()["CertificatesReady"] == ("False", "Missing")
    assert "certificateNotAfter" not in it.status["console"]
    put_pair(it, "mine")
    await it.settle()
    assert it.conditions()["Degraded"][0] == "False"
    assert it.conditions()["CertificatesReady"] == ("True", "Issued")
    assert it.status["console"]["service"] == "demo-console:443"
    assert it.status["console"]["certificateNotAfter"] == "2026-05-30T12:00:00Z"


async def test_a_certificate_that_is_being_issued_is_no_fault() -> None:
    it = harness(ISSUER)
    await it.settle()
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert it.conditions()["CertificatesReady"] == ("False", "Pending")
    assert "spec.console.tls.issuer" in it.message("CertificatesReady")
    it.cluster.kinds = dict(KINDS)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "ReferenceMissing")
    assert "cert-manager is not installed" in it.message("Degraded")
    it.cluster.kinds = {**ALL_OPTIONAL, **KINDS}
    put_pair(it, "demo-console-tls")
    await it.settle()
    assert it.conditions()["CertificatesReady"] == ("True", "Issued")


async def test_a_new_certificate_reaches_its_pods_without_new_ones() -> None:
    it = harness(SECRET)
    put_pair(it, "mine")
    await it.settle()
    before = it.fake.get("Deployment", "demo-console")["spec"]["template"]
    put_pair(it, "mine", "other.example.com")
    await it.settle()
    files = secret_data(it.fake.get("Secret", "demo-console"))
    assert files["console.crt"] == pair("other.example.com", 90).certificate
    assert it.fake.get("Deployment", "demo-console")["spec"]["template"] == before
    # One that does not fit its key never gets there.
    key = pair("other.example.com", 90).key
    it.put_data("Secret", "mine", {"tls.crt": pair().certificate, "tls.key": key})
    await it.settle()
    assert secret_data(it.fake.get("Secret", "demo-console")) == files
    assert it.conditions()["Degraded"] == ("True", "ReferenceInvalid")
    assert "the previous content stays in use" in it.message("Degraded")
    assert it.conditions()["CertificatesReady"] == ("False", "Invalid")


@pytest.mark.parametrize(
    ("age_days", "condition"), [(85, ("True", "EndsSoon")), (91, ("False", "Invalid"))]
)
async def test_a_certificate_that_ends_is_said(age_days: int, condition: tuple[str, str]) -> None:
    it = harness(SECRET)
    put_pair(it, "mine")
    await it.settle()
    it.now = NOW + timedelta(days=age_days)
    await it.reconcile()
    assert it.conditions()["CertificatesReady"] == condition
    assert "the console: certificate" in it.message("CertificatesReady")
    assert it.conditions()["Degraded"][0] == str(age_days > 90)


# The route


async def test_it_has_the_route_of_what_it_speaks() -> None:
    it = harness(ON | {"gateway": ROUTE})
    await it.settle()
    (route,) = routes(it)
    assert (route["apiVersion"], route["kind"]) == (KINDS["HTTPRoute"], "HTTPRoute")
    assert route["metadata"]["name"] == "demo-console"
    assert route["metadata"]["labels"][names.COMPONENT_LABEL] == "console"
    backend = {"name": "demo-console", "port": 80}
    # All paths, and a live sample lasts as long as somebody looks.
    assert route["spec"] == {
        "parentRefs": [PARENT],
        "hostnames": ["console.example.com"],
        "rules": [{"backendRefs": [backend], "timeouts": {"request": "0s"}}],
    }
    put_pair(it, "mine")
    it.put_spec(spec_of(console=SECRET | {"gateway": ROUTE}))
    await it.settle()
    (route,) = routes(it)
    assert route["kind"] == "TLSRoute"
    assert route["spec"]["rules"] == [{"backendRefs": [backend | {"port": 443}]}]
    it.put_spec(spec_of(console=SECRET | {"gateway": {"parentRefs": [PARENT]}}))
    await it.settle()
    assert [one["kind"] for one in routes(it)] == ["TCPRoute"]
    it.put_spec(spec_of(console=ON))
    await it.settle()
    assert routes(it) == []


def test_the_names_of_its_route_are_allowed() -> None:
    console = ON | {"gateway": ROUTE, "allowedHosts": ["other.example.com"]}
    assert config_of(rendered(spec_of(console=console)))["console"]["allowed_hosts"][-2:] == [
        "other.example.com",
        "console.example.com",
    ]


async def test_what_the_gateway_says_is_in_the_status() -> None:
    it = harness(ON | {"gateway": ROUTE})
    await it.settle()
    it.pass_time(31)
    assert (await it.reconcile()).requeue_after_s == 10
    assert it.status["console"]["route"]["accepted"] == "Unknown"
    assert it.conditions()["Degraded"][0] == "False"
    answer(it, Accepted="False")
    await it.reconcile()
    assert it.status["console"]["route"]["accepted"] == "False"
    assert it.conditions()["Degraded"] == ("True", "RouteNotAccepted")
    assert (
        "HTTPRoute demo-console of the console: Gateway infra/public: Accepted is False "
        "(NotAllowedByListeners): no listener takes it" in it.message("Degraded")
    )
    assert it.conditions()["Ready"] == ("True", "Serving")
    answer(it, Accepted="True", ResolvedRefs="True")
    await it.reconcile()
    assert it.status["console"]["route"]["accepted"] == "True"
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_without_the_gateway_api_it_is_said_what_to_install() -> None:
    it = harness(ON | {"gateway": ROUTE})
    it.cluster.kinds = dict(ALL_OPTIONAL)
    await it.settle()
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "GatewayApiMissing")
    assert "The console has no route: the cluster does not have the kind HTTPRoute" in it.message(
        "Degraded"
    )
    assert it.fake.get("Deployment", "demo-console")


def test_a_console_that_is_off_has_neither() -> None:
    console = ISSUER | {"gateway": ROUTE, "enabled": False}
    manifests = rendered(spec_of(console=console))
    assert not [
        one for one in manifests if one["metadata"]["labels"][names.COMPONENT_LABEL] == "console"
    ]
    assert not inputs_for(spec_of(console=console)).referenced_files.problems


@pytest.mark.parametrize(
    ("console", "wrong"),
    [
        ({"tls": {}}, "exactly one of secretName and issuer"),
        ({"tls": SECRET["tls"] | ISSUER["tls"]}, "exactly one of secretName and issuer"),
        ({"tls": {"issuer": {"name": "ca"}}}, "issuer requires dnsNames or ipAddresses"),
        ({"tls": ISSUER["tls"] | {"ipAddresses": ["fe80::1%eth0"]}}, "has a zone"),
        (SECRET | {"gateway": ROUTE | {"kind": "HTTPRoute"}}, "an HTTPRoute to the console"),
        ({"gateway": {"parentRefs": [PARENT], "kind": "TLSRoute"}}, "a TLSRoute requires gateway"),
        ({"gateway": ROUTE | {"kind": "TCPRoute"}}, "a TCPRoute has no hostnames"),
    ],
)
def test_what_cannot_be_is_refused(console: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        parse("demo", spec_of(console=ON | console))


def test_a_listener_called_console_has_no_object_of_the_same_name() -> None:
    plain: dict[str, Any] = {"name": "console", "protocol": "ws", "gateway": ROUTE}
    tls = {"name": "console", "protocol": "tls", "tls": ISSUER["tls"], "gateway": ROUTE}
    assert parse("demo", spec_of(listeners=[tls], console=ON | {"gateway": ROUTE}))
    assert parse("demo", spec_of(listeners=[plain, {"name": "mqtt"}], console=ISSUER))
    for listener, console in ((plain, ON | {"gateway": ROUTE}), (tls, ISSUER)):
        with pytest.raises(SpecError, match=r"spec.listeners\[0\].name: console: the "):
            parse("demo", spec_of(listeners=[listener], console=console))
