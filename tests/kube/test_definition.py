"""The CustomResourceDefinition, as a real API server and kubectl understand it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from support.bad_specs import BAD
from support.brokers import SPECS, spec_of
from support.certificates import Certificates
from support.kube.api import Object, Refused
from support.kube.control_plane import ControlPlane
from support.kube.kubectl import Kubectl
from support.kube.operator_process import CHART, OperatorProcess
from support.kube.space import Space
from support.old_manifests import IDS, OLD
from tidegate.cli.main import main
from tidegate_operator import names

FILE = CHART / "crds" / "mqttbrokers.yaml"
EXAMPLES = Path(__file__).parents[2] / "examples"

# Brokers here are only written, and by nobody looked at.
pytestmark = pytest.mark.usefixtures("operator_away")


def conditions(definition: Object) -> dict[str, str]:
    return {one["type"]: one["status"] for one in definition["status"]["conditions"]}


def test_the_server_takes_the_definition_as_it_is(plane: ControlPlane) -> None:
    wanted = yaml.safe_load(FILE.read_text())
    there = plane.api.get("CustomResourceDefinition", names.CRD_NAME)
    assert there is not None
    found = conditions(there)
    assert found["Established"] == found["NamesAccepted"] == "True"
    # Its schema is structural, and nothing in it was dropped.
    assert "NonStructuralSchema" not in found
    kept = there["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert kept == wanted["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_the_server_warns_of_nothing_in_it(kubectl: Kubectl) -> None:
    how = ("--server-side", "--force-conflicts", "--dry-run=server")
    done = kubectl.run("apply", *how, "-f", str(FILE))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SPECS)
def test_every_example_spec_is_accepted_twice(name: str, space: Space) -> None:
    made = space.put("demo", SPECS[name])
    again = space.put("demo", made["spec"])
    # What the server has filled in is no change.
    assert again["metadata"]["generation"] == made["metadata"]["generation"] == 1
    if "autoscaling" not in SPECS[name].get("edge", {}):
        assert made["spec"]["edge"]["replicas"] >= 0


@pytest.mark.parametrize("manifest", OLD, ids=IDS)
def test_manifests_of_earlier_revisions_are_stored_whole(manifest: Object, space: Space) -> None:
    stored = space.put("demo", manifest["spec"])["spec"]
    assert keeps(stored, manifest["spec"])


def keeps(stored: Object, written: Object) -> bool:
    """Whether everything that was written is stored; what the server has filled in may be more."""
    if isinstance(written, dict):
        return all(name in stored and keeps(stored[name], written[name]) for name in written)
    if isinstance(written, list):
        return len(stored) == len(written) and all(map(keeps, stored, written))
    return bool(stored == written)


def test_the_documented_examples_are_accepted(space: Space) -> None:
    seen = 0
    for file in sorted(EXAMPLES.glob("**/*.yaml")):
        for one in yaml.safe_load_all(file.read_text()):
            if one and one.get("kind") == names.KIND:  # values of helm have none
                one["metadata"]["namespace"] = space.name
                space.api.apply(one)
                seen += 1
    assert seen >= 5


def test_what_convert_writes_is_accepted(
    space: Space, tmp_path: Path, certificates: Certificates
) -> None:
    """The resource and its Secrets, of type kubernetes.io/tls, too."""
    (tmp_path / "acl").write_text("pattern readwrite devices/%u/#\n")
    (tmp_path / "users").write_text("ann:$6$c2FsdA==$" + "A" * 86 + "==\n")
    pair = certificates.server
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(
        f"password_file {tmp_path}/users\nacl_file {tmp_path}/acl\nlistener 1883\n"
        f"listener 9001\nprotocol websockets\nlistener 443\ncertfile {pair.certificate}\n"
        f"keyfile {pair.key}\ncafile {certificates.authority.certificate}\n"
        "require_certificate true\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(conf), "--to", "mqttbroker", "--output", str(tmp_path)])
    assert ended.value.code == 0
    written = [
        one
        for file in ("secrets.yaml", "mqttbroker.yaml")
        for one in yaml.safe_load_all((tmp_path / file).read_text())
    ]
    for one in written:
        one["metadata"]["namespace"] = space.name
        assert keeps(space.api.apply(one), one)
    assert [one["kind"] for one in written] == ["Secret"] * 4 + [names.KIND]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_bad_spec_is_refused_with_a_sentence(
    changes: Object, message: str, space_of_module: Space
) -> None:
    space = space_of_module
    with pytest.raises(Refused) as refusal:
        space.put("demo", spec_of(**changes))
    assert refusal.value.status in {400, 422}
    if message != "schema":
        assert message in str(refusal.value)
    assert space.api.get("MqttBroker", "demo", space.name) is None


@pytest.mark.parametrize("name", ["a" * 41, "1st", "my.broker"])
def test_a_name_that_no_service_can_have_is_refused(name: str, space_of_module: Space) -> None:
    with pytest.raises(Refused, match=r"metadata\.name: "):
        space_of_module.put(name, spec_of())


def test_two_listeners_of_one_name_are_refused(space_of_module: Space) -> None:
    listeners = [{"name": "a", "port": 2000}, {"name": "a", "port": 3000}]
    with pytest.raises(Refused, match="Duplicate value"):
        space_of_module.put("bad", spec_of(listeners=listeners))


@pytest.mark.parametrize("redis", [None, {"bundled": {"storage": {"size": "8Gi"}}}])
def test_what_cannot_be_changed_later_is_refused(redis: Object | None, space: Space) -> None:
    """Also if the spec did not name it before."""
    spec = spec_of() if redis is None else spec_of(redis=redis)
    space.put("demo", spec)
    with pytest.raises(Refused, match="storageClassName is immutable"):
        space.put("demo", spec_of(redis={"bundled": {"storage": {"storageClassName": "fast"}}}))
    with pytest.raises(Refused, match="partitions is immutable"):
        space.put("demo", spec_of(redis={"partitions": 128}))
    space.put("demo", spec_of(redis={"bundled": {"storage": {"size": "9Gi"}}}))
    space.put("demo", spec)


def test_kubectl_shows_lists_and_explains(space: Space, kubectl: Kubectl) -> None:
    space.put("demo", spec_of(edge={"replicas": 3}))
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": "Fine."}
    degraded = ready | {"type": "Degraded", "reason": "ApplyRefused"}
    since = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {
        "conditions": [ready | since, degraded | since],
        "address": "203.0.113.7:443",
        "edges": {"desired": 3, "ready": 2, "updated": 3, "selector": "a=b"},
        "routers": {"desired": 2, "ready": 2, "updated": 2, "selector": "a=c"},
        "connections": 41,
    }
    space.api.patch("MqttBroker", "demo", space.name, {"status": status}, "status")

    head, row = kubectl("get", "mqb", "-n", space.name).splitlines()
    wanted = ["NAME", "READY", "DEGRADED", "EDGES", "ROUTERS", "CONNECTIONS", "ADDRESS"]
    wanted += ["SEEN", "AGE"]
    assert head.split() == wanted
    assert row.split()[:-1] == ["demo", "True", "True", "2", "2", "41", "203.0.113.7:443"]
    head, row = kubectl("get", "mqb", "-n", space.name, "-o", "wide").splitlines()
    assert head.split()[-3:] == ["REASON", "MESSAGE", "PROBLEM"]
    assert row.split()[-3:] == ["Serving", "Fine.", "ApplyRefused"]
    assert "mqttbroker.tidegate.io/demo" in kubectl("get", "all", "-n", space.name)

    explained = kubectl("explain", "mqb.spec.edge.drain")
    assert "rate" in explained
    assert "<integer>" in explained or "<number>" in explained
    described = kubectl("explain", "mqb", "--recursive")
    assert "externalTrafficPolicy" in described


def test_kubectl_names_the_field_that_is_misspelled(space: Space, kubectl: Kubectl) -> None:
    broker = space.broker_of("demo", spec_of(listner=[]))
    done = kubectl.run("apply", "-f", "-", stdin=json.dumps(broker))
    assert done.returncode != 0
    assert 'unknown field "spec.listner"' in done.stderr


def test_the_scale_subresource_is_about_edges(space: Space, kubectl: Kubectl) -> None:
    space.put("demo", spec_of())
    status = {"edges": {"desired": 2, "ready": 1, "selector": "app=edges"}}
    space.api.patch("MqttBroker", "demo", space.name, {"status": status}, "status")
    kubectl("scale", "mqb/demo", "--replicas=5", "-n", space.name)
    assert space.broker("demo")["spec"]["edge"]["replicas"] == 5
    path = f"/apis/{names.API_VERSION}/namespaces/{space.name}/mqttbrokers/demo/scale"
    scale = space.api.request("GET", path)
    assert scale["spec"] == {"replicas": 5}
    assert scale["status"] == {"replicas": 1, "selector": "app=edges"}


def test_a_status_is_checked_too(space: Space) -> None:
    space.put("demo", spec_of())
    bad = {"conditions": [{"type": "Shiny", "status": "True", "reason": "A"}]}
    with pytest.raises(Refused, match="Shiny"):
        space.api.patch("MqttBroker", "demo", space.name, {"status": bad}, "status")


def test_a_spec_that_is_written_takes_no_status_with_it(space: Space) -> None:
    made = space.put("demo", spec_of())
    space.api.replace(made | {"status": {"address": "nowhere:1"}})
    status = space.broker("demo")["status"]
    assert status["observedGeneration"] == -1
    assert status.get("address", "") == ""


def test_a_broker_that_no_operator_has_seen_is_not_current(space: Space, kubectl: Kubectl) -> None:
    space.put("demo", spec_of())
    found = {one["type"]: one["status"] for one in space.broker("demo")["status"]["conditions"]}
    assert found["Ready"] == found["Stalled"] == found["Reconciling"] == "Unknown"
    row = kubectl("get", "mqb", "-n", space.name).splitlines()[1]
    assert row.split()[:3] == ["demo", "Unknown", "Unknown"]


def test_the_chart_brings_just_these_definitions(installed: OperatorProcess) -> None:
    shown = installed.helm("show", "crds", CHART).stdout
    found = [one for one in yaml.safe_load_all(shown) if one]
    wanted = [yaml.safe_load(file.read_text()) for file in FILE.parent.glob("*.yaml")]

    def name(one: Object) -> str:
        return str(one["metadata"]["name"])

    assert sorted(found, key=name) == sorted(wanted, key=name)
