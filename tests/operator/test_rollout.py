"""Rollouts that the operator begins by itself: how many at once, when, and what does not wait."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import pytest

from support.brokers import NAMESPACE, NOW, spec_of
from support.operator_harness import Harness
from tidegate_operator import names
from tidegate_operator.names import BrokerKey
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Manifest
from tidegate_operator.rollout import templates
from tidegate_operator.rollout.gate import LONGEST, RolloutGate
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.maintenance import MaintenanceWindow
from tidegate_operator.spec.problems import SpecError, parse

OLD, NEW = "registry.example/tidegate:1", "registry.example/tidegate:2"
#: NOW is not in it: it is open for an hour at the minute after.
CLOSED = [{"schedule": f"{(NOW.minute + 1) % 60} {NOW.hour} * * *", "durationMinutes": 60}]
RESOURCES = {"requests": {"memory": "300Mi"}}


class Fleet:
    """Brokers that serve, and an operator of the next version."""

    def __init__(self, *brokers: Harness, limit: int = 1) -> None:
        self.brokers = {one.name: one for one in brokers}
        self.limit = limit
        self.woken: list[str] = []
        self.are_seen = True
        self.start_anew()

    @classmethod
    async def of(cls, *names: str, limit: int = 1, **changes: Any) -> Fleet:
        brokers = []
        for name in names:
            broker = Harness(spec_of(**changes), name)
            await broker.settle()
            await broker.settle()
            broker.fake.writes.clear()
            brokers.append(broker)
        return cls(*brokers, limit=limit)

    def start_anew(self, *windows: dict[str, Any], image: str = NEW) -> None:
        """Have an operator that remembers nothing."""
        gate = RolloutGate(
            self.limit,
            [MaintenanceWindow.model_validate(one) for one in windows],
            self.live,
            lambda key: self.woken.append(key[1]),
        )
        for broker in self.brokers.values():
            broker.start_anew(gate, image)

    def live(self) -> Mapping[BrokerKey, Mapping[ObjectRef, Manifest]] | None:
        if not self.are_seen:
            return None
        return {
            (NAMESPACE, name): {ObjectRef.of(one): one for one in broker.fake.all()}
            for name, broker in self.brokers.items()
        }

    async def reconcile(self) -> None:
        for broker in self.brokers.values():
            await broker.reconcile()

    def rolled(self) -> list[str]:
        """Return the brokers whose edges have the new image."""
        return [name for name, one in self.brokers.items() if image(one, "edge") == NEW]

    def __getitem__(self, name: str) -> Harness:
        return self.brokers[name]


def deployment(broker: Harness, component: str) -> dict[str, Any]:
    kind = "StatefulSet" if component == "redis" else "Deployment"
    found: dict[str, Any] = broker.fake.get(kind, f"{broker.name}-{component}")
    return found


def image(broker: Harness, component: str) -> str:
    template = deployment(broker, component)["spec"]["template"]
    return str(template["spec"]["containers"][0]["image"])


def mark(broker: Harness) -> str:
    annotations = deployment(broker, "edge")["metadata"]["annotations"]
    return str(annotations.get(names.ROLLING_SINCE, ""))


def pass_time(fleet: Fleet, seconds: float) -> None:
    for broker in fleet.brokers.values():
        broker.pass_time(seconds)


async def test_one_broker_after_the_other_gets_the_operators_new_image() -> None:
    fleet = await Fleet.of("a", "b", "c")
    await fleet.reconcile()
    assert fleet.rolled() == ["a"]
    assert image(fleet["b"], "router") == image(fleet["b"], "redis") == OLD
    waiting = fleet["c"].conditions()
    assert waiting["Reconciling"] == ("True", "RolloutWaiting")
    assert waiting["Progressing"] == ("False", "RolloutWaiting")
    assert waiting["Ready"] == ("True", "Serving")
    assert waiting["ConfigApplied"] == ("True", "Applied")
    assert f"({NAMESPACE}/a), then 1 that wait before it" in fleet["c"].message("Reconciling")
    # The store is the last of a broker, and counts.
    fleet["a"].make_ready()
    await fleet["a"].reconcile()
    assert image(fleet["a"], "redis") == NEW
    await fleet.reconcile()
    assert fleet.rolled() == ["a"]
    assert fleet.woken == []
    fleet["a"].make_ready()
    await fleet["a"].reconcile()
    assert mark(fleet["a"]) == ""
    assert fleet.woken == ["b"]
    await fleet["b"].reconcile()
    await fleet["c"].reconcile()
    assert fleet.rolled() == ["a", "b"]


async def test_a_broker_that_waits_is_not_written_to_again() -> None:
    fleet = await Fleet.of("a", "b")
    await fleet.reconcile()
    fleet["b"].fake.writes.clear()
    writes = fleet["b"].cluster.status_writes
    await fleet["b"].reconcile()
    assert fleet["b"].fake.writes == []
    assert fleet["b"].cluster.status_writes == writes
    assert (await fleet["b"].reconcile()).requeue_after_s == 60
    # The operator's version before is back: there is nothing to wait for.
    fleet.start_anew(image=OLD)
    await fleet["b"].reconcile()
    assert fleet["b"].conditions()["Reconciling"] == ("False", "Complete")
    assert image(fleet["b"], "edge") == OLD


async def test_an_operator_that_starts_again_goes_on_with_the_same_brokers() -> None:
    fleet = await Fleet.of("a", "b", "c", limit=2)
    await fleet.reconcile()
    assert fleet.rolled() == ["a", "b"]
    fleet.start_anew()
    await fleet["c"].reconcile()
    assert fleet.rolled() == ["a", "b"]
    await fleet["b"].reconcile()
    fleet["b"].make_ready()
    await fleet["b"].reconcile()
    fleet["b"].make_ready()
    await fleet["b"].reconcile()
    await fleet["c"].reconcile()
    assert fleet.rolled() == ["a", "b", "c"]


async def test_without_a_limit_all_are_rolled_at_once() -> None:
    fleet = await Fleet.of("a", "b", "c", limit=0)
    await fleet.reconcile()
    assert fleet.rolled() == ["a", "b", "c"]


async def test_while_a_watch_is_down_nothing_begins() -> None:
    fleet = await Fleet.of("a")
    fleet.are_seen = False
    await fleet.reconcile()
    assert fleet.rolled() == []
    assert "does not see all brokers" in fleet["a"].message("Reconciling")


async def test_a_stuck_broker_lets_others_go_on() -> None:
    fleet = await Fleet.of("a", "b")
    await fleet.reconcile()
    edges = deployment(fleet["a"], "edge")
    edges["status"] = {
        "observedGeneration": edges["metadata"]["generation"],
        "replicas": 3,
        "updatedReplicas": 1,
        "readyReplicas": 2,
        "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}],
    }
    await fleet["b"].reconcile()
    assert fleet.rolled() == ["a", "b"]


async def test_a_rollout_counts_for_half_an_hour_at_most() -> None:
    fleet = await Fleet.of("a", "b")
    await fleet.reconcile()
    pass_time(fleet, LONGEST.total_seconds() - 1)
    await fleet["b"].reconcile()
    assert fleet.rolled() == ["a"]
    pass_time(fleet, 1)
    await fleet["b"].reconcile()
    assert fleet.rolled() == ["a", "b"]


async def test_a_refused_rollout_is_not_counted() -> None:
    fleet = await Fleet.of("a", "b")
    fleet["a"].fake.refuse[("Deployment", "a-edge")] = "quota"
    await fleet.reconcile()
    assert fleet["a"].conditions()["Degraded"] == ("True", "ApplyRefused")
    assert fleet.rolled() == ["b"]


async def test_what_a_user_changes_does_not_wait() -> None:
    fleet = await Fleet.of("a", "b")
    await fleet.reconcile()
    one = fleet["b"]
    one.put_spec(spec_of(edge={"replicas": 5}, limits={"maxConnections": 77}))
    await one.reconcile()
    assert deployment(one, "edge")["spec"]["replicas"] == 5
    assert "77" in one.fake.get("ConfigMap", "b-edge")["data"][names.CONFIG_FILE]
    assert image(one, "edge") == OLD
    assert one.conditions()["Reconciling"][0] == "True"
    # What replaces pods anyway brings the rest with it.
    one.put_spec(spec_of(edge={"replicas": 5, "resources": RESOURCES}))
    await one.reconcile()
    assert image(one, "edge") == image(one, "router") == NEW
    assert mark(one) == ""


async def test_a_users_own_image_is_not_the_operators() -> None:
    fleet = await Fleet.of("a", "b", image="registry.example/mine:1")
    await fleet.reconcile()
    assert [mark(one) for one in fleet.brokers.values()] == ["", ""]
    assert {one.conditions()["Reconciling"] for one in fleet.brokers.values()} == {
        ("False", "Complete")
    }


async def test_credentials_do_not_wait() -> None:
    """Routers have the store's new password at once: the store must restart with it."""
    fleet = await Fleet.of("a", "b")
    await fleet.reconcile()
    one = fleet["b"]
    for name in ("b-redis", "b-router"):
        one.fake.delete("Secret", name)
    await one.reconcile()
    assert image(one, "edge") == NEW


