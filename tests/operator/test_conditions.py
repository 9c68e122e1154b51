"""The status: what is true of a broker, why, and what to do about it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.brokers import DAY, NOW, pair, spec_of
from tidegate_operator.live_state import (
    Addresses,
    CreationFailure,
    Pod,
    Workload,
    addresses,
    pods,
    template_hash,
    workload,
)
from tidegate_operator.names import CONFIGURATION, RESTART_HASH
from tidegate_operator.plan import ObjectRef
from tidegate_operator.pods.config_state import Outdated
from tidegate_operator.secrets.certificates import certificate_info
from tidegate_operator.secrets.references import Fault, Problem
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.problems import parse
from tidegate_operator.spec.status import Reason
from tidegate_operator.status.broker_state import BrokerState
from tidegate_operator.status.conditions import PATIENCE, status

DOCUMENT = Path(__file__).parents[2] / "docs" / "kubernetes.md"
FULL = Workload(desired=2, ready=2, updated=2, total=2, is_current=True, exists=True)
NONE = Workload()
HASHES = {"edge": "e", "router": "r"}


def spec(**changes: Any) -> MqttBrokerSpec:
    return parse("demo", spec_of(**changes))


def pod(name: str, component: str = "edge", **changes: Any) -> Pod:
    values: dict[str, Any] = {
        "name": name,
        "component": component,
        "restart_hash": HASHES.get(component, ""),
        "is_ready": True,
        "is_terminating": False,
        "failure": "",
    }
    return Pod(**(values | changes))


def healthy(**changes: Any) -> BrokerState:
    """A broker that is as it should be, with some changes."""
    values: dict[str, Any] = {
        "name": "demo",
        "generation": 3,
        "spec": spec(acl={"rules": "topic read #\n"}),
        "edges": FULL,
        "routers": FULL,
        "redis": Workload(1, 1, 1, 1, is_current=True, exists=True),
        "pods": [pod("e1"), pod("e2"), pod("r1", "router"), pod("s", "redis")],
        "addresses": [Addresses("demo", "cluster", ("demo.iot.svc",), (("mqtt", 1883),))],
    }
    return BrokerState(**(values | changes))


def conditions(state: BrokerState) -> dict[str, tuple[str, str, str]]:
    found = status(state, None, NOW)["conditions"]
    return {one["type"]: (one["status"], one["reason"], one["message"]) for one in found}


def reasons(state: BrokerState) -> dict[str, tuple[str, str]]:
    return {kind: found[:2] for kind, found in conditions(state).items()}


def test_a_broker_that_is_well() -> None:
    assert conditions(healthy()) == {
        "Ready": ("True", "Serving", "2 of 2 edges and 2 of 2 routers are ready."),
        "Progressing": ("False", "Complete", "All rollouts are complete."),
        "Degraded": ("False", "AsExpected", "No problems found."),
        "CertificatesReady": ("True", "NotNeeded", "No listener uses TLS."),
        "ConfigApplied": ("True", "Applied", "3 of 3 pods use the newest configuration."),
        "Reconciling": ("False", "Complete", "The newest spec is in use."),
        "Stalled": ("False", "AsExpected", "Nothing has to be corrected."),
    }


def test_what_is_not_protected_is_said() -> None:
    words = "No ACL is in force (spec.acl is not set): clients may use every topic."
    assert words in conditions(healthy(spec=spec()))["Ready"][2]
    assert words not in conditions(healthy())["Ready"][2]


def test_listeners_with_rules_of_their_own_are_not_called_open() -> None:
    own = {"name": "a", "acl": {"rules": "topic read #\n"}}
    all_own = spec(listeners=[own])
    assert "No ACL" not in conditions(healthy(spec=all_own))["Ready"][2]
    both = spec(listeners=[own, {"name": "b", "port": 1884}])
    words = "No ACL is in force for listener b (spec.acl is not set): its clients may use every"
    assert words in conditions(healthy(spec=both))["Ready"][2]
    # Rules that edges mount count, and not those that the spec has.
    assert words in conditions(healthy(spec=both, unprotected=["b"]))["Ready"][2]
    assert "No ACL" not in conditions(healthy(spec=both, unprotected=[]))["Ready"][2]


def test_the_rest_of_the_status() -> None:
    state = healthy(connections=17)
    found = status(state, None, NOW)
    assert found["observedGeneration"] == 3
    assert found["address"] == "demo.iot.svc:1883"
    assert found["connections"] == 17
    assert found["listeners"] == [
        {
            "name": "mqtt",
            "protocol": "tcp",
            "service": "demo",
            "port": 1883,
            "addresses": ["demo.iot.svc"],
        }
    ]
    assert found["edges"] == {
        "desired": 2,
        "ready": 2,
        "updated": 2,
        "configured": 2,
        "selector": "app.kubernetes.io/component=edge,app.kubernetes.io/instance=demo,"
        "app.kubernetes.io/name=tidegate",
    }
    assert "connections" not in status(healthy(), None, NOW)


# Ready


@pytest.mark.parametrize(
    ("changes", "state", "reason", "words"),
    [
        ({"edges": NONE}, "False", "EdgesNotReady", "0 of 0 edges"),
        ({"routers": NONE}, "False", "RoutersNotReady", "0 of 0 routers are ready."),
        (
            {"routers": NONE, "redis": None},
            "False",
            "RoutersNotReady",
            "check spec.redis.external",
        ),
        ({"redis": NONE}, "False", "StoreNotReady", "The bundled store is not ready;"),
        (
            {"redis": NONE, "pods": [pod("s", "redis", failure="unschedulable: full")]},
            "False",
            "StoreNotReady",
            "(pod s: unschedulable: full)",
        ),
        (
            {"edges": Workload(exists=True, is_current=True)},
            "False",
            "ScaledToZero",
            "spec.edge.replicas is 0",
        ),
        (
            {"addresses": [Addresses("demo", "load balancer", (), (("mqtt", 443),))]},
            "False",
            "AddressPending",
            "describe service",
        ),
        (
            {"edges": Workload(3, 1, 3, 3, is_current=True, exists=True)},
            "True",
            "Serving",
            "1 of 3 edges",
        ),
        ({"redis": None}, "True", "Serving", "2 of 2"),
    ],
)
def test_ready_is_about_what_serves(
    changes: dict[str, Any], state: str, reason: str, words: str
) -> None:
    found = conditions(healthy(**changes))["Ready"]
    assert found[:2] == (state, reason)
    assert words in found[2]


def test_listeners_that_nobody_can_use_are_named() -> None:
    listeners = [
        {"name": "a"},
        {"name": "b", "port": 1884, "allowAnonymous": True},
        {
            "name": "c",
            "protocol": "tls",
            "tls": {
                "selfSigned": True,
                "clientCa": {"secretName": "ca"},
                "clientCertificates": "required",
                "identityAsUsername": "cn",
            },
        },
        {"name": "d", "port": 1885, "passwords": {"secretName": "users"}},
    ]
    found = conditions(healthy(spec=spec(listeners=listeners, auth={})))["Ready"]
    assert found[1] == "Serving"
    assert "No client can connect to listener a: " in found[2]
    with_users = spec(listeners=listeners, auth={"passwords": {"secretName": "users"}})
    assert "No client" not in conditions(healthy(spec=with_users))["Ready"][2]


# What is not applied


def problem(
    failure: Fault = Fault.MISSING, *, blocking: bool = True, is_certificate: bool = True
) -> Problem:
    return Problem(failure, "spec.x: something is wrong", blocking, is_certificate)


BLOCKED: Sequence[tuple[dict[str, Any], str]] = [
    ({"spec": None, "spec_problems": ["spec.x: is wrong"]}, "InvalidSpec"),
    ({"foreign": [ObjectRef("v1", "Secret", "demo-edge")]}, "NameTaken"),
    ({"reference_problems": [problem()]}, "ReferenceMissing"),
    ({"reference_problems": [problem(Fault.INVALID)]}, "ReferenceInvalid"),
    ({"apply_error": "Deployment demo-edge: spec.x: unknown"}, "ApplyRefused"),
]


@pytest.mark.parametrize(("changes", "reason"), BLOCKED)
def test_what_cannot_be_applied_leaves_what_runs_alone(
    changes: dict[str, Any], reason: str
) -> None:
    found = conditions(healthy(**changes))
    assert found["Ready"][:2] == ("True", "Serving")
    assert found["Progressing"][:2] == ("False", "Complete")
    assert found["Degraded"][:2] == ("True", reason)
    assert found["ConfigApplied"][:2] == ("False", reason)
    assert found["Degraded"][2].endswith("Running pods are unchanged.")
    assert found["Stalled"] == found["Degraded"]
    assert found["Reconciling"][:2] == ("False", reason)
    assert f"The newest spec is not in use ({reason})" in found["Ready"][2]


@pytest.mark.parametrize(("changes", "reason"), BLOCKED)
def test_ready_is_of_the_newest_spec_that_was_not_refused(
    changes: dict[str, Any], reason: str
) -> None:
    """``kubectl wait`` compares it with the resource's generation."""
    before = status(healthy(), None, NOW)
    found = status(healthy(generation=4, **changes), before, NOW)
    generations = {one["type"]: one["observedGeneration"] for one in found["conditions"]}
    assert generations.pop("Ready") == 3
    assert set(generations.values()) == {found["observedGeneration"]} == {4}
    # An operator that has never seen another spec.
    first = status(healthy(generation=4, **changes), None, NOW)
    assert first["conditions"][0]["observedGeneration"] == 0


