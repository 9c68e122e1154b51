"""What `helm test` may and may not do, with the rights that the chart gives it.

Its pod is not run here (tests/node does that): its command is, with a token of its account. Names
of Services lead nowhere on this machine, so the furthest that it comes is the broker's Service.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from support import helm
from support.brokers import pick, spec_of
from support.kube.api import Object, Refused
from support.kube.control_plane import ControlPlane
from support.kube.operator_process import CHART, OperatorProcess
from support.kube.space import Space
from tidegate_operator import names

HOOK = "helm.sh/hook"


@pytest.fixture
def account(space: Space, tmp_path: Path) -> Object:
    """Make what the hook makes, in the test's namespace; return its pod, which is not run."""
    found = helm.rendered(
        tmp_path,
        CHART,
        *("--namespace", space.name, "--set", "broker.create=true", "--set", "broker.name=demo"),
    )
    hooks = [one for one in found if HOOK in (one["metadata"].get("annotations") or {})]
    for one in hooks:
        if one["kind"] != "Pod":
            space.api.create(one)
    (pod,) = (one for one in hooks if one["kind"] == "Pod")
    # Admission looks at it: it is a pod that could run.
    space.api.apply(pod, dry_run=True)
    return pod


def run(
    plane: ControlPlane, operator: OperatorProcess, space: Space, pod: Object, *more: str
) -> subprocess.CompletedProcess[str]:
    token = space.api.token(space.name, pod["spec"]["serviceAccountName"])
    kubeconfig = plane.kubeconfig(f"smoke-{space.name}", token)
    (container,) = pod["spec"]["containers"]
    command = [sys.executable, *container["command"][1:], *container["args"]]
    page = f"--operator=http://127.0.0.1:{operator._port}"
    return subprocess.run(
        [*command, page, *more],
        env={"KUBECONFIG": str(kubeconfig), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_its_rights_are_enough_to_come_as_far_as_the_brokers_service(
    plane: ControlPlane, operator: OperatorProcess, space: Space, account: Object
) -> None:
    listener = {"name": "mqtt", "protocol": "auto", "tls": {"selfSigned": True}}
    space.put("demo", spec_of(listeners=[listener]))
    space.until_settled("demo")
    done = run(plane, operator, space, account, "--timeout-s=0")
    assert done.stdout == "operator: ready\n", done.stderr
    assert done.stderr.startswith(f"FAILED: demo.{space.name}.svc port 443: ")


def test_a_broker_that_is_not_ready_is_said_to_be(
    plane: ControlPlane, operator: OperatorProcess, space: Space, account: Object
) -> None:
    done = run(plane, operator, space, account, "--timeout-s=0")
    assert f"MqttBroker demo not found in namespace {space.name}" in done.stderr
    space.put("demo", spec_of(edge={"replicas": 0}))
    space.until("demo", "Ready", "ScaledToZero")
    done = run(plane, operator, space, account, "--timeout-s=0")
    assert "MqttBroker demo is not Ready (ScaledToZero): " in done.stderr
    assert done.returncode == 1


def test_its_rights_are_for_nothing_else(
    plane: ControlPlane, space: Space, account: Object
) -> None:
    token = space.api.token(space.name, account["spec"]["serviceAccountName"])
    others = ((names.KIND, "other"), ("ConfigMap", "other"), ("Secret", "demo-admin"))
    with contextlib.closing(plane.client(token)) as api:
        for kind, name in others:
            with pytest.raises(Refused) as refused:
                api.get(kind, name, space.name)
            assert refused.value.status == 403
        with pytest.raises(Refused):
            api.listed(names.KIND, space.name)


def test_the_pods_of_the_chart_meet_the_restricted_standard(
    space: Space, account: Object, tmp_path: Path
) -> None:
    standard = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"name": space.name, "labels": standard}
    space.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": namespace})
    chart = helm.rendered(tmp_path, CHART, "--namespace", space.name)
    template = pick(chart, "Deployment", "tidegate")["spec"]["template"]
    metadata = {"name": "operator", "namespace": space.name}
    # The account that it names is not there, and admission would say so first.
    spec = {**template["spec"], "serviceAccountName": account["spec"]["serviceAccountName"]}
    operator = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    for pod in (operator, account):
        space.api.apply(pod, dry_run=True)
    spec["containers"] = [{**spec["containers"][0], "securityContext": {}}]
    with pytest.raises(Refused, match="violates PodSecurity"):
        space.api.apply(operator, dry_run=True)
