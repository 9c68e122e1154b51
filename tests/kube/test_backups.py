"""MqttBackups against a real API server: Jobs are real, their pods end as the test says."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from support.brokers import spec_of
from support.kube.api import Object, Refused
from support.kube.fake_kubelet import FakeKubelet
from support.kube.kubectl import Kubectl
from support.kube.operator_process import OperatorProcess
from support.kube.space import Space
from support.mqtt_backups import CLAIM, DONE, FAILED, S3
from tidegate_operator import names


def claim(space: Space) -> None:
    """Make a volume for backups."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "backups", "namespace": space.name}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    space.api.create(kind | {"metadata": metadata, "spec": spec})


def put(space: Space, name: str, **spec: Any) -> Object:
    return space.api.create(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.BACKUP_KIND,
            "metadata": {"name": name, "namespace": space.name},
            "spec": {"broker": "demo", "target": CLAIM} | spec,
        }
    )


def until(space: Space, name: str, phase: str, reason: str) -> Object:
    """Wait until a backup is in a phase for a reason; return its status."""

    def look() -> Object | None:
        status = space.get(names.BACKUP_KIND, name).get("status", {})
        (found,) = (one for one in status["conditions"] if one["type"] == "Complete")
        fits = (status.get("phase"), found["reason"]) == (phase, reason)
        return status if fits else None

    return dict(space.wait(look, f"{phase} {reason}"))


def test_backups_run_and_show_what_came_of_them(
    operator: OperatorProcess, kubelet: FakeKubelet, kubectl: Kubectl, space: Space
) -> None:
    put(space, "now")
    assert (
        "There is no MqttBroker demo" in until(space, "now", "Pending", "BrokerMissing")["message"]
    )
    space.put("demo", spec_of())
    space.until_settled("demo")
    until(space, "now", "Pending", "TargetMissing")
    claim(space)
    until(space, "now", "Running", "Running")
    job = space.get("Job", "now")
    assert job["metadata"]["ownerReferences"][0]["kind"] == names.BACKUP_KIND

    kubelet.end(space.name, "now-", json.dumps(DONE))
    status = until(space, "now", "Complete", "Complete")
    assert status["location"].endswith(f"{space.name}/demo/on-demand/{DONE['name']}.tgbackup")
    assert status["startedAt"] <= status["completedAt"]
    kubectl("wait", "mqbk/now", "--for=condition=Complete", "--timeout=5s", "-n", space.name)
    header, row = kubectl("get", "mqbk", "-n", space.name).splitlines()
    assert header.split()[:4] == ["NAME", "BROKER", "PHASE", "BYTES"]
    assert row.split()[:4] == ["now", "demo", "Complete", "4096"]

    def said() -> set[tuple[str, str]]:
        return {
            (one["type"], one["reason"])
            for one in space.listed("Event")
            if one["involvedObject"]["kind"] == names.BACKUP_KIND
        }

    # The event is written after the status.
    space.wait(
        lambda: said() >= {("Warning", "BrokerMissing"), ("Normal", "Complete")}, "it is told"
    )

    kubelet.end(space.name, "bad-", json.dumps(FAILED), 1)
    put(space, "bad", job={"retries": 0})
    status = until(space, "bad", "Failed", "BackupFailed")
    assert "The target is full" in status["message"]
    # The broker is as it was.
    assert space.condition("demo", "Degraded")["status"] == "False"
    # It has no finalizer: what belongs to a backup goes with it.
    space.api.delete(names.BACKUP_KIND, "bad", space.name)
    space.wait(lambda: space.api.get("Job", "bad", space.name) is None, "its Job has gone")


def test_backups_of_a_schedule_are_recorded_and_a_failed_one_is_said(
    operator: OperatorProcess, kubelet: FakeKubelet, kubectl: Kubectl, space: Space
) -> None:
    """The Jobs are begun by hand, as one tries a CronJob; they are of the same template."""
    claim(space)
    schedule = {"cron": "0 3 1 1 *", "timeZone": "Europe/Berlin", "keep": 1, "target": CLAIM}
    space.put("demo", spec_of(backup={"schedule": schedule | {"job": {"retries": 0}}}))
    space.until_settled("demo")
    due = space.broker("demo")["status"]["backup"]["nextTime"]
    assert due.endswith("-01-01T02:00:00Z")

    def begin(name: str) -> None:
        kubectl("create", "job", name, "--from=cronjob/demo-backup", "-n", space.name)

    kubelet.end(space.name, "good-", json.dumps(DONE))
    kubelet.end(space.name, "bad-", json.dumps(FAILED), 1)
    begin("good-1")
    space.wait(lambda: space.listed(names.BACKUP_KIND), "the Job has an MqttBackup")
    until(space, "good-1", "Complete", "Complete")

    def last() -> Any:
        return space.broker("demo")["status"]["backup"].get("lastSuccessful", {}).get("name")

    space.wait(lambda: last() == "good-1", "the broker says so")
    begin("bad-1")
    degraded = space.until("demo", "Degraded", "BackupFailing", "True")
    assert "The target is full" in degraded["message"]
    begin("good-2")
    space.until("demo", "Degraded", "AsExpected", "False")
    assert last() == "good-2"
    # One is kept of those that are complete.
    space.wait(
        lambda: (
            {one["metadata"]["name"] for one in space.listed(names.BACKUP_KIND)}
            == {"bad-1", "good-2"}
        ),
        "the old one has gone",
    )


