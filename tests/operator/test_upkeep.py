"""While a spec is refused: users, certificates and link keys still reach what runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.bad_specs import BAD
from support.brokers import DAY, NOW, pair, secret_data, spec_of
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
_OF_A_SECRET = [{"name": "mqtt", "protocol": "tls", "tls": {"secretName": "mqtt-tls"}}]
#: Of those, the ones whose usable part has other listeners than those that run.
_OTHER_LISTENERS = ("no listeners", "same port")


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


def start_without_a_record(it: Harness) -> None:
    """Have a new operator, and nothing that says what was applied: an older one left nothing."""
    it.start_anew()
    it.fake.delete("Secret", "demo-last-applied")
    it.fake.writes.clear()


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


@pytest.mark.parametrize("kind", sorted(REFUSALS.keys() - {"service"}))
@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("Service", "demo-routers"),
        ("Service", "demo-redis"),
        ("Service", "demo-metrics"),
        ("ServiceAccount", "demo-edge"),
        ("ServiceAccount", "demo-redis"),
        ("NetworkPolicy", "demo-edge"),
        ("NetworkPolicy", "demo-redis"),
        ("PodDisruptionBudget", "demo-edge"),
        ("PodDisruptionBudget", "demo-router"),
    ],
)
@pytest.mark.parametrize("operator", ["same operator", "new operator", "without a record"])
async def test_what_pods_need_is_made_again_when_it_is_deleted(
    what: str, name: str, kind: str, operator: str
) -> None:
    it = await refused(kind)
    if operator == "new operator":
        it.start_anew()
    elif operator == "without a record":
        start_without_a_record(it)
    before = it.fake.get(what, name)["spec"] if what != "ServiceAccount" else None
    it.fake.delete(what, name)
    await it.reconcile()
    is_of_edges = (what, name) == ("NetworkPolicy", "demo-edge")
    if operator == "without a record" and is_of_edges and kind in _OTHER_LISTENERS:
        # It would shut out the clients of the listener that runs.
        assert ("apply", what, name) not in it.fake.writes
        return
    assert it.fake.get(what, name).get("spec") == before
    it.fake.writes.clear()
    await it.reconcile()
    assert it.fake.writes == []


@pytest.mark.parametrize("kind", sorted(REFUSALS.keys() - {"service"}))
@pytest.mark.parametrize("is_new", [False, True], ids=["same operator", "new operator"])
async def test_a_service_that_is_deleted_comes_back_as_it_was_applied(
    kind: str, is_new: bool
) -> None:
    """Not as a refused spec says: its type, its listeners."""
    it = await refused(kind)
    if is_new:
        it.start_anew()
    before = it.fake.get("Service", "demo")["spec"]
    it.fake.delete("Service", "demo")
    await it.reconcile()
    assert it.fake.get("Service", "demo")["spec"] == before


@pytest.mark.parametrize("kind", sorted(REFUSALS.keys() - {"service"}))
@pytest.mark.parametrize("name", ["demo-edge", "demo-redis"])
async def test_a_policy_that_somebody_opens_is_closed_again(name: str, kind: str) -> None:
    it = await refused(kind)
    policy = it.fake.get("NetworkPolicy", name)
    before = copy.deepcopy(policy["spec"])
    policy["spec"]["ingress"] = [{}]
    await it.reconcile()
    assert it.fake.get("NetworkPolicy", name)["spec"] == before


@pytest.mark.parametrize("name", ["demo-edge", "demo-redis"])
async def test_an_opened_policy_is_known_by_what_was_applied_without_a_record(name: str) -> None:
    it = await refused("unknown field")
    start_without_a_record(it)
    policy = it.fake.get("NetworkPolicy", name)
    before = copy.deepcopy(policy["spec"])
    policy["spec"]["ingress"] = [{}]
    await it.reconcile()
    assert it.fake.get("NetworkPolicy", name)["spec"] == before


async def test_what_is_applied_in_part_is_not_taken_back() -> None:
    """A new Service is there before the Deployment is refused: it stays as the newest spec says."""
    it = await harness("headline")
    await it.settle()
    it.put_spec(spec_of("headline", **TWO_CHANGES))
    await it.settle()
    assert it.fake.get("Service", "demo")["spec"]["type"] == "NodePort"
    it.put_spec(spec_of("headline"))
    it.fake.refuse["Deployment", "demo-edge"] = "no"
    await it.reconcile()
    after = copy.deepcopy(it.fake.get("Service", "demo"))
    it.fake.writes.clear()
    await it.reconcile()
    assert ("apply", "Service", "demo") not in it.fake.writes
    assert it.fake.get("Service", "demo") == after


@pytest.mark.parametrize("kind", ["invalid", "unknown field", "missing", "bad acl", "workload"])
async def test_the_service_for_clients_is_made_again_without_a_record(kind: str) -> None:
    it = await refused(kind)
    start_without_a_record(it)
    before = it.fake.get("Service", "demo")["spec"]
    it.fake.delete("Service", "demo")
    await it.reconcile()
    # What is made new is as the newest spec says: what was applied is not known.
    assert it.fake.get("Service", "demo")["spec"]["ports"] == before["ports"]


@pytest.mark.parametrize("kind", _OTHER_LISTENERS)
async def test_no_service_for_other_listeners_than_run_is_made_without_a_record(kind: str) -> None:
    it = await refused(kind)
    start_without_a_record(it)
    it.fake.delete("Service", "demo")
    await it.reconcile()
    assert ("apply", "Service", "demo") not in it.fake.writes


async def test_what_a_broken_spec_seems_to_need_is_not_made() -> None:
    """Without its broken part it seems to have a bundled store, which the broker does not have."""
    it = await harness("sentinel")
    await it.settle()
    it.put_spec(spec_of("sentinel", redis={"external": {"url": "http://x"}}))
    for _ in range(2):
        it.fake.writes.clear()
        await it.reconcile()
        assert it.conditions()["Degraded"] == ("True", "InvalidSpec")
        assert it.fake.writes == []


@pytest.mark.parametrize("url", [{"url": "http://x"}, {"url": 3}, {}])
async def test_a_password_of_an_external_store_is_rotated_while_its_url_is_wrong(
    url: dict[str, Any],
) -> None:
    it = await harness("sentinel")
    await it.settle()
    external = spec_of("sentinel")["redis"]["external"]
    secret = external["passwordSecret"]["name"]
    rest = {key: value for key, value in external.items() if key != "url"}
    it.put_spec(spec_of("sentinel", redis={"external": rest | url}))
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "InvalidSpec")
    before = data(it, "router")
    kept = secret_data(it.fake.get("Secret", secret))
    it.put_data("Secret", secret, dict.fromkeys(kept, b"rotated"))
    await it.reconcile()
    after = data(it, "router")
    assert {name for name in after if after[name] != before[name]} != set()
    assert b"rotated" in after.values()


@pytest.mark.parametrize("kind", ["invalid", "no listeners", "unknown field", "same port"])
async def test_the_end_of_certificates_is_shown_while_a_spec_is_invalid(kind: str) -> None:
    it = await refused(kind)
    assert it.conditions()["CertificatesReady"] == ("True", "Issued")
    assert it.message("CertificatesReady").startswith("All certificates are valid. The first ")
    assert "the newest spec is invalid" in it.message("CertificatesReady")


async def test_a_certificate_that_ends_is_reported_while_a_spec_is_invalid() -> None:
    """One of a Secret, which the operator does not renew."""
    it = await harness("headline", listeners=_OF_A_SECRET)
    it.put_contents(spec_of("headline", listeners=_OF_A_SECRET))
    await it.settle()
    it.put_spec(spec_of("headline", listeners=_OF_A_SECRET, edge={"replicaz": 3}))
    await it.reconcile()
    assert it.conditions()["CertificatesReady"] == ("True", "Issued")
    it.now = NOW + 3000 * DAY
    await it.reconcile()
    assert it.conditions()["CertificatesReady"] == ("False", "Invalid")
    assert "expired at" in it.message("CertificatesReady")


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
        # What is at odds with another setting of the same section goes, and not the section.
        (
            {"auth": {"passwords": {"secretName": "users"}, "reloadIntervalSeconds": "x"}},
            ["mqtt"],
            True,
        ),
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


PROXY: dict[str, Any] = {"proxyProtocol": "required", "trustedProxies": ["somewhere"]}


@pytest.mark.parametrize(
    "wrong",
    [
        PROXY,
        {"proxyProtocol": "required"},
        {"gateway": {"parentRefs": [{"name": "public"}], "kind": "TLSRoute"}},
        {"mountPoint": "a/+"},
    ],
)
async def test_a_mistake_in_a_listener_keeps_its_certificate_and_users(
    wrong: dict[str, Any],
) -> None:
    listener = {
        "name": "mqtt",
        "protocol": "tls",
        "tls": {"secretName": "mqtt-tls"},
        "passwords": {"secretName": "devices"},
    }
    it = await harness("minimal", listeners=[listener])
    await it.settle()
    it.put_spec(spec_of("minimal", listeners=[listener | wrong]))
    new = pair("new.example", 90)
    it.put_data("Secret", "mqtt-tls", {"tls.crt": new.certificate, "tls.key": new.key})
    it.put_data("Secret", "devices", {"passwords": b"only:one\n"})
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "InvalidSpec")
    assert data(it, "edge")["listener.mqtt.crt"] == new.certificate
    assert data(it, "edge")["listener.mqtt.passwords"] == b"only:one\n"


async def test_a_mistake_about_an_external_store_keeps_its_password() -> None:
    external = {"url": "redis://elsewhere", "passwordSecret": {"name": "redis"}}
    it = await harness("minimal", redis={"external": external})
    await it.settle()
    it.put_spec(spec_of("minimal", redis={"external": external | {"tls": {}}}))
    before = data(it, "router")
    it.put_data("Secret", "redis", {"password": b"rotated"})
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "InvalidSpec")
    changed = {key for key, value in data(it, "router").items() if before[key] != value}
    assert [key.rpartition("-")[2] for key in changed] == ["password"]


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
    own = {"name": "mqtt", "acl": {"rules": "topic read a\n"}}
    found.put_spec(spec_of("minimal", listeners=[own]))
    await found.settle()
    assert "No ACL" not in found.message("Ready")
    found.put_spec(spec_of("minimal", acl={"rules": "topic read a\n"}))
    await found.settle()
    # The one before stays in use.
    found.put_spec(spec_of("minimal", acl={"rules": "topic reed a\n"}))
    await found.settle()
    assert "No ACL" not in found.message("Ready")


@pytest.mark.parametrize("changes", [changes for changes, _ in BAD], ids=range(len(BAD)))
async def test_whatever_is_wrong_users_and_services_are_kept_up(changes: dict[str, Any]) -> None:
    """Also of what the definition refuses: an object may be older than a rule of it."""
    it = await harness("headline")
    await it.settle()
    it.put_spec(spec_of("headline", **changes))
    it.fake.delete("Service", "demo-routers")
    it.put_data("Secret", "users", {"passwords": b"only:one\n"})
    await it.reconcile()
    assert it.conditions()["Degraded"] == ("True", "InvalidSpec")
    assert it.fake.get("Service", "demo-routers")
    if "auth" not in changes:
        assert data(it, "edge")["passwords"] == b"only:one\n"