@pytest.mark.parametrize("was_observed", [True, False])
async def test_objects_without_hashes_are_the_operators_change_if_the_spec_is_known(
    was_observed: bool,
) -> None:
    fleet = await Fleet.of("a", "b")
    await fleet["a"].reconcile()
    one = fleet["b"]
    for component in ("edge", "router", "redis"):
        annotations = deployment(one, component)["metadata"]["annotations"]
        for name in (names.SPEC_HASH, names.TEMPLATE_HASH):
            del annotations[name]
    if not was_observed:
        one.status["observedGeneration"] = 0
    await one.reconcile()
    assert fleet.rolled() == (["a"] if was_observed else ["a", "b"])
    assert names.SPEC_HASH in deployment(one, "edge")["metadata"]["annotations"]


async def test_a_configuration_stays_with_the_pods_that_read_it() -> None:
    """Those of the version before may not know a key of the next one."""
    fleet = await Fleet.of("a", "b")
    await fleet["a"].reconcile()
    one = fleet["b"]
    config = one.fake.get("ConfigMap", "b-edge")
    config["data"][names.CONFIG_FILE] = "written: before\n"
    await one.reconcile()
    assert one.fake.get("ConfigMap", "b-edge")["data"] == {names.CONFIG_FILE: "written: before\n"}
    one.put_spec(spec_of(limits={"maxConnections": 77}))
    await one.reconcile()
    assert "77" in one.fake.get("ConfigMap", "b-edge")["data"][names.CONFIG_FILE]


