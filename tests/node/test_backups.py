"""Backups by Jobs of the real image, on a volume and in a bucket, and brokers that begin with them.

Inputs: MqttBackups, a schedule and ``spec.restoreFrom``, as users write them; clients before and
after. Observed: files and objects, statuses and events, and what the new brokers tell clients.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import s3_server
from support.kube.node import Node
from support.kube.node_api import Manifest
from support.kube.node_load import away
from support.kube.node_product import CLIENT_PORT, PATIENCE_S, SMALL, Broker, broker_spec
from support.kube.node_settings import ADDRESS
from support.mqtt_bytes import V5, V311
from support.raw_client import RawClient
from support.waiting import wait_for
from tidegate_operator import names

pytestmark = [pytest.mark.node, pytest.mark.timeout(300, func_only=True)]

ELSEWHERE = "elsewhere"
CREDENTIALS = {key: value.encode() for key, value in s3_server.KEYS.items()}
VOLUME: Manifest = {"persistentVolumeClaim": {"claimName": "backups"}}
#: It is small, and says at once what is wrong.
JOB: Manifest = {"resources": SMALL, "retries": 0}
#: Messages in the queues of sessions that are offline: topic, payload, QoS.
Queue = list[tuple[str, bytes, int]]
LEFT: Queue = [("left/0", b"0", 1), ("left/1", b"1", 2), ("left/2", b"2", 1)]
LATER: Queue = [("left/3", b"3", 1)]
#: Sessions by client identifier: version and QoS of the subscription.
SESSIONS = {"of-5": (V5, 2), "of-311": (V311, 1)}


@pytest.fixture(scope="module")
def objects(node: Node) -> Iterator[str]:
    """A store with the S3 protocol, beside the node; its URL."""
    with s3_server.running(ADDRESS) as url:
        yield url


@pytest.fixture
def source(node: Node, broker: Broker) -> Iterator[Broker]:
    """The broker, with a volume for backups and credentials of a bucket beside it."""
    broker.secret("bucket", CREDENTIALS)
    node.api.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"namespace": broker.namespace, "name": "backups"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
    )
    yield broker
    broker.change({"backup": None})
    place = ("--namespace", broker.namespace)
    scheduled = ("jobs,cronjobs", "-l", f"{names.INSTANCE_LABEL}={broker.name}", "-o", "name")
    wait_for(
        lambda: "demo-backup" not in node.kubectl("get", *scheduled, *place),
        PATIENCE_S,
        "the schedule and its Jobs have gone",
    )
    node.kubectl("delete", "mqttbackups", "--all", "--timeout=60s", *place)
    # The Job that has deleted a file stays for an hour.
    node.kubectl("delete", "jobs", "--all", "--timeout=60s", *place)
    node.kubectl("delete", "secret/bucket", "pvc/backups", "--timeout=60s", *place)


async def test_brokers_begin_with_what_jobs_have_backed_up(
    node: Node, source: Broker, objects: str
) -> None:
    await leave_sessions(source)
    back_up(source, "on-volume", VOLUME)
    back_up(source, "in-bucket", in_bucket(objects), "Delete")
    back_up(source, "nowhere", in_bucket(objects, "no-such-bucket"))
    await away(source.change, {"backup": {"schedule": every_minute()}})

    written = await away(complete, source, "on-volume")
    claim, _, path = written["location"].partition(":")
    content = (volume_of(source, claim) / path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == written["sha256"]
    uploaded = await away(complete, source, "in-bucket")
    (key,) = objects_in(objects)
    assert uploaded["location"] == f"s3://{s3_server.BUCKET}/{key}"
    failed = await away(ended, source, "nowhere")
    assert failed["phase"] == "Failed"
    assert "there is no bucket no-such-bucket" in failed["message"]

    # What comes later is in neither.
    await publish(source, LATER)
    await (await connected(source, "newcomer")).disconnect()
    await away(node.namespaced, ELSEWHERE)
    near = restored(source, "near", source.namespace, "on-volume")
    far = restored(source, "far", ELSEWHERE, "in-bucket")
    far.secret("bucket", CREDENTIALS)
    with contextlib.ExitStack() as stack:
        for one in (near, far):
            one.apply()
            stack.callback(remove, one)
        for one, backup in ((near, written), (far, uploaded)):
            status = (await away(one.wait_until_settled, 2 * PATIENCE_S))["status"]
            assert_is_restored(status["restore"], backup)
            await find_sessions(one, LEFT)
            assert not is_known(await connected(one, "newcomer"))
    await find_sessions(source, LEFT + LATER)

    # The file goes with its MqttBackup.
    place = ("--namespace", source.namespace)
    await away(node.kubectl, "delete", "mqbk/in-bucket", "--timeout=60s", *place)
    assert objects_in(objects) == []
    last = await away(scheduled, source)
    assert last["phase"] == "Complete"
    assert (volume_of(source, "backups") / last["location"].partition(":")[2]).is_file()


async def leave_sessions(broker: Broker) -> None:
    """Have sessions subscribe and go; then publish for them, and a retained message."""
    for client_id, (_, qos) in SESSIONS.items():
        client = await connected(broker, client_id)
        await client.subscribe(("left/#", qos))
        await client.disconnect()
    await publish(broker, LEFT)
    await publish(broker, [("kept/state", b"on", 1)], retain=True)


async def find_sessions(broker: Broker, queue: Queue) -> None:
    """The sessions are there with queues and subscriptions, and so is the retained message."""
    clients = {client_id: await connected(broker, client_id) for client_id in SESSIONS}
    for client_id, client in clients.items():
        assert is_known(client)
        found = [await client.expect("PUBLISH") for _ in queue]
        most = SESSIONS[client_id][1]
        assert [(one.topic, one.payload, one.qos) for one in found] == [
            (topic, payload, min(qos, most)) for topic, payload, qos in queue
        ]
        for one in found:
            await client.acknowledge(one)
    await publish(broker, [("left/now", b"now", 1)])
    for client in clients.values():
        await client.acknowledge(await client.expect("PUBLISH", topic="left/now"))
        await client.disconnect()
    reader = await connected(broker, "reader")
    await reader.subscribe("kept/#")
    await reader.expect("PUBLISH", topic="kept/state", payload=b"on", retain=True)
    await reader.disconnect()


async def connected(broker: Broker, client_id: str) -> RawClient:
    """Connect with a session that stays; over TLS, at the address of the Service."""
    version, _ = SESSIONS.get(client_id, (V5, 0))
    address, tls = await away(broker.address), await away(broker.client_tls)
    client = await RawClient.open(
        f"tls://{address}:{CLIENT_PORT}", version=version, ssl_context=tls
    )
    expiry = [("session_expiry", 86_400)] if version == V5 else []
    await client.connect(client_id, clean=False, props=expiry)
    return client


def is_known(client: RawClient) -> bool:
    """Whether CONNACK has said that there is a session."""
    assert client.connack is not None
    return client.connack.session_present


async def publish(broker: Broker, messages: Queue, *, retain: bool = False) -> None:
    """Publish messages and wait until they are acknowledged."""
    publisher = await connected(broker, "publisher")
    for topic, payload, qos in messages:
        reply = await publisher.deliver(topic, payload, qos=qos, retain=retain)
        assert reply is not None
        assert reply.reason < 0x80
    await publisher.disconnect()


def in_bucket(url: str, bucket: str = s3_server.BUCKET) -> Manifest:
    """Return a target in a bucket."""
    credentials = {"name": "bucket"}
    return {"s3": {"endpoint": url, "bucket": bucket, "credentialsSecret": credentials}}


def every_minute() -> Manifest:
    """Return a schedule, as often as there can be one."""
    return {"cron": "* * * * *", "keep": 1, "target": VOLUME, "job": JOB}


def objects_in(url: str) -> list[str]:
    """Return what is in the bucket."""
    found = s3_server.connected(url).list_objects_v2(Bucket=s3_server.BUCKET)
    return [one["Key"] for one in found.get("Contents", ())]


def volume_of(broker: Broker, claim: str) -> Path:
    """Return where the files of a claim are."""
    found = broker.node.api.read("v1", "PersistentVolumeClaim", broker.namespace, claim)
    assert found is not None
    return broker.node.places.volumes / str(found["spec"]["volumeName"])


def back_up(broker: Broker, name: str, target: Manifest, policy: str = "Retain") -> None:
    """Make an MqttBackup."""
    spec = {"broker": broker.name, "target": target, "job": JOB, "deletionPolicy": policy}
    broker.node.api.apply(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.BACKUP_KIND,
            "metadata": {"namespace": broker.namespace, "name": name},
            "spec": spec,
        }
    )


def ended(broker: Broker, name: str) -> Manifest:
    """Wait until an MqttBackup is complete, or has failed; return its status."""
    found: Manifest = {}

    def is_over() -> bool:
        one = broker.node.api.read(names.API_VERSION, names.BACKUP_KIND, broker.namespace, name)
        found.update((one or {}).get("status", {}))
        return found.get("phase") in {"Complete", "Failed"}

    wait_for(is_over, PATIENCE_S, f"the backup {name} has ended")
    return found


def complete(broker: Broker, name: str) -> Manifest:
    """Wait until an MqttBackup is complete; return its status, which says what is in it."""
    status = ended(broker, name)
    assert status["phase"] == "Complete", status
    assert status["sessions"] >= len(SESSIONS)
    assert status["queuedMessages"] >= len(SESSIONS) * len(LEFT)
    assert status["retainedMessages"] >= 1
    return status


def scheduled(broker: Broker) -> Manifest:
    """Wait until the schedule has made a backup; return the status of its MqttBackup."""
    settled = broker.wait_until(
        "a backup of the schedule is complete",
        lambda one: bool(one["status"].get("backup", {}).get("lastSuccessful")),
        2 * PATIENCE_S,
    )
    return ended(broker, settled["status"]["backup"]["lastSuccessful"]["name"])


def restored(source: Broker, name: str, namespace: str, backup: str) -> Broker:
    """Return a broker that begins with a backup of another one."""
    reference = {"name": backup, "namespace": source.namespace}
    spec = broker_spec() | {"restoreFrom": {"backup": reference, "job": JOB}}
    return Broker(source.node, namespace, name, spec)


def assert_is_restored(found: Manifest, backup: Manifest) -> None:
    """The broker's status says that all of the backup is there."""
    counts = ("name", "sessions", "queuedMessages", "retainedMessages")
    assert found["phase"] == "Complete"
    assert {key: found[key] for key in counts} == {key: backup[key] for key in counts}


def remove(broker: Broker) -> None:
    """Delete a broker, and the volume that it leaves."""
    broker.delete()
    place = ("--namespace", broker.namespace)
    broker.node.kubectl("delete", "pvc", f"data-{broker.name}-redis-0", "--timeout=60s", *place)
