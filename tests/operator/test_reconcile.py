"""One reconcile for everything: created, changed, broken, repaired, paused, deleted."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import yaml

from support.brokers import DAY, NAMESPACE, NOW, pair, secret_data, spec_of
from support.operator_harness import Harness, harness
from tidegate_operator import names
from tidegate_operator.kube.interface import KubeError, KubeUnavailable
from tidegate_operator.reconcile.interval import PROGRESSING_S
from tidegate_operator.reconcile.reconciler import Outcome, Reconciler
from tidegate_operator.render import Manifest, Settings
from tidegate_operator.secrets.certificates import certificate_info
from tidegate_operator.status.broker_state import time_text

PARTS = ("authorities", "edge", "router")


async def test_a_new_broker_is_made_and_becomes_ready() -> None:
    it = await harness()
    first = await it.reconcile()
    assert first.applied == 25
    assert first.requeue_after_s == PROGRESSING_S
    assert it.conditions()["Progressing"] == ("True", "RollingOut")
    it.make_ready()
    it.admin.connections = 6
    it.now += datetime.timedelta(minutes=1)
    second = await it.reconcile()
    assert second == Outcome(60.0)
    assert it.conditions() == {
        "Ready": ("True", "Serving"),
        "Progressing": ("False", "Complete"),
        "Degraded": ("False", "AsExpected"),
        "CertificatesReady": ("True", "NotNeeded"),
        "ConfigApplied": ("True", "Applied"),
        "Reconciling": ("False", "Complete"),
        "Stalled": ("False", "AsExpected"),
    }
    assert it.status["connections"] == 12
    assert it.admin.tokens[-1]


@pytest.mark.parametrize("name", ["minimal", "headline", "everything", "sentinel"])
async def test_an_unchanged_broker_is_not_written_to(name: str) -> None:
    it = await harness(name)
    await it.settle()
    it.fake.writes.clear()
    it.cluster.status_writes = 0
    for hours in (1, 2, 3):
        it.now = NOW + datetime.timedelta(hours=hours)
        assert (await it.reconcile()).applied == 0
    assert it.fake.writes == []
    assert it.cluster.status_writes == 3  # only when it was seen


async def test_an_unchanged_status_says_every_five_minutes_that_it_was_seen() -> None:
    it = await harness()
    await it.settle()
    seen = it.status["lastSeen"]
    writes = it.cluster.status_writes
    for _ in range(4):
        it.pass_time(60)
        await it.reconcile()
    assert it.cluster.status_writes == writes
    assert it.status["lastSeen"] == seen
    it.pass_time(60)
    await it.reconcile()
    assert it.cluster.status_writes == writes + 1
    assert it.status["lastSeen"] == time_text(it.now)
    assert len(it.cluster.events) == len({reason for _, reason, _ in it.cluster.events})
    it.pass_time(7)
    it.admin.connections = 9
    await it.settle()
    it.pass_time(31)
    await it.reconcile()
    assert it.status["lastSeen"] == time_text(it.now), "every other change says so, too"


async def test_a_status_of_a_clock_that_was_wrong_does_not_look_new_for_ever() -> None:
    it = await harness()
    await it.settle()
    it.status["lastSeen"] = "2999-01-01T00:00:00Z"
    await it.reconcile()
    assert it.status["lastSeen"] == time_text(it.now)


async def test_a_rare_resync_does_not_make_a_status_look_old() -> None:
    it = await harness()
    it.reconciler = Reconciler(
        it.cluster, Settings("registry.example/tidegate:1"), lambda: it.now, it.admin, 7200.0
    )
    assert (await it.settle()).requeue_after_s == 300


async def test_clients_are_counted_now_and_then() -> None:
    """Each new number is a write, which is seen as a change of the broker."""
    it = await harness()
    await it.settle()
    asked = len(it.admin.rounds)
    for _ in range(5):
        await it.reconcile()
    assert len(it.admin.rounds) == asked
    it.admin.connections = 50
    it.now += datetime.timedelta(seconds=31)
    await it.reconcile()
    assert it.status["connections"] == 100


async def test_no_clients_are_counted_where_no_edge_is_left() -> None:
    it = await harness()
    it.admin.connections = 6
    await it.settle()
    assert it.status["connections"] == 12
    it.put_spec(spec_of(edge={"replicas": 0}))
    await it.settle()
    assert it.conditions()["Ready"] == ("False", "ScaledToZero")
    assert it.status["connections"] == 0
    it.put_spec(spec_of(edge={"replicas": 1}))
    await it.settle()
    it.pass_time(2)
    await it.reconcile()
    assert it.status["connections"] == 6


async def test_pods_are_asked_whatever_the_clock_does() -> None:
    it = await harness()
    await it.settle()
    it.admin.connections = 50
    it.now -= datetime.timedelta(days=1)
    await it.reconcile()
    it.pass_time(31)
    await it.reconcile()
    assert it.status["connections"] == 100


async def test_an_unchanged_broker_costs_few_requests() -> None:
    it = await harness()
    await it.settle()
    it.cluster.reads = 0
    await it.reconcile()
    assert it.cluster.reads == 3


async def test_a_broker_that_is_gone_is_left_alone() -> None:
    it = await harness()
    assert await it.reconciler.reconcile(NAMESPACE, "other") == Outcome(None)
    it.fake.get(names.KIND, "demo")["metadata"]["deletionTimestamp"] = "now"
    assert await it.reconcile() == Outcome(None)
    assert it.fake.writes == []


async def test_the_address_that_the_cloud_gives_gets_into_the_certificate() -> None:
    it = await harness("headline")
    await it.settle()
    service = it.fake.get("Service", "demo")
    for given, wanted in (({"ip": "192.0.2.9"}, "192.0.2.9"), ({"hostname": "a.lb"}, "a.lb")):
        service["status"] = {"loadBalancer": {"ingress": [given]}}
        await it.reconcile()
        shown = secret_data(it.fake.get("Secret", "demo-edge"))["listener.mqtt.crt"]
        assert wanted in certificate_info(shown).names
        assert (await it.reconcile()).applied == 0
    assert "192.0.2.9" not in certificate_info(shown).names


async def test_drift_is_repaired() -> None:
    it = await harness()
    await it.settle()
    it.fake.delete("NetworkPolicy", "demo-redis")
    it.fake.get("Service", "demo")["spec"]["ports"][0]["port"] = 9
    assert (await it.reconcile()).applied == 2
    assert it.fake.get("NetworkPolicy", "demo-redis")


async def test_scaling_is_one_write() -> None:
    it = await harness()
    await it.settle()
    before = it.hashes()
    it.put_spec(spec_of(edge={"replicas": 5}))
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == [("apply", "Deployment", "demo-edge")]
    assert it.hashes() == before


# What is wrong


async def test_a_bad_spec_changes_nothing_and_says_why() -> None:
    it = await harness()
    await it.settle()
    it.fake.writes.clear()
    it.put_spec(spec_of(listeners=[{"name": "mqtt", "port": 80}]))
    outcome = await it.reconcile()
    assert it.fake.writes == []
    assert outcome.requeue_after_s == 10
    found = it.conditions()
    assert found["Ready"] == ("True", "Serving")
    assert found["Degraded"] == ("True", "InvalidSpec")
    assert it.status["observedGeneration"] == 2
    (event,) = it.cluster.events[-1:]
    assert event[:2] == ("Warning", "InvalidSpec")
    assert "spec.listeners[0].port" in event[2]
    it.put_spec(spec_of())
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_a_bad_spec_of_a_new_broker_makes_nothing() -> None:
    it = Harness(spec_of(listeners=[]))
    await it.reconcile()
    assert it.fake.writes == []
    assert it.conditions()["Progressing"] == ("False", "InvalidSpec")


async def test_what_the_api_server_refuses_keeps_everything_as_it_was() -> None:
    it = await harness()
    await it.settle()
    it.fake.writes.clear()
    it.fake.refuse[("Deployment", "demo-edge")] = 'unknown field "spec.template.spec.nope"'
    it.put_spec(spec_of(edge={"podTemplate": {"spec": {"nope": 1}}}, service={"type": "NodePort"}))
    await it.reconcile()
    assert it.fake.writes == []
    assert it.conditions()["Degraded"] == ("True", "ApplyRefused")
    message = it.status["conditions"][2]["message"]
    assert 'Deployment demo-edge: unknown field "spec.template.spec.nope"' in message


async def test_what_was_not_written_is_not_logged_as_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "tidegate_operator")
    it = await harness()
    it.fake.refuse[("Deployment", "demo-edge")] = "no"
    await it.reconcile()
    assert "credentials rotated" not in caplog.messages
    it.fake.refuse.clear()
    await it.reconcile()
    assert "credentials rotated" in caplog.messages


async def test_what_is_refused_only_when_it_is_meant_is_said_too() -> None:
    it = await harness()
    await it.settle()
    it.put_spec(spec_of(service={"type": "NodePort"}, edge={"replicas": 4}))
    original = it.cluster.apply

    async def apply(manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        if not dry_run:
            raise KubeError(403, "services is forbidden: quota")
        return await original(manifest, dry_run=True)

    it.cluster.apply = apply  # type: ignore[method-assign] # the seam that is tested
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "ApplyRefused")
    message = it.status["conditions"][2]["message"]
    assert "Service demo: services is forbidden: quota." in message
    # What was written before it is not known here, so nothing is claimed about it.
    assert "unchanged" not in message


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_conflict_is_a_matter_for_the_queue(dry_run: bool) -> None:
    it = await harness()

    async def apply(manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        if dry_run is only:
            raise KubeError(409, "the object has been modified")
        return manifest

    only = dry_run
    it.cluster.apply = apply  # type: ignore[method-assign] # the seam that is tested
    with pytest.raises(KubeError, match="modified"):
        await it.reconcile()


async def test_a_webhook_that_cannot_be_asked_holds_nothing_up() -> None:
    it = await harness()
    original = it.cluster.apply

    async def apply(manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        if dry_run:
            raise KubeError(400, 'admission webhook "x" does not support dry run')
        return await original(manifest)

    it.cluster.apply = apply  # type: ignore[method-assign] # the seam that is tested
    assert (await it.reconcile()).applied == 25


async def test_an_object_of_somebody_else_is_not_touched() -> None:
    it = await harness()
    it.put_data("Secret", "demo-edge", {"theirs": b"1"})
    await it.reconcile()
    assert it.fake.writes == []
    assert it.conditions()["Degraded"] == ("True", "NameTaken")
    it.fake.delete("Secret", "demo-edge")
    assert (await it.reconcile()).applied == 25


async def test_what_is_left_of_a_deleted_broker_is_not_counted_as_the_new_ones() -> None:
    """``kubectl replace --force``: nothing of the new one is there, however the old pods do."""
    it = await harness()
    await it.settle()
    broker = it.fake.get(names.KIND, "demo")
    broker["metadata"]["uid"] = "another"
    del broker["status"]
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []
    assert it.conditions()["Ready"] == ("False", "NameTaken")
    assert it.status["address"] == ""
    assert it.conditions()["Degraded"] == ("True", "NameTaken")
    # It ends by itself.
    assert it.conditions()["Reconciling"] == ("True", "NameTaken")
    assert "Waiting for the garbage collection" in it.message("Degraded")
    assert "Delete them" not in it.message("Degraded")
    it.put_data("Secret", "demo-edge", {"theirs": b"1"})
    await it.reconcile()
    assert "are not owned by this MqttBroker: Secret demo-edge. Delete" in it.message("Degraded")


async def test_a_missing_secret_is_waited_for() -> None:
    it = Harness(spec_of("headline"))
    await it.reconcile()
    assert [(kind, name) for _, kind, name in it.fake.writes] == [
        ("Secret", "demo-authorities"),
        ("Secret", "demo-admin"),
        ("ConfigMap", "demo-ca"),
    ]
    assert it.conditions()["Degraded"] == ("True", "ReferenceMissing")
    assert await it.reconcile() == Outcome(10.0)
    it.put_contents(spec_of("headline"))
    await it.settle()
    assert it.conditions()["ConfigApplied"] == ("True", "Applied")


ISSUED = {"issuer": {"name": "le"}, "dnsNames": ["a.example"]}


async def test_a_certificate_that_cannot_even_be_asked_for_is_not_waited_for() -> None:
    it = Harness(spec_of(listeners=[{"name": "web", "protocol": "tls", "tls": ISSUED}]))
    it.fake.refuse[("Certificate", "demo-web-tls")] = "failed calling webhook: connection refused"
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "ApplyRefused")
    assert it.conditions()["Progressing"] == ("False", "ApplyRefused")
    assert "Certificate demo-web-tls: failed calling webhook" in it.message("Degraded")
    it.fake.refuse.clear()
    await it.reconcile()
    assert it.conditions()["Progressing"] == ("True", "WaitingForCertificates")


async def test_a_certificate_of_cert_manager_is_waited_for() -> None:
    it = Harness(spec_of(listeners=[{"name": "web", "protocol": "tls", "tls": ISSUED}]))
    outcome = await it.reconcile()
    assert it.fake.get("Certificate", "demo-web-tls")
    assert outcome.requeue_after_s == PROGRESSING_S
    assert it.conditions()["Progressing"] == ("True", "WaitingForCertificates")
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    made = pair("a.example")
    it.put_data("Secret", "demo-web-tls", {"tls.crt": made.certificate, "tls.key": made.key})
    await it.settle()
    assert it.conditions()["CertificatesReady"] == ("True", "Issued")
    assert it.status["listeners"][0]["certificateNotAfter"].startswith("2026-05-30")


async def test_a_secret_that_breaks_later_holds_nothing_up() -> None:
    it = await harness("headline")
    await it.settle()
    it.fake.delete("Secret", "users")
    it.put_spec(spec_of("headline", edge={"replicas": 4}))
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == [("apply", "Deployment", "demo-edge")]
    assert it.conditions()["Degraded"] == ("True", "ReferenceMissing")
    assert it.fake.get("Secret", "demo-edge")["data"]["passwords"]


async def test_a_server_that_is_away_is_an_exception_for_the_queue() -> None:
    it = await harness()
    it.cluster.down = True
    with pytest.raises(KubeUnavailable):
        await it.reconcile()


async def test_the_links_certificates_are_renewed_whatever_the_spec_says() -> None:
    for bad in (
        spec_of("headline", listeners=[]),
        spec_of("headline", auth={"passwords": {"secretName": "users", "key": "other"}}),
        spec_of("headline", acl={"source": {"secretName": "nowhere"}}),
    ):
        it = await harness("headline")
        await it.settle()
        before = {name: it.fake.get("Secret", f"demo-{name}")["data"] for name in PARTS}
        it.put_spec(bad)
        it.fake.writes.clear()
        await it.reconcile()
        assert it.fake.writes == []
        it.now = NOW + 61 * DAY
        await it.reconcile()
        after = {name: it.fake.get("Secret", f"demo-{name}")["data"] for name in PARTS}
        for name in ("edge", "router"):
            assert after[name]["link.crt"] != before[name]["link.crt"]
            assert after[name].keys() == before[name].keys()
        assert after["edge"]["passwords"] == before["edge"]["passwords"]
        assert after["authorities"] == before["authorities"]
        assert {kind for _, kind, _ in it.fake.writes} == {"Secret"}
        it.fake.writes.clear()
        await it.reconcile()
        assert it.fake.writes == []


async def test_a_store_whose_password_was_lost_gets_a_new_one_with_a_new_pod() -> None:
    it = await harness()
    await it.settle()
    it.fake.delete("Secret", "demo-redis")
    before = it.fake.get("StatefulSet", "demo-redis")["spec"]["template"]
    await it.reconcile()
    data = it.fake.get("Secret", "demo-redis")["data"]
    assert it.fake.get("Secret", "demo-router")["data"]["store-password"] == data["password"]
    assert it.fake.get("StatefulSet", "demo-redis")["spec"]["template"] != before


# Paused


async def test_a_paused_broker_is_looked_at_and_not_changed() -> None:
    it = await harness()
    await it.settle()
    it.put_spec(spec_of(paused=True, edge={"replicas": 9}))
    it.fake.delete("Service", "demo-metrics")
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []
    assert it.conditions()["ConfigApplied"] == ("Unknown", "Paused")
    assert it.conditions()["Ready"] == ("True", "Serving")


# Certificates


async def test_certificates_are_renewed_without_a_new_pod() -> None:
    it = await harness("headline")
    await it.settle()
    before, old = it.hashes(), it.fake.get("Secret", "demo-edge")["data"]["listener.mqtt.crt"]
    it.now = NOW + 61 * DAY
    it.fake.writes.clear()
    await it.reconcile()
    assert [(kind, name) for _, kind, name in it.fake.writes] == [
        ("Secret", "demo-router"),
        ("Secret", "demo-edge"),
    ]
    assert it.hashes() == before
    assert it.fake.get("Secret", "demo-edge")["data"]["listener.mqtt.crt"] != old
    it.fake.writes.clear()
    assert (await it.reconcile()).applied == 0


async def test_the_next_look_is_in_time_for_the_next_certificate() -> None:
    it = await harness("headline")
    await it.settle()
    it.now = NOW + 60 * DAY - datetime.timedelta(seconds=5)
    assert (await it.reconcile()).requeue_after_s == 5


@pytest.mark.parametrize(("rebalances", "after_s"), [(False, 60.0), (True, 30.0)])
async def test_a_broker_that_is_rebalanced_is_looked_at_as_often_as_clients_are_counted(
    rebalances: bool, after_s: float
) -> None:
    it = await harness("minimal", edge={"replicas": 2, "rebalance": {"enabled": rebalances}})
    await it.settle()
    it.pass_time(1000)
    await it.reconcile()
    assert (await it.reconcile()).requeue_after_s == after_s


async def test_new_passwords_and_certificates_reach_pods_without_a_restart() -> None:
    it = await harness("everything")
    await it.settle()
    before = it.hashes()
    it.put_data("Secret", "users", {"file": b"new:hash\n"})
    new_pair = pair("renewed")
    it.put_data(
        "Secret",
        "devices-tls",
        {"tls.crt": new_pair.certificate, "tls.key": new_pair.key},
    )
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == [("apply", "Secret", "demo-edge")]
    assert it.hashes() == before


def password_files(it: Harness) -> set[str]:
    data = it.fake.get("Secret", "demo-router")["data"]
    return {name for name in data if "password" in name}


def password_values(it: Harness) -> list[bytes]:
    data = secret_data(it.fake.get("Secret", "demo-router"))
    return [value for name, value in data.items() if "password" in name]


STORE_KINDS = {
    "ConfigMap",
    "NetworkPolicy",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
}


def store_kinds(it: Harness) -> set[str]:
    return {kind for _, kind, _, name in it.fake.objects if name == "demo-redis"}


async def test_a_store_that_is_replaced_by_an_external_one_goes_when_no_router_uses_it() -> None:
    it = await harness()
    await it.settle()
    old = [one for one in it.cluster.pods_there if one["metadata"]["name"] == "demo-router-0"]
    it.put_spec(spec_of(redis={"external": {"url": "redis://elsewhere"}}))
    for _ in range(2):
        # The new routers are not ready, perhaps never: the old ones still need all of it.
        outcome = await it.reconcile()
        assert (outcome.deleted, outcome.requeue_after_s) == (0, PROGRESSING_S)
        assert store_kinds(it) == STORE_KINDS
        assert password_files(it) == {"store-password"}
    it.make_ready()
    it.cluster.pods_there += old
    outcome = await it.reconcile()
    assert (outcome.deleted, outcome.requeue_after_s) == (0, PROGRESSING_S)
    it.cluster.pods_there.remove(old[0])
    assert (await it.reconcile()).deleted == len(STORE_KINDS)
    assert store_kinds(it) == set()
    await it.reconcile()
    assert password_files(it) == set()
    assert await it.reconcile() == Outcome(60.0)


async def test_a_store_that_is_wanted_again_was_never_away() -> None:
    it = await harness()
    await it.settle()
    before = it.fake.get("StatefulSet", "demo-redis")["metadata"]["uid"]
    password = it.fake.get("Secret", "demo-redis")["data"]
    hashes = it.hashes()
    it.put_spec(spec_of(redis={"external": {"url": "redis://elsewere"}}))
    await it.reconcile()
    it.put_spec(spec_of())
    await it.settle()
    assert it.fake.get("StatefulSet", "demo-redis")["metadata"]["uid"] == before
    assert it.fake.get("Secret", "demo-redis")["data"] == password
    assert it.hashes() == hashes
    assert not [one for one in it.fake.writes if one[0] == "delete"]


async def test_routers_that_are_not_written_yet_keep_their_store() -> None:
    """What is held back because somebody else changes it all the time has not moved either."""
    it = await harness()
    await it.settle()
    for number in range(40):
        it.fake.get("Deployment", "demo-router")["spec"]["progressDeadlineSeconds"] = number
        if (await it.reconcile()).applied == 0:
            break
        it.make_ready()
    it.put_spec(spec_of(redis={"external": {"url": "redis://elsewhere"}}))
    assert (await it.reconcile()).deleted == 0
    assert store_kinds(it) == STORE_KINDS


async def test_old_routers_find_the_password_of_their_store_beside_the_new_ones() -> None:
    it = await harness()
    await it.settle()
    spec = external("elsewhere", "theirs")
    it.put_contents(spec)
    old = it.fake.get("Secret", "demo-redis")["data"]["password"]
    it.put_spec(spec)
    await it.reconcile()
    data = it.fake.get("Secret", "demo-router")["data"]
    assert data["store-password"] == old
    assert len(password_files(it)) == 2


def external(host: str, secret: str = "", **more: str) -> dict[str, Any]:
    """A broker whose store is somewhere else."""
    password = {"passwordSecret": {"name": secret}} if secret else {}
    return spec_of(redis={"external": {"url": f"redis://{host}", **password, **more}})


async def moving(before: dict[str, Any], after: dict[str, Any]) -> Harness:
    """A broker whose routers have just been told to use another store."""
    it = Harness(before)
    it.put_data("Secret", "one", {"password": b"of the first"})
    it.put_data("Secret", "two", {"password": b"of the second"})
    await it.settle()
    it.put_spec(after)
    await it.reconcile()
    return it


async def test_routers_of_an_external_store_keep_its_password_until_they_have_gone() -> None:
    it = await moving(external("a", "one"), external("b", "two"))
    found = secret_data(it.fake.get("Secret", "demo-router"))
    mounted = yaml.safe_load(it.fake.get("ConfigMap", "demo-router")["data"]["tidegate.yaml"])
    new = mounted["store"]["password_file"].rpartition("/")[2]
    assert found.pop(new) == b"of the second"
    assert b"of the first" in found.values()
    it.make_ready()
    await it.reconcile()
    assert password_files(it) == {new}
    assert (await it.reconcile()).applied == 0


async def test_another_user_of_a_store_does_not_take_the_password_of_the_one_before() -> None:
    it = await moving(external("a", "one"), external("a", "two", username="tidegate"))
    assert set(password_values(it)) == {b"of the first", b"of the second"}


async def test_a_password_that_is_not_wanted_any_more_stays_for_those_that_use_it() -> None:
    it = await moving(external("a", "one"), external("b"))
    assert password_values(it) == [b"of the first"]
    it.make_ready()
    await it.reconcile()
    assert password_values(it) == []


async def test_a_password_never_stands_in_for_that_of_another_store() -> None:
    it = await moving(external("a", "one"), external("b", "three"))
    assert it.conditions()["Degraded"] == ("True", "ReferenceMissing")
    assert it.conditions()["ConfigApplied"] == ("False", "ReferenceMissing")
    mounted = it.fake.get("ConfigMap", "demo-router")["data"]["tidegate.yaml"]
    assert yaml.safe_load(mounted)["store"]["url"] == "redis://a"


async def test_a_changed_password_of_the_same_store_replaces_no_router() -> None:
    it = await moving(external("a", "one"), external("a", "two"))
    assert password_values(it) == [b"of the second"]
    hashes = it.hashes()
    it.put_spec(external("a", "one"))
    await it.reconcile()
    assert it.hashes() == hashes
    assert password_values(it) == [b"of the first"]


async def test_a_store_that_is_kept_is_said_to_be() -> None:
    it = await harness()
    await it.settle()
    it.put_spec(external("elsewhere"))
    await it.reconcile()
    assert "the bundled store is kept" in it.message("Progressing")
    old = [one for one in it.cluster.pods_there if one["metadata"]["name"] == "demo-router-0"]
    it.make_ready()
    it.cluster.pods_there += old
    await it.reconcile()
    assert it.conditions()["Progressing"] == ("True", "RollingOut")
    assert "the bundled store is kept" in it.message("Progressing")
    it.cluster.pods_there.remove(old[0])
    await it.reconcile()
    assert it.conditions()["Progressing"] == ("False", "Complete")


async def test_a_store_that_has_lost_its_password_is_not_given_one_while_it_leaves() -> None:
    it = await harness()
    await it.settle()
    before = password_values(it)
    it.put_spec(spec_of(redis={"external": {"url": "redis://elsewhere"}}))
    await it.reconcile()
    it.fake.delete("Secret", "demo-redis")
    await it.reconcile()
    assert password_values(it) == before
    assert (await it.reconcile()).applied == 0


async def test_a_store_that_leaves_is_not_looked_at_for_ever_as_often() -> None:
    it = await harness()
    await it.settle()
    it.put_spec(spec_of(redis={"external": {"url": "redis://elsewere"}}))
    await it.reconcile()
    it.pass_time(300)
    requeue_after_s = (await it.reconcile()).requeue_after_s
    assert requeue_after_s is not None
    assert requeue_after_s > PROGRESSING_S


async def test_a_certificate_that_is_not_issued_is_not_said_to_be() -> None:
    """What would be issued is made of chance each time: it is not what pods have."""
    it = Harness(spec_of("headline"))
    it.put_contents(spec_of("headline"))
    it.put_data("Secret", "demo-admin", {"theirs": b"1"})
    await it.reconcile()
    assert it.conditions()["CertificatesReady"] == ("False", "Pending")
    assert "certificateNotAfter" not in it.status["listeners"][0]
    before = it.cluster.status_writes
    it.pass_time(60)
    await it.reconcile()
    assert it.cluster.status_writes == before


async def test_certificates_that_end_while_a_broker_is_paused_are_said_to() -> None:
    it = await harness("headline")
    await it.settle()
    it.put_spec(spec_of("headline", paused=True))
    for days, said in ((85, ("True", "EndsSoon")), (91, ("False", "Invalid"))):
        it.now = NOW + days * DAY
        await it.reconcile()
        assert it.conditions()["CertificatesReady"] == said
        assert it.status["listeners"][0]["certificateNotAfter"].startswith("2026-05-30")
    it.put_data("Secret", "demo-edge", {"listener.mqtt.crt": b"x", "listener.mqtt.key": b"y"})
    await it.reconcile()
    assert it.conditions()["CertificatesReady"] == ("False", "Pending")


async def test_clients_need_no_new_authority_when_self_signing_is_turned_on_again() -> None:
    spec = spec_of("headline")
    it = await harness("headline")
    await it.settle()
    trusted = it.fake.get("ConfigMap", "demo-ca")["data"]
    kept = it.fake.get("Secret", "demo-authorities")["data"]
    plain = spec | {"listeners": [{"name": "mqtt", "protocol": "tcp"}]}
    it.put_spec(plain)
    for _ in range(3):
        await it.settle()
        assert it.fake.get("Secret", "demo-authorities")["data"] == kept
    it.pass_time(40 * 86400)
    it.put_spec(spec)
    await it.settle()
    assert it.fake.get("ConfigMap", "demo-ca")["data"] == trusted
    assert it.fake.get("Secret", "demo-authorities")["data"] == kept


async def test_two_brokers_of_a_namespace_do_not_know_of_each_other() -> None:
    it = await harness()
    await it.settle()
    other = Harness(spec_of(), name="other")
    for key, value in other.fake.objects.items():
        it.fake.objects[key] = value | {"metadata": value["metadata"] | {"uid": "uid-2"}}
    it.fake.writes.clear()
    await it.reconciler.reconcile(NAMESPACE, "other")
    assert {name.partition("-")[0] for _, _, name in it.fake.writes} == {"other"}
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []


async def test_events_are_said_once() -> None:
    it = await harness()
    await it.settle()
    await it.reconcile()
    reasons = [reason for _, reason, _ in it.cluster.events]
    assert len(reasons) == len(set(reasons))
    assert "Serving" in reasons


async def test_a_rollout_that_never_ends_does_not_make_a_status_look_old() -> None:
    it = await harness()
    it.reconciler = Reconciler(
        it.cluster, Settings("registry.example/tidegate:1"), lambda: it.now, it.admin, 7200.0
    )
    await it.reconcile()
    it.pass_time(6 * 3600)
    assert (await it.reconcile()).requeue_after_s == 300
