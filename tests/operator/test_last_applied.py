"""The Secret with what was applied: when it is written, and when what it says is not believed."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
from typing import Any

import pytest

from support.brokers import NAMESPACE, UID, spec_of
from support.operator_harness import Harness, harness
from tidegate_operator import names
from tidegate_operator.plan import ObjectRef
from tidegate_operator.reconcile.last_applied import KEY, MAX_BYTES, applied_by, record_of
from tidegate_operator.render import Manifest, Owner

OWNER = Owner("demo", NAMESPACE, UID)
SECRET = "demo-last-applied"
INVALID = {"redis": {"external": {"url": "http://x"}}}
POLICY = ("NetworkPolicy", "demo-edge")
WRITE = ("apply", "Secret", SECRET)


async def serving() -> Harness:
    it = await harness("headline")
    await it.settle()
    return it


def listed(it: Harness) -> set[ObjectRef]:
    return {ObjectRef.of(one) for one in applied_by(it.fake.get("Secret", SECRET), OWNER)}


def packed(content: Any) -> str:
    return base64.b64encode(gzip.compress(json.dumps(content).encode())).decode()


async def is_quiet(it: Harness) -> bool:
    it.fake.writes.clear()
    for _ in range(2):
        await it.reconcile()
    return not it.fake.writes


async def test_the_secret_belongs_to_the_broker_and_has_no_secrets() -> None:
    it = await serving()
    secret = it.fake.get("Secret", SECRET)
    assert secret["metadata"]["ownerReferences"] == [OWNER.owner_reference()]
    assert {ref.kind for ref in listed(it)} == {
        "Service",
        "ServiceAccount",
        "NetworkPolicy",
        "PodDisruptionBudget",
    }


async def test_it_is_written_after_everything_else_and_only_when_it_changes() -> None:
    it = await harness("headline")
    await it.reconcile()
    assert it.fake.writes[-1] == WRITE
    it.make_ready()
    await it.reconcile()
    assert await is_quiet(it)
    it.put_data("Secret", "users", {"passwords": b"only:one\n"})
    await it.reconcile()
    assert ("apply", "Secret", "demo-edge") in it.fake.writes
    assert WRITE not in it.fake.writes
    it.put_spec(spec_of("headline", service={"type": "NodePort"}))
    await it.reconcile()
    assert it.fake.writes[-1] == WRITE


async def test_a_new_operator_asks_and_writes_no_more_than_before() -> None:
    it = await serving()
    it.cluster.reads = 0
    await it.reconcile()
    usual = it.cluster.reads
    it.start_anew()
    it.fake.writes.clear()
    await it.reconcile()
    it.cluster.reads = 0
    await it.reconcile()
    assert it.cluster.reads == usual
    assert it.fake.writes == []


async def test_a_refused_spec_does_not_change_it() -> None:
    it = await serving()
    before = copy.deepcopy(it.fake.get("Secret", SECRET))
    for changes in (INVALID, {"acl": {"source": {"configMapName": "nowhere"}}}):
        it.put_spec(spec_of("headline", service={"type": "NodePort"}, **changes))
        await it.reconcile()
    assert it.fake.get("Secret", SECRET) == before


@pytest.mark.parametrize("damage", ["deleted", "changed"])
async def test_it_is_put_back_while_a_spec_is_refused(damage: str) -> None:
    it = await serving()
    it.put_spec(spec_of("headline", **INVALID))
    await it.reconcile()
    before = copy.deepcopy(it.fake.get("Secret", SECRET)["data"])
    if damage == "deleted":
        it.fake.delete("Secret", SECRET)
    else:
        it.fake.get("Secret", SECRET)["data"][KEY] = "YQ=="
    it.fake.delete(*POLICY)
    await it.reconcile()
    assert it.fake.get("Secret", SECRET)["data"] == before
    assert it.fake.get(*POLICY)
    assert await is_quiet(it)


async def test_one_that_cannot_be_written_holds_up_nothing_and_is_tried_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A quota of Secrets that is full, say."""
    it = await harness("headline")
    it.fake.refuse["Secret", SECRET] = "exceeded quota"
    await it.settle()
    assert it.conditions()["Ready"] == ("True", "Serving")
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    lines = [one for one in caplog.records if "cannot be kept" in one.message]
    assert [vars(one)["reason"] for one in lines] == [f"Secret {SECRET}: exceeded quota"]
    # This process knows all the same what was applied.
    it.put_spec(spec_of("headline", **INVALID))
    it.fake.delete(*POLICY)
    await it.reconcile()
    assert it.fake.get(*POLICY)


async def test_a_secret_of_somebody_else_stays_as_it_is() -> None:
    it = await harness("headline")
    it.put_data("Secret", SECRET, {"theirs": b"1"})
    before = copy.deepcopy(it.fake.get("Secret", SECRET))
    await it.settle()
    assert it.conditions()["Degraded"] == ("False", "AsExpected")
    assert it.fake.get("Secret", SECRET) == before
    reads = it.cluster.reads
    await it.reconcile()
    first = it.cluster.reads - reads
    await it.reconcile()
    assert it.cluster.reads - reads == 2 * first


def record(*manifests: Manifest, uid: str = UID) -> Manifest:
    return record_of(Owner("demo", NAMESPACE, uid), manifests)


def account(**changes: Any) -> Manifest:
    metadata = OWNER.metadata("demo-edge", "edge") | changes
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def test_what_was_written_is_read() -> None:
    assert applied_by(record(account()), OWNER) == [account()]


@pytest.mark.parametrize(
    "content",
    [
        [account() | {"kind": "Secret"}],
        [account(namespace="kube-system")],
        [account(ownerReferences=[])],
        [account(labels={names.INSTANCE_LABEL: "other"})],
        [account(labels=names.labels("other", "edge"))],
        [account(), {"kind": "ServiceAccount"}],
        ["text"],
        {"a": 1},
        3,
    ],
)
def test_what_the_operator_has_not_made_is_not_believed(content: Any) -> None:
    assert applied_by(record() | {"data": {KEY: packed(content)}}, OWNER) == []


@pytest.mark.parametrize("data", [None, {}, {KEY: "?"}, {KEY: "YQ=="}, {KEY: packed([])[:20]}])
def test_a_damaged_secret_is_not_believed(data: Any) -> None:
    assert applied_by(record() | {"data": data}, OWNER) == []


def test_a_secret_of_a_deleted_broker_of_this_name_is_not_believed() -> None:
    assert applied_by(record(account(), uid="another"), OWNER) == []


def test_its_size_is_bounded() -> None:
    large = random.Random(1).randbytes(MAX_BYTES).hex()
    assert applied_by(record(account(annotations={"a": large})), OWNER) == []
