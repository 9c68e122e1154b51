"""What cannot be done: it is said, in words that help, and nothing that runs is changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.brokers import pair, spec_of
from support.kube.api import Object
from support.kube.control_plane import ControlPlane
from support.kube.fake_kubelet import FakeKubelet
from support.kube.kubectl import Kubectl
from support.kube.operator_process import OperatorProcess
from support.kube.space import VALID_DAYS, Space

pytestmark = pytest.mark.usefixtures("operator")

BASE = spec_of(auth={"passwords": {"secretName": "users"}})


@pytest.fixture(scope="module")
def serving(plane: ControlPlane, installed: OperatorProcess) -> Iterator[Space]:
    """A broker that serves, and that is given one bad spec after the other."""
    if not installed.is_running:
        installed.start()
    space = Space(plane.api, "refusals")
    space.provide(BASE)
    space.hold("Secret", "broken-tls", {"tls.crt": b"no certificate", "tls.key": b"no key"})
    one, other = pair("one.example", VALID_DAYS), pair("other.example", VALID_DAYS)
    space.hold("Secret", "mixed-tls", {"tls.crt": one.certificate, "tls.key": other.key})
    old = pair("old.example", 1)
    space.hold("Secret", "old-tls", {"tls.crt": old.certificate, "tls.key": old.key})
    space.hold("ConfigMap", "rules", {"acl": b"topic nonsense a/#\n"})
    space.put("demo", BASE)
    space.until_settled("demo")
    yield space
    space.delete()


def tls(**changes: object) -> Object:
    return {"listeners": [{"name": "mqtt", "protocol": "tls", "tls": changes}]}


#: What is changed, and reason and words of Degraded: the API server takes all of it.
CASES: list[tuple[Object, str, str]] = [
    ({"acl": {"rules": "topic nonsense a/#\n"}}, "ReferenceInvalid", "spec.acl.rules"),
    (
        {"acl": {"source": {"configMapName": "rules", "key": "acl"}}},
        "ReferenceInvalid",
        "spec.acl.source: ConfigMap rules",
    ),
    (
        {"acl": {"source": {"configMapName": "nowhere", "key": "acl"}}},
        "ReferenceMissing",
        "ConfigMap nowhere not found",
    ),
    (
        {"auth": {"passwords": {"secretName": "users", "key": "other"}}},
        "ReferenceMissing",
        "Secret users has no key other; the previous content stays in use",
    ),
    (tls(secretName="nowhere"), "ReferenceMissing", "Secret nowhere not found"),
    (tls(secretName="broken-tls"), "ReferenceInvalid", "Secret broken-tls"),
    (tls(secretName="mixed-tls"), "ReferenceInvalid", "Secret mixed-tls"),
    (tls(selfSigned=True, clientCa={"secretName": "nowhere"}), "ReferenceMissing", "clientCa"),
    (
        {"redis": {"external": {"url": "http://elsewhere"}}},
        "InvalidSpec",
        "spec.redis.external.url",
    ),
    (
        {"redis": {"external": {"url": "redis://:secret@elsewhere"}}},
        "InvalidSpec",
        "a password is not allowed in the url",
    ),
    (
        {"redis": {"external": {"url": "redis://elsewhere", "tls": {}}}},
        "InvalidSpec",
        "tls requires a url with scheme rediss",
    ),
    (
        {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["somewhere"]}},
        "InvalidSpec",
        "spec.service.loadBalancerSourceRanges",
    ),
    (
        {
            "listeners": [
                {"name": "mqtt", "proxyProtocol": "required", "trustedProxies": ["somewhere"]}
            ]
        },
        "InvalidSpec",
        "spec.listeners[0].trustedProxies",
    ),
    # What only the API server knows of what is made.
    (
        {"edge": {"podTemplate": {"spec": {"containers": [{"name": "sidecar"}]}}}},
        "ApplyRefused",
        "Deployment demo-edge",
    ),
    (
        {"edge": {"podTemplate": {"spec": {"hostNetwrok": True}}}},
        "ApplyRefused",
        "hostNetwrok",
    ),
    (
        {
            "edge": {
                "podTemplate": {
                    "spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1 Gi"}}]}
                }
            }
        },
        "ApplyRefused",
        "quantities must match",
    ),
    (
        {"edge": {"tolerations": [{"operator": "Sometimes"}]}},
        "ApplyRefused",
        "Sometimes",
    ),
    (
        {"networkPolicy": {"clients": [{"ipBlock": {"cidr": "somewhere"}}]}},
        "ApplyRefused",
        "NetworkPolicy demo-edge",
    ),
    (
        {
            "service": {"type": "NodePort"},
            "listeners": [{"name": "mqtt", "nodePort": 20000}],
            "edge": {"replicas": 4},
        },
        "ApplyRefused",
        "Service demo",
    ),
    (
        {"edge": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}},
        "ApplyRefused",
        "must be less than or equal to cpu limit",
    ),
]


@pytest.mark.parametrize(
    ("changes", "reason", "words"), CASES, ids=[f"{one[1]}-{one[2]}" for one in CASES]
)
def test_what_is_refused_changes_nothing(
    changes: Object, reason: str, words: str, serving: Space, operator: OperatorProcess
) -> None:
    space = serving
    space.put("demo", BASE)
    space.until("demo", "Degraded", "AsExpected")
    space.until_settled("demo")
    before = {part: space.pod_uids("demo", part) for part in ("edge", "router", "redis")}
    mark = operator.plane.audit.mark()

    space.put("demo", copy.deepcopy(BASE) | copy.deepcopy(changes))
    found = space.until("demo", "Degraded", reason, "True")
    assert words in found["message"]
    if "stays in use" not in words:
        is_late = "Service demo" in words
        assert found["message"].endswith(
            "may have been applied." if is_late else "Running pods are unchanged."
        )
        assert space.condition("demo", "ConfigApplied")["reason"] == reason
    assert space.condition("demo", "Ready")["reason"] == "Serving"
    # The event is written after the status.
    space.wait(
        lambda: (
            "Warning" in {one["type"] for one in space.events("demo") if one["reason"] == reason}
        ),
        "it is told",
    )
    assert {part: space.pod_uids("demo", part) for part in before} == before
    written = operator.plane.audit.writes(mark, user=operator.user, namespace=space.name)
    # An authority that the new spec needs, and what it signs, do no harm; nothing else may be
    # written.
    told = ("mqttbrokers/status", "events", "pods")
    others = {one for one in written if one.split()[1] not in told and one[-3:] < "400"}
    assert others <= {
        f"patch secrets {space.name}/demo-authorities 200",
        f"patch secrets {space.name}/demo-edge 200",
        f"patch configmaps {space.name}/demo-ca 201",
    }


def test_a_bad_spec_from_the_start_makes_nothing_that_runs(space: Space) -> None:
    space.put("demo", spec_of(redis={"external": {"url": "http://elsewhere"}}))
    found = space.until("demo", "Degraded", "InvalidSpec", "True")
    assert "Running pods" not in found["message"]
    assert space.children("demo") == []
    space.put("demo", spec_of())
    space.until_settled("demo")


def test_a_missing_secret_is_named_and_waited_for(space: Space, operator: OperatorProcess) -> None:
    space.put("demo", BASE)
    found = space.until("demo", "Degraded", "ReferenceMissing", "True")
    assert "spec.auth.passwords: Secret users not found" in found["message"]
    assert space.listed("Deployment") == []

    def looks() -> int:
        asked = operator.plane.audit.since(mark, user=operator.user, namespace=space.name)
        return sum((one.verb, one.resource) == ("get", "mqttbrokers") for one in asked)

    mark = operator.plane.audit.mark()
    space.wait(looks, "a look that finds nothing new")
    before = looks()
    space.hold("Secret", "users", {"passwords": b"a:b\n"})
    # It is seen at once: the next look would be 4.5 s after the last one.
    space.wait(lambda: looks() > before, "a look at what is new", deadline_s=4)
    space.until_settled("demo")


def test_a_secret_that_goes_leaves_what_was_good(space: Space) -> None:
    space.provide(BASE)
    space.put("demo", BASE)
    space.until_settled("demo")
    kept = space.get("Secret", "demo-edge")["data"]["passwords"]
    pods = space.pod_uids("demo", "edge")
    space.api.delete("Secret", "users", space.name)
    found = space.until("demo", "Degraded", "ReferenceMissing", "True")
    assert "the previous content stays in use" in found["message"]
    assert space.get("Secret", "demo-edge")["data"]["passwords"] == kept
    space.until("demo", "Ready", "Serving")
    space.hold("Secret", "users", {"passwords": b"new:one\n"})
    space.until("demo", "Degraded", "AsExpected")
    space.until_settled("demo")
    assert space.get("Secret", "demo-edge")["data"]["passwords"] != kept
    assert space.pod_uids("demo", "edge") == pods


def test_an_expired_certificate_is_said_to_be_one(serving: Space) -> None:
    serving.put("demo", BASE | tls(secretName="old-tls"))
    found = serving.until("demo", "CertificatesReady", "Invalid", "False")
    assert " expired at " in found["message"]
    serving.put("demo", BASE)
    serving.until("demo", "Degraded", "AsExpected")


def test_what_admission_refuses_is_said(space: Space) -> None:
    """A policy of the cluster's own, as its admins write them (a webhook is answered the same)."""
    name = f"no-load-balancers-{space.name}"
    only_here = {"matchLabels": {"kubernetes.io/metadata.name": space.name}}
    services = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["services"],
    }
    rule = {
        "expression": "!has(object.spec.type) || object.spec.type != 'LoadBalancer'",
        "message": "load balancers cost money: ask the platform team",
    }
    version = "admissionregistration.k8s.io/v1"
    space.api.create(
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"namespaceSelector": only_here, "resourceRules": [services]},
                "validations": [rule],
            },
        }
    )
    space.api.create(
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        }
    )
    try:
        probe: Object = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "probe", "namespace": space.name},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 1, "protocol": "TCP"}]},
        }
        space.wait(lambda: _is_refused(space, probe), "the policy is in force")
        space.put("demo", spec_of(service={"type": "LoadBalancer"}))
        found = space.until("demo", "Degraded", "ApplyRefused", "True")
        assert "Service demo" in found["message"]
        assert "ask the platform team" in found["message"]
        assert space.listed("Deployment") == []
    finally:
        space.api.delete("ValidatingAdmissionPolicyBinding", name)
        space.api.delete("ValidatingAdmissionPolicy", name)
    space.until_settled("demo")


