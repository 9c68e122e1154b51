"""Writes the dashboards of Grafana that the chart installs: ``make dashboards``.

Owns what each panel shows. The files in charts/tidegate/monitoring/dashboards are its output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).parent / "tidegate" / "monitoring" / "dashboards"

COLUMNS: Final = 24
_SELECTOR: Final = 'namespace="$namespace", service="$broker"'
#: What has a Service by which a broker is chosen: not the operator, not a console.
_BROKER: Final = 'role=~"edge|router|serve"'
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; ``expressions`` are (expression, legend) pairs.

    ``%s`` in an expression is the selector of the chosen broker.
    """

    title: str
    expressions: Sequence[tuple[str, str]]
    about: str
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    stacked: bool = False


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{%s{more}}}[$__rate_interval]))"


def _total(metric: str, more: str = "") -> str:
    return f"sum({metric}{{%s{more}}})"


def _quantile(share: float, metric: str) -> str:
    return (
        f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{%s}}[$__rate_interval])))"
    )


def _stat(title: str, expression: str, about: str, unit: str = "short") -> Panel:
    return Panel(title, [(expression, "")], about, unit=unit, width=4, kind="stat")


_OVERVIEW: Final = (
    _stat("Edges", 'count(tidegate_build_info{%s, role=~"edge|serve"})', "Edges that are scraped."),
    _stat("Routers", 'count(tidegate_build_info{%s, role="router"})', "Routers that are scraped."),
    _stat("Connections", _total("tidegate_connections_open"), "Clients that are connected."),
    _stat(
        "Sessions",
        "max(tidegate_sessions{%s})",
        "Durable sessions, connected or offline, of the router that reports most.",
    ),
    _stat(
        "Queued messages",
        _total("tidegate_messages_queued"),
        "Copies that wait for their clients, or have been sent and are not acknowledged yet.",
    ),
    _stat(
        "Retained messages",
        "max(tidegate_retained_messages{%s})",
        "Topics that have a retained message.",
    ),
    Panel(
        "Messages in",
        [(_rate("tidegate_messages_received_total", "qos"), "QoS {{qos}}")],
        "PUBLISH packets from clients.",
        unit="pps",
        stacked=True,
    ),
    Panel(
        "Messages out",
        [(_rate("tidegate_messages_sent_total", "qos"), "QoS {{qos}}")],
        "PUBLISH packets to clients, repeated ones included.",
        unit="pps",
        stacked=True,
    ),
    Panel(
        "Bytes",
        [
            (_rate("tidegate_bytes_received_total", "service"), "in"),
            (_rate("tidegate_bytes_sent_total", "service"), "out"),
        ],
        "Bytes of MQTT packets.",
        unit="Bps",
    ),
    Panel(
        "Messages dropped",
        [(_rate("tidegate_messages_dropped_total", "reason") + " > 0", "{{reason}}")],
        "Copies that were not delivered. no_subscriber and redispatched are no losses.",
        unit="pps",
    ),
    Panel(
        "Connections refused",
        [(_rate("tidegate_connections_refused_total", "reason") + " > 0", "{{reason}}")],
        "Connections that ended before CONNACK 0.",
        unit="cps",
    ),
    Panel(
        "Latency of the store",
        [(_quantile(share, "tidegate_store_latency_seconds"), f"p{share * 100:g}")
         for share in (0.5, 0.99)],
        "Duration of round trips to Redis or Valkey.",
        unit="s",
    ),
    Panel(
        "CPU",
        [(_rate("process_cpu_seconds_total", "pod"), "{{pod}}")],
        "Cores in use. One process uses one core for its event loop.",
    ),
    Panel(
        "Memory",
        [("process_resident_memory_bytes{%s}", "{{pod}}")],
        "Resident memory.",
        unit="bytes",
    ),
    Panel(
        "Event loop, p99 of its delay",
        [
            (
                "histogram_quantile(0.99, sum by (pod, le)"
                " (rate(tidegate_event_loop_lag_seconds_bucket{%s}[$__rate_interval])))",
                "{{pod}}",
            )
        ],
        "How late timers fire. Above 0.1 s the process lacks CPU.",
        unit="s",
    ),
    Panel(
        "Conditions of the MqttBrokers of this namespace",
        [('kube_customresource_mqttbroker_condition{namespace="$namespace"}', "{{name}} {{type}}")],
        "1: True. Needs kube-state-metrics with examples/monitoring/kube-state-metrics.yaml.",
        width=COLUMNS,
    ),
)  # fmt: skip

