"""Alerts and dashboards: Prometheus accepts and understands them, and the chart installs them.

That their metrics exist is seen in a running cluster (tests/cluster/test_monitoring.py).
"""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support import promql, tools
from support.brokers import pick
from support.chart import made
from tidegate_operator.spec.crd import definition

ROOT = Path(__file__).parents[2]
KUBE_STATE_METRICS = ROOT / "examples" / "monitoring" / "kube-state-metrics.yaml"
PROMETHEUS_RULES = "monitoring.coreos.com/v1/PrometheusRule"

POD: Final = 'namespace="iot",service="demo-metrics",pod="demo-edge-1"'
BROKER: Final = 'namespace="iot",name="demo"'
#: Of each alert: minutes after which it fires, and series with values that fire it, and others.
#: Values are a minute apart; 0+60x30 grows by 60 thirty times.
CASES: Final[dict[str, tuple[int, list[tuple[str, str, str]]]]] = {
    "TidegateBrokerNotReady": (6, [
        (f'kube_customresource_mqttbroker_condition{{{BROKER},type="Ready",reason="A"}}',
         "0x10", "1x10"),
    ]),
    "TidegateBrokerDegraded": (16, [
        (f'kube_customresource_mqttbroker_condition{{{BROKER},type="Degraded",reason="A"}}',
         "1x20", "0x20"),
    ]),
    "TidegateProcessDown": (7, [
        (f"tidegate_build_info{{{POD}}}", "1 _x10", "1x10"),
        (f"up{{{POD}}}", "1 0x10", "1x10"),
        ('up{namespace="iot",service="other",pod="x"}', "0x10", "0x10"),
    ]),
    "TidegatePublishingHeld": (2, [(f"tidegate_publishing_held{{{POD}}}", "1x5", "0x5")]),
    "TidegateLinkBroken": (6, [
        (f'tidegate_link_routers{{{POD},state="open"}}', "1x10", "2x10"),
        (f'tidegate_link_routers{{{POD},state="connecting"}}', "1x10", "0x10"),
    ]),
    "TidegateRouterWithoutLease": (2, [(f"tidegate_router_current{{{POD}}}", "0x5", "1x5")]),
    "TidegateMessagesDropped": (13, [
        (f'tidegate_messages_dropped_total{{{POD},reason="queue_full"}}', "0+60x20", "7x20"),
        (f'tidegate_messages_dropped_total{{{POD},reason="no_subscriber"}}', "0+9x20", "0+9x20"),
    ]),
    "TidegateEventLoopSlow": (13, [
        (f'tidegate_event_loop_lag_seconds_bucket{{{POD},le="0.25"}}', "0x20", "0+60x20"),
        (f'tidegate_event_loop_lag_seconds_bucket{{{POD},le="0.5"}}', "0+60x20", "0+60x20"),
        (f'tidegate_event_loop_lag_seconds_bucket{{{POD},le="+Inf"}}', "0+60x20", "0+60x20"),
    ]),
    "TidegateConfigurationRefused": (11, [
        (f"tidegate_configuration_problem{{{POD}}}", "0x20", "0x20"),
        (f"tidegate_configuration_files_problem{{{POD}}}", "1x20", "0x20"),
    ]),
    "TidegateClockOff": (16, [(f"tidegate_clock_offset_seconds{{{POD}}}", "-9x20", "-4x20")]),
    "TidegateInternalErrors": (5, [(f"tidegate_internal_errors_total{{{POD}}}", "0 1x9", "1x9")]),
    "TidegateCertificateExpires": (16, [
        (f'tidegate_certificate_not_after_seconds{{{POD},listener="mqtt"}}',
         "600000x20", "700000x20"),
    ]),
    "TidegateClientCertificatesRefusedSoon": (16, [
        (f'tidegate_client_crl_next_update_seconds{{{POD},listener="mqtt"}}',
         "80000x20", "90000x20"),
        (f'tidegate_client_ca_not_after_seconds{{{POD},listener="mqtt"}}',
         "700000x20", "700000x20"),
    ]),
    "TidegateConnectionsNearLimit": (6, [
        (f"tidegate_connections_open{{{POD}}}", "95x10", "80x10"),
        (f"tidegate_connections_limit{{{POD}}}", "100x10", "100x10"),
    ]),
    "TidegateWrongPasswords": (18, [
        (f'tidegate_auth_failures_total{{{POD},reason="bad_password"}}', "0+900x25", "0+60x25"),
    ]),
    "TidegateStoreUnreachable": (2, [(f"tidegate_store_circuit_open{{{POD}}}", "1x5", "0x5")]),
    "TidegateStoreFull": (1, [(f"tidegate_store_full{{{POD}}}", "1x5", "0x5")]),
    "TidegateStoreWentBack": (5, [(f"tidegate_store_rollbacks_total{{{POD}}}", "0 1x9", "1x9")]),
    "TidegateStoreSlow": (13, [
        (f'tidegate_store_latency_seconds_bucket{{{POD},le="0.25"}}', "0x20", "0+60x20"),
        (f'tidegate_store_latency_seconds_bucket{{{POD},le="0.5"}}', "0+60x20", "0+60x20"),
        (f'tidegate_store_latency_seconds_bucket{{{POD},le="+Inf"}}', "0+60x20", "0+60x20"),
    ]),
    "TidegateStoreReplicaMissing": (6, [
        (f"tidegate_store_server_replicas_in_sync{{{POD}}}", "1x10", "2x10"),
    ]),
    "TidegateStoreReplicaLate": (6, [
        (f"tidegate_store_server_replica_lag_seconds{{{POD}}}", "9x10", "1x10"),
    ]),
    "TidegateOperatorAway": (22, [
        (f"kube_customresource_mqttbroker_last_seen{{{BROKER}}}", "0x30", "0+60x30"),
    ]),
    "TidegateBackupFails": (1, [
        (f"kube_customresource_mqttbroker_backup_last_failed{{{BROKER}}}", "9x5", "5x5"),
        (f"kube_customresource_mqttbroker_backup_last_successful{{{BROKER}}}", "5x5", "9x5"),
    ]),
    "TidegateOperatorWatchDown": (11, [
        (f"tidegate_operator_watches_down{{{POD}}}", "1x20", "0x20"),
    ]),
    "TidegateReconcileFails": (45, [
        (f'tidegate_operator_reconciles_total{{{POD},result="failed"}}', "0+1x60", "4x60"),
    ]),
    "TidegateOperatorBehind": (11, [
        (f"tidegate_operator_queue_waiting{{{POD}}}", "60x20", "40x20"),
    ]),
    "TidegateRolloutWaits": (361, [
        (f"tidegate_operator_rollouts_waiting{{{POD}}}", "2x400", "0x400"),
    ]),
}  # fmt: skip


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [tools.require("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules_and_the_expressions_of_panels(tmp_path: Path) -> None:
    panels = tmp_path / "panels.yaml"
    rules = [
        {
            "record": f"panel:{number}",
            "expr": re.sub(r"\$__(rate_interval|range)", "5m", expression),
        }
        for number, (_, expression) in enumerate(promql.expressions())
    ]
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", promql.RULES, panels)


def test_each_alert_fires_when_it_should_and_at_no_other_time(tmp_path: Path) -> None:
    assert [one["alert"] for one in promql.alerts()] == list(CASES)
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'

    def case(minutes: int, series: list[tuple[str, str]], fired: str) -> dict[str, Any]:
        expected = [{"labels": f'{{alertname="{fired}"}}', "value": 1}] if fired else []
        return {
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in series],
            "promql_expr_test": [
                {"expr": firing, "eval_time": f"{minutes}m", "exp_samples": expected}
            ],
        }

    file = tmp_path / "tests.yaml"
    tests = []
    for name, (minutes, series) in CASES.items():
        tests.append(case(minutes, [(one, bad) for one, bad, _ in series], name))
        tests.append(case(minutes, [(one, good) for one, _, good in series], ""))
    file.write_text(yaml.safe_dump({"rule_files": [str(promql.RULES)], "tests": tests}))
    _promtool("test", "rules", file)


def test_what_an_alert_says_names_the_pod_and_the_time(tmp_path: Path) -> None:
    file = tmp_path / "tests.yaml"
    series, bad, _ = CASES["TidegateClockOff"][1][0]
    expected = {
        "summary": "The wall clock of iot/demo-edge-1 is 9s off.",
        "description": "No message and no session is lost, but times in logs and the validity of"
        " certificates are wrong.",
        "runbook_url": "docs/operations.md#tidegateclockoff",
    }
    labels = {"namespace": "iot", "service": "demo-metrics", "pod": "demo-edge-1"}
    alert = {"exp_labels": {"severity": "warning", **labels}, "exp_annotations": expected}
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": bad}],
        "alert_rule_test": [
            {"eval_time": "16m", "alertname": "TidegateClockOff", "exp_alerts": [alert]}
        ],
    }
    file.write_text(yaml.safe_dump({"rule_files": [str(promql.RULES)], "tests": [test]}))
    _promtool("test", "rules", file)


