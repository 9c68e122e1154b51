"""The chart's rights: enough for everything that the operator does, and none that it does not use.

Every other test here notices a right that is missing. These look for those that are too many, and
at an operator that may see only some namespaces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from support import openshift
from support.brokers import SPECS, spec_of
from support.kube import gateway_api
from support.kube.api import Object
from support.kube.audit import Request
from support.kube.control_plane import ControlPlane
from support.kube.fake_kubelet import FakeKubelet
from support.kube.kubectl import Kubectl
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space
from support.mqtt_backups import DONE, KEYS, S3, backup_of
from tidegate_operator import names

#: Group, resource, verb.
Right = tuple[str, str, str]


def definition(group: str, version: str, kind: str, plural: str) -> Object:
    """Return a definition of somebody else's kind, that takes anything."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": anything}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


@pytest.fixture
def kinds_of_others(spare_plane: ControlPlane) -> Iterator[None]:
    """cert-manager and the Prometheus operator are installed, as far as one can see."""
    made = [
        definition("cert-manager.io", "v1", "Certificate", "certificates"),
        definition("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ]
    for one in made:
        spare_plane.api.create(one)
    with gateway_api.installed(spare_plane.api):
        yield
    for one in made:
        spare_plane.api.delete("CustomResourceDefinition", one["metadata"]["name"])


def with_size(spec: Object, size: str) -> Object:
    """Return a spec with another size of the store's volume."""
    bundled = spec["redis"]["bundled"]
    changed = bundled | {"storage": bundled["storage"] | {"size": size}}
    return spec | {"redis": spec["redis"] | {"bundled": changed}}


def has_gone(space: Space, kind: str) -> bool:
    return not space.listed(kind)


def back_up(space: Space, kubelet: FakeKubelet, spec: Object) -> None:
    """Have backups made: one on demand, and two of a schedule that keeps one."""
    space.hold("Secret", "bucket", KEYS)
    space.api.create(backup_of(namespace=space.name, target=S3))

    def is_in(name: str, phase: str) -> bool:
        found = space.api.get(names.BACKUP_KIND, name, space.name) or {}
        return bool(found.get("status", {}).get("phase") == phase)

    space.wait(lambda: is_in("now", "Running"), "it runs, and has a log")
    kubelet.end(space.name, "now-", json.dumps(DONE))
    kubelet.end(space.name, "try-", json.dumps(DONE))
    space.wait(lambda: is_in("now", "Complete"), "it is complete")
    schedule = {"cron": "@yearly", "keep": 1, "target": S3}
    space.put("demo", spec | {"backup": {"schedule": schedule}})
    template = space.wait(
        lambda: space.api.get("CronJob", "demo-backup", space.name), "there is a schedule"
    )["spec"]["jobTemplate"]
    for name in ("try-1", "try-2"):
        metadata = template["metadata"] | {"name": name, "namespace": space.name}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}
        space.api.create(job | {"spec": template["spec"]})
        space.wait(partial(is_in, name, "Complete"), "it is complete")
    space.wait(
        lambda: space.api.get(names.BACKUP_KIND, "try-1", space.name) is None, "the old one goes"
    )


def granted(role: Object) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(asked: list[Request]) -> set[Right]:
    """Return what requests needed: to apply what is not there yet takes the right to create it."""
    found = {(one.group, one.resource, one.verb) for one in asked}
    return found | {
        (one.group, one.resource, "create")
        for one in asked
        if one.verb == "patch" and one.status == 201
    }


@pytest.mark.usefixtures("kinds_of_others")
def test_no_right_is_given_that_is_not_used(
    spare_plane: ControlPlane,
    spare_space: Space,
    spare_kubelet: FakeKubelet,
    release_of: Callable[..., OperatorProcess],
) -> None:
    operator = release_of("rights")
    operator.install()
    plane, space, mark = spare_plane, spare_space, spare_plane.audit.mark()
    # An older version has been here before: the definition is to be brought up to date.
    old: Object = {"metadata": {"annotations": {names.CRD_REVISION: "0"}}}
    plane.api.patch("CustomResourceDefinition", names.CRD_NAME, "", old)
    # Helm makes no new definition when it upgrades a release.
    plane.api.delete("CustomResourceDefinition", names.BACKUP_CRD_NAME)
    space.wait(
        lambda: not plane.api.get("CustomResourceDefinition", names.BACKUP_CRD_NAME), "it has gone"
    )
    operator.start()

    spec = SPECS["everything"] | {"console": {"enabled": True}}
    space.provide(spec)
    space.put("demo", spec)
    space.until_settled("demo")
    for kind, name in (("Certificate", "demo-web-tls"), ("ServiceMonitor", "demo-metrics")):
        assert space.get(kind, name)["metadata"]["ownerReferences"]
    # The pod of the single server is replaced by one with Sentinel.
    spec = spec | {"redis": spec["redis"] | {"bundled": spec["redis"]["bundled"] | {"replicas": 3}}}
    space.put("demo", spec)
    space.until_settled("demo")
    # Pods that do not see what is new are told to look.
    spare_kubelet.hold_mounts(space.name)
    space.put("demo", spec | {"limits": {"maxPacketSizeBytes": 4096}})
    space.until("demo", "ConfigApplied", "Applying")
    space.wait(
        lambda: any("patch pods" in one for one in plane.audit.writes(mark, user=operator.user)),
        "a pod is told",
    )
    spare_kubelet.release_mounts(space.name)
    space.until_settled("demo")
    # Routes come and go.
    parents = {"parentRefs": [{"name": "public"}]}
    named = parents | {"hostnames": ["mqtt.example.com"]}
    listeners: list[Object] = [
        {"name": "plain", "gateway": parents},
        {"name": "web", "protocol": "ws", "gateway": named},
        {"name": "tls", "protocol": "tls", "tls": {"selfSigned": True}, "gateway": named},
    ]
    space.put("routed", spec_of(listeners=listeners))
    space.until_settled("routed")
    space.put("routed", spec_of())
    for kind in ("TCPRoute", "HTTPRoute", "TLSRoute"):
        space.wait(partial(has_gone, space, kind), f"the {kind} has gone")
    space.api.delete("MqttBroker", "routed", space.name)
    # Why a store has no pod is looked up.
    space.put("poor", spec_of(redis={"bundled": {"priorityClassName": "nowhere"}}))
    space.wait(
        lambda: any(
            (one.verb, one.resource) == ("list", "events")
            for one in plane.audit.since(mark, user=operator.user)
        ),
        "the events of its StatefulSet are read",
    )
    space.api.delete("MqttBroker", "poor", space.name)
    back_up(space, spare_kubelet, spec)
    # A larger volume is requested, whether its class can grow or not.
    space.put("demo", with_size(spec, "30Gi"))
    space.until("demo", "Degraded", "StorageNotApplied", "True")
    # Everything that can be left out is left out again.
    space.put(
        "demo",
        spec_of(
            redis={"external": {"url": "redis://elsewhere:6379"}, "partitions": 128},
            networkPolicy={"enabled": False},
            telemetry={"serviceMonitor": {"enabled": False}},
        ),
    )
    space.until_settled("demo")
    space.wait(lambda: not space.listed("ServiceMonitor"), "the ServiceMonitor has gone")
    assert space.listed("Certificate") == []
    space.wait(lambda: not space.listed("StatefulSet"), "the old store has gone")
    assert space.listed("HorizontalPodAutoscaler") == []
    assert space.api.get("Deployment", "demo-console", space.name) is None

    role = plane.api.get("ClusterRole", f"{operator.release}-{operator.namespace}")
    assert role is not None
    asked = plane.audit.since(mark, user=operator.user)
    assert granted(role) - used(asked) == set()


def test_on_openshift_pods_run_as_users_of_their_namespace(
    spare_plane: ControlPlane, spare_space: Space, release_of: Callable[..., OperatorProcess]
) -> None:
    """It is seen by its API group; the operator looks for it with the chart's rights."""
    made = definition(
        "security.openshift.io", "v1", "SecurityContextConstraints", "securitycontextconstraints"
    )
    spare_plane.api.create(made)
    try:
        operator = release_of("openshift")
        operator.install()
        operator.start()
        spare_space.put("demo", spec_of())
        spare_space.until_settled("demo")
        for component in ("edge", "router", "redis"):
            (pod, *_) = spare_space.pods("demo", component)
            assert openshift.problems(pod["spec"]) == []
    finally:
        spare_plane.api.delete("CustomResourceDefinition", made["metadata"]["name"])


def test_an_operator_may_serve_a_few_namespaces_only(
    spare_plane: ControlPlane,
    spare_space: Space,
    spare_kubectl: Kubectl,
    release_of: Callable[..., OperatorProcess],
) -> None:
    plane, mine = spare_plane, spare_space
    also, others = Space(plane.api, "also"), Space(plane.api, "others")
    operator = release_of("few")
    operator.install(
        {
            "watchNamespaces": [mine.name, also.name],
            "crd": {"upgrade": False},
            "rbac": {"aggregate": False},
        }
    )
    assert plane.api.listed("ClusterRole", selector="app.kubernetes.io/instance=tidegate") == []
    operator.start()
    for space in (mine, also, others):
        space.put("demo", spec_of())
    for space in (mine, also):
        space.until_settled("demo")
    assert others.broker("demo")["status"]["observedGeneration"] == -1
    assert others.children("demo") == []

    def may(verb: str, what: str, namespace: str) -> bool:
        who = f"--as={operator.user}"
        done = spare_kubectl.run("auth", "can-i", verb, what, "-n", namespace, who)
        return done.stdout.strip() == "yes"

    assert may("get", "secrets", mine.name)
    for namespace in (others.name, "kube-system", operator.namespace):
        assert not may("get", "secrets", namespace)
    for space in (also, others):
        space.delete()


def test_the_clusters_own_roles_have_rights_to_brokers(
    plane: ControlPlane, kubectl: Kubectl, operator: OperatorProcess, space: Space
) -> None:
    """Rights are given in one namespace, and tried by the API server's own answer."""
    for role in ("view", "edit", "admin"):
        kubectl(
            "create",
            "rolebinding",
            role,
            f"--clusterrole={role}",
            f"--user={role}er",
            "-n",
            space.name,
        )

    def allowed(role: str, namespace: str) -> set[str]:
        tried = [
            *(f"{verb} mqttbrokers" for verb in ("get", "list", "watch")),
            *(f"{verb} mqttbrokers" for verb in ("create", "update", "patch", "delete")),
            *(f"{verb} mqttbrokers/scale" for verb in ("get", "patch")),
            *(f"{verb} mqttbrokers/status" for verb in ("get", "patch")),
            *(f"{verb} mqttbackups" for verb in ("list", "create", "delete")),
            "patch mqttbackups/status",
        ]
        found = set()
        for right in tried:
            verb, resource = right.split()
            resource, _, part = resource.partition("/")
            more = [f"--subresource={part}"] if part else []
            done = kubectl.run(
                *("auth", "can-i", verb, f"{resource}.tidegate.io", *more),
                *("-n", namespace, f"--as={role}er"),
            )
            if done.stdout.strip() == "yes":
                found.add(right)
        return found

    reads = {f"{verb} mqttbrokers" for verb in ("get", "list", "watch")}
    reads |= {"get mqttbrokers/scale", "get mqttbrokers/status", "list mqttbackups"}
    writes = {f"{verb} mqttbrokers" for verb in ("create", "update", "patch", "delete")}
    writes |= {"patch mqttbrokers/scale", "create mqttbackups", "delete mqttbackups"}
    # A controller makes the cluster's roles of their parts.
    space.wait(lambda: allowed("admin", space.name) == reads | writes, "they have been aggregated")
    assert allowed("view", space.name) == reads
    assert allowed("edit", space.name) == reads | writes
    assert allowed("edit", operator.namespace) == set()