_CLIENTS: Final = (
    _stat("Connections", _total("tidegate_connections_open"), "Clients that are connected."),
    _stat(
        "Maximum",
        _total("tidegate_clients_maximum"),
        "Most clients at one time, since each edge has started.",
    ),
    _stat(
        "Subscriptions",
        "sum(tidegate_subscriptions{%s} and on (namespace, pod)"
        ' tidegate_build_info{role=~"edge|serve"})',
        "Of connected clients.",
    ),
    _stat(
        "Clients that wait",
        _total("tidegate_clients_held"),
        "Clients with a packet that waits for a router.",
    ),
    _stat("Passwords that wait", _total("tidegate_passwords_waiting"), "For a thread."),
    _stat(
        "Next end of a certificate",
        "min(tidegate_certificate_not_after_seconds{%s}) - time()",
        "Until the first certificate of a listener expires.",
        unit="s",
    ),
    Panel(
        "Connections by edge",
        [
            (
                "tidegate_connections_open{%s} and on (namespace, pod)"
                ' tidegate_build_info{role=~"edge|serve"}',
                "{{pod}}",
            )
        ],
        "An edge far above the others: shed clients, or let the operator rebalance.",
    ),
    Panel(
        "Connections by listener",
        [("sum by (listener) (tidegate_listener_connections{%s})", "{{listener}}")],
        "Open sockets, handshakes included.",
    ),
    Panel(
        "Connections opened",
        [
            (_rate("tidegate_connections_opened_total", "service"), "accepted (CONNACK 0)"),
            (_rate("tidegate_listener_accepted_total", "service"), "sockets"),
        ],
        "Per second.",
        unit="cps",
    ),
    Panel(
        "Connections closed",
        [(_rate("tidegate_connections_closed_total", "reason") + " > 0", "{{reason}}")],
        "Accepted connections that ended. taken_over: two clients have one identifier.",
        unit="cps",
    ),
    Panel(
        "Connections refused",
        [(_rate("tidegate_connections_refused_total", "reason") + " > 0", "{{reason}}")],
        "Connections that ended before CONNACK 0.",
        unit="cps",
    ),
    Panel(
        "Sockets refused",
        [(_rate("tidegate_listener_refused_total", "listener, reason") + " > 0",
          "{{listener}} {{reason}}")],
        "Sockets that were closed before MQTT began. descriptors: no more files may be open.",
        unit="cps",
    ),
    Panel(
        "Failed authentication",
        [(_rate("tidegate_auth_failures_total", "reason"), "{{reason}}")],
        "By reason.",
        unit="cps",
    ),
    Panel(
        "Denied by the ACL",
        [(_rate("tidegate_acl_denied_total", "action"), "{{action}}")],
        "write: publishes; read: deliveries; subscribe: subscriptions.",
        unit="ops",
    ),
    Panel(
        "Protocol errors",
        [(_rate("tidegate_protocol_errors_total", "pod"), "{{pod}}")],
        "Connections that were closed because the client violated the protocol.",
        unit="cps",
    ),
    Panel(
        "Record of clients",
        [
            (_rate("tidegate_record_events_total", "service"), "events kept"),
            (_rate("tidegate_record_dropped_total", "service"), "events dropped"),
        ],
        "What happened to clients, for the console. Dropped: too many at once, or no store.",
        unit="ops",
        width=COLUMNS,
    ),
    Panel(
        "Packets in",
        [(_rate("tidegate_packets_received_total", "type") + " > 0", "{{type}}")],
        "MQTT packets from clients.",
        unit="pps",
    ),
    Panel(
        "Packets out",
        [(_rate("tidegate_packets_sent_total", "type") + " > 0", "{{type}}")],
        "MQTT packets to clients.",
        unit="pps",
    ),
    Panel(
        "Descriptors in use",
        [("tidegate_connections_open{%s} / (tidegate_connections_limit{%s} > 0)", "{{pod}}")],
        "Share of the connections that the limit of open files allows.",
        unit="percentunit",
    ),
)  # fmt: skip