@pytest.mark.parametrize(("changes", "reason"), BLOCKED)
def test_a_new_broker_that_cannot_be_made_does_not_progress(
    changes: dict[str, Any], reason: str
) -> None:
    nothing = {"edges": NONE, "routers": NONE, "redis": NONE, "pods": []}
    found = conditions(healthy(**nothing, **changes))
    assert found["Progressing"][:2] == ("False", reason)
    assert "unchanged" not in found["Degraded"][2]
    assert found["Ready"][:2] == ("False", reason)
    assert found["Ready"][2].startswith("No pods have been created. ")
    # A Secret that is missing from the start often comes by itself.
    waits = reason == "ReferenceMissing"
    assert found["Stalled"][0] == ("False" if waits else "True")
    assert found["Reconciling"][0] == ("True" if waits else "False")
    # Beside a problem, no condition says that there is none.
    assert "Nothing has to be corrected" not in found["Stalled"][2]


def test_many_problems_are_counted() -> None:
    found = conditions(healthy(spec=None, spec_problems=[f"p{n}" for n in range(5)]))
    assert "p0; p1; p2 (and 2 more)" in found["Degraded"][2]


def test_a_bad_spec_keeps_the_listeners_that_run() -> None:
    before = status(healthy(), None, NOW)
    after = status(healthy(spec=None, spec_problems=["x"]), before, NOW)
    assert after["listeners"] == before["listeners"]
    assert reasons(healthy(spec=None, spec_problems=["x"]))["CertificatesReady"] == (
        "Unknown",
        "InvalidSpec",
    )