def test_a_new_broker_begins_with_a_backup_or_does_not_serve(
    operator: OperatorProcess, kubelet: FakeKubelet, space: Space
) -> None:
    claim(space)
    refused = FAILED | {"reason": "store_not_empty", "message": "The store is not empty."}
    kubelet.end(space.name, "demo-restore-", json.dumps(refused), 1)
    restore_from = {"target": CLAIM, "name": "good", "job": {"retries": 0}}
    space.put("demo", spec_of(restoreFrom=restore_from))
    found = space.until("demo", "Stalled", "RestoreFailed", "True")
    assert "data-demo-redis-0" in found["message"]
    assert space.condition("demo", "Ready")["reason"] == "RestoreFailed"
    assert space.pods("demo", "redis")
    assert space.listed("Deployment") == []
    with pytest.raises(Refused, match="restoreFrom is immutable"):
        space.put("demo", spec_of())
    # The store has been emptied; the message says how to go on.
    kubelet.end(space.name, "demo-restore-", json.dumps(DONE))
    space.api.delete("Job", "demo-restore", space.name)
    space.until_settled("demo")
    assert space.broker("demo")["status"]["restore"]["sessions"] == DONE["sessions"]


def test_a_cron_that_is_none_is_refused_by_the_api_server(
    operator: OperatorProcess, space: Space
) -> None:
    schedule = {"cron": "0 25 * * *", "target": CLAIM}
    space.put("demo", spec_of(backup={"schedule": schedule}))
    found = space.until("demo", "Degraded", "ApplyRefused", "True")
    assert "CronJob demo-backup" in found["message"]


def test_the_file_of_a_backup_goes_with_it(
    operator: OperatorProcess, kubelet: FakeKubelet, space: Space
) -> None:
    claim(space)
    space.put("demo", spec_of())
    space.until_settled("demo")
    for prefix in ("now-", "mqbk-delete-"):
        kubelet.end(space.name, prefix, json.dumps(DONE))
    put(space, "now", deletionPolicy="Delete")
    until(space, "now", "Complete", "Complete")

    def finalizers() -> list[str]:
        found: list[str] = space.get(names.BACKUP_KIND, "now")["metadata"].get("finalizers", [])
        return found

    space.wait(lambda: finalizers() == [names.BACKUP_FINALIZER], "it is held")
    uid = space.get(names.BACKUP_KIND, "now")["metadata"]["uid"]
    space.api.delete(names.BACKUP_KIND, "now", space.name)
    gone = partial(space.api.get, names.BACKUP_KIND, "now", space.name)
    space.wait(lambda: gone() is None, "it has gone")
    assert space.get("Job", f"mqbk-delete-{uid}")["status"]["succeeded"] == 1
    assert "FileDeleted" in {one["reason"] for one in space.listed("Event")}


@pytest.mark.usefixtures("operator_away")
def test_what_cannot_be_is_refused(space: Space, kubectl: Kubectl) -> None:
    made = put(space, "now")
    assert made["status"]["observedGeneration"] == -1
    changed = made | {"spec": made["spec"] | {"broker": "other"}}
    with pytest.raises(Refused, match="spec is immutable: make another MqttBackup"):
        space.api.replace(changed)
    changed = {"spec": {"deletionPolicy": "Delete"}}
    assert space.api.patch(names.BACKUP_KIND, "now", space.name, changed)
    with pytest.raises(Refused, match="exactly one of persistentVolumeClaim and s3"):
        put(space, "both", target=CLAIM | S3)
    with pytest.raises(Refused, match="path"):
        put(space, "out", target={"persistentVolumeClaim": {"claimName": "a", "path": "../b"}})
    with pytest.raises(Refused, match="at most 63 characters"):
        put(space, "a" * 64)
    assert "the Job has this name" not in kubectl("explain", "mqbk.spec.target.s3")


@pytest.mark.usefixtures("operator")
def test_a_misspelt_field_of_a_backup_is_named(space: Space, kubectl: Kubectl) -> None:
    backup = {
        "apiVersion": names.API_VERSION,
        "kind": names.BACKUP_KIND,
        "metadata": {"name": "now", "namespace": space.name},
        "spec": {"broker": "demo", "target": CLAIM, "retrys": 0},
    }
    kubectl("apply", "--validate=false", "-f", "-", stdin=json.dumps(backup))
    assert "retrys" not in space.get(names.BACKUP_KIND, "now")["spec"]

    def warnings() -> list[str]:
        return [
            one["message"]
            for one in space.listed("Event")
            if (one["type"], one["reason"]) == ("Warning", "FieldsDropped")
            and one["involvedObject"]["kind"] == names.BACKUP_KIND
        ]

    (message,) = space.wait(warnings, "it is told")
    assert "spec.retrys: unknown key" in message
    shown = until(space, "now", "Pending", "BrokerMissing")["message"]
    assert "spec.retrys: unknown key" in shown
