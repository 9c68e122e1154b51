"""What is rendered: snapshots, what edges and routers can read, and what Kubernetes wants."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from support import brokers, openshift, tools
from support.brokers import ALL_OPTIONAL, SPECS, pick, rendered, secret_data, spec_of
from tidegate.edge.file_checks import problems_of_files
from tidegate.runtime.config import config_file
from tidegate.runtime.config.model import Config
from tidegate_operator import names
from tidegate_operator.render import Manifest, Settings, prerequisites, render
from tidegate_operator.render.broker_config import runtime_problems
from tidegate_operator.render.merge import merged
from tidegate_operator.render.pod_template import grace_period_s
from tidegate_operator.render.restart_hash import restart_hash
from tidegate_operator.spec.broker import LinkSpec

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.mark.parametrize("name", SPECS)
def test_manifests_are_as_committed(name: str) -> None:
    # The store's password is random, and part of what makes its pod start anew.
    owned_secrets = dataclasses.replace(
        brokers.inputs_for(SPECS[name]).owned_secrets, redis_password=b"same"
    )
    found = brokers.readable(rendered(SPECS[name], owned_secrets=owned_secrets))
    brokers.check_snapshot(SNAPSHOTS / f"{name}.yaml", found)


@pytest.mark.parametrize("name", SPECS)
def test_what_is_made_of_a_good_spec_is_a_configuration(name: str) -> None:
    assert runtime_problems(brokers.inputs_for(SPECS[name]).broker) == []


def test_what_no_process_would_start_with_is_refused() -> None:
    broker = brokers.inputs_for(spec_of()).broker
    # As if the spec had no rule of its own for it.
    link = LinkSpec.model_construct(_fields_set={"heartbeat_s"}, heartbeat_s=9.0)
    spec = broker.spec.model_copy(update={"link": link})
    assert runtime_problems(dataclasses.replace(broker, spec=spec)) == [
        "spec: invalid configuration: link: timeout_s must be at least twice heartbeat_s"
    ]


@pytest.mark.parametrize("version", ["1.28", "1.37"])
@pytest.mark.parametrize("name", SPECS)
def test_manifests_are_valid_for_kubernetes(name: str, version: str) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        tools.missing("kubernetes-validate")
    for manifest in rendered(SPECS[name]):
        if manifest["apiVersion"].partition("/")[0] in {"cert-manager.io", "monitoring.coreos.com"}:
            continue
        kubernetes_validate.validate(manifest, version, strict=True)


def loaded(manifests: list[Manifest], component: str, directory: Path) -> Config:
    """Read a component's configuration as its process does, files and all."""
    name = f"demo-{component}"
    files = directory / "files"
    files.mkdir(parents=True)
    for file, content in secret_data(pick(manifests, "Secret", name)).items():
        (files / file).write_bytes(content)
    text = pick(manifests, "ConfigMap", name)["data"][names.CONFIG_FILE]
    config = directory / names.CONFIG_FILE
    config.write_text(text.replace(names.FILES_DIR, str(files)))
    role = cast("config_file.Role", component)
    return config_file.from_flags(config_file.Flags(config=config, name="pod"), role)


@pytest.mark.parametrize("name", SPECS)
def test_edges_and_routers_can_read_their_configuration_and_its_files(
    name: str, tmp_path: Path
) -> None:
    manifests = rendered(SPECS[name])
    for component in ("edge", "router"):
        config = loaded(manifests, component, tmp_path / component)
        assert problems_of_files(config) == []
        assert not [one for one in config_file.warnings_of(config, "router") if "link" in one]
        link = config.link.tls
        assert link.certificate is not None
        for path in (link.certificate, link.key, link.ca):
            assert path is not None
            assert path.exists()


def test_a_console_can_read_its_configuration_and_its_files(tmp_path: Path) -> None:
    specs = (SPECS["console"], spec_of("sentinel", console={"enabled": True}))
    for number, spec in enumerate(specs):
        config = loaded(rendered(spec), "console", tmp_path / str(number))
        assert problems_of_files(config) == []
        console = config.console
        for path in (
            config.store.password_file,
            console.token_file,
            console.users_file or console.tokens_file,
        ):
            assert path is not None
            assert path.exists()