def _is_refused(space: Space, manifest: Object) -> bool:
    try:
        space.api.apply(manifest, dry_run=True)
    except Exception as refused:
        return "platform team" in str(refused)
    return False


def test_a_quota_that_is_full_is_said(space: Space) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": space.name},
        "spec": {"hard": {"count/deployments.apps": "1"}},
    }
    space.api.create(quota)
    space.wait(lambda: space.get("ResourceQuota", "small").get("status", {}).get("hard"), "a quota")
    space.put("demo", spec_of())
    found = space.until("demo", "Degraded", "ApplyRefused", "True")
    assert "exceeded quota: small" in found["message"]
    space.api.patch(
        "ResourceQuota", "small", space.name, {"spec": {"hard": {"count/deployments.apps": "5"}}}
    )
    space.until_settled("demo")


def test_pods_that_a_quota_keeps_away_are_said(space: Space) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few", "namespace": space.name},
        "spec": {"hard": {"pods": "3"}},
    }
    space.api.create(quota)
    space.wait(lambda: space.get("ResourceQuota", "few").get("status", {}).get("hard"), "a quota")
    space.put("demo", spec_of())
    found = space.until("demo", "Degraded", "PodsFailing", "True")
    assert "exceeded quota: few" in found["message"]
    space.api.delete("ResourceQuota", "few", space.name)
    space.put("demo", spec_of(edge={"replicas": 3}))
    space.until_settled("demo")