def test_a_first_certificate_that_is_on_its_way_is_no_fault() -> None:
    nothing = {"edges": NONE, "routers": NONE, "redis": NONE, "pods": []}
    found = reasons(healthy(reference_problems=[problem(Fault.PENDING)], **nothing))
    assert found["Progressing"] == ("True", "WaitingForCertificates")
    assert found["Degraded"] == ("False", "AsExpected")
    assert found["CertificatesReady"] == ("False", "Pending")


def test_what_is_broken_and_still_in_use_is_a_fault_that_blocks_nothing() -> None:
    found = reasons(healthy(reference_problems=[problem(Fault.INVALID, blocking=False)]))
    assert found["Degraded"] == ("True", "ReferenceInvalid")
    # What the spec says is not in use.
    assert found["ConfigApplied"] == ("False", "ReferenceInvalid")
    assert found["Stalled"] == ("True", "ReferenceInvalid")
    assert found["Ready"] == ("True", "Serving")
    found = reasons(healthy(reference_problems=[problem(blocking=False)]))
    assert found["Degraded"] == ("True", "ReferenceMissing")
    assert found["ConfigApplied"] == ("False", "ReferenceMissing")


def test_fields_that_were_dropped_are_named() -> None:
    found = conditions(healthy(dropped=["spec.acls: unknown key"]))
    for condition, value in (("Degraded", "True"), ("ConfigApplied", "False")):
        assert found[condition][:2] == (value, "FieldsDropped")
        assert "spec.acls: unknown key" in found[condition][2]
    assert found["Stalled"][:2] == ("True", "FieldsDropped")
    assert found["Ready"][:2] == ("True", "Serving")


