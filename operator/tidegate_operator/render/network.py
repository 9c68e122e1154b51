"""Services, NetworkPolicies, ServiceMonitors, and Certificates of cert-manager. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.names import (
    ADMIN_PORT,
    CONSOLE_PORT,
    LINK_PORT,
    REDIS_PORT,
    SENTINEL_PORT,
    Component,
)
from tidegate_operator.render.inputs import Broker, Inputs, Manifest
from tidegate_operator.spec.client_services import ClientService, client_services
from tidegate_operator.spec.console import ConsoleTls
from tidegate_operator.spec.listeners import ListenerSpec, ListenerTls
from tidegate_operator.spec.services import ServiceSettings

SERVICE_MONITOR: Final = "ServiceMonitor"
CERTIFICATE: Final = "Certificate"
#: ``appProtocol`` of a Service's port.
_APP_PROTOCOLS: Final = {"ws": "kubernetes.io/ws", "wss": "kubernetes.io/wss"}


def services(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the Services that clients, edges and Prometheus use."""
    broker = inputs.broker
    for published in client_services(broker.name, inputs.spec):
        yield _client_service(broker, published)
    yield headless(
        broker,
        names.routers_service(broker.name),
        "router",
        names.selector(broker.name, "router"),
        "link",
        LINK_PORT,
    )
    selector = {names.INSTANCE_LABEL: broker.name, names.METRICS_LABEL: "true"}
    yield headless(
        broker,
        names.metrics_service(broker.name),
        "metrics",
        selector,
        "admin",
        ADMIN_PORT,
        with_unready=True,
    )


def _client_service(broker: Broker, published: ClientService) -> Manifest:
    settings = published.settings
    manifest = service(broker, published.name, "edge", settings)
    manifest["spec"]["selector"] = names.selector(broker.name, "edge")
    manifest["spec"]["ports"] = [_port(listener, settings.type) for listener in published.listeners]
    return manifest


def service(broker: Broker, name: str, component: str, settings: ServiceSettings) -> Manifest:
    """Return a Service as its settings say, without selector and ports."""
    metadata = broker.metadata(name, component)
    metadata["labels"] = {**settings.labels, **metadata["labels"]}
    if settings.annotations:
        metadata["annotations"] = dict(settings.annotations)
    spec: Manifest = {"type": settings.type, "selector": {}, "ports": []}
    for key, value in (
        ("loadBalancerClass", settings.load_balancer_class),
        ("loadBalancerSourceRanges", settings.load_balancer_source_ranges),
        ("externalTrafficPolicy", settings.external_traffic_policy),
        ("ipFamilyPolicy", settings.ip_family_policy),
    ):
        if value:
            spec[key] = value
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _port(listener: ListenerSpec, service_type: str) -> Manifest:
    port: Manifest = {
        "name": listener.name,
        "port": listener.exposed_port,
        "targetPort": listener.pod_port,
        "protocol": "TCP",
    }
    if listener.protocol in _APP_PROTOCOLS:
        port["appProtocol"] = _APP_PROTOCOLS[listener.protocol]
    if listener.node_port is not None and service_type != "ClusterIP":
        port["nodePort"] = listener.node_port
    return port


