"""What is rendered for the bundled store: its settings, its memory, its volume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.brokers import inputs_for, pick, rendered, spec_of
from tidegate.store.embedded import find_server
from tidegate_operator import names
from tidegate_operator.render import render
from tidegate_operator.render.bundled_store import quantity


def test_the_image_has_the_program_of_the_bundled_store() -> None:
    """The command is ``valkey-server``; the image links it to what the package carries."""
    container = pick(rendered(spec_of()), "StatefulSet", "demo-redis")["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert container["command"][0] == "valkey-server"
    assert find_server().name in {"valkey-server", "redis-server"}


def test_a_store_that_promises_every_write_writes_every_time() -> None:
    for durability, wanted in (("everysec", "everysec"), ("always", "always")):
        spec = spec_of(redis={"durability": durability})
        text = pick(rendered(spec), "ConfigMap", "demo-redis")["data"]["valkey.conf"]
        assert f"appendfsync {wanted}\n" in text


def store_setting(spec: dict[str, Any], name: str) -> str | None:
    text = pick(rendered(spec), "ConfigMap", "demo-redis")["data"]["valkey.conf"]
    return dict(line.split(" ", 1) for line in text.splitlines()).get(name)


@pytest.mark.parametrize("limit", ["1e999999999", "1e300", "10E", "much", None, ["1Gi"], {"a": 1}])
def test_a_limit_that_is_none_is_left_to_the_api_server(limit: Any) -> None:
    over = {
        "spec": {"containers": [{"name": "tidegate", "resources": {"limits": {"memory": limit}}}]}
    }
    assert store_setting(spec_of(redis={"bundled": {"podTemplate": over}}), "maxmemory") is None
    if isinstance(limit, str) and limit != "much":
        given = {"resources": {"limits": {"memory": limit}}}
        assert store_setting(spec_of(redis={"bundled": given}), "maxmemory") is None


@pytest.mark.parametrize("containers", [None, "none", [], [None], [{"name": "other"}], [3]])
def test_an_override_that_says_nothing_of_memory_leaves_the_limit(containers: Any) -> None:
    spec = spec_of(redis={"bundled": {"podTemplate": {"spec": {"containers": containers}}}})
    assert store_setting(spec, "maxmemory") == store_setting(spec_of(), "maxmemory")


def test_the_store_refuses_before_it_is_killed_for_its_memory() -> None:
    text = pick(rendered(spec_of("everything")), "ConfigMap", "demo-redis")["data"]["valkey.conf"]
    (line,) = (one for one in text.splitlines() if one.startswith("maxmemory "))
    assert 0.6 < int(line.split()[1]) / 2**32 < 0.8
    over = {
        "spec": {"containers": [{"name": "tidegate", "resources": {"limits": {"memory": "1G"}}}]}
    }
    spec = spec_of(redis={"bundled": {"podTemplate": over}})
    assert store_setting(spec, "maxmemory") == "700000000"
    free = spec_of(redis={"bundled": {"resources": {"requests": {"memory": "1Gi"}}}})
    assert store_setting(free, "maxmemory") is None


def test_another_image_for_the_store_leaves_the_others_alone() -> None:
    manifests = rendered(spec_of(redis={"bundled": {"image": "valkey/valkey:9"}}))

    def image(kind: str, component: str) -> str:
        pod = pick(manifests, kind, f"demo-{component}")["spec"]["template"]["spec"]
        return str(pod["containers"][0]["image"])

    assert image("StatefulSet", "redis") == "valkey/valkey:9"
    assert image("Deployment", "edge") == "registry.example/tidegate:1"


def test_volumes_are_kept_unless_somebody_says_otherwise() -> None:
    for spec, wanted in ((spec_of(), "Retain"), (spec_of("everything"), "Delete")):
        policy = pick(rendered(spec), "StatefulSet", "demo-redis")["spec"][
            "persistentVolumeClaimRetentionPolicy"
        ]
        assert policy == {"whenDeleted": wanted, "whenScaled": "Retain"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("500m", "0.5"),
        ("1Gi", 2**30),
        ("2M", 2_000_000),
        ("1e3", 1000),
        ("1.5Ki", 1536),
        ("3k", 3000),
    ],
)
def test_amounts_are_understood(text: str, value: object) -> None:
    assert quantity(text) == quantity(str(value))


@pytest.mark.parametrize("text", ["a lot", "", ".", "1.2.3", "1e", "1e9999", "1 Gi", "Gi"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)


# Three servers

REPLICATED = spec_of(redis={"bundled": {"replicas": 3}})


def pod_of(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pick(rendered(spec), "StatefulSet", "demo-redis")["spec"]["template"]
    return found


def test_three_servers_are_guaranteed_spread_and_replaced_by_the_operator() -> None:
    manifests = rendered(REPLICATED)
    spec = pick(manifests, "StatefulSet", "demo-redis")["spec"]
    assert (spec["replicas"], spec["updateStrategy"]["type"]) == (3, "OnDelete")
    pod = spec["template"]["spec"]
    for container in pod["containers"]:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert pod["topologySpreadConstraints"]
    # A server that waits for its role listens on no port, and must not be ended for that.
    assert pod["containers"][0]["livenessProbe"]["httpGet"]["path"] == "/serverz"
    budget = pick(manifests, "PodDisruptionBudget", "demo-redis")["spec"]
    assert budget["maxUnavailable"] == 1
    service = pick(manifests, "Service", "demo-redis")["spec"]
    assert service["publishNotReadyAddresses"] is True


def test_a_primary_without_replicas_accepts_no_writes_and_memory_is_in_step() -> None:
    assert store_setting(REPLICATED, "min-replicas-to-write") == "1"
    assert store_setting(REPLICATED, "appendfsync") == "always"
    assert store_setting(REPLICATED, "maxmemory") == str(int(2 * 2**30 * 0.7))
    assert store_setting(spec_of(), "min-replicas-to-write") is None


def test_no_configuration_of_a_pod_names_a_primary() -> None:
    for text in pick(rendered(REPLICATED), "ConfigMap", "demo-redis")["data"].values():
        assert "replicaof" not in text
        assert "sentinel monitor" not in text


def test_settings_of_the_spec_are_those_of_three_servers_too() -> None:
    bundled = {
        "replicas": 3,
        "affinity": {},
        "priorityClassName": "high",
        "resources": {"limits": {"memory": "1Gi"}},
        "podTemplate": {"spec": {"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}},
    }
    pod = pod_of(spec_of(redis={"bundled": bundled}))["spec"]
    assert "affinity" not in pod
    assert pod["priorityClassName"] == "high"
    assert pod["containers"][0]["resources"] == {"limits": {"memory": "1Gi"}}
    assert {"name": "ndots", "value": "2"} in pod["dnsConfig"]["options"]


def test_servers_and_routers_reach_each_other_and_nobody_else_does() -> None:
    rules = pick(rendered(REPLICATED), "NetworkPolicy", "demo-redis")["spec"]["ingress"]
    assert [port["port"] for port in rules[0]["ports"]] == [6379, 26379]
    peers = [one["podSelector"]["matchLabels"][names.COMPONENT_LABEL] for one in rules[0]["from"]]
    assert peers == ["router", "redis"]
    assert [port["port"] for port in rules[1]["ports"]] == [names.ADMIN_PORT]


def test_only_what_servers_read_at_start_makes_pods_old() -> None:
    """Whom the operator wants as the primary is read while they run."""
    inputs = inputs_for(REPLICATED)
    changed = render(replace(inputs, wanted_primary="demo-redis-0.demo-redis.iot.svc"))
    before = pick(render(inputs), "StatefulSet", "demo-redis")
    assert pick(changed, "StatefulSet", "demo-redis") == before
    assert pick(changed, "ConfigMap", "demo-redis") != pick(
        render(inputs), "ConfigMap", "demo-redis"
    )