def test_an_address_is_kept_while_the_spec_is_invalid() -> None:
    before = status(healthy(), None, NOW)
    gone = {"spec": None, "spec_problems": ["x"], "addresses": ()}
    assert status(healthy(**gone), before, NOW)["address"] == "demo.iot.svc:1883"
    assert status(healthy(addresses=()), before, NOW)["address"] == ""


def test_a_broker_that_is_not_ready_is_not_called_faultless() -> None:
    found = conditions(healthy(routers=Workload(2, 0, 2, 2, is_current=True, exists=True)))
    assert found["Ready"][1] == "RoutersNotReady"
    assert found["Degraded"][:2] == ("False", "AsExpected")
    assert "not ready: see Ready (RoutersNotReady)" in found["Degraded"][2]
    none = conditions(healthy(edges=Workload(exists=True, is_current=True)))
    assert none["Degraded"][2] == "No problems found."


def test_paused() -> None:
    found = reasons(healthy(spec=spec(paused=True)))
    assert found["Progressing"] == ("False", "Paused")
    assert found["Reconciling"] == ("False", "Paused")
    nothing = {"edges": NONE, "routers": NONE, "redis": NONE, "pods": []}
    assert reasons(healthy(spec=spec(paused=True), **nothing))["Ready"] == ("False", "Paused")
    assert found["ConfigApplied"] == ("Unknown", "Paused")
    assert found["Ready"] == ("True", "Serving")


# Pods and rollouts


def test_a_rollout_progresses_until_the_old_pods_have_gone() -> None:
    for rolling in (
        Workload(2, 2, 1, 3, is_current=True, exists=True),
        Workload(2, 2, 2, 3, is_current=True, exists=True),
        Workload(2, 2, 2, 2, is_current=False, exists=True),
        NONE,
    ):
        found = conditions(healthy(edges=rolling))["Progressing"]
        assert found[:2] == ("True", "RollingOut")
        assert found[2].startswith("Rolling out edges")
        assert conditions(healthy(edges=rolling))["Reconciling"] == found


def test_a_rollout_that_stands_still_is_said() -> None:
    stuck = Workload(2, 1, 1, 3, is_current=True, is_stuck=True, exists=True)
    found = conditions(healthy(edges=stuck))
    assert found["Progressing"][:2] == ("False", "DeadlineExceeded")
    assert found["Degraded"][:2] == ("True", "DeadlineExceeded")
    assert found["Stalled"][:2] == ("True", "DeadlineExceeded")
    assert reasons(healthy(edges=replace(stuck, is_stuck=False)))["Stalled"][0] == "False"
    failing = healthy(edges=stuck, pods=[pod("e3", is_ready=False, failure="crash looping: x")])
    assert "pod e3: crash looping: x" in conditions(failing)["Progressing"][2]
    assert conditions(failing)["Degraded"][:2] == ("True", "PodsFailing")


def test_a_store_that_is_kept_is_said_to_be() -> None:
    kept = "the bundled store is kept"
    found = conditions(healthy(redis=None, keeps_store=True))["Progressing"]
    assert found[:2] == ("True", "RollingOut")
    assert kept in found[2]
    stuck = Workload(2, 2, 1, 3, is_current=True, is_stuck=True, exists=True)
    found = conditions(healthy(redis=None, keeps_store=True, routers=stuck))["Progressing"]
    assert found[:2] == ("False", "DeadlineExceeded")
    assert kept in found[2]
    # What is not carried out does not progress.
    missing = healthy(redis=None, keeps_store=True, reference_problems=[problem()])
    assert reasons(missing)["Progressing"] == ("False", "Complete")


