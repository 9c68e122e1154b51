"""From one version to the next and back, with real helm; brokers do not notice.

There is no version before the first one, so one is made here: an older definition (a field less),
an older chart, and an operator that brings them. What it cannot be is a version with other code.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tidegate_operator
from support.brokers import spec_of
from support.kube.api import Object, Refused
from support.kube.control_plane import ControlPlane
from support.kube.fake_kubelet import FakeKubelet
from support.kube.kubectl import Kubectl
from support.kube.looks import until_at_rest
from support.kube.operator_process import CHART, OperatorProcess
from support.kube.space import DEADLINE_S, Space
from support.waiting import wait_for
from tidegate_operator import names
from tidegate_operator.spec import crd

Release = Callable[..., OperatorProcess]

#: The version before this one.
BEFORE = "0.0.9"
#: What it does not know: where it is, from the schema of the spec on.
NEW_FIELD = ("edge", "rebalance")
SYSTEM = "tidegate-system"
PINNED = {"brokerImage": "registry.example/tidegate:1", "resyncSeconds": 5}

#: Put below the definition's module: what it was.
_OLDER = f"""

_newer = definition


def definition() -> Schema:
    found = _newer()
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["{NEW_FIELD[0]}"]["properties"]["{NEW_FIELD[1]}"]
    return found
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a chart and an operator of the version before."""
    directory = tmp_path_factory.mktemp("older")
    chart, package = directory / "tidegate", directory / "tidegate_operator"
    shutil.copytree(CHART, chart)
    about = (chart / "Chart.yaml").read_text()
    version = yaml.safe_load(about)["version"]
    (chart / "Chart.yaml").write_text(about.replace(version, BEFORE))
    file = chart / "crds" / "mqttbrokers.yaml"
    file.write_text(yaml.safe_dump(without_field(crd.definition(), crd.REVISION - 1)))
    # A right that only a newer version needs.
    rules = chart / "templates" / "_helpers.tpl"
    less = rules.read_text().replace("verbs: [list, watch, patch, delete]", "verbs: [list, watch]")
    assert less != rules.read_text()
    rules.write_text(less)
    source = Path(tidegate_operator.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    module = package / "spec" / "crd.py"
    text = module.read_text()
    text = text.replace(
        f"REVISION: Final = {crd.REVISION}", f"REVISION: Final = {crd.REVISION - 1}"
    )
    head, main = text.split("\nclass _Dumper")
    module.write_text(f"{head}{_OLDER}\n\nclass _Dumper{main}")
    return directory


def without_field(definition: Object, revision: int) -> Object:
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"][NEW_FIELD[0]]["properties"][NEW_FIELD[1]]
    definition["metadata"]["annotations"][names.CRD_REVISION] = str(revision)
    return definition


def definition(plane: ControlPlane) -> Object:
    found = plane.api.get("CustomResourceDefinition", names.CRD_NAME)
    assert found is not None
    return found


def revision(plane: ControlPlane) -> int:
    return int(definition(plane)["metadata"]["annotations"][names.CRD_REVISION])


def knows_new_field(plane: ControlPlane) -> bool:
    schema = definition(plane)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    section = schema["properties"]["spec"]["properties"][NEW_FIELD[0]]["properties"]
    return NEW_FIELD[1] in section


def with_new_field() -> Object:
    return spec_of(edge={"replicas": 2, "rebalance": {"enabled": False}})


def everything_of(space: Space, broker: str = "demo") -> dict[str, Object]:
    """Return uid and version of a broker and of everything that belongs to it."""
    found = {
        f"{kind} {name}": space.get(kind, name)["metadata"] for kind, name in space.children(broker)
    } | {"broker": space.broker(broker)["metadata"]}
    return {
        one: {key: metadata[key] for key in ("uid", "resourceVersion")}
        for one, metadata in found.items()
    }


def until_looked(operator: OperatorProcess) -> None:
    """Wait until the operator, just started, has looked at everything."""

    def has() -> bool:
        lines = dict(
            line.rsplit(" ", 1)
            for line in operator.page("/metrics").splitlines()
            if line.startswith("tidegate_operator_") and "{" not in line
        )
        brokers = float(lines["tidegate_operator_brokers"])
        looks = float(lines["tidegate_operator_reconcile_duration_seconds_count"])
        return brokers > 0 and looks >= brokers

    wait_for(has, DEADLINE_S, "it has looked at all brokers")


class Story:
    """One release that goes from version to version."""

    def __init__(self, release_of: Release, older: Path) -> None:
        self.operator = release_of(SYSTEM)
        self.older = older

    def older_version(self, values: Object, verb: str = "install") -> None:
        self.operator.chart = self.older / "tidegate"
        self.operator.package = self.older
        self._change(lambda: self.operator.install(values, verb=verb))

    def newer_version(self, values: Object, verb: str = "upgrade") -> None:
        self.operator.chart = CHART
        self.operator.package = None
        self._change(lambda: self.operator.install(values, verb=verb))

    def roll_back(self, to: int, package: Path | None) -> None:
        self.operator.package = package
        where = ("--namespace", SYSTEM, "--wait", "--timeout", "50s")
        helm = self.operator.helm
        self._change(lambda: helm("rollback", self.operator.release, str(to), *where))

    def _change(self, step: Callable[[], object]) -> None:
        # As the Deployment does it: the old one has gone before the new one begins.
        if self.operator.is_running:
            self.operator.stop()
        step()
        self.operator.start()


@pytest.fixture
def story(release_of: Release, older: Path) -> Story:
    return Story(release_of, older)


def test_an_upgrade_and_back_and_forth_again(
    story: Story, spare_plane: ControlPlane, spare_space: Space
) -> None:
    space, plane = spare_space, spare_plane
    story.older_version(PINNED)
    assert (revision(plane), knows_new_field(plane)) == (crd.REVISION - 1, False)
    space.put("demo", spec_of())
    space.put("other", spec_of(edge={"replicas": 1}))
    until_at_rest(story.operator, space, "demo", "other")
    with pytest.raises(Refused, match=NEW_FIELD[1]):
        space.api.apply(space.broker_of("demo", with_new_field()))
    before = everything_of(space)

    # Helm leaves the definition alone, the operator does not.
    mark = plane.audit.mark()
    story.newer_version(PINNED)
    until_looked(story.operator)
    assert (revision(plane), knows_new_field(plane)) == (crd.REVISION, True)
    assert story.operator.log_lines("CRD upgraded")
    assert plane.audit.writes(mark, user=story.operator.user, namespace=space.name) == []
    assert everything_of(space) == before

    # What is new can be used at once.
    space.put("demo", with_new_field())
    until_at_rest(story.operator, space, "demo")
    assert space.broker("demo")["spec"]["edge"]["rebalance"]["enabled"] is False
    before = everything_of(space)

    # Back: what the newer version has brought stays, what it knows is kept.
    story.roll_back(1, story.older)
    until_looked(story.operator)
    assert (revision(plane), knows_new_field(plane)) == (crd.REVISION, True)
    assert everything_of(space) == before
    space.put("other", spec_of(edge={"replicas": 2}))
    until_at_rest(story.operator, space, "demo", "other")
    assert everything_of(space) == before

    mark = plane.audit.mark()
    story.roll_back(2, None)
    until_looked(story.operator)
    assert everything_of(space) == before
    assert plane.audit.writes(mark, user=story.operator.user) == []
    space.put("other", spec_of(edge={"replicas": 3}))
    space.until_settled("other")


def test_an_upgrade_in_the_middle_of_a_rollout(
    story: Story, spare_plane: ControlPlane, spare_space: Space, spare_kubelet: FakeKubelet
) -> None:
    """Brokers follow the operator's image; a rollout that stands still is taken over."""
    space = spare_space
    values = {"resyncSeconds": 5}
    story.older_version(values)
    space.put("demo", spec_of())
    space.until_settled("demo")
    assert images(space) == {f"tidegate/tidegate:{BEFORE}"}
    first = space.pod_uids("demo", "edge")
    # New edges do not become ready, and the rollout to another image waits for them.
    spare_kubelet.fail(space.name, "demo-edge", "unready")
    story.older_version(values | {"brokerImage": "registry.example/tidegate:bad"}, "upgrade")
    space.wait(lambda: space.pod_uids("demo", "edge") - first, "the rollout has begun")
    # New pods may come before the look that has asked for them is over, and has said so.
    space.until("demo", "Progressing", "RollingOut", "True")

    story.newer_version(values)
    spare_kubelet.heal(space.name, "demo-edge")
    space.until_settled("demo")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images(space) == {f"tidegate/tidegate:{version}"}
    assert not space.pod_uids("demo", "edge") & first
    assert len(space.listed("PersistentVolumeClaim")) == 1


