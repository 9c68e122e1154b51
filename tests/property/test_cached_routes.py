"""What routers and edges keep of topics is what they would find without any cache.

Through subscriptions, ends of sessions and edges, other rules, and routers that join and leave,
with caches that hold a few topics only, so that each of these meets entries in every state.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from support import mqtt_bytes
from support.fake_link import FakeEdge
from support.lone_edge import EdgeClient, LoneEdge
from support.match_cache import check_cache
from support.virtual_time import turns
from tidegate.core.rendezvous import owner
from tidegate.edge.auth.acl import AclFile
from tidegate.link.edge_end.publish_dispatch import PublishDispatcher
from tidegate.link.edge_end.router_peer import RouterPeer
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.mqtt.topics import matches, parse_shared
from tidegate.router.table import RoutingTable
from tidegate.runtime.telemetry.counters import Counters

FILTERS = ["a/b", "a/c", "a/+", "a/#", "b/+", "b/#", "+/b", "#", "+", "a", "a/b/#", "$s/#"]
TOPICS = ["a", "b", "a/b", "a/c", "a/d", "b/b", "b/c", "b/d/e", "a/b/c", "$s/a", "c", "c/b"]
_FILTERS = st.sampled_from(FILTERS)
_EDGES = st.sampled_from(["e1", "e2"])
_CLIENTS = st.sampled_from(["c1", "c2", "c3"])


class RoutesAgainstNone(RuleBasedStateMachine):
    """A router's table of two edges, three durable sessions, and members of shared groups."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(cached_topics=4)
        self.edges: dict[str, Any] = {name: FakeEdge(name) for name in ("e1", "e2")}
        #: Of each edge and filter, whether it is sent QoS 0 only.
        self.interest: dict[tuple[str, str], bool] = {}
        self.durable: dict[tuple[str, str], SubscriptionOptions] = {}
        #: Who is in each group: clients with their edges.
        self.groups: dict[str, dict[str, str]] = {}

    @rule(edge=_EDGES, topic_filter=_FILTERS, only_qos0=st.booleans())
    def add_interest(self, edge: str, topic_filter: str, only_qos0: bool) -> None:
        self.table.add_interest(self.edges[edge], [topic_filter], only_qos0=only_qos0)
        self.interest[edge, topic_filter] = only_qos0

    @rule(edge=_EDGES, topic_filter=_FILTERS)
    def remove_interest(self, edge: str, topic_filter: str) -> None:
        self.table.remove_interest(self.edges[edge], [topic_filter])
        self.interest.pop((edge, topic_filter), None)

    @rule(client=_CLIENTS, topic_filter=_FILTERS, qos=st.integers(0, 2))
    def subscribe(self, client: str, topic_filter: str, qos: int) -> None:
        options = SubscriptionOptions(qos)
        self.table.subscribe_durable(self.table.session(client, 1), topic_filter, options)
        self.durable[client, topic_filter] = options

    @rule(client=_CLIENTS, topic_filter=_FILTERS)
    def unsubscribe(self, client: str, topic_filter: str) -> None:
        self.table.unsubscribe_durable(self.table.session(client, 1), topic_filter)
        self.durable.pop((client, topic_filter), None)

    @rule(client=_CLIENTS)
    def end_session(self, client: str) -> None:
        self.table.drop_session(client, 1)
        self.durable = {key: one for key, one in self.durable.items() if key[0] != client}

    @rule(edge=_EDGES, client=_CLIENTS, topic_filter=_FILTERS)
    def join(self, edge: str, client: str, topic_filter: str) -> None:
        name = f"$share/g/{topic_filter}"
        members = self.groups.setdefault(name, {})
        if client not in members:
            self.table.join_group(self.edges[edge], client, 1, name, SubscriptionOptions(1))
            members[client] = edge

    @rule(client=_CLIENTS, topic_filter=_FILTERS)
    def leave(self, client: str, topic_filter: str) -> None:
        name = f"$share/g/{topic_filter}"
        self.table.leave_group(client, 1, name)
        self.groups.get(name, {}).pop(client, None)

    @rule(edge=_EDGES)
    def lose_edge(self, edge: str) -> None:
        self.table.drop_edge(self.edges[edge])
        self.interest = {key: one for key, one in self.interest.items() if key[0] != edge}
        for members in self.groups.values():
            for client in [client for client, there in members.items() if there == edge]:
                del members[client]

    @rule(topic=st.sampled_from(TOPICS))
    def publish(self, topic: str) -> None:
        route = self.table.route(topic)
        wanted = [key for key in self.interest if matches(key[1], topic)]
        assert {edge.edge_id for edge in route.edges} == {edge for edge, _ in wanted}
        assert len(route.edges) == len(set(route.edges))
        assert {edge.edge_id for edge in route.windowed_edges} == {
            edge for edge, topic_filter in wanted if not self.interest[edge, topic_filter]
        }
        granted: dict[str, int] = {}
        for (client, topic_filter), options in self.durable.items():
            if matches(topic_filter, topic):
                granted[client] = max(granted.get(client, 0), options.qos)
        assert {one.session.client_id: one.qos for one in route.durable} == granted
        shares = [parse_shared(name) for name, members in self.groups.items() if members]
        assert sorted(route.groups) == sorted(
            share for share in shares if share is not None and matches(share[1], topic)
        )
        assert self.table.route(topic) is route

    @invariant()
    def counts_hold(self) -> None:
        assert self.table.subscription_count() == len(self.interest) + len(self.durable)
        check_cache(self.table._index)


