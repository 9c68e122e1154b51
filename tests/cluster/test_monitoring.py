"""Alerts and dashboards of the chart: every metric and label that they use is there.

Input: the expressions in charts/tidegate/monitoring, and a scrape of a running cluster, of the
operator, and of a server of the bundled store. What Prometheus makes of them is in
tests/charts/test_monitoring.py.
"""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from support import promql
from support.cluster import Cluster
from tidegate.runtime.telemetry.metrics import Exporter
from tidegate_operator.health import OperatorHealth
from tidegate_operator.store_member.report import Report, metrics

#: Of Prometheus itself, and of kube-state-metrics, as its configuration in examples/monitoring has
#: them (tests/charts/test_monitoring.py).
FROM_ELSEWHERE = re.compile(r"up|kube_customresource_mqttbroker_\w+")


def _operator() -> str:
    exporter = Exporter(None, {"role": "operator"})
    exporter.add(OperatorHealth().readings())
    return exporter.render().decode()


async def test_alerts_and_panels_use_metrics_and_labels_that_exist(steady_cluster: Cluster) -> None:
    scrapes = [_operator(), metrics(Report("demo-redis-0"))]
    for node in steady_cluster.nodes:
        status, text = await node.admin("/metrics")
        assert status == 200, text
        scrapes.append(text)
    there, labels = _found("\n".join(scrapes))
    unknown = [
        (where, name)
        for where, expression in promql.expressions()
        for name in promql.metrics_of(expression) - there
        if not FROM_ELSEWHERE.fullmatch(name)
    ]
    assert not unknown
    checked = 0
    for where, expression in promql.expressions():
        used = promql.metrics_of(expression)
        if used <= labels.keys():  # each has at least one sample
            allowed = set().union(*(labels[name] for name in used))
            assert promql.labels_of(expression) <= allowed, (where, used)
            checked += 1
    assert checked > 50, "most metrics have samples as soon as a process runs"


def _found(text: str) -> tuple[set[str], dict[str, set[str]]]:
    """Return the names of all metrics, and the labels of those that have samples."""
    names: set[str] = set()
    labels: dict[str, set[str]] = {}
    for line in text.splitlines():
        declared = re.fullmatch(r"# TYPE (\w+) (\w+)", line)
        if declared is None:
            continue
        name, kind = declared.groups()
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names.update(f"{name}{end}" for end in ends)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return names, labels