def test_more_certificates_serve_the_names_that_they_have_or_are_given(tmp_path: Path) -> None:
    tls = {
        "secretName": "a",
        "additionalCertificates": [
            {"secretName": "b"},
            {"secretName": "c", "serverNames": ["c.example"]},
        ],
    }
    spec = spec_of(listeners=[{"name": "mqtt", "protocol": "tls", "tls": tls}])
    (listener,) = loaded(rendered(spec), "edge", tmp_path).listeners
    found = [(one.certificate.name, one.server_names) for one in listener.tls.certificates]
    assert found == [
        ("listener.mqtt.crt", []),
        ("listener.mqtt.1.crt", []),
        ("listener.mqtt.2.crt", ["c.example"]),
    ]


def test_what_is_not_said_has_the_default_of_the_version_that_runs(tmp_path: Path) -> None:
    config = loaded(rendered(spec_of()), "edge", tmp_path)
    assert config.limits == Config().limits
    assert config.limits.model_fields_set == set()
    assert config.drain.delay_s == 5
    assert config.drain.model_fields_set == {"delay_s"}
    assert config.log.format == "json"


def test_edges_find_routers_by_the_headless_service(tmp_path: Path) -> None:
    manifests = rendered(spec_of())
    config = loaded(manifests, "edge", tmp_path / "edge")
    assert config.link.routers == ["demo-routers.iot.svc:7000"]
    service = pick(manifests, "Service", "demo-routers")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["ports"][0]["port"] == 7000
    assert loaded(manifests, "router", tmp_path / "router").link.listen == "[::]:7000"


def test_edges_and_routers_agree_on_the_lease(tmp_path: Path) -> None:
    manifests = rendered(spec_of("everything"))
    edge = loaded(manifests, "edge", tmp_path / "edge")
    router = loaded(manifests, "router", tmp_path / "router")
    assert edge.store.edge_lease_s == router.store.edge_lease_s == 8
    assert edge.store.url is None
    assert router.store.url == "redis://demo-redis.iot.svc:6379/0"


def test_sentinels_with_tls_and_credentials_reach_the_routers(tmp_path: Path) -> None:
    manifests = rendered(spec_of("sentinel"))
    store = loaded(manifests, "router", tmp_path).store
    assert store.url == "rediss+sentinel://sentinel-0:26379,sentinel-1:26379/mymaster/2"
    assert (store.username, store.sentinel_username) == ("tidegate", "watcher")
    assert store.replicas == 2
    for path in (store.password_file, store.sentinel_password_file, store.tls_ca, store.tls_key):
        assert path is not None
        assert path.exists()
    assert not [one for one in manifests if one["metadata"]["name"] == "demo-redis"]


def test_client_service_has_exactly_the_listeners() -> None:
    service = pick(rendered(spec_of("everything")), "Service", "demo")
    ports = {port["name"]: port for port in service["spec"]["ports"]}
    assert {name: (port["port"], port["targetPort"]) for name, port in ports.items()} == {
        "devices": (443, 9443),
        "web": (8084, 8084),
        "inside": (1883, 1883),
    }
    assert ports["devices"]["nodePort"] == 30443
    assert service["metadata"]["annotations"] == {"example.com/lb": "internal"}
    assert service["spec"]["loadBalancerClass"] == "example.com/lb"


def test_one_auto_listener_is_443_for_clients() -> None:
    service = pick(rendered(spec_of("headline")), "Service", "demo")
    assert [(one["port"], one["targetPort"]) for one in service["spec"]["ports"]] == [(443, 8443)]