def test_each_alert_has_its_section_in_the_documentation_and_is_complete() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert re.findall(r"^#### (Tidegate\w+)$", text, re.MULTILINE) == list(CASES)
    for rule in promql.alerts():
        anchor = f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == anchor
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description"} <= rule["annotations"].keys()


def test_the_dashboards_are_current_and_say_what_each_panel_shows() -> None:
    module = runpy.run_path(str(ROOT / "charts" / "dashboards.py"))
    assert {f"{name}.json" for name, *_ in module["DASHBOARDS"]} == {
        file.name for file in promql.DASHBOARDS
    }
    for name, title, panels in module["DASHBOARDS"]:
        committed = (module["DIRECTORY"] / f"{name}.json").read_text(encoding="utf-8")
        assert committed == module["generate"](name, title, panels), "run: make dashboards"
        shown = json.loads(committed)["panels"]
        assert all(one["description"] and one["title"] for one in shown)
        taken = [
            (x, y)
            for one in shown
            for x in range(one["gridPos"]["x"], one["gridPos"]["x"] + one["gridPos"]["w"])
            for y in range(one["gridPos"]["y"], one["gridPos"]["y"] + one["gridPos"]["h"])
        ]
        assert len(taken) == len(set(taken)), "two panels at one place"
        assert all(x < module["COLUMNS"] for x, _ in taken)


