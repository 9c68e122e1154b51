"""examples/monitoring/kube-state-metrics.yaml, as kube-state-metrics itself understands it.

Input: brokers on a real API server, with a status that an operator has written, and one with a
status that has everything. The program has the rights of the file and those that its chart adds.
Observed: every metric of the file, with the values of the status, and none else.
"""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support import processes
from support.brokers import spec_of
from support.kube import state_metrics_program
from support.kube.api import Object
from support.kube.control_plane import ControlPlane
from support.kube.space import Space
from support.ports import free_port
from support.waiting import wait_for

FILE: Final = Path(__file__).parents[2] / "examples" / "monitoring" / "kube-state-metrics.yaml"
PREFIX: Final = "kube_customresource_"
NAME: Final = "state-metrics"
#: What the chart of kube-state-metrics adds where customResourceState is enabled.
OF_ITS_CHART: Final = {
    "apiGroups": ["apiextensions.k8s.io"],
    "resources": ["customresourcedefinitions"],
    "verbs": ["list", "watch"],
}
DEADLINE_S: Final = 60.0

Sample = tuple[dict[str, str], float]


class StateMetrics:
    """The program; ``metrics`` are those of a namespace."""

    def __init__(self, port: int, log: Path, process: subprocess.Popen[Any]) -> None:
        self._port = port
        self.log = log
        self._process = process

    def metrics(self, namespace: str) -> dict[str, list[Sample]]:
        """Return samples by the names of their metrics."""
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as it:
                text = it.read().decode()
        except OSError:
            return {}
        found: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("namespace") == namespace:
                    found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found


@pytest.fixture(scope="module")
def state_metrics(
    plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StateMetrics]:
    program = state_metrics_program.program()
    values = yaml.safe_load(FILE.read_text())
    rules = [*values["rbac"]["extraRules"], OF_ITS_CHART]
    config = tmp_path_factory.mktemp("state-metrics") / "config.yaml"
    config.write_text(yaml.safe_dump(values["customResourceState"]["config"]))
    log, port = config.with_name("log"), free_port()
    command: list[str | Path] = [
        program,
        f"--kubeconfig={_account(plane, rules)}",
        "--custom-resource-state-only=true",
        f"--custom-resource-state-config-file={config}",
        *("--host=127.0.0.1", f"--port={port}"),
        *("--telemetry-host=127.0.0.1", f"--telemetry-port={free_port()}"),
    ]
    with log.open("wb") as output:
        process = processes.start(command, stdout=output, stderr=subprocess.STDOUT)
    yield StateMetrics(port, log, process)
    process.terminate()
    process.wait(20)


def _account(plane: ControlPlane, rules: list[Object]) -> Path:
    """Return a kubeconfig of a ServiceAccount with these rights, and no others."""
    api, group = plane.api, "rbac.authorization.k8s.io"
    who = {"kind": "ServiceAccount", "name": NAME, "namespace": "default"}
    api.create(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": NAME, "namespace": "default"},
        }
    )
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": NAME}}
    api.create(role | {"rules": rules})
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": NAME}
    api.create(role | {"kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [who]})
    return plane.kubeconfig(NAME, api.token("default", NAME))


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def names_of_file() -> set[str]:
    """Return the names of all metrics of the file."""
    (resource,) = yaml.safe_load(FILE.read_text())["customResourceState"]["config"]["spec"][
        "resources"
    ]
    return {PREFIX + metric["name"] for metric in resource["metrics"]}


def conditions(samples: list[Sample]) -> dict[tuple[str, str], float]:
    return {(labels["type"], labels["reason"]): value for labels, value in samples}


def test_the_status_that_the_operator_writes_comes_out_as_metrics(
    operator: object, space: Space, state_metrics: StateMetrics
) -> None:
    space.put("demo", spec_of(edge={"replicas": 2}))
    status = space.until_settled("demo")["status"]

    def settled() -> dict[str, list[Sample]] | None:
        found = state_metrics.metrics(space.name)
        ready = found.get(f"{PREFIX}mqttbroker_edges_ready", [])
        return found if [value for _, value in ready] == [2] else None

    found = space.wait(settled, "the metrics of the settled status", DEADLINE_S)
    said = conditions(found[f"{PREFIX}mqttbroker_condition"])
    assert said == {
        (one["type"], one["reason"]): float(one["status"] == "True")
        for one in space.broker("demo")["status"]["conditions"]
    }
    assert said["Ready", "Serving"] == 1
    (sample,) = found[f"{PREFIX}mqttbroker_last_seen"]
    assert sample[1] >= seconds(status["lastSeen"])
    for name, value in (("generation", 1), ("observed_generation", 1), ("edges_desired", 2)):
        ((labels, number),) = found[f"{PREFIX}mqttbroker_{name}"]
        assert (labels["name"], number) == ("demo", value), name
    # It has no schedule of backups, which is no error; nor is any right missing.
    assert f"{PREFIX}mqttbroker_backup_last_failed" not in found
    assert re.findall(r"^[EWF]\d.*", state_metrics.log.read_text(), re.MULTILINE) == []


def test_every_metric_of_the_file_has_the_value_of_its_field(
    operator_away: object, space: Space, state_metrics: StateMetrics
) -> None:
    space.put("full", spec_of())
    times = ("2026-11-30T10:00:00Z", "2026-11-30T11:00:00Z", "2026-11-30T12:00:00Z")
    condition = {"message": "", "lastTransitionTime": times[0], "observedGeneration": 1}
    status = {
        "observedGeneration": 1,
        "lastSeen": times[0],
        "connections": 41,
        "edges": {"desired": 3, "ready": 2},
        "routers": {"desired": 2, "ready": 1},
        "backup": {
            "lastSuccessful": {"name": "a", "completedAt": times[1]},
            "lastFailed": {"name": "b", "completedAt": times[2], "reason": "full"},
        },
        "conditions": [
            condition | {"type": kind, "status": state, "reason": "Because"}
            for kind, state in (
                ("Ready", "True"),
                ("Degraded", "False"),
                ("Progressing", "Unknown"),
            )
        ],
    }
    space.api.patch("MqttBroker", "full", space.name, {"status": status}, "status")
    expected = {
        "last_seen": seconds(times[0]),
        "generation": 1,
        "observed_generation": 1,
        "connections": 41,
        "edges_desired": 3,
        "edges_ready": 2,
        "routers_desired": 2,
        "routers_ready": 1,
        "backup_last_successful": seconds(times[1]),
        "backup_last_failed": seconds(times[2]),
    }

    def complete() -> dict[str, list[Sample]] | None:
        found = state_metrics.metrics(space.name)
        return found if names_of_file() <= set(found) else None

    found = wait_for(complete, DEADLINE_S, f"all of {sorted(names_of_file())}")
    assert found is not None
    said = conditions(found.pop(f"{PREFIX}mqttbroker_condition"))
    assert said == {
        ("Ready", "Because"): 1,
        ("Degraded", "Because"): 0,
        ("Progressing", "Because"): 0,
    }
    assert {name: [value for _, value in samples] for name, samples in found.items()} == {
        f"{PREFIX}mqttbroker_{name}": [value] for name, value in expected.items()
    }
    assert {labels["name"] for samples in found.values() for labels, _ in samples} == {"full"}