def headless(
    broker: Broker,
    name: str,
    component: str,
    selector: dict[str, str],
    port_name: str,
    port: int,
    *,
    with_unready: bool = False,
) -> Manifest:
    """Return a headless Service: its name stands for all selected pods."""
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": broker.metadata(name, component),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": selector,
            "ports": [{"name": port_name, "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }
    if with_unready:
        manifest["spec"]["publishNotReadyAddresses"] = True
    return manifest


def service_monitor(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the ServiceMonitors, if enabled and their CRD is installed."""
    broker, monitor = inputs.broker, inputs.spec.telemetry.service_monitor
    if not monitor.enabled or SERVICE_MONITOR not in inputs.settings.optional_kinds:
        return
    scraped = [(names.metrics_service(broker.name), "metrics", "admin")]
    console = inputs.spec.console
    if console.enabled:
        # Of the console's Services, only the one that leads to it has this port.
        scraped.append((names.workload(broker.name, "console"), "console", console.scheme))
    for name, component, port in scraped:
        metadata = broker.metadata(name, component)
        metadata["labels"] = {**monitor.labels, **metadata["labels"]}
        endpoint: Manifest = {
            "port": port,
            "path": "/metrics",
            "interval": f"{monitor.interval_s}s",
        }
        if port == "https":
            # Prometheus connects to the address of a pod, which is in no certificate.
            endpoint |= {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}
        yield {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": SERVICE_MONITOR,
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": names.labels(broker.name, component)},
                "endpoints": [endpoint],
            },
        }


def certificates(inputs: Inputs) -> Iterator[Manifest]:
    """Yield Certificates, if cert-manager is installed (``collect`` reports if it is not)."""
    broker = inputs.broker
    if CERTIFICATE not in inputs.settings.optional_kinds:
        return
    wanted: list[tuple[str, Component, ListenerTls | ConsoleTls | None]] = [
        (names.listener_certificate(broker.name, listener.name), "edge", listener.tls)
        for listener in inputs.spec.listeners
    ]
    if inputs.spec.console.enabled:
        name = names.console_certificate(broker.name)
        wanted.append((name, "console", inputs.spec.console.tls))
    for name, component, tls in wanted:
        if tls is None or tls.issuer is None:
            continue
        spec: Manifest = {
            "secretName": name,
            "issuerRef": {
                "name": tls.issuer.name,
                "kind": tls.issuer.kind,
                "group": tls.issuer.group,
            },
            "privateKey": {"rotationPolicy": "Always"},
            "usages": ["digital signature", "key encipherment", "server auth"],
        }
        if tls.dns_names:
            spec["dnsNames"] = list(tls.dns_names)
        if tls.ip_addresses:
            spec["ipAddresses"] = list(tls.ip_addresses)
        yield {
            "apiVersion": "cert-manager.io/v1",
            "kind": CERTIFICATE,
            "metadata": broker.metadata(name, component),
            "spec": spec,
        }


def policies(inputs: Inputs) -> Iterator[Manifest]:
    """Yield the NetworkPolicies: clients → edges → routers → bundled store, and the admin port."""
    broker, spec = inputs.broker, inputs.spec
    if not spec.network_policy.enabled:
        return
    admin = _admin_rule(inputs)
    yield _policy(broker, "edge", [*_client_rules(inputs), admin])
    yield _policy(broker, "router", [_ingress_from(broker, ["edge"], LINK_PORT), admin])
    if spec.redis.own is not None:
        yield _policy(broker, "redis", _store_rules(broker, admin))
    if spec.console.enabled:
        peers = spec.console.network_policy_peers
        admitted = [*peers, *_metrics_peers(inputs)] if peers else []
        rule = {"ports": [_tcp(CONSOLE_PORT)]} | ({"from": admitted} if admitted else {})
        yield _policy(broker, "console", [rule])


def _store_rules(broker: Broker, admin: Manifest) -> list[Manifest]:
    """Return the rules of the bundled store; several servers replicate, and watch each other."""
    peers: list[Component] = ["router", *_console(broker)]
    if not broker.spec.redis.is_replicated:
        return [_ingress_from(broker, peers, REDIS_PORT)]
    peers.insert(1, "redis")
    return [
        {
            "ports": [_tcp(REDIS_PORT), _tcp(SENTINEL_PORT)],
            "from": _pods(broker, peers),
        },
        admin,
    ]


def _client_rules(inputs: Inputs) -> list[Manifest]:
    """Return a rule for all listeners with the same peers; without peers, it admits everybody."""
    spec = inputs.spec
    rules: list[Manifest] = []
    for listener in spec.listeners:
        peers = listener.network_policy_peers or spec.network_policy.clients
        port = _tcp(listener.pod_port)
        same = next((rule for rule in rules if rule.get("from", []) == peers), None)
        if same is None:
            rules.append({"ports": [port]} | ({"from": peers} if peers else {}))
        else:
            same["ports"].append(port)
    return rules


def _admin_rule(inputs: Inputs) -> Manifest:
    """Return the rule for the admin port: the operator, the console, and who collects metrics.

    NetworkPolicies always admit a pod's own node, from which the kubelet's probes come.
    """
    operator = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": inputs.settings.operator_namespace}
        },
        "podSelector": {"matchLabels": {names.COMPONENT_LABEL: "operator"}},
    }
    console = _pods(inputs.broker, _console(inputs.broker))
    return {"ports": [_tcp(ADMIN_PORT)], "from": [operator, *console, *_metrics_peers(inputs)]}


def _metrics_peers(inputs: Inputs) -> Sequence[Manifest]:
    """Return who collects metrics."""
    return inputs.spec.network_policy.metrics or inputs.settings.metrics_peers


def _console(broker: Broker) -> list[Component]:
    """Return the console, if there is one."""
    return ["console"] if broker.spec.console.enabled else []


def _ingress_from(broker: Broker, components: Iterable[Component], port: int) -> Manifest:
    return {"ports": [_tcp(port)], "from": _pods(broker, components)}


def _pods(broker: Broker, components: Iterable[Component]) -> list[Manifest]:
    """Return the pods of components, as peers."""
    return [
        {"podSelector": {"matchLabels": names.selector(broker.name, component)}}
        for component in components
    ]


def _tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}


def _policy(broker: Broker, component: Component, ingress: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": broker.metadata(names.workload(broker.name, component), component),
        "spec": {
            "podSelector": {"matchLabels": names.selector(broker.name, component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
