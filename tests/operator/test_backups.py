"""One MqttBackup, from the resource to the Job and back to the status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support import openshift
from support.brokers import NAMESPACE, NOW, spec_of
from support.mqtt_backups import (
    DONE,
    FAILED,
    KEYS,
    S3,
    backup_of,
    complete_job,
    failed_job,
    pod_of,
)
from support.operator_harness import Harness, harness
from tidegate_operator import names
from tidegate_operator.backups.controller import (
    MISSING_S,
    RUNNING_S,
    BackupController,
    BackupIndex,
    needs_work,
)
from tidegate_operator.kube.interface import Event
from tidegate_operator.render.inputs import Settings
from tidegate_operator.spec.backup_crd import not_observed

#: The Job that deletes a file.
DELETING = "mqbk-delete-uid-of-now"


class Backups:
    """A broker that serves, a volume, and what reconciles one MqttBackup."""

    def __init__(self, it: Harness, settings: Settings | None = None) -> None:
        self.it = it
        self.controller = BackupController(
            it.cluster, settings or Settings("registry.example/tidegate:1"), lambda: NOW
        )
        self.put_claim()

    def put(self, body: dict[str, Any]) -> None:
        self.it.fake.objects[body["apiVersion"], body["kind"], NAMESPACE, _name(body)] = body

    def put_claim(self) -> None:
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        self.put(claim | {"metadata": {"name": "backups", "namespace": NAMESPACE}})

    async def run(self, name: str = "now") -> float | None:
        return await self.controller.reconcile((NAMESPACE, name))

    def status(self, name: str = "now") -> dict[str, Any]:
        found: dict[str, Any] = self.it.fake.get(names.BACKUP_KIND, name)["status"]
        return found

    def conditions(self, name: str = "now") -> dict[str, tuple[str, str]]:
        found = self.status(name)["conditions"]
        return {one["type"]: (one["status"], one["reason"]) for one in found}

    @property
    def body(self) -> dict[str, Any]:
        return self.it.fake.get(names.BACKUP_KIND, "now")

    @property
    def job(self) -> dict[str, Any]:
        return self.it.fake.get("Job", "now")

    @property
    def pod(self) -> dict[str, Any]:
        found: dict[str, Any] = self.job["spec"]["template"]["spec"]
        return found


def _name(body: dict[str, Any]) -> str:
    return str(body["metadata"]["name"])


async def backups(spec: str = "minimal", **backup: Any) -> Backups:
    it = await harness(spec)
    await it.settle()
    found = Backups(it)
    found.put(backup_of(**backup))
    return found


# The Job


async def test_the_job_reaches_the_store_as_routers_do_and_writes_to_the_volume() -> None:
    it = await backups()
    assert await it.run() == RUNNING_S
    (container,) = it.pod["containers"]
    assert container["image"] == "registry.example/tidegate:1"
    command = container["command"]
    assert command[command.index("tidegate") :] == [
        "tidegate",
        "backup",
        f"/backups/{NAMESPACE}/demo/on-demand",
        "--config",
        "/etc/tidegate/config/tidegate.yaml",
        "--wait",
        "120",
        "--json",
    ]
    volumes = {one["name"]: one for one in it.pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == "demo-router"
    assert volumes["target"]["persistentVolumeClaim"] == {"claimName": "backups"}
    # Of the routers' files only those of the store: no keys of the link, no token.
    items = volumes["files"]["secret"]["items"]
    assert [one["key"] for one in items] == ["store-password"]
    assert it.job["metadata"]["ownerReferences"][0]["kind"] == names.BACKUP_KIND
    spec = it.job["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (2, 21600)
    assert spec["ttlSecondsAfterFinished"] == 86400


async def test_files_of_an_external_store_are_mounted() -> None:
    it = await backups("sentinel")
    await it.run()
    (files,) = (one["secret"] for one in it.pod["volumes"] if one["name"] == "files")
    mounted = {one["key"] for one in files["items"]}
    assert len(mounted) == 5
    assert mounted <= it.it.fake.get("Secret", "demo-router")["data"].keys()


async def test_a_bucket_has_its_credentials_by_reference() -> None:
    it = await backups(target=S3, job={"retries": 0, "nodeSelector": {"disk": "big"}})
    it.it.put_data("Secret", "bucket", KEYS)
    await it.run()
    (container,) = it.pod["containers"]
    assert f"s3://backups/{NAMESPACE}/demo/on-demand" in container["command"]
    env = {one["name"]: one for one in container["env"]}
    assert env["AWS_ENDPOINT_URL"]["value"] == "http://minio.store.svc:9000"
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {
        "name": "bucket",
        "key": "AWS_SECRET_ACCESS_KEY",
    }
    assert "secret" not in json.dumps([one.get("value") for one in env.values()])
    assert "target" not in {one["name"] for one in it.pod["volumes"]}
    assert it.pod["nodeSelector"] == {"disk": "big"}
    assert it.job["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize("is_openshift", [False, True])
async def test_the_pod_meets_the_restricted_standard(is_openshift: bool) -> None:
    it = await backups()
    it.controller = BackupController(
        it.it.cluster, Settings("image:1", platform_sets_users=is_openshift), lambda: NOW
    )
    await it.run()
    assert it.pod["securityContext"]["runAsNonRoot"] is True
    assert it.pod["automountServiceAccountToken"] is False
    (container,) = it.pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["memory"]
    if is_openshift:
        assert openshift.problems(it.pod) == []


async def test_the_store_admits_the_pod_and_nothing_else() -> None:
    it = await backups()
    await it.run()
    policy = it.it.fake.get("NetworkPolicy", "now-store")["spec"]
    store = it.it.fake.get("StatefulSet", "demo-redis")["spec"]["template"]["metadata"]
    assert policy["podSelector"]["matchLabels"].items() <= store["labels"].items()
    labels = it.job["spec"]["template"]["metadata"]["labels"]
    (rule,) = policy["ingress"]
    peers = [one["podSelector"]["matchLabels"] for one in rule["from"]]
    assert any(one.items() <= labels.items() for one in peers)
    assert {one["port"] for one in rule["ports"]} == {6379, 26379}
    # The operator does not take it for one of the broker's, and leaves it alone.
    outcome = await it.it.reconcile()
    assert outcome.deleted == 0


async def test_a_pod_that_fails_is_no_problem_of_the_broker() -> None:
    it = await backups()
    await it.run()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    containers = [{"name": "tidegate", "state": waiting}]
    it.it.cluster.pods_there.append(pod_of("now", phase="Pending", containerStatuses=containers))
    await it.it.reconcile()
    assert it.it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_a_backup_is_made_while_a_spec_is_refused() -> None:
    it = await backups()
    it.it.put_spec(spec_of(listeners=[{"name": "mqtt", "port": 80}]))
    await it.run()
    assert it.job


# What is missing


async def test_what_is_missing_is_named_and_waited_for() -> None:
    it = Backups(Harness(spec_of()))
    it.put(backup_of(broker="other", target={"persistentVolumeClaim": {"claimName": "vol"}}))
    assert await it.run() == MISSING_S
    assert it.conditions()["Stalled"] == ("True", "BrokerMissing")
    it.put(backup_of(target={"persistentVolumeClaim": {"claimName": "vol"}}))
    await it.run()
    assert "has not been created yet" in it.status()["message"]
    await it.it.settle()
    await it.run()
    assert it.conditions()["Stalled"] == ("True", "TargetMissing")
    assert "PersistentVolumeClaim vol" in it.status()["message"]
    assert it.it.cluster.events[-1][:2] == ("Warning", "TargetMissing")
    it.put(backup_of(target=S3))
    await it.run()
    assert it.conditions()["Stalled"] == ("True", "CredentialsMissing")
    it.it.put_data("Secret", "bucket", {"AWS_ACCESS_KEY_ID": b"key"})
    await it.run()
    assert "lacks AWS_SECRET_ACCESS_KEY" in it.status()["message"]
    it.it.put_data("Secret", "bucket", KEYS)
    await it.run()
    assert it.conditions()["Stalled"] == ("False", "AsExpected")
    assert it.conditions()["Reconciling"] == ("True", "Starting")


async def test_a_job_of_somebody_else_is_not_touched() -> None:
    it = await backups()
    metadata = {"name": "now", "namespace": NAMESPACE, "uid": "theirs"}
    it.put({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {}})
    await it.run()
    assert it.conditions()["Stalled"] == ("True", "NameTaken")
    assert it.job["spec"] == {}


async def test_a_job_that_is_refused_is_tried_again() -> None:
    it = await backups()
    it.it.fake.refuse[("Job", "now")] = "exceeded quota: jobs"
    assert await it.run() == MISSING_S
    assert it.conditions()["Stalled"] == ("True", "ApplyRefused")
    assert "exceeded quota" in it.status()["message"]
    it.it.fake.refuse.clear()
    await it.run()
    assert it.conditions()["Reconciling"][0] == "True"


# Its status


async def test_progress_and_result_are_shown() -> None:
    it = await backups()
    await it.run()
    assert it.status()["phase"] == "Pending"
    it.job["status"] = {"startTime": "2026-11-29T22:59:00Z", "active": 1}
    it.it.cluster.pods_of_jobs["now"] = [pod_of("now")]
    it.it.cluster.lines["now-0"] = '{"phase": "writing", "keys": 12, "bytes": 800}\n'
    assert await it.run() == RUNNING_S
    assert it.status()["phase"] == "Running"
    assert it.status()["progress"] == {"step": "writing", "keys": 12, "bytes": 800}
    assert it.conditions()["Reconciling"] == ("True", "Running")
    it.job["status"] = complete_job()
    it.it.cluster.pods_of_jobs["now"] = [pod_of("now", report=DONE)]
    assert await it.run() is None
    status = it.status()
    assert "progress" not in status
    assert status["phase"] == "Complete"
    assert status["location"] == f"backups:{NAMESPACE}/demo/on-demand/{DONE['name']}.tgbackup"
    assert {key: status[key] for key in ("name", "bytes", "sha256", "sessions")} == {
        key: DONE[key] for key in ("name", "bytes", "sha256", "sessions")
    }
    assert (status["queuedMessages"], status["retainedMessages"]) == (70, 5)
    assert status["takenAt"] == "2026-11-29T23:00:00Z"
    assert it.conditions() == {
        "Complete": ("True", "Complete"),
        "Failed": ("False", "AsExpected"),
        "Reconciling": ("False", "AsExpected"),
        "Stalled": ("False", "AsExpected"),
    }
    assert [one[:2] for one in it.it.cluster.events][-3:] == [
        ("Normal", "Starting"),
        ("Normal", "Running"),
        ("Normal", "Complete"),
    ]
    # Its Job goes after a while, the status stays.
    it.it.fake.delete("Job", "now")
    assert await it.run() is None
    assert it.status() == status


async def test_the_last_failure_is_the_one_that_is_shown() -> None:
    it = await backups()
    await it.run()
    it.job["status"] = {"failed": 1, "active": 1}
    pods = it.it.cluster.pods_of_jobs["now"] = [pod_of("now", report=FAILED)]
    await it.run()
    assert it.conditions()["Reconciling"] == ("True", "Retrying")
    assert it.status()["message"] == "Attempt 1 failed: The target is full; it is retried."
    pods.append(pod_of("now", 1, report=FAILED | {"message": "The store is away."}))
    it.job["status"] = failed_job(failed=2)
    assert await it.run() is None
    assert it.status()["phase"] == "Failed"
    assert it.conditions()["Failed"] == ("True", "BackupFailed")
    assert it.conditions()["Stalled"] == ("True", "BackupFailed")
    assert "has failed in 2 attempts: The store is away. " in it.status()["message"]
    assert it.status()["completedAt"] == "2026-11-29T23:05:00Z"
    assert it.it.cluster.events[-1][:2] == ("Warning", "BackupFailed")


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (pod_of("now", report="Traceback: no module"), "exit code 1, Error: Traceback"),
        (pod_of("now", report=""), "exit code 1, Error"),
        (None, "BackoffLimitExceeded"),
    ],
)
async def test_a_pod_that_could_not_report_is_quoted(pod: Any, said: str) -> None:
    it = await backups()
    await it.run()
    it.job["status"] = failed_job()
    it.it.cluster.pods_of_jobs["now"] = [pod] if pod else []
    await it.run()
    assert said in it.status()["message"]


async def test_a_deadline_names_the_field() -> None:
    it = await backups()
    await it.run()
    it.job["status"] = failed_job("DeadlineExceeded")
    await it.run()
    assert it.conditions()["Failed"] == ("True", "DeadlineExceeded")
    assert "spec.job.deadlineSeconds" in it.status()["message"]


async def test_a_pod_that_does_not_start_says_why() -> None:
    it = await backups()
    await it.run()
    unschedulable = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/3 nodes"}
    it.it.cluster.pods_of_jobs["now"] = [pod_of("now", phase="Pending", conditions=[unschedulable])]
    await it.run()
    assert it.conditions()["Reconciling"] == ("True", "PodFailing")
    assert "0/3 nodes" in it.status()["message"]
    assert it.it.cluster.events[-1][0] == "Warning"


async def test_a_job_that_was_deleted_leaves_no_riddle() -> None:
    it = await backups()
    await it.run()
    it.it.fake.delete("Job", "now")
    await it.run()
    assert it.conditions()["Failed"] == ("True", "JobDeleted")


async def test_misspelt_fields_are_named_with_every_outcome() -> None:
    """The API server drops them, and the backup is made without them: here it keeps its file."""
    it = await backups()
    it.body["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(
            {"spec": {"broker": "demo", "deletionPolice": "Delete", "job": {"retrys": 1}}}
        )
    }
    it.body["status"] = not_observed()
    await it.run()
    await it.run()
    for name in ("deletionPolice", "job.retrys"):
        assert f"spec.{name}: unknown key; did you mean " in it.status()["message"]
    it.job["status"] = complete_job()
    it.it.cluster.pods_of_jobs["now"] = [pod_of("now", report=DONE)]
    await it.run()
    assert it.status()["phase"] == "Complete"
    assert "spec.deletionPolice: unknown key" in it.status()["message"]
    warnings = [one for one in it.it.cluster.events if one[:2] == ("Warning", "FieldsDropped")]
    assert len(warnings) == 1


async def test_nothing_is_written_without_a_difference() -> None:
    it = await backups()
    await it.run()
    await it.run()
    writes, it.it.cluster.status_writes = len(it.it.fake.writes), 0
    await it.run()
    assert len(it.it.fake.writes) == writes
    assert it.it.cluster.status_writes == 0


async def test_one_that_is_deleted_is_left_alone() -> None:
    it = await backups()
    it.it.fake.get(names.BACKUP_KIND, "now")["metadata"]["deletionTimestamp"] = "now"
    assert await it.run() is None
    assert await it.run("other") is None
    assert "Job" not in {key[1] for key in it.it.fake.objects}


# Deletion


async def complete(**spec: Any) -> Backups:
    """Return a complete backup whose file goes with it."""
    it = await backups(deletionPolicy="Delete", **spec)
    await it.run()
    it.job["status"] = complete_job()
    it.it.cluster.pods_of_jobs["now"] = [pod_of("now", report=DONE)]
    assert "finalizers" not in it.body["metadata"]
    await it.run()
    # The change of its status is seen, too.
    await it.run()
    assert it.body["metadata"]["finalizers"] == [names.BACKUP_FINALIZER]
    return it


async def test_the_file_goes_with_its_backup() -> None:
    it = await complete()
    it.body["metadata"]["deletionTimestamp"] = "now"
    assert await it.run() == RUNNING_S
    job = it.it.fake.get("Job", DELETING)
    assert "ownerReferences" not in job["metadata"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    where = f"/backups/{NAMESPACE}/demo/on-demand"
    assert container["command"][-2:] == [where, DONE["name"]]
    assert await it.run() == RUNNING_S
    job["status"] = complete_job()
    assert await it.run() is None
    assert it.it.cluster.events[-1][:2] == ("Normal", "FileDeleted")
    assert await it.run() is None
    assert names.BACKUP_KIND not in {key[1] for key in it.it.fake.objects}


async def test_a_file_that_cannot_be_deleted_does_not_keep_its_backup() -> None:
    for fault in ("job", "claim", "namespace"):
        it = await complete()
        it.body["metadata"]["deletionTimestamp"] = "now"
        if fault == "claim":
            it.it.fake.delete("PersistentVolumeClaim", "backups")
        if fault == "namespace":
            it.it.fake.refuse[("Job", DELETING)] = "the namespace is being terminated"
        await it.run()
        if fault == "job":
            it.it.fake.get("Job", DELETING)["status"] = failed_job()
            it.it.cluster.pods_of_jobs[DELETING] = [pod_of(DELETING, report=FAILED)]
            await it.run()
        kind, reason, text = it.it.cluster.events[-1]
        assert (kind, reason) == ("Warning", "FileKept"), fault
        assert DONE["name"] in text
        assert names.BACKUP_KIND not in {key[1] for key in it.it.fake.objects}


async def test_whether_the_file_goes_can_be_changed_until_the_end() -> None:
    it = await complete()
    it.body["spec"]["deletionPolicy"] = "Retain"
    await it.run()
    assert it.body["metadata"]["finalizers"] == []
    it.body["spec"]["deletionPolicy"] = "Delete"
    await it.run()
    assert it.body["metadata"]["finalizers"] == [names.BACKUP_FINALIZER]
    it.body["metadata"]["deletionTimestamp"] = "now"
    it.body["spec"]["deletionPolicy"] = "Retain"
    await it.run()
    assert DELETING not in {key[3] for key in it.it.fake.objects}
    assert names.BACKUP_KIND not in {key[1] for key in it.it.fake.objects}


def test_what_has_ended_is_not_looked_at_again() -> None:
    """Of each schedule there are as many as it keeps, for ever."""
    done: dict[str, Any] = {"phase": "Complete", "name": "a"}
    one = backup_of() | {"status": done}
    index = BackupIndex()
    key = (NAMESPACE, "now")
    assert not index.is_over(key)
    index.apply_event(Event(one))
    assert index.is_over(key)
    index.apply_event(Event(one, is_deleted=True))
    assert not index.is_over(key)
    assert needs_work(backup_of())
    held = {"finalizers": [names.BACKUP_FINALIZER]}
    ended = {"deletionTimestamp": "now"}
    deleted = backup_of(deletionPolicy="Delete") | {"status": done}
    assert needs_work(deleted)
    assert not needs_work(deleted | {"metadata": deleted["metadata"] | held})
    assert needs_work(deleted | {"metadata": deleted["metadata"] | held | ended})
    assert not needs_work(one | {"metadata": one["metadata"] | ended})
    assert needs_work(one | {"metadata": one["metadata"] | held})


async def test_a_file_in_a_bucket_is_deleted_without_its_broker() -> None:
    it = await backups(deletionPolicy="Delete", target=S3)
    it.it.put_data("Secret", "bucket", KEYS)
    it.body["status"] = {"phase": "Complete", "name": "a", "location": "s3://backups/x/a"}
    await it.run()
    it.it.fake.delete(names.KIND, "demo")
    it.body["metadata"]["deletionTimestamp"] = "now"
    await it.run()
    pod = it.it.fake.get("Job", DELETING)["spec"]["template"]["spec"]
    assert "AWS_SECRET_ACCESS_KEY" in {one["name"] for one in pod["containers"][0]["env"]}
    assert pod["containers"][0]["image"] == "registry.example/tidegate:1"
    assert "serviceAccountName" not in pod