def images(space: Space) -> set[str]:
    """Return the images of all edges and routers."""
    return {
        container["image"]
        for component in ("edge", "router")
        for pod in space.pods("demo", component)
        for container in pod["spec"]["containers"]
    }


def test_changed_values(story: Story, spare_plane: ControlPlane, spare_space: Space) -> None:
    space, other = spare_space, Space(spare_plane.api, "unwatched")
    story.newer_version(PINNED, "install")
    space.put("demo", spec_of())
    other.put("demo", spec_of())
    until_at_rest(story.operator, space, "demo")
    other.until_settled("demo")
    before = everything_of(space)
    story.operator.stop()
    mark = spare_plane.audit.mark()
    changed = {"log": {"level": "debug"}, "workers": 2, "watchNamespaces": [space.name]}
    story.newer_version(PINNED | changed)
    until_looked(story.operator)
    assert '"level": "debug"' in story.operator.log_text()
    assert everything_of(space) == before
    # Nothing of other namespaces is looked at, or may be.
    asked = spare_plane.audit.since(mark, user=story.operator.user)
    assert not [str(one) for one in asked if one.namespace not in {space.name, ""}]
    assert {one.resource for one in asked if not one.namespace} <= {"customresourcedefinitions", ""}
    space.put("demo", spec_of(edge={"replicas": 1}))
    space.until_settled("demo")
    seen = other.broker("demo")["metadata"]["resourceVersion"]
    other.put("demo", spec_of(edge={"replicas": 1}))
    story.newer_version(PINNED)
    other.until_settled("demo")
    assert other.broker("demo")["metadata"]["resourceVersion"] != seen
    assert len(other.pods("demo", "edge")) == 1
    other.delete()


