"""A release comes and goes: what it leaves behind, who goes on, and two of them at once."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import pytest

from support.brokers import spec_of
from support.kube.api import Api, Object
from support.kube.audit import Request
from support.kube.control_plane import ControlPlane
from support.kube.kubectl import Kubectl
from support.kube.looks import whole_look
from support.kube.operator_process import OperatorProcess
from support.kube.space import DEADLINE_S, Space
from support.waiting import wait_for
from tidegate_operator import names
from tidegate_operator.kube.write_backoff import FIRST_WAIT_S, IMMEDIATE_WRITES

#: How long two that fight are watched: until both have written again after their first wait.
WATCH_S = 2 * FIRST_WAIT_S

Release = Callable[..., OperatorProcess]

#: What comes and goes with other objects.
FLEETING = {"events", "leases", "endpoints", "endpointslices", "ipaddresses", "apiservices"}


def resources(api: Api) -> Iterator[tuple[str, str]]:
    """Yield path and plural of everything that the server can list."""
    groups = [
        f"/apis/{one['preferredVersion']['groupVersion']}"
        for one in api.request("GET", "/apis")["groups"]
    ]
    for group in ("/api/v1", *groups):
        for one in api.request("GET", group)["resources"]:
            if "list" in one["verbs"] and one["name"] not in FLEETING:
                yield group, one["name"]


def everything(api: Api, but: Space | None = None) -> set[str]:
    """Return every object of the cluster, by kind, namespace and name; without those of a
    namespace and its volumes, and without namespaces that end."""
    ending = {
        one["metadata"]["name"]
        for one in api.listed("Namespace")
        if "deletionTimestamp" in one["metadata"]
    }
    if but is not None:
        ending.add(but.name)
    found = set()
    for group, plural in resources(api):
        for one in api.request("GET", f"{group}/{plural}")["items"]:
            claim = (one.get("spec") or {}).get("claimRef") or one["metadata"]
            if claim.get("namespace") not in ending and one["metadata"]["name"] not in ending:
                found.add(
                    f"{plural} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
                )
    return found


def running(space: Space, broker: str) -> dict[str, Object]:
    """Return what may not be touched: uid and version of everything of a broker."""
    return {
        f"{kind} {name}": {
            key: space.get(kind, name)["metadata"][key] for key in ("uid", "resourceVersion")
        }
        for kind, name in space.children(broker)
    }


@pytest.fixture
def home(spare_plane: ControlPlane) -> Iterator[str]:
    """Yield a namespace for releases, with everything that each namespace has."""
    one = Space(spare_plane.api, "system")
    one.wait(lambda: one.api.get("ConfigMap", "kube-root-ca.crt", one.name), "it is complete")
    one.wait(lambda: one.api.get("ServiceAccount", "default", one.name), "it is complete")
    yield one.name
    one.delete()


@pytest.mark.parametrize("major", [4, 3])
def test_nothing_is_left_of_a_release(
    major: int, home: str, release_of: Release, spare_space: Space, spare_kubectl: Kubectl
) -> None:
    api, space = spare_space.api, spare_space
    before = everything(api, space)
    operator = release_of(home)
    operator.helm_major = major
    prometheus = {"namespaceSelector": {"matchLabels": {"name": "prometheus"}}}
    values = {"networkPolicy": {"metrics": [prometheus]}, "resyncSeconds": 5}
    operator.install(values)
    operator.start()
    space.put("demo", spec_of())
    space.put("other", spec_of(redis={"bundled": {"storage": {"onDelete": "delete"}}}))
    space.until_at_rest("demo")
    space.until_at_rest("other")
    operator.install(values | {"log": {"level": "debug"}}, verb="upgrade")
    for component in ("edge", "router"):
        policy = space.get("NetworkPolicy", f"demo-{component}")["spec"]
        assert prometheus in policy["ingress"][1]["from"]
    operator.stop()
    kept = running(space, "demo") | running(space, "other")
    status = space.broker("demo")["status"]
    operator.uninstall()
    # Helm never deletes a definition.
    left = everything(api, space) - before
    definitions = {names.CRD_NAME, names.BACKUP_CRD_NAME}
    assert left == {f"customresourcedefinitions /{name}" for name in definitions}
    assert running(space, "demo") | running(space, "other") == kept
    assert space.broker("demo")["status"] == status


def test_brokers_can_be_deleted_without_an_operator(
    home: str, release_of: Release, spare_plane: ControlPlane, spare_kubectl: Kubectl
) -> None:
    api = spare_plane.api
    spaces = [Space(api, prefix) for prefix in ("brokers", "namespace", "definition")]
    operator = release_of(home)
    operator.install()
    operator.start()
    for space in spaces:
        space.put("demo", spec_of())
    spaces[0].put("other", spec_of(redis={"bundled": {"storage": {"onDelete": "delete"}}}))
    for space in spaces:
        space.until_settled("demo")
    spaces[0].until_settled("other")
    operator.stop()
    operator.uninstall()

    space = spaces[0]
    spare_kubectl("delete", "mqb", "--all", "-n", space.name, "--timeout=30s")
    # The garbage collector learns of a new kind within half a minute.
    space.wait(lambda: not space.children("demo") + space.children("other"), "all has gone")
    space.wait(lambda: len(space.listed("PersistentVolumeClaim")) == 1, "one volume stays")
    left = {one for one in everything(api) if f" {space.name}/" in one}
    claim = f"persistentvolumeclaims {space.name}/data-demo-redis-0"
    own = {f"configmaps {space.name}/kube-root-ca.crt", f"serviceaccounts {space.name}/default"}
    assert left == {claim} | own

    spare_kubectl("delete", "namespace", spaces[1].name, "--timeout=40s")
    assert not [one for one in everything(api) if f" {spaces[1].name}/" in one]

    # Deleting the definition deletes all brokers, and that deletes what they have made.
    space = spaces[2]
    spare_kubectl("delete", "crd", names.CRD_NAME, "--timeout=30s")
    space.wait(lambda: space.children("demo") == [], "everything is gone")
    assert len(space.listed("PersistentVolumeClaim")) == 1
    for space in spaces:
        space.delete()


def test_the_operator_waits_for_its_definition(
    home: str, release_of: Release, spare_space: Space, spare_kubectl: Kubectl
) -> None:
    operator = release_of(home)
    operator.install({"crd": {"upgrade": False}}, "--skip-crds")
    operator.start(wait=False)
    wait_for(
        lambda: "are the CRD and the roles installed" in operator.log_text(),
        DEADLINE_S,
        "it says what it needs",
    )
    with pytest.raises(OSError, match="503"):
        operator.page("/readyz")
    how = ("--server-side", "--force-conflicts")
    spare_kubectl("apply", *how, "-f", str(operator.chart / "crds"))
    operator.wait_until_ready()
    spare_space.put("demo", spec_of())
    spare_space.until_settled("demo")


def test_two_releases_at_once(
    home: str, release_of: Release, spare_plane: ControlPlane, spare_space: Space
) -> None:
    """By accident: two of one version agree, two of different ones do not fight for ever."""
    space, other = spare_space, Space(spare_plane.api, "system")
    one, two = operators = [release_of(home), release_of(other.name)]
    values = {"resyncSeconds": 5, "brokerImage": "registry.example/tidegate:1"}
    for operator in operators:
        operator.install(values)
        operator.start()
    # Each would let its own namespace in.
    space.put("demo", spec_of(networkPolicy={"enabled": False}))
    space.until_settled("demo")
    # One may have settled it while the other still looks at what was there before.
    wait_for(
        lambda: not written(whole_look(operators, space.name, ["demo"])),
        DEADLINE_S,
        "each looks at it, and neither writes anything",
    )

    # Each sets the other's image back.
    two.stop()
    two.install(values | {"brokerImage": "registry.example/tidegate:2"}, verb="upgrade")
    mark, began_s = spare_plane.audit.mark(), time.monotonic()
    two.start()
    warning = "object is repeatedly changed by another writer, backing off"
    wait_for(lambda: one.log_lines(warning), DEADLINE_S, "the first one has noticed")
    wait_for(lambda: two.log_lines(warning), DEADLINE_S, "the second one has noticed")
    backed_off_s = time.monotonic()
    wait_for(lambda: time.monotonic() - backed_off_s > WATCH_S, DEADLINE_S, "a while")
    writes = written(spare_plane.audit.since(mark, namespace=space.name))
    # The waits that fit into this time, each of them twice as long as the one before.
    waits = math.floor(math.log2((time.monotonic() - began_s) / FIRST_WAIT_S + 1))
    assert max(writes.values()) <= IMMEDIATE_WRITES + 1 + waits, writes

    # The accident ends, and all is well.
    two.stop()
    two.uninstall()
    space.wait(lambda: images(space) == {"registry.example/tidegate:1"}, "the first one's image")
    other.delete()


def written(asked: Iterable[Request]) -> Counter[str]:
    """Return how often each one has written each object of brokers: no status, and no events."""
    return Counter(
        f"{one.user}: {one}"
        for one in asked
        if one.is_write and one.resource not in {"events", "mqttbrokers/status"}
    )


def images(space: Space) -> set[str]:
    """Return the images that edges and routers shall have."""
    return {
        container["image"]
        for name in ("demo-edge", "demo-router")
        for container in space.get("Deployment", name)["spec"]["template"]["spec"]["containers"]
    }