# Windows


async def test_outside_of_a_window_the_operator_changes_no_pods() -> None:
    fleet = await Fleet.of("a", limit=0, maintenance={"windows": CLOSED})
    await fleet.reconcile()
    one = fleet["a"]
    assert fleet.rolled() == []
    assert one.conditions()["Reconciling"] == ("False", "WindowClosed")
    opens = NOW.replace(second=0) + datetime.timedelta(minutes=1)
    assert f"opens at {opens:%Y-%m-%dT%H:%M:%SZ}" in one.message("Progressing")
    assert one.conditions()["ConfigApplied"] == ("True", "Applied")
    pass_time(fleet, 60)
    await fleet.reconcile()
    assert fleet.rolled() == ["a"]
    # It has begun: the store follows although the window has closed.
    one.make_ready()
    pass_time(fleet, 29 * 60)
    await fleet.reconcile()
    assert image(one, "redis") == NEW


async def test_a_window_is_closed_when_its_time_is_over() -> None:
    window = {"schedule": f"{NOW.minute} {NOW.hour} * * *", "durationMinutes": 10}
    for seconds, rolled in ((599, ["a"]), (600, [])):
        fleet = await Fleet.of("a", maintenance={"windows": [window]})
        fleet["a"].now = NOW.replace(second=0, microsecond=0)
        pass_time(fleet, seconds)
        await fleet.reconcile()
        assert fleet.rolled() == rolled, seconds


