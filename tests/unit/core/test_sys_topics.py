"""The $SYS tree: names and number formats, what counts as a change, the averages."""

from __future__ import annotations

from math import exp

import pytest

from tidegate.core.sys_topics import MAX_INSTANCES, SysSnapshot, SysTree, Totals

_LOAD = [
    "messages/received", "messages/sent", "publish/dropped", "publish/received", "publish/sent",
    "bytes/received", "bytes/sent", "sockets", "connections",
]  # fmt: skip
_NAMES = {
    "version", "uptime", "clients/total", "clients/maximum", "clients/inactive", "clients/active",
    "clients/connected", "clients/disconnected", "clients/expired", "messages/stored",
    "messages/received", "messages/sent", "publish/messages/dropped", "publish/messages/received",
    "publish/messages/sent", "publish/bytes/received", "publish/bytes/sent", "bytes/received",
    "bytes/sent", "store/messages/count", "store/messages/bytes", "subscriptions/count",
    "shared_subscriptions/count", "retained messages/count", "heap/current", "heap/maximum",
    *(f"load/{name}/{minutes}min" for name in _LOAD for minutes in (1, 5, 15)),
}  # fmt: skip


def test_the_first_call_has_every_topic_that_mosquitto_has() -> None:
    values = dict(SysTree("1.2").values(100.0, SysSnapshot()))
    assert set(values) == {f"$SYS/broker/{name}" for name in _NAMES}
    assert values["$SYS/broker/version"] == b"tidegate version 1.2"
    assert values["$SYS/broker/uptime"] == b"0 seconds"
    assert values["$SYS/broker/load/sockets/1min"] == b"0.00"


def test_only_what_changed_is_returned_unless_all_is_asked_for() -> None:
    tree = SysTree("1.2", started_s=90.0)
    everything = tree.values(100.0, SysSnapshot(subscriptions=1))
    assert tree.values(100.0, SysSnapshot(subscriptions=1)) == []
    changed = dict(tree.values(110.5, SysSnapshot(subscriptions=2)))
    assert changed == {
        "$SYS/broker/uptime": b"20 seconds",
        "$SYS/broker/subscriptions/count": b"2",
    }
    assert len(tree.values(110.5, SysSnapshot(), full=True)) == len(everything)


def test_totals_and_maxima_are_kept() -> None:
    tree = SysTree("1.2")
    tree.values(1.0, SysSnapshot(clients_connected=7, heap_bytes=500))
    values = dict(
        tree.values(
            2.0, SysSnapshot(clients_connected=2, clients_disconnected=3, heap_bytes=400), full=True
        )
    )
    assert values["$SYS/broker/clients/total"] == b"5"
    assert values["$SYS/broker/clients/active"] == b"2"
    assert values["$SYS/broker/clients/inactive"] == b"3"
    assert values["$SYS/broker/clients/maximum"] == b"7"
    assert values["$SYS/broker/heap/maximum"] == b"500"
    later = dict(tree.values(3.0, SysSnapshot(clients_maximum=9)))
    assert later["$SYS/broker/clients/maximum"] == b"9"


@pytest.mark.parametrize("minutes", [1, 5, 15])
def test_loads_are_events_per_minute_averaged_over_the_period(minutes: int) -> None:
    tree = SysTree("1.2", started_s=0.0)
    topic = f"$SYS/broker/load/publish/received/{minutes}min"
    tree.values(0.0, SysSnapshot())
    weight = exp(-10 / (60 * minutes))
    expected = 0.0
    for step in range(1, 4):  # 50 in ten seconds are 300 a minute
        expected = 300 + weight * (expected - 300)
        values = dict(tree.values(step * 10.0, SysSnapshot(publish_received=50 * step)))
        assert float(values[topic]) == pytest.approx(expected, abs=0.006)


def test_a_load_that_fades_by_less_than_two_decimals_is_left_as_it_is() -> None:
    tree = SysTree("1.2", started_s=0.0)
    tree.values(0.0, SysSnapshot())
    tree.values(10.0, SysSnapshot(publish_sent=1))
    seen = []
    for step in range(2, 400):
        values = dict(tree.values(step * 10.0, SysSnapshot(publish_sent=1)))
        seen.append(values.get("$SYS/broker/load/publish/sent/15min"))
    assert seen.count(None) > 300
    assert tree._loads["load/publish/sent/15min"] < 0.01


# Several processes


def test_the_figures_of_all_processes_are_added_up() -> None:
    snapshot = Totals().add_up(
        {
            "edge-1.a": {"clients_connected": 2, "subscriptions": 3, "packets_sent": 10},
            "edge-2.a": {"clients_connected": 1, "heap_bytes": 5, "packets_sent": 1},
            "router-1.a": {"queued": 7, "clients_expired": 1},
        },
        {"clients_disconnected": 4, "retained_messages": 9, "subscriptions": 2},
    )
    assert snapshot == SysSnapshot(
        clients_connected=3,
        clients_disconnected=4,
        subscriptions=5,
        heap_bytes=5,
        packets_sent=11,
        clients_expired=1,
        retained_messages=9,
        messages_stored=16,
    )


def test_what_one_process_queued_and_another_delivered_is_not_stored() -> None:
    parts = {"router-1.a": {"queued": 5}, "edge-1.a": {"queued": -3}}
    assert Totals().add_up(parts, {}).messages_stored == 2
    assert Totals().add_up({"edge-1.a": {"queued": -3}}, {}).messages_stored == 0


def test_what_a_process_counted_stays_when_it_has_gone_and_its_clients_do_not() -> None:
    totals = Totals()
    totals.add_up({"edge-1.a": {"clients_connected": 2, "packets_sent": 10}}, {})
    snapshot = totals.add_up({"edge-1.b": {"clients_connected": 1, "packets_sent": 1}}, {})
    assert (snapshot.clients_connected, snapshot.packets_sent) == (1, 11)


def test_a_process_that_was_away_counts_once() -> None:
    totals = Totals()
    for parts in ({"edge-1.a": {"packets_sent": 10}}, {}, {"edge-1.a": {"packets_sent": 12}}):
        snapshot = totals.add_up(parts, {})
    assert snapshot.packets_sent == 12


def test_the_figures_of_any_number_of_instances_take_bounded_memory() -> None:
    totals = Totals()
    for number in range(MAX_INSTANCES + 10):
        snapshot = totals.add_up({f"edge.{number}": {"packets_sent": 1}}, {})
    assert snapshot.packets_sent == MAX_INSTANCES + 10
    assert len(totals._by_instance) == MAX_INSTANCES


def test_figures_of_a_newer_version_are_passed_over() -> None:
    assert Totals().add_up({"edge.a": {"moons": 3}}, {"suns": 1}) == SysSnapshot()