def degraded(space: Space) -> str:
    return str(space.condition("demo", "Degraded")["message"])


def test_a_store_whose_service_account_is_missing_is_said(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    space.put("demo", spec_of(redis={"bundled": {"serviceAccountName": "nowhere"}}))
    space.until("demo", "Degraded", "PodsFailing", "True")
    space.wait(
        lambda: "serviceaccount " in degraded(space) and "nowhere" in degraded(space),
        "the event of the StatefulSet is in the message",
    )


def test_a_store_whose_pod_cannot_be_made_is_said(space: Space) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    space.put("demo", spec_of(redis={"bundled": {"priorityClassName": "nowhere"}}))
    found = space.until("demo", "Degraded", "PodsFailing", "True")
    wanted = "StatefulSet demo-redis makes no pod: "
    assert wanted in found["message"]
    space.wait(
        lambda: "no PriorityClass with name nowhere was found" in degraded(space),
        "the event of the StatefulSet is in the message",
    )
    assert space.condition("demo", "ConfigApplied")["status"] == "False"
    space.put("demo", spec_of())
    space.until("demo", "Degraded", "AsExpected")
    space.until_settled("demo")


def test_pods_that_end_again_and_again_are_named(space: Space, kubelet: FakeKubelet) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    kubelet.fail(space.name, "demo-edge", "crashing", "tidegate: spec is not understood")
    found = space.until("demo", "Degraded", "PodsFailing", "True")
    assert "CrashLoopBackOff" in found["message"]
    assert "tidegate: spec is not understood" in found["message"]
    assert "demo-edge-" in found["message"]
    space.until("demo", "Ready", "EdgesNotReady")
    kubelet.heal(space.name, "demo-edge")
    space.until("demo", "Degraded", "AsExpected")
    space.until_settled("demo")


def test_a_rollout_that_cannot_go_on_leaves_the_old_pods(
    space: Space, kubelet: FakeKubelet
) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    old = space.pod_uids("demo", "edge")
    sets = {one["metadata"]["name"] for one in space.listed("ReplicaSet", "demo")}
    kubelet.hold_starts(space.name)
    space.put("demo", spec_of(image="registry.example/broken:1"))
    space.wait(
        lambda: any(
            one["metadata"]["name"].rpartition("-")[0] not in sets
            for one in space.pods("demo", "edge")
        ),
        "a new pod",
    )
    space.until("demo", "Progressing", "RollingOut")
    assert old < space.pod_uids("demo", "edge")
    assert space.condition("demo", "ConfigApplied")["reason"] == "Applying"
    kubelet.release_starts(space.name)
    space.until_settled("demo")
    assert not old & space.pod_uids("demo", "edge")


def test_kubectl_does_not_take_a_refused_spec_for_one_that_serves(
    space: Space, kubectl: Kubectl
) -> None:
    def waits() -> bool:
        how = ("--for=condition=Ready", "--timeout=1s", "-n", space.name)
        return kubectl.run("wait", "mqb/demo", *how).returncode != 0

    space.put("demo", spec_of())
    space.until_settled("demo")
    assert not waits()
    space.put("demo", spec_of(redis={"external": {"url": "http://elsewhere"}}))
    space.until("demo", "Stalled", "InvalidSpec", "True")
    assert space.condition("demo", "Ready")["status"] == "True"
    assert space.broker("demo")["status"]["address"] != ""
    assert waits()
    space.put("demo", spec_of())
    space.until("demo", "Stalled", "AsExpected")
    space.until_settled("demo")
    assert not waits()


def test_a_misspelt_acl_is_said(space: Space, kubectl: Kubectl) -> None:
    broker = space.broker_of("demo", spec_of(acls={"rules": "topic read a\n"}))
    kubectl("apply", "--validate=false", "-f", "-", stdin=json.dumps(broker))
    found = space.until("demo", "Degraded", "FieldsDropped", "True")
    assert "spec.acls: unknown key; did you mean acl?" in found["message"]
    assert space.condition("demo", "ConfigApplied")["status"] == "False"
    kubectl("apply", "-f", "-", stdin=json.dumps(space.broker_of("demo", spec_of())))
    space.until("demo", "Degraded", "AsExpected")
    assert "No ACL is in force" in space.until("demo", "Ready", "Serving")["message"]


def test_helm_does_not_take_a_refused_spec_for_one_that_serves(
    space: Space, operator: OperatorProcess, tmp_path: Path
) -> None:
    """Helm 4 waits by kstatus."""
    templates = tmp_path / "templates"
    templates.mkdir()
    chart = {"apiVersion": "v2", "name": "one", "version": "0.1.0"}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart))

    def installs(spec: Object, timeout: str) -> bool:
        broker = space.broker_of("demo", spec)
        (templates / "broker.yaml").write_text(yaml.safe_dump(broker))
        how = ("--install", "--namespace", space.name, "--wait", "--timeout", timeout)
        return operator.helm("upgrade", "one", tmp_path, *how, check=False).returncode == 0

    assert installs(spec_of(), "45s")
    space.until("demo", "ConfigApplied", "Applied")
    assert not installs(spec_of(redis={"external": {"url": "http://elsewhere"}}), "5s")
    space.until("demo", "Stalled", "InvalidSpec", "True")
    assert installs(spec_of(edge={"replicas": 3}), "45s")
    assert len(space.pods("demo", "edge")) == 3
