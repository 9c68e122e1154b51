"""The operator as a process: it ends, is killed, loses its token and its server, and goes on."""

from __future__ import annotations

from support.brokers import spec_of
from support.kube.control_plane import ControlPlane
from support.kube.fake_kubelet import FakeKubelet
from support.kube.looks import until_at_rest, until_begun
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space

NAMES = ("one", "two", "three")


def test_an_operator_that_starts_again_writes_nothing(
    operator: OperatorProcess, space: Space
) -> None:
    for name in NAMES:
        space.put(name, spec_of(edge={"replicas": 1}, router={"replicas": 1}))
    until_at_rest(operator, space, *NAMES)
    assert operator.stop() == 0
    mark = operator.plane.audit.mark()
    operator.start()
    # What the first one has led to is over when the second one has begun.
    until_begun([operator], space.name, NAMES, 2, mark)
    assert operator.plane.audit.writes(mark, user=operator.user, namespace=space.name) == []


def test_what_happens_while_there_is_no_operator_is_caught_up(
    operator: OperatorProcess, space: Space
) -> None:
    for name in NAMES:
        space.put(name, spec_of())
    for name in NAMES:
        space.until_settled(name)
    operator.stop()
    space.api.delete("MqttBroker", "one", space.name)
    space.put("two", spec_of(edge={"replicas": 3}))
    space.api.delete("Service", "three", space.name)
    space.put("four", spec_of())
    space.wait(lambda: not space.children("one"), "it goes without an operator")
    operator.start()
    for name in ("two", "three", "four"):
        space.until_settled(name)
    assert len(space.pods("two", "edge")) == 3
    assert space.get("Service", "three")


def test_an_operator_that_is_killed_while_it_makes_a_broker_goes_on(
    operator: OperatorProcess, space: Space
) -> None:
    space.put("demo", spec_of())
    space.wait(lambda: space.listed("Secret", "demo"), "it has begun")
    operator.kill()
    before = {
        one["metadata"]["name"]: one["metadata"]["uid"] for one in space.listed("Secret", "demo")
    }
    operator.start()
    space.until_settled("demo")
    after = {
        one["metadata"]["name"]: one["metadata"]["uid"] for one in space.listed("Secret", "demo")
    }
    assert before.items() <= after.items()


def test_an_operator_that_is_killed_during_a_rollout_finishes_it(
    operator: OperatorProcess, space: Space, kubelet: FakeKubelet
) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    old = space.pod_uids("demo", "edge")
    kubelet.hold_starts(space.name)
    space.put("demo", spec_of(image="registry.example/tidegate:2"))
    space.wait(lambda: space.pod_uids("demo", "edge") - old, "a new edge waits")
    operator.kill()
    kubelet.release_starts(space.name)
    # The rollout is Kubernetes' own: it goes on.
    space.wait(lambda: not old & space.pod_uids("demo", "edge"), "all edges are new")
    mark = operator.plane.audit.mark()
    operator.start()
    status = space.until_settled("demo")["status"]
    assert status["edges"]["updated"] == 2
    written = operator.plane.audit.writes(mark, user=operator.user, namespace=space.name)
    # The store is last, and left to the operator that is there then.
    others = {"mqttbrokers/status", "events", "pods", "statefulsets"}
    assert {one.split()[1] for one in written} <= others


def test_a_token_that_has_ended_is_replaced(operator: OperatorProcess, space: Space) -> None:
    api, account = operator.plane.api, operator.account
    there = api.get("ServiceAccount", account, operator.namespace)
    assert there is not None
    keep = ("name", "namespace", "labels", "annotations")
    metadata = {key: value for key, value in there["metadata"].items() if key in keep}
    # Another account of the same name: what was issued to the old one is not accepted any more.
    api.delete("ServiceAccount", account, operator.namespace)
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    operator.log_in()
    space.put("demo", spec_of())
    space.until_settled("demo")


def test_an_api_server_that_is_restarted_is_found_again(
    operator: OperatorProcess, space: Space, plane: ControlPlane
) -> None:
    space.put("demo", spec_of())
    space.until_settled("demo")
    plane.restart_api_server()
    space.put("demo", spec_of(edge={"replicas": 3}))
    space.put("other", spec_of())
    space.until_settled("demo")
    space.until_settled("other")
    # What was watched is watched again.
    space.api.delete("PodDisruptionBudget", "demo-edge", space.name)
    space.wait(
        lambda: space.api.get("PodDisruptionBudget", "demo-edge", space.name), "it is there again"
    )
    # kopf says so as an error; nothing of ours does.
    operator.check(allowed="will retry: GET", forbidden=True)