def test_the_chart_makes_neither_unless_it_is_said(tmp_path: Path) -> None:
    kinds = {one["kind"] for one in made(tmp_path, None, "--api-versions", PROMETHEUS_RULES)}
    assert not kinds & {"PrometheusRule", "ConfigMap"}


def test_the_chart_makes_dashboards_that_a_sidecar_finds(tmp_path: Path) -> None:
    found = made(
        tmp_path, None, "--set", "dashboards.create=true,dashboards.annotations.grafana_folder=T"
    )
    maps = [one for one in found if one["kind"] == "ConfigMap"]
    assert {one["metadata"]["name"] for one in maps} == {
        f"tidegate-dashboard-{file.stem}" for file in promql.DASHBOARDS
    }
    for one, file in zip(maps, promql.DASHBOARDS, strict=True):
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "T"}
        assert one["data"] == {f"tidegate-{file.name}": file.read_text(encoding="utf-8")}


def test_the_chart_makes_rules_where_their_definition_is(tmp_path: Path) -> None:
    settings = ("--set", "prometheusRule.create=true,prometheusRule.labels.release=prometheus")
    assert "PrometheusRule" not in {one["kind"] for one in made(tmp_path, None, *settings)}
    there = ("--api-versions", PROMETHEUS_RULES)
    rule = pick(made(tmp_path, None, *settings, *there), "PrometheusRule", "tidegate")
    assert rule["spec"] == yaml.safe_load(promql.RULES.read_text(encoding="utf-8"))
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    at = ("--set", "prometheusRule.runbooks=https://docs.example.com/operations/")
    moved = pick(made(tmp_path, None, *settings, *there, *at), "PrometheusRule", "tidegate")
    first = moved["spec"]["groups"][0]["rules"][0]["annotations"]["runbook_url"]
    assert first == "https://docs.example.com/operations/#tidegatebrokernotready"


def _resource() -> dict[str, Any]:
    values = yaml.safe_load(KUBE_STATE_METRICS.read_text(encoding="utf-8"))
    config = values["customResourceState"]["config"]
    assert config["kind"] == "CustomResourceStateMetrics"
    (resource,) = config["spec"]["resources"]
    (rule,) = values["rbac"]["extraRules"]
    names = definition()["spec"]
    assert rule["apiGroups"] == [names["group"]]
    assert rule["resources"] == [names["names"]["plural"]]
    return dict(resource)


def test_kube_state_metrics_reads_fields_that_the_definition_has() -> None:
    resource, spec = _resource(), definition()["spec"]
    (version,) = spec["versions"]
    assert resource["groupVersionKind"] == {
        "group": spec["group"],
        "version": version["name"],
        "kind": spec["names"]["kind"],
    }
    schema = version["schema"]["openAPIV3Schema"]
    for metric in resource["metrics"]:
        gauge = metric["each"]["gauge"]
        path, below = list(gauge["path"]), schema
        if path[0] == "metadata":
            assert path == ["metadata", "generation"]
            continue
        for key in path:
            below = below["properties"][key]
        if below["type"] == "array":
            for label in gauge["labelsFromPath"].values():
                assert below["items"]["properties"][label[0]]["type"] == "string"
            (value,) = gauge["valueFrom"]
            assert below["items"]["properties"][value]["enum"] == ["True", "False", "Unknown"]
        else:
            assert below["type"] == "integer" or below.get("format") == "date-time", metric["name"]


def test_what_alerts_and_panels_use_of_kube_state_metrics_is_configured() -> None:
    made = {f"kube_customresource_{metric['name']}" for metric in _resource()["metrics"]}
    used = {
        name
        for _, expression in promql.expressions()
        for name in promql.metrics_of(expression)
        if name.startswith("kube_")
    }
    assert used
    assert used <= made


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        ('sum by (pod, le) (rate(a_bucket{x="by (b)"}[5m])) > 0', {"a_bucket"}, {"le", "x"}),
        ("a unless on (namespace, name) b offset 5m", {"a", "b"}, {"name"}),
    ],
)
def test_names_are_found_in_expressions(
    expression: str, metrics: set[str], labels: set[str]
) -> None:
    assert promql.metrics_of(expression) == metrics
    assert promql.labels_of(expression) == labels