def test_pods_end_after_every_deadline_of_their_processes() -> None:
    manifests = rendered(spec_of("everything"))
    edge = pick(manifests, "Deployment", "demo-edge")["spec"]["template"]["spec"]
    router = pick(manifests, "Deployment", "demo-router")["spec"]["template"]["spec"]
    # Rounded up: processes take up other deadlines, pods cannot.
    assert edge["terminationGracePeriodSeconds"] == 180 >= 120 + 15 + 5
    assert router["terminationGracePeriodSeconds"] == 30 >= 10 + 10 + 5
    assert "lifecycle" not in edge["containers"][0]


def test_rollouts_start_new_pods_before_old_ones_end() -> None:
    for name in ("demo-edge", "demo-router"):
        strategy = pick(rendered(spec_of()), "Deployment", name)["spec"]["strategy"]
        assert strategy["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize("name", SPECS)
def test_pods_are_restricted(name: str) -> None:
    for manifest in rendered(SPECS[name]):
        if manifest["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        container = next(one for one in pod["containers"] if one["name"] == "tidegate")
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "cpu" not in container["resources"].get("limits", {})


def test_every_object_belongs_to_the_broker() -> None:
    for manifest in rendered(spec_of("everything")):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert owner["uid"] == brokers.UID
        assert owner["controller"] is True
        # Setting it needs a right that nothing else needs (OwnerReferencesPermissionEnforcement).
        assert "blockOwnerDeletion" not in owner
        labels = manifest["metadata"]["labels"]
        assert labels[names.MANAGED_BY_LABEL] == names.FIELD_MANAGER
        assert labels[names.INSTANCE_LABEL] == "demo"


def test_selectors_never_change() -> None:
    """They cannot be changed in a cluster: whoever changes these breaks every upgrade."""
    found = {
        component: pick(rendered(spec_of()), kind, f"demo-{component}")["spec"]["selector"]
        for component, kind in (
            ("edge", "Deployment"),
            ("router", "Deployment"),
            ("redis", "StatefulSet"),
        )
    }
    for component, selector in found.items():
        assert selector == {
            "matchLabels": {
                "app.kubernetes.io/name": "tidegate",
                "app.kubernetes.io/instance": "demo",
                "app.kubernetes.io/component": component,
            }
        }


def test_metrics_are_asked_of_edges_and_routers_only() -> None:
    manifests = rendered(spec_of("everything"))
    selector = pick(manifests, "Service", "demo-metrics")["spec"]["selector"]
    matching = [
        one["metadata"]["name"]
        for one in manifests
        if one["kind"] in {"Deployment", "StatefulSet"}
        and selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]
    assert sorted(matching) == ["demo-edge", "demo-router"]
    monitor = pick(manifests, "ServiceMonitor", "demo-metrics")
    service_labels = pick(manifests, "Service", "demo-metrics")["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service_labels.items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_what_the_cluster_does_not_know_is_not_made() -> None:
    plain = Settings("image")
    kinds = {one["kind"] for one in rendered(spec_of("everything"), settings=plain)}
    assert not kinds & {"ServiceMonitor", "Certificate"}
    switched_off = spec_of(telemetry={"serviceMonitor": {"enabled": False}})
    assert "ServiceMonitor" not in {one["kind"] for one in rendered(switched_off)}


def test_cert_manager_is_asked_for_the_names_of_the_listener() -> None:
    found = pick(rendered(spec_of("everything")), "Certificate", "demo-web-tls")
    assert found["spec"]["dnsNames"] == ["mqtt.example.com"]
    assert found["spec"]["secretName"] == "demo-web-tls"
    by_address = spec_of(
        listeners=[
            {
                "name": "web",
                "protocol": "tls",
                "tls": {"issuer": {"name": "own"}, "ipAddresses": ["192.0.2.7"]},
            }
        ]
    )
    assert pick(rendered(by_address), "Certificate", "demo-web-tls")["spec"]["ipAddresses"]


def test_prerequisites_need_nothing_that_is_referred_to() -> None:
    inputs = brokers.inputs_for(spec_of("everything"), contents={})
    assert not inputs.referenced_files.is_complete
    assert [(one["kind"], one["metadata"]["name"]) for one in prerequisites(inputs)] == [
        ("Secret", "demo-authorities"),
        ("Secret", "demo-admin"),
        ("Certificate", "demo-web-tls"),
    ]


def test_clients_can_find_the_authority_of_self_signed_listeners() -> None:
    manifests = rendered(spec_of("headline"))
    bundle = pick(manifests, "ConfigMap", "demo-ca")["data"]["ca.crt"]
    assert "BEGIN CERTIFICATE" in bundle
    assert "KEY" not in bundle
    edge = secret_data(pick(manifests, "Secret", "demo-edge"))
    assert edge["listener.mqtt.crt"].startswith(b"-----BEGIN CERTIFICATE")


def test_no_pod_gets_the_keys_of_an_authority() -> None:
    for manifest in rendered(spec_of("headline")):
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            assert "authorities" not in yaml.dump(manifest["spec"]["template"])


# Restarts


def template_of(spec: dict[str, Any], component: str = "edge", **options: Any) -> Manifest:
    found: Manifest = pick(rendered(spec, **options), "Deployment", f"demo-{component}")["spec"][
        "template"
    ]
    return found


def test_edges_and_routers_prefer_different_nodes_unless_the_spec_says_where() -> None:
    wanted: dict[str, Any] = {
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}
    }

    def affinity(component: str, **settings: Any) -> Any:
        changes: dict[str, Any] = {} if component == "redis" else {component: settings}
        spec = spec_of(**changes)
        return templates_of(spec)[component]["spec"].get("affinity")

    for component in ("edge", "router"):
        ((term,),) = (found.values() for found in affinity(component).values())
        assert term[0]["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
        assert affinity(component, topologySpreadConstraints=[]) is None
        assert affinity(component, affinity=wanted) == wanted
        assert affinity(component, affinity={}) is None
    assert affinity("redis") is None


def test_files_are_changed_without_new_pods() -> None:
    before = spec_of("everything")
    after = spec_of("everything", acl={"rules": "topic read #\n"})
    assert template_of(before) == template_of(after)
    edge = {"edge": "other"}
    inputs = brokers.inputs_for(before)
    inputs.referenced_files.edge["passwords"] = b"someone:else\n"
    assert template_of(before) == template_of(before, referenced_files=inputs.referenced_files), (
        edge
    )


def templates_of(spec: dict[str, Any], **options: Any) -> dict[str, Manifest]:
    """Return the pod templates by component; the store's password is the same for all."""
    owned_secrets = dataclasses.replace(STORE_KEYRING, listener_pairs={})
    found = rendered(spec, **({"owned_secrets": owned_secrets} | options))
    return {
        one["metadata"]["name"].removeprefix("demo-"): one["spec"]["template"]
        for one in found
        if one["kind"] in {"Deployment", "StatefulSet"}
    }


STORE_KEYRING = brokers.inputs_for(spec_of()).owned_secrets
LISTENERS = [*spec_of()["listeners"], {"name": "more", "port": 1884, "maxConnections": 5}]


@pytest.mark.parametrize(
    "change",
    [
        {"listeners": LISTENERS},
        {"limits": {"maxPacketSizeBytes": 4096, "maxConnections": 7}},
        {"features": {"retain": False}},
        {"auth": {"allowAnonymous": False, "reloadIntervalSeconds": 1}},
        {"auth": {"passwords": {"secretName": "users"}}},
        {"acl": {"rules": "topic read #\n"}},
        {"edge": {"drain": {"rate": 7, "reason": "use_another_server", "delaySeconds": 1}}},
        {"edge": {"drain": {"deadlineSeconds": 30}}},
        {"edge": {"drain": {"deadlineSeconds": 74}}},
        {"edge": {"rebalance": {"enabled": True}}},
        {"edge": {"shutdownTimeoutSeconds": 20}},
        {"router": {"shutdownTimeoutSeconds": 12}},
        {"log": {"level": "debug", "format": "text"}},
        {"service": {"type": "NodePort"}},
    ],
    ids=str,
)
def test_what_processes_take_up_makes_no_new_pods(change: dict[str, Any]) -> None:
    assert templates_of(spec_of(**change)) == templates_of(spec_of())


@pytest.mark.parametrize(
    ("change", "components"),
    [
        ({"telemetry": {"otlpEndpoint": "http://c:4318"}}, "edge router"),
        ({"link": {"heartbeatSeconds": 2}}, "edge router"),
        ({"link": {"carrier": "grpc"}}, "edge router"),
        ({"link": {"discoveryIntervalSeconds": 2}}, "edge"),
        ({"link": {"creditBytes": 100_000}}, "router"),
        ({"redis": {"edgeLeaseSeconds": 8}}, "edge router"),
        ({"redis": {"operationTimeoutSeconds": 8}}, "router"),
        ({"redis": {"external": {"url": "redis://elsewhere"}}}, "router redis"),
        ({"edge": {"drain": {"deadlineSeconds": 90}}}, "edge"),
        ({"edge": {"shutdownTimeoutSeconds": 200}}, "edge"),
        ({"router": {"shutdownTimeoutSeconds": 200}}, "router"),
        ({"edge": {"priorityClassName": "high"}}, "edge"),
        ({"image": "registry.example/tidegate:2"}, "edge router redis"),
    ],
    ids=str,
)
def test_what_counts_at_the_start_makes_new_pods_of_those_concerned(
    change: dict[str, Any], components: str
) -> None:
    before, after = templates_of(spec_of()), templates_of(spec_of(**change))
    changed = {name for name, one in before.items() if after.get(name) != one}
    assert changed == set(components.split())


def test_the_hash_is_all_that_a_setting_changes_in_a_pod_template() -> None:
    before, after = spec_of(), spec_of(link={"heartbeatSeconds": 2})
    for component in ("edge", "router"):
        first, second = template_of(before, component), template_of(after, component)
        annotations = [one["metadata"].pop("annotations") for one in (first, second)]
        assert annotations[0] != annotations[1]
        assert first == second


def test_the_order_of_settings_is_none_of_their_meaning() -> None:
    assert restart_hash({"b": 1, "a": 2}, "edge") == restart_hash({"a": 2, "b": 1}, "edge")
    assert restart_hash({"b": 1, "a": 2}, "edge") != restart_hash({"a": 2, "b": 2}, "edge")


# A deadline that is longer than what pods can be given without a new start


def edge_config_of(spec: dict[str, Any], edge_grace_s: int | None) -> dict[str, Any]:
    inputs = dataclasses.replace(brokers.inputs_for(spec), edge_grace_s=edge_grace_s)
    text = pick(render(inputs), "ConfigMap", "demo-edge")["data"][names.CONFIG_FILE]
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def deadline_of(spec: dict[str, Any], edge_grace_s: int | None) -> float | None:
    found: float | None = edge_config_of(spec, edge_grace_s)["drain"].get("deadline_s")
    return found


def test_edges_get_a_longer_deadline_when_all_of_them_have_the_grace_for_it() -> None:
    longer = spec_of(edge={"drain": {"deadlineSeconds": 300}})
    assert deadline_of(longer, None) == 300
    # 90 seconds from SIGTERM to SIGKILL, less the end of the process after the last client.
    assert deadline_of(longer, 90) == 90 - 10 - 5
    assert deadline_of(longer, 600) == 300
    assert deadline_of(spec_of(), 90) is None
    shorter = spec_of(edge={"drain": {"deadlineSeconds": 20}})
    assert deadline_of(shorter, 30) == 30 - 10 - 5
    assert deadline_of(shorter, 600) == 20


def test_a_delay_that_the_old_grace_period_has_no_room_for_is_held_too() -> None:
    """An edge that waited to its deadline would drop its clients instead of letting them go."""
    late = spec_of(edge={"drain": {"delaySeconds": 100, "deadlineSeconds": 300}})
    held = edge_config_of(late, 90)["drain"]
    assert held["deadline_s"] == 75
    assert held["delay_s"] <= held["deadline_s"] / 2
    assert edge_config_of(late, 600)["drain"]["delay_s"] == 100
    soon = spec_of(edge={"drain": {"delaySeconds": 20, "deadlineSeconds": 300}})
    assert edge_config_of(soon, 90)["drain"]["delay_s"] == 20


def test_a_long_end_of_the_process_takes_no_time_from_the_clients() -> None:
    long = spec_of(edge={"shutdownTimeoutSeconds": 200})
    held = edge_config_of(long, 90)
    assert held["drain"].get("deadline_s", 60) + held["shutdown_timeout_s"] <= 90 - 5
    assert held["drain"].get("deadline_s", 60) == 60
    assert edge_config_of(long, 300)["shutdown_timeout_s"] == 200


@pytest.mark.parametrize("there_s", [1, 5, 10, 30, 90, 180])
def test_whatever_grace_there_is_gives_a_configuration_that_fits_into_it(there_s: int) -> None:
    wanted = {"delaySeconds": 60, "deadlineSeconds": 900}
    held = edge_config_of(spec_of(edge={"drain": wanted, "shutdownTimeoutSeconds": 60}), there_s)
    config = Config.model_validate(held)
    assert config.shutdown_timeout_s > 0
    assert config.drain.delay_s < config.drain.deadline_s
    assert config.drain.deadline_s + config.shutdown_timeout_s <= max(2, there_s - 5)


def test_a_grace_period_that_is_given_is_taken_as_it_is() -> None:
    given = {"spec": {"terminationGracePeriodSeconds": 40}}
    spec = spec_of(edge={"podTemplate": given, "drain": {"deadlineSeconds": 50}})
    assert templates_of(spec)["edge"]["spec"]["terminationGracePeriodSeconds"] == 40
    assert deadline_of(spec, 40) == 50


# Scaling


def test_autoscalers_have_the_fewest_pods_to_begin_with() -> None:
    manifests = rendered(spec_of("everything"))
    assert pick(manifests, "Deployment", "demo-edge")["spec"]["replicas"] == 3
    assert pick(manifests, "Deployment", "demo-router")["spec"]["replicas"] == 3
    scaler = pick(manifests, "HorizontalPodAutoscaler", "demo-edge")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 12)
    assert [one["type"] for one in scaler["metrics"]] == ["Resource", "Pods"]
    assert scaler["metrics"][1]["pods"]["metric"]["name"] == "tidegate_connections_open"


def test_budgets_are_as_they_are_given() -> None:
    for given, wanted in (
        ({"minAvailable": "75%"}, {"minAvailable": "75%"}),
        ({"minAvailable": 2}, {"minAvailable": 2}),
        ({"maxUnavailable": 3}, {"maxUnavailable": 3}),
        (None, {"maxUnavailable": 1}),
    ):
        spec = spec_of(edge={} if given is None else {"disruptionBudget": given})
        found = dict(pick(rendered(spec), "PodDisruptionBudget", "demo-edge")["spec"])
        del found["selector"]
        assert found == {**wanted, "unhealthyPodEvictionPolicy": "AlwaysAllow"}


# Network policies


def test_only_edges_reach_routers_and_only_routers_the_store() -> None:
    manifests = rendered(spec_of())
    for component, port, peer in (("router", 7000, "edge"), ("redis", 6379, "router")):
        rule = pick(manifests, "NetworkPolicy", f"demo-{component}")["spec"]["ingress"][0]
        assert rule["ports"] == [{"port": port, "protocol": "TCP"}]
        (source,) = rule["from"]
        assert source["podSelector"]["matchLabels"][names.COMPONENT_LABEL] == peer
    assert not [one for one in rendered(spec_of("sentinel")) if one["kind"] == "NetworkPolicy"]


def test_the_operator_always_reaches_the_admin_port() -> None:
    rules = pick(rendered(spec_of("everything")), "NetworkPolicy", "demo-edge")["spec"]["ingress"]
    operator, *others = rules[1]["from"]
    assert operator["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "tidegate-system"
    }
    assert len(others) == 1
    assert rules[0]["from"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]


def test_the_admin_port_is_closed_to_all_others() -> None:
    manifests = rendered(spec_of())
    for component in ("edge", "router"):
        policy = pick(manifests, "NetworkPolicy", f"demo-{component}")
        rule = policy["spec"]["ingress"][1]
        assert rule["ports"] == [{"port": 18083, "protocol": "TCP"}]
        (operator,) = rule["from"]
        assert operator["podSelector"]["matchLabels"] == {names.COMPONENT_LABEL: "operator"}


def test_peers_of_the_operator_reach_brokers_that_name_none() -> None:
    prometheus = {"namespaceSelector": {"matchLabels": {"name": "prometheus"}}}
    settings = Settings("image", optional_kinds=ALL_OPTIONAL, metrics_peers=[prometheus])

    def admitted(spec: dict[str, Any]) -> list[Any]:
        policy = pick(rendered(spec, settings=settings), "NetworkPolicy", "demo-router")
        peers: list[Any] = policy["spec"]["ingress"][1]["from"]
        return peers[1:]

    assert admitted(spec_of()) == [prometheus]
    assert admitted(spec_of("everything")) == spec_of("everything")["networkPolicy"]["metrics"]


# Pod templates


@pytest.mark.parametrize("name", SPECS)
def test_openshift_admits_all_pods_and_chooses_their_user(name: str) -> None:
    settings = Settings("image", optional_kinds=ALL_OPTIONAL, platform_sets_users=True)
    for manifest in rendered(SPECS[name], settings=settings):
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            pod = manifest["spec"]["template"]["spec"]
            assert openshift.problems(pod) == []
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])


