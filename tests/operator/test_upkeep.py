"""While a spec is refused: users, certificates and link keys still reach what runs."""

from __future__ import annotations

from typing import Any

import pytest

from support.brokers import DAY, NOW, secret_data, spec_of
from support.operator_harness import Harness, harness
from tidegate_operator.spec.salvage import usable_part

TWO_CHANGES = {"service": {"type": "NodePort"}, "edge": {"replicas": 3}}

#: Kinds of refusal: what is changed in the spec, what the API server rejects, and the reason.
REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, str] | None, str]] = {
    "invalid": ({"redis": {"external": {"url": "http://x"}}}, None, "InvalidSpec"),
    "no listeners": ({"listeners": []}, None, "InvalidSpec"),
    "unknown field": ({"edge": {"replicaz": 3}}, None, "InvalidSpec"),
    "same port": ({"listeners": [{"name": "a"}, {"name": "b"}]}, None, "InvalidSpec"),
    "missing": ({"acl": {"source": {"configMapName": "nowhere"}}}, None, "ReferenceMissing"),
    "bad acl": ({"acl": {"rules": "topic nonsense a\n"}}, None, "ReferenceInvalid"),
    "workload": (TWO_CHANGES, ("Deployment", "demo-edge"), "ApplyRefused"),
    "service": (TWO_CHANGES, ("Service", "demo"), "ApplyRefused"),
}


async def refused(kind: str) -> Harness:
    """A broker that serves, and whose newest spec is refused."""
    changes, object_refused, reason = REFUSALS[kind]
    it = await harness("headline")
    await it.settle()
    if object_refused is not None:
        it.fake.refuse[object_refused] = "no"
    it.put_spec(spec_of("headline", **changes))
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", reason)
    it.fake.writes.clear()
    return it


def data(it: Harness, part: str) -> dict[str, bytes]:
    return secret_data(it.fake.get("Secret", f"demo-{part}"))


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_user_that_is_removed_cannot_log_in_any_more(kind: str) -> None:
    it = await refused(kind)
    before = data(it, "edge")
    it.put_data("Secret", "users", {"passwords": b"only:one\n"})
    await it.reconcile()
    assert data(it, "edge") == before | {"passwords": b"only:one\n"}
    assert it.fake.writes == [("apply", "Secret", "demo-edge")]
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []


@pytest.mark.parametrize("kind", REFUSALS)
async def test_link_certificates_and_authorities_are_renewed(kind: str) -> None:
    it = await refused(kind)
    before = {part: data(it, part) for part in ("edge", "router")}
    it.now = NOW + 61 * DAY
    await it.reconcile()
    for part, old in before.items():
        new = data(it, part)
        assert new["link.crt"] != old["link.crt"]
        assert new.keys() >= old.keys()
    it.now = NOW + 3600 * DAY
    await it.reconcile()
    assert "link-1.crt" in data(it, "authorities")


@pytest.mark.parametrize("kind", ["invalid", "unknown field", "missing", "workload"])
async def test_certificates_of_listeners_are_renewed(kind: str) -> None:
    it = await refused(kind)
    before = data(it, "edge")["listener.mqtt.crt"]
    it.now = NOW + 61 * DAY
    await it.reconcile()
    assert data(it, "edge")["listener.mqtt.crt"] != before


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("part", ["authorities", "edge", "router", "admin", "redis"])
async def test_a_secret_that_is_deleted_is_made_again(part: str, kind: str) -> None:
    it = await refused(kind)
    before = data(it, part)
    it.fake.delete("Secret", f"demo-{part}")
    it.fake.writes.clear()
    await it.reconcile()
    made = data(it, part)
    assert made.keys() >= {key for key in before if not key.startswith("list")}
    # The link's authority, and both certificates that it has signed.
    assert data(it, "edge")["link-ca.crt"] == data(it, "router")["link-ca.crt"]
    assert data(it, "edge")["link-ca.crt"] in set(data(it, "authorities").values())
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []


@pytest.mark.parametrize("kind", ["workload", "missing"])
async def test_a_service_that_is_deleted_is_made_again(kind: str) -> None:
    it = await refused(kind)
    it.fake.delete("Service", "demo-routers")
    await it.reconcile()
    assert it.fake.get("Service", "demo-routers")


async def test_what_is_of_somebody_else_holds_up_nothing_but_itself() -> None:
    it = await harness("headline")
    await it.settle()
    it.fake.delete("Service", "demo-metrics")
    key = ("v1", "Service", "iot", "demo-metrics")
    it.fake.objects[key] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "demo-metrics", "namespace": "iot"},
        "spec": {"type": "ClusterIP"},
    }
    it.put_data("Secret", "users", {"passwords": b"only:one\n"})
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "NameTaken")
    assert data(it, "edge")["passwords"] == b"only:one\n"


async def test_nothing_is_signed_by_an_authority_that_cannot_be_stored() -> None:
    it = await refused("workload")
    before = data(it, "edge")
    it.fake.delete("Secret", "demo-authorities")
    it.fake.refuse[("Secret", "demo-authorities")] = "quota"
    await it.reconcile()
    assert data(it, "edge") == before
    assert "Secret demo-authorities: quota" in it.message("Degraded")
    assert "Deployment demo-edge: no" in it.message("Degraded")


async def test_a_paused_broker_is_left_alone_whatever_its_spec_is() -> None:
    it = await harness("headline")
    await it.settle()
    it.put_spec(spec_of("headline", paused=True, redis={"external": {"url": "http://x"}}))
    it.put_data("Secret", "users", {"passwords": b"only:one\n"})
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []


async def test_all_that_is_refused_is_named() -> None:
    it = await harness("headline")
    await it.settle()
    it.fake.refuse[("Deployment", "demo-edge")] = "first"
    it.fake.refuse[("Service", "demo")] = "second"
    it.put_spec(spec_of("headline", edge={"replicas": 3}, service={"type": "NodePort"}))
    await it.reconcile()
    assert "Service demo: second" in it.message("Degraded")
    assert "Deployment demo-edge: first" in it.message("Degraded")


@pytest.mark.parametrize(
    ("changes", "listeners", "has_users"),
    [
        ({}, ["mqtt"], True),
        ({"auth": {"passwords": {"secretName": "users", "keyy": "x"}}}, ["mqtt"], True),
        ({"auth": {"passwords": {}}}, ["mqtt"], False),
        ({"auth": 3}, ["mqtt"], False),
        ({"acl": {"rules": "", "source": {"secretName": "x"}}}, ["mqtt"], True),
        ({"listeners": [{"name": "a"}, {"name": "b", "nope": 1, "port": 1884}]}, ["a", "b"], True),
        ({"listeners": [{"name": "a"}, {"name": "a"}]}, ["a"], True),
        ({"listeners": 3}, ["mqtt"], True),
        ({"limits": {"maxPacketSizeBytes": "many"}, "nope": 1}, ["mqtt"], True),
    ],
)
def test_the_usable_part_of_a_spec(
    changes: dict[str, Any], listeners: list[str], has_users: bool
) -> None:
    found = usable_part(spec_of("headline", **changes))
    assert [listener.name for listener in found.listeners] == listeners
    assert (found.auth.passwords is not None) == has_users


async def test_an_acl_is_in_force_when_edges_mount_it_and_not_when_the_spec_has_it() -> None:
    found = await harness()
    await found.settle()
    assert "No ACL is in force (spec.acl is not set)" in found.message("Ready")
    found.put_spec(spec_of("minimal", acl={"rules": "topic reed a\n"}))
    await found.settle()
    assert "No ACL is in force (spec.acl is not in use, see Degraded)" in found.message("Ready")
    found.put_spec(spec_of("minimal", acl={"rules": "topic read a\n"}))
    await found.settle()
    assert "No ACL" not in found.message("Ready")
    # The one before stays in use.
    found.put_spec(spec_of("minimal", acl={"rules": "topic reed a\n"}))
    await found.settle()
    assert "No ACL" not in found.message("Ready")