_STORE_AND_LINK: Final = (
    _stat("Full", "max(tidegate_store_full{%s})", "1: the store refuses messages."),
    _stat(
        "Routers without store",
        _total("tidegate_store_circuit_open"),
        "Connections to the store whose circuit breaker is open.",
    ),
    _stat(
        "Routers with a lease",
        _total("tidegate_router_current"),
        "Routers that take work.",
    ),
    _stat(
        "Edges without router",
        _total("tidegate_publishing_held"),
        "Edges that read no publishes.",
    ),
    _stat(
        "Replicas in step",
        "max(tidegate_store_server_replicas_in_sync{%s})",
        "Of the bundled store with three servers.",
    ),
    _stat(
        "Gone back",
        "sum(increase(tidegate_store_rollbacks_total{%s}[$__range]))",
        "Times that the store was found in an older state, in the range of this page.",
    ),
    Panel(
        "Latency of the store",
        [(_quantile(share, "tidegate_store_latency_seconds"), f"p{share * 100:g}")
         for share in (0.5, 0.9, 0.99)],
        "Duration of round trips.",
        unit="s",
    ),
    Panel(
        "Operations of the store",
        [
            (_rate("tidegate_store_commands_total", "service"), "operations"),
            (_rate("tidegate_store_round_trips_total", "service"), "round trips"),
        ],
        "A round trip carries many operations when there is much to do.",
        unit="ops",
    ),
    Panel(
        "Errors of the store",
        [
            (_rate("tidegate_store_errors_total", "pod"), "{{pod}} errors"),
            (_rate("tidegate_store_circuit_openings_total", "pod"), "{{pod}} circuit opened"),
            (_rate("tidegate_store_replica_waits_total", "pod"), "{{pod}} waits for replicas"),
            (_rate("tidegate_store_moved_total", "pod"), "{{pod}} partition moved"),
        ],
        "Each is repeated by the router.",
        unit="ops",
    ),
    Panel(
        "Memory of the bundled store",
        [
            ("tidegate_store_server_used_memory_bytes{%s}", "{{pod}}"),
            ("max(tidegate_store_server_max_memory_bytes{%s} > 0)", "maximum"),
        ],
        "Of the bundled store with three servers; of others, their own exporter has it.",
        unit="bytes",
    ),
    Panel(
        "Lag of replicas",
        [("tidegate_store_server_replica_lag_seconds{%s}", "{{pod}}")],
        "Age of the oldest confirmation of a replica.",
        unit="s",
    ),
    Panel(
        "Servers of the bundled store",
        [
            ("sum(tidegate_store_server_up{%s})", "ready"),
            ("sum(tidegate_store_server_primary{%s})", "primaries"),
            ("min(tidegate_store_server_sentinels{%s})", "Sentinels"),
        ],
        "One primary at a time; of three servers, three are ready.",
    ),
    Panel(
        "Routers by state, seen by edges",
        [("sum by (state) (tidegate_link_routers{%s})", "{{state}}")],
        "Each edge has a link to each router; all are open.",
    ),
    Panel(
        "Edges by version of the link, seen by routers",
        [("sum by (version) (tidegate_link_edges{%s})", "version {{version}}")],
        "Two versions only during an upgrade.",
    ),
    Panel(
        "Offset of wall clocks",
        [("tidegate_clock_offset_seconds{%s}", "{{pod}}")],
        "Seconds by which a process' wall clock is ahead of the broker's.",
        unit="s",
    ),
    Panel(
        "Lost on the link",
        [(_rate("tidegate_messages_dropped_total", "reason",
                ', reason=~"link_lost|mailbox_full|store_unavailable|store_full"'),
          "{{reason}}")],
        "Copies that were dropped between edge, router and store.",
        unit="pps",
    ),
    Panel(
        "Expired sessions and wills",
        [
            (_rate("tidegate_sessions_expired_total", "service"), "sessions expired"),
            (_rate("tidegate_wills_published_total", "service"), "wills published"),
        ],
        "Work of the routers that time brings.",
        unit="ops",
    ),
    Panel(
        "Configuration",
        [
            ("sum(tidegate_configuration_problem{%s})", "refused"),
            ("sum(tidegate_configuration_files_problem{%s})", "files refused"),
            ("max(tidegate_configuration_restart_needed{%s})", "keys that need a restart"),
        ],
        "Processes that do not use what is on disk, and why.",
    ),
)  # fmt: skip

#: File name, title, panels.
DASHBOARDS: Final = (
    ("overview", "Overview", _OVERVIEW),
    ("clients", "Clients", _CLIENTS),
    ("store-and-link", "Store and link", _STORE_AND_LINK),
)


def generate(name: str, title: str, panels: Sequence[Panel]) -> str:
    """Return the JSON of a dashboard."""
    dashboard = {
        "uid": f"tidegate-{name}",
        "title": f"Tidegate / {title}",
        "tags": ["tidegate", "mqtt"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Tidegate",
                "tags": ["tidegate"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": list(_variables())},
        "panels": list(_placed(panels)),
    }
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


def _variables() -> Iterator[dict[str, Any]]:
    source = {"type": "datasource", "query": "prometheus"}
    yield {"name": "datasource", "label": "Prometheus", **source}
    for name, label, query in (
        (
            "namespace",
            "Namespace",
            f"label_values(tidegate_build_info{{{_BROKER}}}, namespace)",
        ),
        (
            "broker",
            "Broker (Service)",
            f'label_values(tidegate_build_info{{{_BROKER}, namespace="$namespace"}}, service)',
        ),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
        }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    x = y = row_height = 0
    for number, panel in enumerate(panels, 1):
        height = 4 if panel.kind == "stat" else 8
        if x + panel.width > COLUMNS:
            x, y = 0, y + row_height
        yield _panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": height})
        x += panel.width
        row_height = height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        defaults["min"] = None if "Offset" in panel.title else 0
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "showPoints": "never",
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression.replace("%s", _SELECTOR),
                "legendFormat": legend,
            }
            for index, (expression, legend) in enumerate(panel.expressions)
        ],
    }


def main() -> None:
    """Write the files."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, title, panels in DASHBOARDS:
        (DIRECTORY / f"{name}.json").write_text(generate(name, title, panels), encoding="utf-8")


if __name__ == "__main__":
    main()
