"""Figures and findings, from what nodes say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tidegate.console import findings
from tidegate.console.figures import FIGURES, Figures, Step, _gauges, _grown, parse
from tidegate.console.nodes.client import NodeClient
from tidegate.console.nodes.pool import Nodes
from tidegate.console.store_health import StoreHealth
from tidegate.runtime.config.model import Config
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.metrics import Exporter


def test_every_metric_that_figures_are_made_of_is_exported() -> None:
    counters = Counters()
    reading = parse(Exporter(counters, {"role": "serve", "name": "a"}).render())
    figures = Figures(Nodes([], [], None))
    node = NodeClient("unix:/a", None)
    figures._rates([(node, reading)], Step(0.0))
    found = figures._rates([(node, reading)], Step(0.0))
    assert {name for name in FIGURES if name.startswith(("messages_", "bytes_", "store_"))} - {
        "store_latency_ms"
    } <= found.keys()
    assert {"dropped", "refused", "connects", "delivered"} <= found.keys()
    assert {"connections_open", "messages_queued", "subscriptions", "sessions"} <= reading.keys()


def test_a_counter_that_is_lower_has_begun_at_zero_again() -> None:
    assert _grown(5.0, 7.0) == 2.0
    assert _grown(7.0, 3.0) == 3.0


def test_rates_and_reasons_are_summed_over_nodes_but_not_what_every_router_has() -> None:
    figures = Figures(Nodes([], [], None))
    edges = [NodeClient(f"unix:/edge-{number}", None) for number in range(2)]
    routers = [NodeClient(f"unix:/router-{number}", None) for number in range(2)]
    before = parse(b'tidegate_messages_dropped_total{reason="queue_full"} 1\n')
    text = (
        b'tidegate_messages_dropped_total{reason="queue_full"} 4\n'
        b"tidegate_messages_queued 2\n"
        b"tidegate_connections_open 3\ntidegate_subscriptions 5\ntidegate_sessions 7\n"
    )
    after = parse(text)
    figures._rates([(node, before) for node in [*edges, *routers]], Step(0.0))
    step = Step(10.0)
    rates = figures._rates([(node, after) for node in [*edges, *routers]], step)
    assert step.dropped == {"queue_full": 12}
    assert rates["dropped"] > 0
    _gauges([(node, after) for node in [*edges, *routers]], {id(node) for node in edges}, step)
    assert step.values["connections"] == 12
    # Routers raise it and edges lower it.
    assert step.values["queued"] == 8
    assert step.values["sessions"] == 7
    assert step.values["subscriptions"] == 15


def _texts(status: dict[str, Any]) -> list[str]:
    return [each.text for each in findings.of_status("edge-1", status)]


def test_a_node_that_is_well_is_no_finding_and_each_problem_is_one_with_what_to_do() -> None:
    assert _texts({"ready": True, "store_history": {"state": "current"}}) == []
    bad = {
        "ready": False,
        "reason": "store not reachable",
        "clock": {"problem": "the clock is 5 s ahead"},
        "configuration": {
            "problem": "limits.x: there is no such key",
            "restart_needed": ["link.listen"],
            "files": {"/acl": {"problem": "line 3"}},
        },
    }
    found = list(findings.of_status("edge-1", bad))
    assert [each.area for each in found] == [
        "nodes",
        "clocks",
        "configuration",
        "configuration",
        "files",
    ]
    assert all(each.change and each.node == "edge-1" for each in found)
    assert findings.sorted_findings(found[::-1])[0].level == "problem"


def test_a_certificate_that_ends_soon_or_has_ended_is_a_finding() -> None:
    def listener(days: float, problem: str = "") -> dict[str, Any]:
        certificate = {
            "path": "/c.pem",
            "what": "certificate",
            "not_after": time.time() + days * 86_400,
            "problem": problem,
        }
        return {"listener": "tls", "tls": {"certificates": [certificate]}}

    assert list(findings.of_listeners("e", [listener(31)])) == []
    (soon,) = findings.of_listeners("e", [listener(10.5)])
    assert (soon.level, soon.text) == (
        "advice",
        "e, listener tls: /c.pem: certificate expires in 10 days",
    )
    (over,) = findings.of_listeners("e", [listener(-1, "expired")])
    assert over.level == "problem"


async def test_the_doctor_looks_at_this_machine_where_the_whole_broker_is_on_it(
    tmp_path: Path,
) -> None:
    def areas(*edges: str) -> StoreHealth:
        store = {"url": f"unix://{tmp_path}/none.sock", "operation_timeout_s": 1}
        config = Config.model_validate({"store": store, "console": {"edges": list(edges)}})
        return StoreHealth(lambda: config)

    here, elsewhere = areas("unix:/edge"), areas("10.0.0.1:18083")
    await here.examine()
    await elsewhere.examine()
    assert {each.area for each in elsewhere.findings} == {"store"}
    assert {"store", "limits"} <= {each.area for each in here.findings}
    assert elsewhere.findings[0].level == "problem"