RoutesAgainstNone.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
TestRoutesAgainstNone = RoutesAgainstNone.TestCase


class OwnersAgainstNone(RuleBasedStateMachine):
    """Routers that join and leave while an edge publishes."""

    def __init__(self) -> None:
        super().__init__()
        self.routers = RouterTable()
        self.routers.limit_caches(4)
        self.dispatcher = PublishDispatcher(self.routers, Counters())

    @rule(name=st.sampled_from(["r1", "r2", "r3"]))
    def join_or_leave(self, name: str) -> None:
        peer = self.routers.members.get(name)
        if peer is not None:
            self.routers.remove(peer)
            return
        self.routers.add(RouterPeer(name, f"{name}:7000"))

    @rule(topic=st.sampled_from(TOPICS))
    def publish(self, topic: str) -> None:
        dispatcher, members = self.dispatcher, self.routers.members
        found = dispatcher._owners.get(topic) or dispatcher._find_owner(topic)
        assert found is (members[owner(topic, members)] if members else None)
        assert self.routers.owner(topic) is found
        assert len(self.routers.owners) <= 4


OwnersAgainstNone.TestCase.settings = settings(max_examples=40, stateful_step_count=50)
TestOwnersAgainstNone = OwnersAgainstNone.TestCase

RULES = ["", "topic readwrite #", "topic readwrite a/#\ntopic readwrite b/b"]
RULES += ["topic readwrite #\ntopic deny a/b", "pattern readwrite %c/#\npattern readwrite +/b"]
RULES += ["user ann\ntopic readwrite b/#\nuser bob\ntopic readwrite a/+"]


class _Edge:
    """An edge with three clients, and an ACL file that changes."""

    def __init__(self, broker: LoneEdge, acl: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.broker = broker
        self.acl = acl
        self.clients: dict[str, EdgeClient] = {}
        self.filters: dict[str, set[str]] = {}
        broker.edge._index.limit_cache(4)

    async def connect(self) -> None:
        for name, user in (("a", "ann"), ("b", "bob"), ("c", None)):
            self.clients[name] = await self.broker.connect(name, username=user)
            self.filters[name] = set()

    async def subscribe(self) -> None:
        name = self.random.choice(list(self.clients))
        topic_filter = self.random.choice(FILTERS)
        fake = self.clients[name]
        if topic_filter in self.filters[name]:
            self.filters[name].discard(topic_filter)
            fake.send(mqtt_bytes.unsubscribe(1, [topic_filter]))
        else:
            fake.send(mqtt_bytes.subscribe(1, [(topic_filter, 0)]))
            self.filters[name].add(topic_filter)
        await turns()
        assert len(fake.received()) == 1

    async def change_rules(self) -> None:
        self.acl.write_text(self.random.choice(RULES))
        edge = self.broker.edge
        edge.context.authorizer.reload(self.acl)
        edge.authorization_changed()

    def rules_of(self, name: str) -> Any:
        """The rules of a client, read just now."""
        return AclFile.load(self.acl).for_client(name, self.clients[name].client.username)

    async def deliver(self) -> None:
        topic = self.random.choice(TOPICS)
        self.broker.edge.deliver(Publish(topic, b"x", 0), "publisher")
        got = {name: len(fake.received()) for name, fake in self.clients.items()}
        assert got == {
            name: int(
                any(matches(one, topic) for one in filters) and self.rules_of(name).may_read(topic)
            )
            for name, filters in self.filters.items()
        }
        check_cache(self.broker.edge._index)

    async def publish(self) -> None:
        name, topic = self.random.choice(list(self.clients)), self.random.choice(TOPICS)
        published = self.broker.router.published
        before = len(published)
        self.clients[name].send(mqtt_bytes.publish(topic, b"x"))
        assert len(published) - before == self.rules_of(name).may_write(topic)


@pytest.mark.parametrize("seed", range(12))
async def test_an_edge_gives_messages_to_those_that_match_and_may_read_them(
    seed: int, tmp_path: Path
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite #")
    auth = {"allow_anonymous": True, "acl_file": str(acl), "denied_subscribe": "grant"}
    async with LoneEdge(auth=auth) as broker:
        edge = _Edge(broker, acl, seed)
        await edge.connect()
        steps = [edge.subscribe, edge.deliver, edge.publish, edge.change_rules]
        for step in edge.random.choices(steps, [3, 8, 4, 1], k=300):
            await step()