def test_what_keeps_pods_away_is_said() -> None:
    away = Workload(3, 2, 2, 2, is_current=True, exists=True, failure="exceeded quota: few")
    found = conditions(healthy(edges=away))
    assert found["Degraded"][:2] == ("True", "PodsFailing")
    assert "edges: exceeded quota: few" in found["Degraded"][2]
    none = Workload(3, 0, 0, 0, is_current=True, exists=True, failure="exceeded quota: few")
    assert "(exceeded quota: few)" in conditions(healthy(edges=none))["Ready"][2]
    stuck = Workload(3, 2, 2, 2, is_current=True, is_stuck=True, exists=True, failure="quota")
    assert "edges: quota" in conditions(healthy(edges=stuck))["Progressing"][2]


def test_what_keeps_pods_away_for_a_moment_is_not_said() -> None:
    since = NOW - PATIENCE + datetime.timedelta(seconds=1)
    away = Workload(3, 2, 2, 2, is_current=True, exists=True, failure="x", failure_since=since)
    assert reasons(healthy(edges=away))["Degraded"] == ("False", "AsExpected")
    long = replace(away, failure_since=NOW - PATIENCE)
    assert reasons(healthy(edges=long))["Degraded"] == ("True", "PodsFailing")


NO_CLASS = 'pods "demo-redis-0" is forbidden: no PriorityClass with name nowhere was found'
NO_ACCOUNT = 'pods "demo-redis-0" is forbidden: error looking up service account iot/x'


@pytest.mark.parametrize(
    ("text", "age_s", "seconds", "is_named", "is_degraded"),
    [
        # No retry helps: it is named with the first look that knows of it.
        (NO_CLASS, 0, 1, True, True),
        # It may have been made a moment ago.
        (NO_ACCOUNT, 0, 1, False, False),
        (NO_ACCOUNT, 0, 5, True, True),
        # Of an earlier failure.
        (NO_CLASS, 60, 1, False, False),
        (NO_CLASS, 60, 5, False, True),
    ],
)
def test_why_the_store_has_no_pod_is_what_its_statefulset_has_said(
    text: str, age_s: int, seconds: int, is_named: bool, is_degraded: bool
) -> None:
    state = healthy(
        redis=Workload(1, 0, 0, 0, is_current=True, exists=True),
        pods=[pod("e1"), pod("e2"), pod("r1", "router")],
        creation_failure=CreationFailure(text, NOW - datetime.timedelta(seconds=age_s)),
    )
    first = status(state, None, NOW)
    later = status(state, first, NOW + datetime.timedelta(seconds=seconds))
    (found,) = (one for one in later["conditions"] if one["type"] == "Degraded")
    assert (found["status"] == "True") == is_degraded
    assert (text in found["message"]) == is_named
    assert ("kubectl describe" in found["message"]) == (is_degraded and not is_named)


def test_what_an_event_of_a_statefulset_says() -> None:
    message = f"create Pod demo-redis-0 in StatefulSet demo-redis failed error: {NO_CLASS}"
    event = {"message": message, "lastTimestamp": NOW.isoformat()}
    assert CreationFailure.of(event) == CreationFailure(NO_CLASS, NOW)
    assert CreationFailure.of({"message": "other"}) == CreationFailure("other", None)


def test_a_store_whose_pod_cannot_be_made_is_said() -> None:
    """Its StatefulSet does not say why, as a Deployment does: a quota, a missing PriorityClass."""
    empty = Workload(1, 0, 0, 0, is_current=True, exists=True)
    state = healthy(redis=empty, pods=[pod("e1"), pod("e2"), pod("r1", "router")])
    first = status(state, None, NOW)
    later = {
        seconds: {
            one["type"]: one
            for one in status(state, first, NOW + datetime.timedelta(seconds=seconds))["conditions"]
        }
        for seconds in (1, PATIENCE.total_seconds())
    }
    # A pod that is replaced is away for a moment.
    assert later[1]["Degraded"]["status"] == "False"
    found = later[PATIENCE.total_seconds()]
    assert (found["Degraded"]["status"], found["Degraded"]["reason"]) == ("True", "PodsFailing")
    for kind in ("Degraded", "Ready"):
        assert "StatefulSet demo-redis makes no pod" in found[kind]["message"]
    # One that is there, but does not run, says more.
    there = replace(state, pods=[*state.pods, pod("s", "redis", is_ready=False)])
    assert "makes no pod" not in status(there, first, NOW + DAY)["conditions"][2]["message"]


