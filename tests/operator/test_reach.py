"""A change reaches running pods and is confirmed by each; edges are told to even out."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import yaml

from support.brokers import DAY, NOW, spec_of
from support.operator_harness import Harness, harness
from tidegate_operator import names
from tidegate_operator.live_state import pods
from tidegate_operator.pods.config_state import UNAUTHORIZED, UNREACHABLE, PodReport, ReportedFile
from tidegate_operator.reconcile.interval import PROGRESSING_S


def message(it: Harness, kind: str) -> str:
    return next(str(one["message"]) for one in it.status["conditions"] if one["type"] == kind)


async def changed_limits() -> tuple[Harness, PodReport]:
    """A broker whose limits have just been changed, and what its first edge said before."""
    it = await harness()
    await it.settle()
    (edge, *_) = (one for one in pods(it.cluster.pods_there, NOW) if one.component == "edge")
    before = it.admin.usual(edge)
    it.put_spec(spec_of(limits={"maxInFlight": 10}))
    it.fake.writes.clear()
    it.pass_time(60)
    return it, before


async def test_a_setting_that_is_taken_up_reaches_pods_without_a_restart() -> None:
    it, before = await changed_limits()
    hashes = it.hashes()
    it.admin.answers["demo-edge-0"] = before
    outcome = await it.reconcile()
    assert it.fake.writes == [("apply", "ConfigMap", f"demo-{one}") for one in ("router", "edge")]
    assert it.hashes() == hashes
    assert outcome.requeue_after_s == PROGRESSING_S
    assert it.conditions()["ConfigApplied"] == ("False", "Applying")
    expected = (
        "3 of 4 pods use the newest configuration; demo-edge-0 still uses the old configuration."
    )
    assert message(it, "ConfigApplied") == expected
    assert it.status["edges"]["configured"] == 1
    # What was written just now may not have come to all kubelets yet.
    assert it.cluster.told == []
    it.pass_time(2)
    await it.reconcile()
    assert [name for name, _ in it.cluster.told] == ["demo-edge-0"]
    del it.admin.answers["demo-edge-0"]
    it.pass_time(2)
    await it.reconcile()
    assert it.conditions()["ConfigApplied"] == ("True", "Applied")
    assert message(it, "ConfigApplied") == "4 of 4 pods use the newest configuration."
    assert len(it.cluster.told) == 1


async def test_a_pod_is_told_once_for_each_configuration() -> None:
    it, before = await changed_limits()
    it.admin.answers["demo-edge-0"] = before
    for _ in range(5):
        await it.reconcile()
        it.pass_time(2)
    assert len(it.cluster.told) == 1
    # An operator that starts anew finds it on the pod.
    it.start_anew()
    for _ in range(3):
        await it.reconcile()
        it.pass_time(2)
    assert len(it.cluster.told) == 1
    it.put_spec(spec_of(limits={"maxInFlight": 11}))
    for _ in range(3):
        await it.reconcile()
        it.pass_time(2)
    assert [name for name, _ in it.cluster.told] == ["demo-edge-0"] * 2


@pytest.mark.parametrize("status", [403, 404, 409, 422])
async def test_a_pod_that_cannot_be_told_holds_nothing_up(status: int) -> None:
    it, before = await changed_limits()
    it.admin.answers["demo-edge-0"] = before
    it.cluster.pod_refusal = status
    await it.reconcile()
    it.pass_time(2)
    assert (await it.reconcile()).requeue_after_s == PROGRESSING_S
    reads = it.cluster.reads
    it.pass_time(2)
    await it.reconcile()
    # The broker, its objects, its pods: it is not tried again.
    assert it.cluster.reads == reads + 3


async def test_nobody_is_told_anything_while_a_broker_is_paused() -> None:
    it, before = await changed_limits()
    it.admin.answers["demo-edge-0"] = before
    await it.reconcile()
    it.put_spec(spec_of(paused=True, limits={"maxInFlight": 10}))
    for _ in range(3):
        it.pass_time(31)
        await it.reconcile()
    assert it.cluster.told == []


async def test_one_answer_that_does_not_come_is_no_news() -> None:
    """A slow moment of a pod, or of the network, takes nothing back that it has said."""
    it = await harness()
    await it.settle()
    it.admin.connections = 5
    it.admin.answers["demo-edge-0"] = UNREACHABLE
    writes = it.cluster.status_writes
    for _ in range(3):
        it.pass_time(31)
        await it.reconcile()
        assert it.conditions()["ConfigApplied"] == ("True", "Applied")
    assert it.cluster.status_writes == writes + 1  # the number of clients
    it.pass_time(31)
    await it.reconcile()
    assert "demo-edge-0 does not respond to the operator" in message(it, "ConfigApplied")
    del it.admin.answers["demo-edge-0"]
    it.pass_time(11)
    await it.reconcile()
    assert it.conditions()["ConfigApplied"] == ("True", "Applied")


async def test_a_silent_pod_is_named_when_something_else_is_wanted() -> None:
    it, _ = await changed_limits()
    it.admin.answers["demo-edge-0"] = UNREACHABLE
    await it.reconcile()
    assert "demo-edge-0 does not respond to the operator" in message(it, "ConfigApplied")
    it.pass_time(2)
    await it.reconcile()
    assert [name for name, _ in it.cluster.told] == ["demo-edge-0"]


async def test_a_pod_that_has_come_since_is_not_told_before_it_has_said_anything() -> None:
    """It has started with what is newest."""
    it = await harness()
    it.admin.answers["demo-edge-0"] = UNREACHABLE
    await it.settle()
    for _ in range(3):
        it.pass_time(2)
        await it.reconcile()
    assert "demo-edge-0 does not respond to the operator" in message(it, "ConfigApplied")
    assert it.cluster.told == []


async def test_many_pods_are_told_in_several_goes() -> None:
    it = await harness(edge={"replicas": 70})
    await it.settle()
    for one in it.cluster.pods_there:
        it.admin.answers[one["metadata"]["name"]] = UNAUTHORIZED
    it.pass_time(60)
    told = []
    for _ in range(3):
        await it.reconcile()
        told.append(len(it.cluster.told))
        it.pass_time(2)
    assert told == [50, 72, 72]


async def test_only_pods_that_lag_behind_are_asked_often() -> None:
    it, before = await changed_limits()
    it.admin.answers["demo-edge-0"] = before
    it.admin.rounds.clear()
    for _ in range(3):
        await it.reconcile()
        it.pass_time(2)
    assert len(it.admin.rounds[0]) == 4
    assert it.admin.rounds[1:] == [["demo-edge-0"]] * 2
    it.pass_time(30)
    await it.reconcile()
    assert len(it.admin.rounds[-1]) == 4


async def test_pods_that_are_to_be_replaced_are_not_asked_often() -> None:
    it = await harness()
    await it.settle()
    it.put_spec(spec_of(link={"heartbeatSeconds": 2}))
    it.pass_time(60)
    it.admin.rounds.clear()
    for _ in range(5):
        await it.reconcile()
        it.pass_time(2)
    assert [len(one) for one in it.admin.rounds] == [4]
    assert message(it, "ConfigApplied").startswith(
        "0 of 4 pods use the newest configuration; demo-edge-0 waits for its replacement; "
    )
    assert it.cluster.told == []
    it.make_ready()
    await it.reconcile()
    assert it.conditions()["ConfigApplied"] == ("True", "Applied")


async def test_pods_are_asked_often_after_a_change_and_less_later() -> None:
    it, before = await changed_limits()
    it.admin.answers["demo-edge-0"] = before
    it.admin.rounds.clear()
    await it.reconcile()
    for _ in range(4):
        # Whatever happens in the cluster is a reason to look, and none to ask again.
        await it.reconcile()
    assert len(it.admin.rounds) == 1
    it.pass_time(2)
    await it.reconcile()
    assert len(it.admin.rounds) == 2
    it.pass_time(130)
    outcome = await it.reconcile()
    # The longer nothing has changed, the later.
    assert 10 < (outcome.requeue_after_s or 0) < 15
    it.pass_time(5)
    await it.reconcile()
    assert len(it.admin.rounds) == 3
    it.pass_time(5)
    await it.reconcile()
    assert len(it.admin.rounds) == 4


async def test_a_pod_that_cannot_use_its_configuration_for_long_is_a_fault() -> None:
    it, before = await changed_limits()
    assert before.config is not None
    problem = dataclasses.replace(
        before.config, config=ReportedFile("0" * 16, "limits.max_in_flight: expected a number.")
    )
    it.admin.answers["demo-edge-1"] = dataclasses.replace(before, config=problem)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert "demo-edge-1 rejects it: limits.max_in_flight: expected" in message(it, "ConfigApplied")
    it.pass_time(91)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "ConfigRejected")
    assert it.cluster.events[-1][:2] == ("Warning", "ConfigRejected")
    assert it.conditions()["Ready"] == ("True", "Serving")
    del it.admin.answers["demo-edge-1"]
    it.pass_time(10)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert it.conditions()["ConfigApplied"] == ("True", "Applied")


async def test_new_certificates_are_confirmed_too() -> None:
    it = await harness("headline")
    await it.settle()
    (edge, *_) = (one for one in pods(it.cluster.pods_there, NOW) if one.component == "edge")
    it.admin.answers["demo-edge-0"] = it.admin.usual(edge)
    it.now = NOW + 61 * DAY
    await it.reconcile()
    assert message(it, "ConfigApplied") == (
        "3 of 4 pods use the newest configuration; demo-edge-0 still uses the old link.crt, "
        "link.key, listener.mqtt.crt, listener.mqtt.key."
    )


async def test_pods_that_are_over_are_not_waited_for() -> None:
    it = await harness()
    await it.settle()
    evicted = copy.deepcopy(it.cluster.pods_there[0])
    evicted["metadata"] |= {"name": "demo-edge-evicted", "uid": "another"}
    evicted["status"] = {"phase": "Failed", "reason": "Evicted"}
    it.cluster.pods_there.append(evicted)
    it.pass_time(60)
    await it.reconcile()
    assert it.conditions()["ConfigApplied"] == ("True", "Applied")


async def test_a_longer_deadline_waits_for_pods_that_have_the_time_for_it() -> None:
    it = await harness()
    await it.settle()
    it.put_spec(spec_of(edge={"drain": {"deadlineSeconds": 300}}))

    async def deadline() -> float:
        await it.reconcile()
        text = it.fake.get("ConfigMap", "demo-edge")["data"][names.CONFIG_FILE]
        found: float = yaml.safe_load(text)["drain"]["deadline_s"]
        return found

    assert await deadline() == 75
    it.make_ready()
    assert await deadline() == 300


# Evening out


async def uneven(**rebalance: Any) -> Harness:
    it = await harness(edge={"replicas": 3, "rebalance": {"enabled": True} | rebalance})
    await it.settle()
    it.admin.clients = {"demo-edge-0": 3000, "demo-edge-1": 3000, "demo-edge-2": 0}
    return it


async def test_edges_with_far_too_many_clients_let_some_go() -> None:
    it = await uneven()
    for _ in range(2):
        it.pass_time(30)
        assert (await it.reconcile()).requeue_after_s == 30
    assert it.admin.shedding == [("demo-edge-0", 1000), ("demo-edge-1", 1000)]
    kind, reason, text = it.cluster.events[-1]
    assert (kind, reason) == ("Normal", "Rebalancing")
    assert "demo-edge-0 disconnects 1000 clients" in text
    it.admin.clients = dict.fromkeys(it.admin.clients, 2000)
    for _ in range(9):
        it.pass_time(30)
        await it.reconcile()
    assert len(it.admin.shedding) == 2


async def test_edges_that_become_ready_are_stable_from_then_on() -> None:
    it = await uneven()
    edge = next(one for one in it.cluster.pods_there if one["metadata"]["name"] == "demo-edge-1")
    (ready,) = edge["status"]["conditions"]
    ready["status"] = "False"
    for _ in range(4):
        it.pass_time(30)
        await it.reconcile()
    assert it.admin.shedding == []
    ready["status"] = "True"
    for _ in range(3):
        it.pass_time(30)
        await it.reconcile()
    assert it.admin.shedding


async def test_rounds_are_apart_and_become_rare_when_they_do_not_help() -> None:
    it = await uneven()
    rounds = []
    for second in range(0, 1500, 30):
        it.pass_time(30)
        before = len(it.admin.shedding)
        await it.reconcile()
        if len(it.admin.shedding) > before:
            rounds.append(second + 30)
    assert rounds == [60, 120, 240, 480, 960]


async def test_nothing_is_evened_out_before_all_edges_have_been_there_for_a_while() -> None:
    it = await uneven(stabilizationSeconds=100)
    it.pass_time(90)
    await it.reconcile()
    names_of = {one["metadata"]["name"]: one for one in it.cluster.pods_there}
    names_of["demo-edge-1"]["metadata"]["uid"] = "another"
    for seconds in (30, 60):
        it.pass_time(seconds)
        await it.reconcile()
    assert it.admin.shedding == []
    it.pass_time(60)
    await it.reconcile()
    assert it.admin.shedding


@pytest.mark.parametrize("change", ["off", "paused", "silent", "small", "rolling", "old"])
async def test_edges_keep_their_clients_when_it_is_not_sure_or_not_wanted(change: str) -> None:
    it = await uneven()
    spec: dict[str, Any] = {"replicas": 3, "rebalance": {"enabled": True}}
    if change == "off":
        it.put_spec(spec_of(edge={"replicas": 3}))
    if change == "paused":
        it.put_spec(spec_of(edge=spec, paused=True))
    if change == "silent":
        it.admin.answers["demo-edge-2"] = UNREACHABLE
    if change == "small":
        it.admin.clients = {"demo-edge-0": 140, "demo-edge-1": 0, "demo-edge-2": 0}
    if change == "rolling":
        it.fake.get("Deployment", "demo-edge")["status"]["updatedReplicas"] = 2
    if change == "old":
        it.admin.can_shed = False
    for _ in range(6):
        it.pass_time(30)
        await it.reconcile()
    assert bool(it.admin.shedding) == (change == "old")
    assert "Rebalancing" not in [reason for _, reason, _ in it.cluster.events]


async def test_no_edge_lets_more_go_than_are_gone_before_the_next_round() -> None:
    it = await harness(edge={"replicas": 2, "drain": {"rate": 5}, "rebalance": {"enabled": True}})
    await it.settle()
    it.admin.clients = {"demo-edge-0": 9000}
    it.pass_time(60)
    await it.reconcile()
    assert it.admin.shedding == [("demo-edge-0", 300)]
