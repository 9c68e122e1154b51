"""Whatever a valid spec says, it can be rendered, read by processes, and applied once."""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.brokers import MINIMAL, UID, inputs_for, pick, spec_of
from support.fake_cluster import FakeCluster
from tidegate.runtime.config import config_file
from tidegate_operator.names import CONFIG_FILE, FIELD_MANAGER
from tidegate_operator.plan import plan
from tidegate_operator.render import Manifest, render

KEYRING = inputs_for(spec_of("headline")).owned_secrets
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
QUICK = settings(max_examples=40)

names = st.from_regex(r"[a-z]([-a-z0-9]{0,6}[a-z0-9])?", fullmatch=True)


def sections(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Sections with any part of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


tls = st.one_of(
    st.just({"selfSigned": True}),
    st.builds(lambda name: {"secretName": name}, names),
    st.builds(
        lambda name: {"issuer": {"name": name}, "dnsNames": ["a.example"]},
        names,
    ),
    st.builds(
        lambda name, mode: {
            "secretName": name,
            "clientCa": {"configMapName": name},
            "clientCertificates": mode,
            "additionalCertificates": [{"secretName": name, "serverNames": ["*.b.example"]}],
        },
        names,
        st.sampled_from(["off", "optional", "required"]),
    ),
)


@st.composite
def listeners(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for index, name in enumerate(draw(st.lists(names, min_size=1, max_size=4, unique=True))):
        protocol = draw(st.sampled_from(["tcp", "tls", "ws", "wss", "auto"]))
        one: dict[str, Any] = {
            "name": name,
            "protocol": protocol,
            "port": 2000 + index,
            "servicePort": 100 + index,
        }
        if protocol in {"tls", "wss"} or (protocol == "auto" and draw(st.booleans())):
            one["tls"] = draw(tls)
        one |= draw(
            sections(
                maxConnections=st.integers(0, 10**6),
                allowAnonymous=st.booleans(),
                mountPoint=st.sampled_from(["", "a/", "ü/"]),
                websocketPingSeconds=st.floats(0, 3600),
                proxyProtocol=st.just("off"),
                paths=st.just(["/x"]),
                service=st.sampled_from(
                    [
                        {},
                        {"type": "None"},
                        {"name": "shared", "type": "LoadBalancer", "class": "internal"},
                    ]
                ),
                networkPolicyPeers=st.sampled_from([[], [{"podSelector": {}}]]),
            )
        )
        found.append(one)
    return found


autoscaling = sections(targetCpuPercent=st.integers(1, 100)).map(
    lambda one: {"minReplicas": 1, "maxReplicas": 5} | one
)
redis = st.one_of(
    sections(
        bundled=sections(storage=sections(size=st.sampled_from(["1Gi", "5G", 1000]))),
        durability=st.sampled_from(["everysec", "always"]),
        partitions=st.integers(1, 1024),
        edgeLeaseSeconds=st.integers(1, 600),
    ),
    st.sampled_from(
        [
            {"external": {"url": "redis://r:6379/3"}},
            {"external": {"url": "redis+cluster://a,b", "passwordSecret": {"name": "p"}}},
            {
                "external": {"url": "rediss://r", "tls": {"ca": {"secretName": "ca"}}},
                "durability": "replicated",
                "replicas": 2,
            },
        ]
    ),
)
specs = st.fixed_dictionaries(
    {"listeners": listeners()},
    optional={
        "edge": sections(
            replicas=st.integers(0, 50),
            autoscaling=autoscaling,
            drain=sections(rate=st.floats(1, 1e6), deadlineSeconds=st.floats(20, 3600)),
            shutdownTimeoutSeconds=st.floats(0.5, 60),
            podTemplate=st.sampled_from([{}, {"metadata": {"labels": {"a": "b"}}}]),
        ),
        "router": sections(replicas=st.integers(1, 9), autoscaling=autoscaling),
        "redis": redis,
        "auth": sections(allowAnonymous=st.booleans(), passwords=st.just({"secretName": "users"})),
        "acl": st.sampled_from(
            [{"rules": "topic read #\n"}, {"source": {"secretName": "rules", "key": "acl"}}]
        ),
        "limits": sections(
            maxPacketSizeBytes=st.integers(128, 268_435_455),
            queueFullPolicy=st.sampled_from(["drop_newest", "drop_oldest"]),
        ),
        "features": sections(retain=st.booleans(), responseInformation=st.text(max_size=20)),
        "log": sections(level=st.sampled_from(["debug", "info"])),
        "service": sections(type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"])),
        "networkPolicy": sections(enabled=st.booleans()),
    },
)


def manifests(spec: dict[str, Any], name: str = "demo") -> list[Manifest]:
    needs_keys = any((one.get("tls") or {}).get("selfSigned") for one in spec["listeners"])
    return render(inputs_for(spec, name=name, owned_secrets=None if needs_keys else KEYRING))


@QUICK
@given(specs, st.from_regex(r"[a-z][-a-z0-9]{0,38}[a-z0-9]", fullmatch=True))
def test_a_valid_spec_renders_and_its_configuration_loads(spec: dict[str, Any], name: str) -> None:
    found = manifests(spec, name)
    keys = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(keys) == len(set(keys))
    for kind, object_name in keys:
        assert LABEL.fullmatch(object_name), object_name
        if kind in {"Deployment", "StatefulSet"}:
            # Labels of revisions are made of the name and a hash.
            assert len(object_name) <= 52
    for component in ("edge", "router"):
        text = pick(found, "ConfigMap", f"{name}-{component}")["data"][CONFIG_FILE]
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / CONFIG_FILE
            file.write_text(text, encoding="utf-8")
            role: config_file.Role = "edge" if component == "edge" else "router"
            config = config_file.from_flags(config_file.Flags(config=file), role)
        if component == "edge":
            services = [one["spec"] for one in found if one["kind"] == "Service"]
            ports = [
                port["targetPort"]
                for one in services
                for port in one["ports"]
                if "clusterIP" not in one
            ]
            wanted = [one.get("service", {}).get("type") != "None" for one in spec["listeners"]]
            opened = [one.port for one in config.listeners]
            assert sorted(ports) == list(itertools.compress(opened, wanted))


@QUICK
@given(specs, specs)
def test_from_any_spec_to_any_other_in_one_step(one: dict[str, Any], other: dict[str, Any]) -> None:
    cluster = FakeCluster()
    for spec in (one, other):
        desired = manifests(spec)
        found = plan(desired, cluster.all(), UID)
        for manifest in found.apply:
            cluster.apply(manifest, manager=FIELD_MANAGER)
        for ref in found.delete:
            cluster.delete(ref.kind, ref.name)
        assert {(ref[1], ref[3]) for ref in cluster.objects} == {
            (each["kind"], each["metadata"]["name"]) for each in desired
        }
        assert plan(desired, cluster.all(), UID).is_empty


#: Sections that processes take up while they run, or that concern no pod.
LIVE = (
    "listeners",
    "auth",
    "acl",
    "limits",
    "features",
    "log",
    "record",
    "service",
    "networkPolicy",
)


@QUICK
@given(specs, specs, st.floats(1, 1e6))
def test_what_processes_take_up_never_changes_a_pod_template(
    one: dict[str, Any], other: dict[str, Any], rate: float
) -> None:
    changed = {key: value for key, value in one.items() if key not in LIVE}
    changed |= {key: value for key, value in other.items() if key in LIVE}
    edge = changed.get("edge", {})
    changed["edge"] = edge | {"drain": edge.get("drain", {}) | {"rate": rate}}
    found = [
        {
            (one["kind"], one["metadata"]["name"]): one["spec"]["template"]
            for one in manifests(spec)
            if one["kind"] in {"Deployment", "StatefulSet"}
        }
        for spec in (one, changed)
    ]
    for templates in found:
        # The store's password is random, and its hash on the store's pods.
        store = templates.get(("StatefulSet", "demo-redis"))
        if store is not None:
            del store["metadata"]["annotations"]
    assert found[0] == found[1]


@QUICK
@given(specs)
def test_selectors_depend_on_the_name_alone(spec: dict[str, Any]) -> None:
    for manifest in manifests(spec):
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            labels = manifest["spec"]["selector"]["matchLabels"]
            assert labels["app.kubernetes.io/instance"] == "demo"
            assert len(labels) == 3
            template = manifest["spec"]["template"]["metadata"]["labels"]
            assert labels.items() <= template.items()


def test_the_smallest_spec_is_among_them() -> None:
    assert manifests(MINIMAL)