def test_elsewhere_pods_have_the_user_and_the_group_of_the_image() -> None:
    pod = pick(rendered(spec_of()), "Deployment", "demo-edge")["spec"]["template"]["spec"]
    assert openshift.problems(pod) == ["fsGroup: 65532", "pod: runAsUser: 65532"]


def test_overrides_are_laid_over_by_name() -> None:
    containers = template_of(spec_of("everything"))["spec"]["containers"]
    main, sidecar = containers
    assert [one["name"] for one in main["env"]] == ["POD_NAME", "EXTRA"]
    assert main["image"] == "registry.example/tidegate:9"
    assert sidecar == {"name": "sidecar", "image": "sidecar:1"}


def test_what_selects_pods_cannot_be_overridden() -> None:
    template = {
        "metadata": {
            "labels": {"app.kubernetes.io/instance": "other", "mine": "1"},
            "annotations": {names.RESTART_HASH: None},
        }
    }
    found = template_of(spec_of(edge={"podTemplate": template}))["metadata"]
    assert found["labels"]["app.kubernetes.io/instance"] == "demo"
    assert found["labels"]["mine"] == "1"
    assert found["annotations"][names.RESTART_HASH]


def test_null_takes_something_away() -> None:
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"c": 2}}


def test_lists_without_names_are_replaced() -> None:
    assert merged({"args": [1, 2]}, {"args": [3]}) == {"args": [3]}
    assert merged({"ports": [{"containerPort": 1}]}, {"ports": [{"x": 1}]}) == {
        "ports": [{"containerPort": 1}, {"x": 1}]
    }


def test_merging_changes_neither_side() -> None:
    base = {"env": [{"name": "A", "value": "1"}]}
    over = {"env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}
    found = merged(base, over)
    found["env"][1]["value"] = "4"
    assert base == {"env": [{"name": "A", "value": "1"}]}
    assert over["env"][1]["value"] == "3"


@pytest.mark.parametrize(
    ("parts_s", "wanted_s"),
    [((20,), 30), ((20, 5), 30), ((20, 5.1), 90), ((60, 25), 90), ((86,), 180), ((4000,), 4005)],
)
def test_a_grace_period_is_the_next_step_that_has_room(
    parts_s: tuple[float, ...], wanted_s: int
) -> None:
    assert grace_period_s(*parts_s) == wanted_s