def test_the_definition_may_be_left_to_people(
    story: Story, spare_plane: ControlPlane, spare_space: Space, spare_kubectl: Kubectl
) -> None:
    by_hand: Object = PINNED | {"crd": {"upgrade": False}}
    story.older_version(by_hand)
    spare_space.put("demo", spec_of())
    spare_space.until_settled("demo")
    mark = spare_plane.audit.mark()
    story.newer_version(by_hand)
    until_looked(story.operator)
    assert (revision(spare_plane), knows_new_field(spare_plane)) == (crd.REVISION - 1, False)
    asked = spare_plane.audit.since(mark, user=story.operator.user)
    assert not [one for one in asked if one.resource == "customresourcedefinitions"]
    how = ("--server-side", "--force-conflicts")
    spare_kubectl("apply", *how, "-f", str(CHART / "crds"))
    assert (revision(spare_plane), knows_new_field(spare_plane)) == (crd.REVISION, True)
    spare_space.put("demo", with_new_field())
    spare_space.until_settled("demo")


def test_a_newer_definition_stays(
    story: Story, spare_plane: ControlPlane, spare_space: Space
) -> None:
    """An operator that is older than the definition leaves it alone; a spec with what it does not
    know changes nothing that runs."""
    space = spare_space
    story.newer_version(PINNED, "install")
    space.put("demo", spec_of())
    space.until_settled("demo")
    story.operator.stop()
    newer = crd.definition()
    newer["metadata"]["annotations"][names.CRD_REVISION] = str(crd.REVISION + 1)
    schema = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["later"] = {"type": "string"}
    spare_plane.api.apply(newer)
    story.operator.start()
    assert revision(spare_plane) == crd.REVISION + 1
    pods = space.pod_uids("demo", "edge") | space.pod_uids("demo", "router")

    def accepted() -> bool:
        try:
            space.api.apply(space.broker_of("demo", spec_of(later="yes", limits={})))
        except Refused:
            return False
        return True

    # The server needs a moment to take up a schema.
    space.wait(accepted, "the newer schema is served")
    degraded = space.until("demo", "Degraded", "InvalidSpec")
    assert "later" in degraded["message"]
    assert space.condition("demo", "Ready")["status"] == "True"
    assert space.pod_uids("demo", "edge") | space.pod_uids("demo", "router") == pods
