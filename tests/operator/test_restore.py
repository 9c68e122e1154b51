"""A new broker that begins with a backup: first the store, then the backup, then the rest."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.api_schema import api_server_refuses
from support.brokers import NAMESPACE, spec_of
from support.mqtt_backups import (
    CLAIM,
    DONE,
    FAILED,
    KEYS,
    S3,
    backup_of,
    complete_job,
    failed_job,
    pod_of,
)
from support.operator_harness import Harness
from tidegate.backup.failure import Reason
from tidegate_operator import names
from tidegate_operator.backups import restore

FROM_CLAIM: dict[str, Any] = {"target": CLAIM, "name": "good"}


class Restored(Harness):
    """A broker with ``restoreFrom``, and what its Job does."""

    def put(self, body: dict[str, Any]) -> None:
        metadata = body["metadata"]
        key = (body["apiVersion"], body["kind"], metadata["namespace"], metadata["name"])
        self.fake.objects[key] = copy.deepcopy(body)

    def put_claim(self) -> None:
        metadata = {"name": "backups", "namespace": NAMESPACE}
        self.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata})

    def kinds(self) -> set[str]:
        return {key[1] for key in self.fake.objects}

    @property
    def job(self) -> dict[str, Any]:
        return self.fake.get("Job", "demo-restore")

    @property
    def command(self) -> list[str]:
        found: list[str] = self.job["spec"]["template"]["spec"]["containers"][0]["command"]
        return found[found.index("tidegate") :]

    def end(self, status: dict[str, Any], report: dict[str, Any]) -> None:
        """Let the Job end so."""
        self.job["status"] = status
        pod = pod_of("demo-restore", report=report)
        pod["metadata"]["labels"] = names.labels("demo", "restore")
        self.cluster.pods_there.append(pod)


def restored(restore_from: dict[str, Any] = FROM_CLAIM, **changes: Any) -> Restored:
    return Restored(spec_of(restoreFrom=restore_from, **changes))


async def until_job(restore_from: dict[str, Any] = FROM_CLAIM, **changes: Any) -> Restored:
    it = restored(restore_from, **changes)
    it.put_claim()
    await it.settle()
    return it


async def test_nothing_serves_before_the_backup_is_restored() -> None:
    it = restored(backup={"schedule": {"cron": "@daily", "target": CLAIM}})
    it.put_claim()
    await it.reconcile()
    assert "StatefulSet" in it.kinds()
    # The Job comes when the store is ready, edges and routers after it.
    assert not {"Deployment", "PodDisruptionBudget", "CronJob", "Job"} & it.kinds()
    assert it.status["restore"]["phase"] == "Waiting"
    it.make_ready()
    await it.reconcile()
    where = f"/backups/{NAMESPACE}/demo/on-demand"
    assert it.command[:3] == ["tidegate", "restore", where]
    assert it.command[it.command.index("--name") + 1] == "good"
    volumes = {one["name"]: one for one in it.job["spec"]["template"]["spec"]["volumes"]}
    assert volumes["target"]["persistentVolumeClaim"]["readOnly"] is True
    assert it.fake.get("NetworkPolicy", "demo-restore-store")
    for _ in range(2):
        await it.reconcile()
        assert "Deployment" not in it.kinds()
    assert it.conditions()["Ready"] == ("False", "Restoring")
    assert it.conditions()["Progressing"] == ("True", "Restoring")
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert it.conditions()["Stalled"] == ("False", "AsExpected")
    it.end(complete_job(), DONE)
    await it.reconcile()
    assert {"Deployment", "PodDisruptionBudget", "CronJob"} <= it.kinds()
    it.make_ready()
    await it.reconcile()
    assert it.conditions()["Ready"] == ("True", "Serving")
    assert it.status["restore"]["phase"] == "Complete"
    assert it.status["restore"]["queuedMessages"] == DONE["queued_messages"]


async def test_a_broker_is_restored_once() -> None:
    it = await until_job()
    it.end(complete_job(), DONE)
    await it.settle()
    shown = it.status["restore"]
    # Neither without the Job, nor without the Deployments, nor by an operator that remembers less.
    it.fake.delete("Job", "demo-restore")
    it.fake.delete("Deployment", "demo-router")
    it.fake.delete("Deployment", "demo-edge")
    it.start_anew()
    await it.reconcile()
    assert "Job" not in it.kinds()
    assert "Deployment" in it.kinds()
    assert it.status["restore"] == shown


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("store_not_empty", "data-demo-redis-0"),
        ("unsupported_format", "spec.image"),
        ("damaged", "another backup"),
        ("new_reason", "The target is full"),
    ],
)
async def test_a_refused_restore_says_what_to_do_and_nothing_serves(reason: str, hint: str) -> None:
    it = await until_job()
    it.end(failed_job(), FAILED | {"reason": reason})
    await it.reconcile()
    assert "Deployment" not in it.kinds()
    for kind in ("Degraded", "Stalled"):
        assert it.conditions()[kind] == ("True", "RestoreFailed")
    assert it.conditions()["Ready"] == ("False", "RestoreFailed")
    assert it.cluster.events[-1][:2] == ("Warning", "RestoreFailed")
    message = it.message("Degraded")
    assert hint in message
    assert "delete Job demo-restore" in message
    # As it says.
    it.fake.delete("Job", "demo-restore")
    it.cluster.pods_there = [
        one for one in it.cluster.pods_there if one["metadata"]["name"] != "demo-restore-0"
    ]
    await it.reconcile()
    assert it.job
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_an_external_store_is_restored_without_waiting_for_pods() -> None:
    it = await until_job(redis={"external": {"url": "redis://elsewhere:6379"}})
    assert it.command[1] == "restore"
    assert "NetworkPolicy" in it.kinds()
    assert "demo-restore-store" not in {key[3] for key in it.fake.objects}


# Where from


async def test_an_mqtt_backup_is_waited_for_until_it_is_complete() -> None:
    it = restored({"backup": {"name": "now"}})
    it.put_claim()
    await it.settle()
    assert "There is no MqttBackup now" in it.message("Ready")
    backup = backup_of(broker="old")
    it.put(backup)
    await it.reconcile()
    assert "not Complete" in it.message("Ready")
    it.put(backup | {"status": {"phase": "Complete", "name": "20261129T230000Z"}})
    await it.reconcile()
    assert it.command[2] == f"/backups/{NAMESPACE}/old/on-demand"
    assert it.command[it.command.index("--name") + 1] == "20261129T230000Z"


async def test_an_mqtt_backup_that_has_failed_is_not_waited_for() -> None:
    it = restored({"backup": {"name": "now"}})
    it.put_claim()
    backup = backup_of(broker="old")
    it.put(backup | {"status": {"phase": "Failed"}})
    await it.settle()
    assert it.conditions()["Stalled"] == ("True", "RestoreFailed")
    assert "MqttBackup now in namespace iot has failed" in it.message("Degraded")
    # Another one of the name may come.
    it.put(backup | {"status": {"phase": "Complete", "name": "a"}})
    await it.reconcile()
    assert it.conditions()["Stalled"] == ("False", "AsExpected")
    assert it.job


async def test_another_namespaces_bucket_can_be_used_and_its_volume_cannot() -> None:
    it = restored({"backup": {"name": "now", "namespace": "other"}})
    complete = {"status": {"phase": "Complete", "name": "a"}}
    it.put(backup_of(namespace="other") | complete)
    await it.settle()
    assert "on a volume, which cannot be used in namespace" in it.message("Ready")
    assert it.conditions()["Stalled"] == ("True", "RestoreFailed")
    it.put(backup_of(namespace="other", target=S3) | complete)
    await it.reconcile()
    assert f"There is no Secret bucket in namespace {NAMESPACE}" in it.message("Ready")
    it.put_data("Secret", "bucket", KEYS)
    await it.reconcile()
    assert it.command[2] == "s3://backups/other/demo/on-demand"


async def test_what_is_missing_is_waited_for() -> None:
    it = restored({"target": CLAIM})
    await it.settle()
    assert "There is no PersistentVolumeClaim backups" in it.message("Ready")
    it.put_claim()
    await it.reconcile()
    assert it.command[it.command.index("--name") + 1] == "latest"


async def test_a_refused_job_is_said() -> None:
    it = restored()
    it.put_claim()
    it.fake.refuse[("Job", "demo-restore")] = "exceeded quota"
    await it.settle()
    assert "exceeded quota" in it.message("Ready")
    assert "Deployment" not in it.kinds()


async def test_a_paused_broker_is_not_restored() -> None:
    it = restored(paused=True)
    it.put_claim()
    await it.settle()
    assert "Job" not in it.kinds()


def test_reasons_with_advice_are_those_of_the_command() -> None:
    assert restore._HINTS.keys() <= {reason.value for reason in Reason}


def test_it_is_for_new_brokers_only() -> None:
    message = (
        "restoreFrom is immutable: a broker is restored when it is made; make another MqttBroker "
        "to restore a backup"
    )
    plain, one = spec_of(), spec_of(restoreFrom=FROM_CLAIM)
    other = spec_of(restoreFrom=FROM_CLAIM | {"name": "other"})
    assert api_server_refuses(one) == []
    for new, old in ((one, plain), (plain, one), (other, one)):
        assert api_server_refuses(new, old=old) == [message]
    assert api_server_refuses(one, old=one) == []