def test_pods_that_end_are_no_trouble() -> None:
    ending = pod("e9", is_ready=False, is_terminating=True, failure="CrashLoopBackOff")
    found = reasons(healthy(pods=[pod("e1"), ending]))
    assert found["Degraded"] == ("False", "AsExpected")
    assert found["ConfigApplied"] == ("True", "Applied")


def test_the_configuration_is_applied_when_every_pod_has_it() -> None:
    outdated = {f"e{n}": Outdated("still uses the old passwords") for n in range(1, 5)}
    outdated["e5"] = Outdated("the port is taken", is_rejected=True)
    edges = [pod(name) for name in outdated]
    it = healthy(pods=[pod("r1", "router"), *edges], outdated=outdated)
    found = conditions(it)["ConfigApplied"]
    assert found == (
        "False",
        "Applying",
        "1 of 6 pods use the newest configuration; e5 rejects it: the port is taken; "
        "e1 still uses the old passwords; e2 still uses the old passwords (and 2 more).",
    )
    counts = status(it, None, NOW)
    assert (counts["edges"]["configured"], counts["routers"]["configured"]) == (0, 1)
    assert reasons(healthy(pods=[]))["ConfigApplied"] == ("False", "NoPods")


def test_the_configuration_is_not_applied_while_old_pods_are_left() -> None:
    for rolling in (
        Workload(2, 2, 2, 2, is_current=False, exists=True),
        Workload(2, 2, 2, 3, is_current=True, exists=True),
    ):
        found = conditions(healthy(edges=rolling))["ConfigApplied"]
        assert found == (
            "False",
            "Applying",
            "3 of 3 pods use the newest configuration; the rollout of edges is in progress.",
        )


@pytest.mark.parametrize(
    ("part", "name"), [("redis", "the store"), ("console", "the console"), ("routers", "routers")]
)
@pytest.mark.parametrize("counts", [(1, 1, 0, 1), (1, 0, 0, 0)], ids=["old pods", "no pods"])
def test_a_part_that_is_not_rolled_out_is_not_applied(
    part: str, name: str, counts: tuple[int, int, int, int]
) -> None:
    """The store and the console, too: their resources, for example, are a part of the spec."""
    rolling = Workload(*counts, is_current=True, exists=True)
    changes = {"spec": spec(console={"enabled": True}), "console": FULL, part: rolling}
    found = conditions(healthy(**changes))
    assert found["ConfigApplied"][:2] == ("False", "Applying")
    assert f"the rollout of {name} is in progress" in found["ConfigApplied"][2]
    assert found["Reconciling"][0] == "True"


def test_a_pod_that_cannot_use_its_configuration_for_long_is_a_fault() -> None:
    outdated = {
        "e1": Outdated("port 1884 is taken", is_rejected=True),
        "e2": Outdated("x", is_rejected=True),
    }
    quick = healthy(outdated=outdated)
    assert reasons(quick)["Degraded"] == ("False", "AsExpected")
    assert reasons(quick)["ConfigApplied"] == ("False", "Applying")
    assert reasons(quick)["Reconciling"] == ("True", "Applying")
    found = conditions(healthy(outdated=outdated, failing=["e1"]))["Degraded"]
    assert found[:2] == ("True", "ConfigRejected")
    assert "e1: port 1884 is taken." in found[2]
    assert "e2" not in found[2]
    assert reasons(healthy(outdated=outdated, failing=["e1"]))["Ready"] == ("True", "Serving")


def test_pods_that_are_being_replaced_may_not_understand_the_newest() -> None:
    rolling = Workload(2, 2, 1, 2, is_current=True, exists=True)
    outdated = {"e1": Outdated("unknown key", is_rejected=True)}
    found = reasons(healthy(edges=rolling, outdated=outdated, failing=["e1"]))
    assert found["Degraded"] == ("False", "AsExpected")


# Certificates


def with_tls(**changes: Any) -> BrokerState:
    listeners = [{"name": "mqtt", "protocol": "tls", "tls": {"secretName": "s"}}]
    certificates = {"mqtt": [certificate_info(pair().certificate)]}
    return healthy(spec=spec(listeners=listeners), certificates=certificates, **changes)


