"""Scheduled backups: the CronJob, the MqttBackups of its Jobs, and the broker's status."""

from __future__ import annotations

import copy
import datetime
import json
from typing import Any

import pytest

from support.brokers import NAMESPACE, NOW, spec_of
from support.mqtt_backups import CLAIM, DONE, FAILED, backup_of, complete_job, failed_job, pod_of
from support.operator_harness import Harness
from tidegate_operator import names
from tidegate_operator.backups.controller import BackupController, BackupIndex
from tidegate_operator.backups.cron import next_time
from tidegate_operator.backups.schedule import KEPT_FAILED
from tidegate_operator.kube.interface import Listed
from tidegate_operator.reconcile.reconciler import Reconciler
from tidegate_operator.render.inputs import Settings

SCHEDULE: dict[str, Any] = {
    "cron": "0 3 * * *",
    "timeZone": "Europe/Berlin",
    "keep": 2,
    "target": CLAIM,
}


class Scheduled(Harness):
    """A broker with a schedule; ``see`` is what the watch of MqttBackups does."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self.index = BackupIndex()
        settings = Settings("registry.example/tidegate:1")
        self.reconciler = Reconciler(
            self.cluster, settings, lambda: self.now, self.admin, backups=self.index
        )
        self.controller = BackupController(self.cluster, settings, lambda: self.now)

    def see(self) -> None:
        all_of_them = [one for one in self.fake.all() if one["kind"] == names.BACKUP_KIND]
        self.index.replace("", Listed(all_of_them, "1"))

    def put_claim(self) -> None:
        key = ("v1", "PersistentVolumeClaim", NAMESPACE, "backups")
        self.fake.objects[key] = {"kind": "PersistentVolumeClaim", "metadata": {"name": "backups"}}

    @property
    def cron_job(self) -> dict[str, Any]:
        return self.fake.get("CronJob", "demo-backup")

    async def fire(self, name: str, status: dict[str, Any], report: dict[str, Any]) -> None:
        """Make a Job as the CronJob controller does, let it end so, and reconcile everything."""
        template = copy.deepcopy(self.cron_job["spec"]["jobTemplate"])
        job = {"apiVersion": "batch/v1", "kind": "Job", **template, "status": status}
        job["metadata"] |= {"name": name, "namespace": NAMESPACE, "uid": f"uid-of-{name}"}
        self.fake.objects["batch/v1", "Job", NAMESPACE, name] = job
        self.cluster.pods_of_jobs[name] = [pod_of(name, report=report)]
        await self.controller.reconcile((NAMESPACE, name))
        made = self.fake.get(names.BACKUP_KIND, name)["metadata"]
        made.setdefault("creationTimestamp", self.now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        self.see()
        await self.reconcile()

    def backups(self) -> set[str]:
        return {key[3] for key in self.fake.objects if key[1] == names.BACKUP_KIND}


async def scheduled(**changes: Any) -> Scheduled:
    it = Scheduled(spec_of(backup={"schedule": SCHEDULE | changes}))
    it.put_claim()
    await it.settle()
    it.cron_job["metadata"]["creationTimestamp"] = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    return it


def at(hours: float) -> str:
    """Return the end of a backup that many hours after the beginning."""
    moment = NOW + datetime.timedelta(hours=hours)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_the_cron_job_is_what_the_schedule_says() -> None:
    it = await scheduled(suspend=True, startingDeadlineSeconds=600, job={"retries": 1})
    spec = it.cron_job["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 3 * * *", "Europe/Berlin")
    assert (spec["suspend"], spec["startingDeadlineSeconds"]) == (True, 600)
    assert spec["concurrencyPolicy"] == "Forbid"
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 1
    (container,) = job["template"]["spec"]["containers"]
    command = container["command"]
    assert f"/backups/{NAMESPACE}/demo/scheduled" in command
    assert command[command.index("--keep") + 1] == "2"
    assert it.fake.get("NetworkPolicy", "demo-backup-store")
    assert "nextTime" not in it.status["backup"]
    # Nothing is written without a difference, and nothing stays without a schedule.
    assert (await it.reconcile()).applied == 0
    it.put_spec(spec_of())
    await it.reconcile()
    assert {"CronJob"} & {key[1] for key in it.fake.objects} == set()
    assert "backup" not in it.status


async def test_each_job_becomes_a_backup_and_the_broker_says_which_was_the_last() -> None:
    it = await scheduled()
    assert it.status["backup"] == {"nextTime": next_shown(NOW)}
    await it.fire("demo-backup-1", complete_job(), DONE)
    backup = it.fake.get(names.BACKUP_KIND, "demo-backup-1")
    assert backup["status"]["phase"] == "Complete"
    claim = backup["spec"]["target"]["persistentVolumeClaim"]
    assert claim["path"] == f"{NAMESPACE}/demo/scheduled"
    # Backups outlive their broker, which may be restored from them.
    assert "ownerReferences" not in backup["metadata"]
    last = it.status["backup"]["lastSuccessful"]
    assert last["name"] == "demo-backup-1"
    assert last["location"] == backup["status"]["location"]
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


def next_shown(moment: datetime.datetime) -> str:
    found = next_time(SCHEDULE["cron"], SCHEDULE["timeZone"], moment)
    assert found is not None
    return found.strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_failed_backup_degrades_the_broker_until_one_is_complete() -> None:
    it = await scheduled()
    await it.fire("demo-backup-1", complete_job(), DONE)
    it.pass_time(3600)
    await it.fire("demo-backup-2", failed_job(), FAILED)
    assert it.conditions()["Degraded"] == ("True", "BackupFailing")
    # It serves, and nothing of the spec has to be corrected.
    assert it.conditions()["Ready"] == ("True", "Serving")
    assert it.conditions()["Stalled"] == ("False", "AsExpected")
    message = it.message("Degraded")
    for said in ("demo-backup-2", "The target is full", f"demo-backup-1, of {DONE['taken_at']}"):
        assert said in message
    assert it.cluster.events[-1][:2] == ("Warning", "BackupFailing")
    assert it.status["backup"]["lastFailed"]["name"] == "demo-backup-2"
    it.pass_time(3600)
    await it.fire("demo-backup-3", complete_job(), DONE)
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_a_target_that_is_missing_is_said_before_the_first_backup_is_due() -> None:
    it = await scheduled()
    it.fake.delete("PersistentVolumeClaim", "backups")
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "BackupFailing")
    assert "There is no PersistentVolumeClaim backups" in it.message("Degraded")
    assert it.conditions()["Ready"] == ("True", "Serving")
    it.put_spec(spec_of(backup={"schedule": SCHEDULE | {"suspend": True}}))
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    it.put_spec(spec_of(backup={"schedule": SCHEDULE}))
    it.put_claim()
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_backups_that_are_not_made_are_missed() -> None:
    it = await scheduled()
    it.pass_time(30 * 3600)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    it.pass_time(24 * 3600)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "BackupFailing")
    assert "two were due" in it.message("Degraded")
    assert "no successful one yet" in it.message("Degraded")
    await it.fire("demo-backup-1", complete_job(completionTime=at(53)), DONE)
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    it.put_spec(spec_of(backup={"schedule": SCHEDULE | {"suspend": True}}))
    it.pass_time(99 * 3600)
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")


async def test_as_many_are_kept_as_there_are_files() -> None:
    it = await scheduled()
    for number in range(1, 5):
        it.pass_time(60)
        await it.fire(f"demo-backup-{number}", complete_job(), DONE)
    assert it.backups() == {"demo-backup-3", "demo-backup-4"}
    for number in range(5, 7 + KEPT_FAILED):
        it.pass_time(60)
        await it.fire(f"demo-backup-{number}", failed_job(), FAILED)
    assert {"demo-backup-3", "demo-backup-4"} <= it.backups()
    assert len(it.backups()) == 2 + KEPT_FAILED
    # One that somebody has made is none of them.
    mine = backup_of("mine")
    it.fake.objects[names.API_VERSION, names.BACKUP_KIND, NAMESPACE, "mine"] = mine
    it.see()
    await it.reconcile()
    assert "mine" in it.backups()


async def test_a_job_of_a_schedule_that_is_away_is_no_riddle() -> None:
    it = await scheduled()
    await it.fire("demo-backup-1", {"active": 1}, {"phase": "writing"})
    it.fake.delete("Job", "demo-backup-1")
    await it.controller.reconcile((NAMESPACE, "demo-backup-1"))
    status = it.fake.get(names.BACKUP_KIND, "demo-backup-1")["status"]
    assert status["phase"] == "Failed"
    # Other Jobs are none of ours.
    other = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
    it.fake.objects["batch/v1", "Job", NAMESPACE, "x"] = other
    assert await it.controller.reconcile((NAMESPACE, "x")) is None


async def test_what_the_job_is_to_record_can_be_recorded() -> None:
    it = await scheduled()
    template = it.cron_job["spec"]["jobTemplate"]["metadata"]
    spec = json.loads(template["annotations"][names.BACKUP_SPEC])
    assert spec["broker"] == "demo"


# When


@pytest.mark.parametrize(
    ("cron", "zone", "after", "wanted"),
    [
        ("0 3 * * *", "Etc/UTC", "2026-11-29T02:59:00", "2026-11-29T03:00:00"),
        ("0 3 * * *", "Etc/UTC", "2026-11-29T03:00:00", "2026-11-30T03:00:00"),
        ("0 3 * * *", "Europe/Berlin", "2026-07-01T00:00:00", "2026-07-01T01:00:00"),
        ("@weekly", "Etc/UTC", "2026-11-30T00:00:00", "2026-12-06T00:00:00"),
        ("5/30 * * * ?", "Etc/UTC", "2026-11-29T00:06:00", "2026-11-29T00:35:00"),
    ],
)
def test_the_next_time_is_that_of_the_cron_job(
    cron: str, zone: str, after: str, wanted: str
) -> None:
    moment = datetime.datetime.fromisoformat(after).replace(tzinfo=datetime.UTC)
    found = next_time(cron, zone, moment)
    assert found is not None
    assert found.replace(tzinfo=None).isoformat() == wanted


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("0 3 * *", "Etc/UTC"),
        ("@every 1h", "Etc/UTC"),
        ("0 3 * * *", "No/Where"),
        ("0 0 31 2 *", "Etc/UTC"),
    ],
)
def test_what_is_not_understood_has_no_next_time(cron: str, zone: str) -> None:
    assert next_time(cron, zone, NOW) is None