async def test_a_users_change_needs_no_window_unless_the_policy_says_so() -> None:
    for policy in ("operator", "all"):
        maintenance = {"windows": CLOSED, "policy": policy}
        fleet = await Fleet.of("a", maintenance=maintenance)
        one = fleet["a"]
        one.put_spec(
            spec_of(
                maintenance=maintenance,
                edge={"replicas": 4, "resources": RESOURCES},
                limits={"maxConnections": 77},
            )
        )
        await one.reconcile()
        assert deployment(one, "edge")["spec"]["replicas"] == 4
        assert "77" in one.fake.get("ConfigMap", "a-edge")["data"][names.CONFIG_FILE]
        if policy == "operator":
            assert image(one, "edge") == NEW
            continue
        assert image(one, "edge") == OLD
        one.make_ready()
        pass_time(fleet, 31)
        await one.reconcile()
        assert one.conditions()["ConfigApplied"] == ("False", "WindowClosed")
        assert one.conditions()["Reconciling"] == ("True", "WindowClosed")
        assert "policy is all" in one.message("ConfigApplied")


async def test_open_until_opens_for_once() -> None:
    soon = NOW + datetime.timedelta(minutes=5)
    for moment, rolled in ((soon, ["a"]), (NOW, [])):
        maintenance = {"windows": CLOSED, "openUntil": moment.isoformat()}
        fleet = await Fleet.of("a", maintenance=maintenance)
        await fleet.reconcile()
        assert fleet.rolled() == rolled


async def test_the_operators_windows_are_those_of_brokers_without_their_own() -> None:
    none: dict[str, Any] = {"maintenance": {"windows": []}}
    for changes, rolled in (({}, []), (none, ["a"])):
        fleet = await Fleet.of("a", limit=1, **changes)
        fleet.start_anew(*CLOSED)
        await fleet.reconcile()
        assert fleet.rolled() == rolled


@pytest.mark.parametrize(
    ("maintenance", "wrong"),
    [
        ({"windows": [{"schedule": "0 25 * * *"}]}, "'25' is no hour"),
        ({"windows": [{"schedule": "0 0 31 2 *"}]}, "never comes"),
        ({"windows": [{"schedule": "0 2 * * *", "timeZone": "Mars"}]}, "'Mars' is no time zone"),
        ({"openUntil": "2026-12-01T18:00:00"}, "has no time zone"),
    ],
)
def test_what_is_no_window_is_said(maintenance: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        parse("demo", spec_of(maintenance=maintenance))


# Hashes


def test_the_part_of_a_spec_that_reaches_a_component() -> None:
    """What replaces pods of a component is in its hash, and nothing that does not."""

    def hashes(**changes: Any) -> dict[str, str]:
        spec = MqttBrokerSpec.model_validate(spec_of(**changes))
        manifests: list[Manifest] = [
            {
                "kind": "Deployment",
                "apiVersion": "apps/v1",
                "metadata": {"name": one, "labels": {names.COMPONENT_LABEL: one}},
                "spec": {"template": {}},
            }
            for one in ("edge", "router", "redis")
        ]
        return {
            one["metadata"]["name"]: one["metadata"]["annotations"][names.SPEC_HASH]
            for one in templates.stamped(manifests, {}, spec)
        }

    def differ(**changes: Any) -> set[str]:
        return {name for name, found in hashes(**changes).items() if found != hashes()[name]}

    assert differ(edge={"replicas": 9, "rebalance": {"enabled": True}}) == set()
    assert differ(limits={"maxConnections": 7}, acl={"rules": "topic readwrite #"}) == set()
    assert differ(maintenance={"policy": "all"}, service={"type": "NodePort"}) == set()
    target = {"persistentVolumeClaim": {"claimName": "backups"}}
    assert differ(backup={"schedule": {"cron": "@daily", "target": target}}) == set()
    assert differ(edge={"resources": RESOURCES}) == {"edge"}
    assert differ(router={"podTemplate": {"metadata": {"labels": {"a": "b"}}}}) == {"router"}
    assert differ(image="x") == {"edge", "router", "redis"}
    assert differ(telemetry={"serviceName": "x"}) == {"edge", "router"}
    assert differ(edge={"replicas": 2}) == set(), "a default is no change"
