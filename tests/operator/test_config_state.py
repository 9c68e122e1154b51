"""Which pods do not have the configuration that is wanted, and why: what their answers mean."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.brokers import pick, rendered, spec_of
from support.fake_pods import usual_report
from tidegate.runtime.config.file_version import digest_of
from tidegate_operator import names
from tidegate_operator.live_state import Pod, template_hash
from tidegate_operator.plan import ObjectRef
from tidegate_operator.pods.config_state import (
    UNAUTHORIZED,
    UNREACHABLE,
    Outdated,
    PodReport,
    PollResult,
    ReportedConfig,
    ReportedFile,
    desired_configs,
    outdated_pods,
    outdated_reason,
    parse_report,
)

MANIFESTS = rendered(spec_of("headline"))
THERE = {ObjectRef.of(one): one for one in MANIFESTS}
HASHES = {
    one: template_hash(pick(MANIFESTS, "Deployment", f"demo-{one}")) for one in ("edge", "router")
}
STANDARD = desired_configs("demo", HASHES, THERE)
EDGE = STANDARD["edge"]
CRT = f"{names.FILES_DIR}/listener.mqtt.crt"


def pod(component: str = "edge", **changes: Any) -> Pod:
    values: dict[str, Any] = {
        "name": f"demo-{component}-1",
        "component": component,
        "restart_hash": HASHES.get(component, ""),
        "is_ready": True,
        "is_terminating": False,
        "failure": "",
        "address": "10.0.0.1",
    }
    return Pod(**(values | changes))


def report(component: str = "edge", **changes: Any) -> ReportedConfig:
    usual = usual_report(
        pick(MANIFESTS, "ConfigMap", f"demo-{component}"),
        pick(MANIFESTS, "Secret", f"demo-{component}"),
    )
    values: dict[str, Any] = {"config": usual.config, "restart_needed": (), "files": usual.files}
    return ReportedConfig(**(values | changes))


def answered(**changes: Any) -> PodReport:
    return PodReport(PollResult.REPORTED, 3, report(**changes))


def files(**changes: ReportedFile) -> dict[str, ReportedFile]:
    return {**report().files, CRT: changes["crt"]}


def test_a_pod_that_uses_everything_as_it_is_in_the_cluster_has_it() -> None:
    assert outdated_reason(pod(), answered(), EDGE) is None
    assert outdated_reason(pod(is_ready=False), answered(), EDGE) is None
    router = PodReport(PollResult.REPORTED, None, report("router"))
    assert outdated_reason(pod("router"), router, STANDARD["router"]) is None


def test_a_digest_is_the_beginning_of_a_sha_256() -> None:
    assert digest_of(b"x") == hashlib.sha256(b"x").hexdigest()[:16]
    text = pick(MANIFESTS, "ConfigMap", "demo-edge")["data"][names.CONFIG_FILE]
    assert EDGE.config == digest_of(text.encode())
    assert set(EDGE.files) >= {"listener.mqtt.crt", "passwords", "admin-token"}


@pytest.mark.parametrize(
    ("one", "answer", "words"),
    [
        (pod(restart_hash="old"), answered(), "waits for its replacement"),
        (pod(failure="CrashLoopBackOff: x."), None, "CrashLoopBackOff: x"),
        (pod(is_ready=False), None, "is starting"),
        (pod(is_ready=False), UNREACHABLE, "is starting"),
        (pod(), None, "has not been polled yet"),
        (pod(), UNREACHABLE, "does not respond to the operator on port 18083"),
        (pod(), UNAUTHORIZED, "does not accept the operator's token yet"),
        (pod(), PodReport(PollResult.REPORTED, 3), "does not report its configuration"),
        (pod(), answered(config=ReportedFile("0" * 16)), "still uses the old configuration"),
        (
            pod(),
            answered(files=files(crt=ReportedFile("0"))),
            "still uses the old listener.mqtt.crt",
        ),
        (
            pod(),
            answered(files={f"{names.FILES_DIR}/gone": ReportedFile("1")}),
            "still uses the old gone",
        ),
    ],
)
def test_a_pod_that_lags_behind_says_why(one: Pod, answer: PodReport | None, words: str) -> None:
    found = outdated_reason(one, answer, EDGE)
    assert found is not None
    assert words in found.text
    assert not found.is_rejected


def test_what_a_pod_cannot_use_comes_before_everything_else_that_it_says() -> None:
    bad = ReportedFile("0" * 16, "the port 1884\nis taken.")
    expected = Outdated("the port 1884 is taken", is_rejected=True, needs_refresh=True)
    assert outdated_reason(pod(), answered(config=bad), EDGE) == expected
    assert outdated_reason(pod(), answered(files=files(crt=bad)), EDGE) == expected
    # It may be of a version that is older than what it cannot use.
    replaced = outdated_reason(pod(restart_hash="old"), answered(config=bad), EDGE)
    assert replaced == Outdated("waits for its replacement")


def test_a_pod_of_another_version_may_have_to_start_anew() -> None:
    found = outdated_reason(pod(), answered(restart_needed=("limits.a", "log")), EDGE)
    text = "its version needs a restart for limits.a, log; delete the pod"
    assert found == Outdated(text, is_rejected=True)


def test_long_sentences_and_lists_are_cut() -> None:
    found = outdated_reason(pod(), answered(config=ReportedFile("", "x" * 5000)), EDGE)
    assert found is not None
    assert len(found.text) < 320
    late = {f"{names.FILES_DIR}/{n}": ReportedFile("0") for n in range(9)}
    found = outdated_reason(pod(), answered(files=late), EDGE)
    assert found is not None
    assert found.text == "still uses the old 0, 1, 2, 3 and 5 more"


def test_files_that_come_from_elsewhere_are_not_compared() -> None:
    elsewhere = {"/etc/ssl/own.crt": ReportedFile("1"), **report().files}
    assert outdated_reason(pod(), answered(files=elsewhere), EDGE) is None


def test_only_looking_again_is_told() -> None:
    told = [
        outdated.needs_refresh
        for one, answer in (
            (pod(restart_hash="old"), answered()),
            (pod(is_ready=False), UNREACHABLE),
            (pod(failure="ErrImagePull"), None),
            (pod(), UNREACHABLE),
            (pod(), UNAUTHORIZED),
            (pod(), answered(config=ReportedFile("0"))),
        )
        if (outdated := outdated_reason(one, answer, EDGE))
    ]
    assert told == [False, False, False, True, True, True]


def test_only_edges_and_routers_that_stay_are_counted() -> None:
    pods = [pod(), pod("router"), pod("redis"), pod(name="e2", is_terminating=True)]
    assert set(outdated_pods(pods, {}, STANDARD)) == {"demo-edge-1", "demo-router-1"}
    assert outdated_pods(pods[:1], {"demo-edge-1": answered()}, STANDARD) == {}


def test_another_configuration_or_file_is_another_digest_of_all() -> None:
    def digests(**changes: Any) -> list[str]:
        found = desired_configs("demo", HASHES, THERE | changes.get("there", {}))
        return [found[one].digest for one in ("edge", "router")]

    before = digests()
    secret = pick(MANIFESTS, "Secret", "demo-edge")
    changed = secret | {"data": secret["data"] | {"passwords": "eA=="}}
    after = digests(there={ObjectRef.of(secret): changed})
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_nothing_that_is_mounted_is_a_configuration_of_nothing() -> None:
    found = desired_configs("demo", {}, {})
    assert found["edge"].files == {}
    assert found["edge"].config == digest_of(b"")


# What comes over the network


def test_a_status_is_read() -> None:
    found = parse_report(
        {
            "clients": 7,
            "configuration": {
                "digest": "abc",
                "problem": "p",
                "restart_needed": ["a.b"],
                "files": {"/x": {"digest": "d", "problem": ""}},
            },
        }
    )
    config = ReportedConfig(ReportedFile("abc", "p"), ("a.b",), {"/x": ReportedFile("d")})
    assert found == PodReport(PollResult.REPORTED, 7, config)
    assert parse_report({"clients": True}) == PodReport(PollResult.REPORTED)
    assert parse_report({}) == PodReport(PollResult.REPORTED)
    others: list[object] = [None, [], "x", 3]
    for other in others:
        assert parse_report(other) == UNREACHABLE


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["clients", "configuration", "digest", "problem", "files", "restart_needed", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json)
def test_whatever_a_pod_answers_is_understood_or_said_not_to_be(status: object) -> None:
    answer = parse_report(status)
    outdated = outdated_reason(pod(), answer, EDGE)
    assert outdated is not None
    assert outdated.text