def test_certificates_are_valid() -> None:
    found = conditions(with_tls())["CertificatesReady"]
    assert found == (
        "True",
        "Issued",
        "All certificates are valid. The first expires at 2026-05-30 12:00 UTC.",
    )
    listed = status(with_tls(), None, NOW)["listeners"]
    assert listed[0]["certificateNotAfter"] == "2026-05-30T12:00:00Z"


def test_a_certificate_that_ends_soon_is_said_while_it_still_works() -> None:
    found = status(with_tls(), None, NOW + 84 * DAY)["conditions"][3]
    assert (found["status"], found["reason"]) == ("True", "EndsSoon")
    assert "listener mqtt: certificate CN=broker.example expires at" in found["message"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.INVALID, "Invalid"),
        (Fault.MISSING, "Missing"),
        (Fault.PENDING, "Pending"),
    ],
)
def test_certificates_that_are_not_there(fault: Fault, reason: str) -> None:
    found = reasons(with_tls(reference_problems=[problem(fault, blocking=False)]))
    assert found["CertificatesReady"] == ("False", reason)


def test_other_files_are_not_certificates() -> None:
    other = problem(Fault.INVALID, is_certificate=False)
    assert reasons(with_tls(reference_problems=[other]))["CertificatesReady"] == ("True", "Issued")


# Over time


def test_the_time_of_a_transition_stays_until_there_is_another() -> None:
    first = status(healthy(), None, NOW)
    later = status(healthy(edges=NONE), first, NOW + DAY)
    again = status(healthy(edges=NONE, generation=4), later, NOW + 2 * DAY)
    times = [
        {one["type"]: one["lastTransitionTime"] for one in found["conditions"]}
        for found in (first, later, again)
    ]
    assert times[0]["Ready"] == "2026-03-01T12:00:00Z"
    assert times[1]["Ready"] == times[2]["Ready"] == "2026-03-02T12:00:00Z"
    assert times[1]["CertificatesReady"] == "2026-03-01T12:00:00Z"


def test_the_same_situation_gives_the_same_status() -> None:
    first = status(healthy(), None, NOW)
    assert status(healthy(), first, NOW + DAY) == first


def test_what_is_too_long_for_a_status_is_cut() -> None:
    hosts = tuple(f"192.0.2.{number}" for number in range(40))
    state = healthy(
        apply_error="x" * 9000,
        addresses=[Addresses("demo", "load balancer", hosts, (("mqtt", 443),))],
    )
    found = status(state, None, NOW)
    assert found["listeners"][0]["addresses"] == list(hosts[:32])
    assert max(len(one["message"]) for one in found["conditions"]) == 4096
    assert conditions(state)["Degraded"][2].endswith("x…")


def test_every_reason_is_explained() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for reason in Reason:
        assert f"`{reason.value}`" in text, reason


# What objects say


def deployment(**status_fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "demo-edge", "generation": 2},
        "spec": {
            "replicas": 3,
            "template": {"metadata": {"annotations": {RESTART_HASH: "abc"}}},
        },
        "status": status_fields,
    }


def test_a_deployment_is_read() -> None:
    found = workload(
        deployment(observedGeneration=2, replicas=4, readyReplicas=3, updatedReplicas=2)
    )
    assert found == Workload(3, 3, 2, 4, is_current=True, exists=True)
    assert not found.is_complete
    assert workload(deployment()).is_current is False
    assert workload(None) == NONE
    stuck = {"type": "Progressing", "reason": "ProgressDeadlineExceeded"}
    assert workload(deployment(conditions=[stuck])).is_stuck
    away = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    away |= {"lastTransitionTime": "2026-03-01T12:00:00Z"}
    found = workload(deployment(conditions=[away]))
    assert (found.failure, found.failure_since) == ("exceeded quota", NOW)
    assert workload(deployment(conditions=[away | {"status": "False"}])).failure == ""


def test_the_hash_of_a_template_is_read() -> None:
    assert template_hash(deployment()) == "abc"
    assert template_hash(None) == ""
    assert template_hash({"spec": {"template": {"metadata": {}}}}) == ""


