"""Edges are sent every message that one of their clients needs, and no message that none needs.

Inputs: clients of two edges, with durable sessions and others, that subscribe, unsubscribe and go;
replays that begin and end; pauses, after which nothing that is not needed is sent. Observed: what
each router's table sends to an edge at each QoS, beside what the fan-outs of the edge would do with
it. Registry, fan-out and routing table are real.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.build import sources_only
from support.fake_link import FakeEdge
from tidegate.edge.client.registry import ClientRegistry
from tidegate.edge.fan_out import build_fan_out
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.mqtt.topics import matches
from tidegate.router.table import RoutingTable
from tidegate.runtime.config.model import LimitsConfig
from tidegate.runtime.telemetry.counters import Counters

#: Clients are names here.
pytestmark = sources_only

FILTERS = ("a", "a/b", "a/+", "a/#", "#", "b")
TOPICS = ("a", "a/b", "a/c", "b")
CLIENTS = ("c1", "c2", "c3")
#: Number of the edge, client, durable or not, what it does, filters, QoS.
STEPS = st.tuples(
    st.integers(0, 1),
    st.sampled_from(CLIENTS),
    st.booleans(),
    st.sampled_from(["subscribe", "subscribe", "unsubscribe", "leave", "hold", "release"]),
    st.lists(st.sampled_from(FILTERS), min_size=1, max_size=3, unique=True),
    st.integers(0, 2),
)


class _Client:
    """As much of a client as the registry and the fan-out look at."""

    version = ProtocolVersion.V5
    aliases = None
    maximum_packet_size_bytes = 0
    mount_point_length = 0
    epoch = 1

    def __init__(self, client_id: str, *, durable: bool) -> None:
        self.session_key = client_id
        self.incarnation = 1 if durable else 0
        self.subscriptions: dict[str, SubscriptionOptions] = {}

    def may_read(self, _topic: str) -> bool:
        return True

    def own_subscriptions(self) -> dict[str, SubscriptionOptions]:
        return self.subscriptions


class _Edge:
    """An edge: its registry, its clients, and what is held for replays."""

    def __init__(self, edge_id: str, table: RoutingTable) -> None:
        link: Any = FakeEdge(edge_id)
        self.link = link
        self.table = table
        self.timers: list[Callable[[], None]] = []
        context: Any = SimpleNamespace(
            router=self,
            edge_id=edge_id,
            counters=Counters(),
            limits=LimitsConfig(),
            later=lambda _delay_s, call: self.timers.append(call),
        )
        self.registry = ClientRegistry(context)
        self.clients: dict[tuple[str, bool], Any] = {}
        self.held: list[str] = []

    def add_interest(self, _edge_id: str, filters: list[str], *, only_qos0: bool = False) -> None:
        self.table.add_interest(self.link, filters, only_qos0=only_qos0)

    def remove_interest(self, _edge_id: str, filters: list[str]) -> None:
        self.table.remove_interest(self.link, filters)

    def wait(self) -> None:
        while self.timers:
            self.timers.pop()()

    def step(self, name: str, durable: bool, what: str, filters: list[str], qos: int) -> None:
        client = self.clients.setdefault((name, durable), _Client(name, durable=durable))
        if what == "subscribe":
            self.registry.subscribe(client, [(one, SubscriptionOptions(qos)) for one in filters])
        elif what == "unsubscribe":
            known = [one for one in filters if one in client.subscriptions]
            self.registry.unsubscribe(client, known)
        elif what == "leave":
            self.registry.remove(client, "", True)
            del self.clients[name, durable]
        elif what == "hold":
            self.registry.interest.hold(filters)
            self.held += filters
        else:
            known = [one for one in filters if one in self.held]
            self.registry.interest.release(known)
            for one in known:
                self.held.remove(one)

    def is_needed(self, topic: str, qos: int) -> bool:
        """Whether a client, or a replay, gets something when it is sent such a message."""
        fan_out = build_fan_out(topic, self.registry.index.match(topic).pairs)
        receivers = (
            [*fan_out.windowed, *fan_out.low_groups, *fan_out.low_special]
            if qos
            else [*fan_out.groups, *fan_out.special]
        )
        return bool(receivers) or any(matches(one, topic) for one in self.held)

    def may_be_sent(self, topic: str, qos: int) -> bool:
        """Whether a subscription may want it that says nothing of the client's other ones."""
        return any(matches(one, topic) for one in self.held) or any(
            matches(name, topic)
            for client in self.clients.values()
            for name, options in client.subscriptions.items()
            if not qos or not options.qos or not client.incarnation
        )


@settings(max_examples=150)
@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=30))
def test_routers_send_an_edge_what_its_clients_need_and_nothing_else(
    steps: list[tuple[Any, bool]],
) -> None:
    table = RoutingTable()
    edges = [_Edge(f"edge-{number}", table) for number in range(2)]
    for (number, *step), is_quiet in steps:
        edges[number].step(*step)
        if is_quiet:
            edges[0].wait()
            edges[1].wait()
        for topic in TOPICS:
            route = table.route(topic)
            for edge in edges:
                for qos, sent_to in ((0, route.edges), (1, route.windowed_edges)):
                    is_sent = edge.link in sent_to
                    assert is_sent or not edge.is_needed(topic, qos), (topic, qos)
                    if not edge.timers:
                        assert edge.may_be_sent(topic, qos) or not is_sent, (topic, qos)
    for edge in edges:
        for name, durable in list(edge.clients):
            edge.step(name, durable, "leave", [], 0)
        edge.registry.interest.release(set(edge.held))
        for one in set(edge.held):
            edge.held.remove(one)
        while edge.held:
            edge.registry.interest.release([edge.held.pop()])
    assert not table.subscription_count()