def a_pod(name: str = "p", **status_fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status_fields}


def test_pods_are_read() -> None:
    ready = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]
    found = pods(
        [
            {
                "metadata": {
                    "name": "b",
                    "labels": {"app.kubernetes.io/component": "edge"},
                    "annotations": {RESTART_HASH: "abc", CONFIGURATION: "c"},
                    "uid": "u",
                    "deletionTimestamp": "now",
                },
                "spec": {"terminationGracePeriodSeconds": 90},
                "status": {"conditions": ready, "podIP": "10.0.0.7"},
            },
            {"metadata": {"name": "a"}},
        ],
        NOW,
    )
    assert [one.name for one in found] == ["a", "b"]
    assert found[1] == Pod("b", "edge", "abc", True, True, "", "10.0.0.7", "u", "c", 90)
    assert (found[0].key, found[1].key) == ("a", "u")
    assert found[0].is_ready is False


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {
                        "type": "PodScheduled",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available",
                    },
                ]
            },
            "unschedulable: 0/3 nodes are available",
        ),
        (
            {
                "containerStatuses": [
                    {"state": {"running": {}}},
                    {
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                        "lastState": {"terminated": {"exitCode": 2, "message": "no token"}},
                    },
                ]
            },
            "CrashLoopBackOff: back-off; exit code 2; no token",
        ),
        (
            {"initContainerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]},
            "ErrImagePull",
        ),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
    ],
)
def test_the_trouble_of_a_pod_is_found(fields: dict[str, Any], words: str) -> None:
    (found,) = pods([a_pod(**fields)], NOW)
    assert found.failure == words


def ending(state: dict[str, Any], count: int = 3, code: int = 1, *, ready: bool = False) -> str:
    """Return the trouble of a pod whose container has ended before."""
    last = {"terminated": {"exitCode": code, "message": "no token"}}
    container = {"ready": ready, "restartCount": count, "state": state, "lastState": last}
    (found,) = pods([a_pod(containerStatuses=[container])], NOW)
    return found.failure


def test_a_pod_that_ends_again_and_again_is_in_trouble_between_two_ends_too() -> None:
    """Else a fault would come and go with each end, and be told each time."""
    words = "crash looping: exit code 1; no token"
    assert ending({"running": {"startedAt": "2026-03-01T11:59:58Z"}}) == words
    assert ending({"terminated": {"exitCode": 1, "message": "no token"}}) == words
    assert ending({"waiting": {"reason": "ContainerCreating"}}) == words
    # It runs for long, is ready, was restarted once, or has ended as it should.
    assert ending({"running": {"startedAt": "2026-03-01T11:40:00Z"}}) == ""
    assert ending({"running": {"startedAt": "2026-03-01T11:59:58Z"}}, ready=True) == ""
    assert ending({"running": {"startedAt": "2026-03-01T11:59:58Z"}}, count=1) == ""
    assert ending({"running": {"startedAt": "2026-03-01T11:59:58Z"}}, code=0) == ""


def a_service(service_type: str, ingress: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": "demo"},
        "spec": {
            "type": service_type,
            "ports": [
                {"name": "mqtt", "port": 443, "nodePort": 30443},
                {"name": "theirs", "port": 9},
            ],
        },
        "status": {"loadBalancer": {"ingress": ingress or []}},
    }


def test_addresses_follow_from_the_service() -> None:
    listeners = spec().listeners
    cluster = addresses(a_service("ClusterIP"), "iot", listeners)
    assert cluster.first() == "demo.iot.svc:443"
    assert addresses(a_service("NodePort"), "iot", listeners).first() == "NODE:30443"
    waiting = addresses(a_service("LoadBalancer"), "iot", listeners)
    assert waiting.is_pending
    assert waiting.first() == ""
    for ingress, wanted in (
        ({"hostname": "lb.example", "ip": "192.0.2.1"}, "lb.example:443"),
        ({"ip": "2001:db8::1"}, "[2001:db8::1]:443"),
    ):
        found = addresses(a_service("LoadBalancer", [ingress]), "iot", listeners)
        assert found.first() == wanted
    assert addresses(None, "iot", listeners).first() == ""
    assert addresses(None, "iot", listeners).ports == ()
