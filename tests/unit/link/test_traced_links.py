"""Spans around the link's interfaces, and that what is not traced passes them as it is."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tidegate.link.interfaces import FENCED, EdgeLink, Origin, RouterLink, RouterService
from tidegate.link.traced_links import TracedEdgeLink, TracedRouterLink, TracedRouterService
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.router.table import Route
from tidegate.runtime.telemetry.counters import Counters
from tidegate.runtime.telemetry.tracing import DELIVER, PUBLISH, ROUTE, Span, Tracer


class _Publisher:
    """An Origin that notes outcomes."""

    client_id = "publisher"
    epoch = 3
    is_will = False
    is_superseded = False

    def __init__(self, tracer: Tracer) -> None:
        self.outcomes: list[int] = []
        self._tracer = tracer

    def identity(self, message: Publish) -> str:
        return "exchange"

    def receipt(self, message: Publish) -> int:
        return 5

    def published(self, message: Publish, code: int) -> None:
        assert not self._tracer.spans  # the span ends after the acknowledgement
        self.outcomes.append(code)


class _Peer:
    """A router or an edge: notes publishes, knows the names of all other methods."""

    edge_id = "edge"
    instance = "instance"
    knows_wills = False
    publishes_wills = False

    def __init__(self, code: int | None = 0, taken: bool = True) -> None:
        self.code = code
        self.taken = taken
        self.counters = Counters()
        self.published: list[tuple[Origin, Publish]] = []

    def publish(self, origin: Origin, message: Publish) -> int | None:
        self.published.append((origin, message))
        return self.code

    def deliver(self, message: Publish, publisher_id: str, identity: str = "") -> None:
        self.counters.delivered += 3

    def push(self, client_id: str, epoch: int, seq: int, message: Publish) -> None:
        self.counters.delivered += 1

    def deliver_shared(self, *_arguments: object) -> bool:
        self.counters.delivered += self.taken
        return self.taken

    def __getattr__(self, name: str) -> Any:
        return name


def _router_link(peer: _Peer, tracer: Tracer) -> TracedRouterLink:
    return TracedRouterLink(cast("RouterLink", peer), tracer)


def _only(tracer: Tracer) -> Span:
    (span,) = tracer.spans
    return span


def test_what_is_not_sampled_passes_with_its_own_origin() -> None:
    tracer, peer = Tracer(1e-12, seed=1), _Peer()
    origin, message = _Publisher(tracer), Publish("t", qos=1)
    assert _router_link(peer, tracer).publish(origin, message) == 0
    assert peer.published == [(origin, message)]
    assert not message.trace
    assert not tracer.spans


@pytest.mark.parametrize(("code", "failed"), [(0, False), (0x10, False), (0x87, True)])
def test_an_outcome_at_once_ends_the_span(code: int, failed: bool) -> None:
    tracer, peer = Tracer(1), _Peer(code)
    message = Publish("t", qos=1)
    assert _router_link(peer, tracer).publish(_Publisher(tracer), message) == code
    span = _only(tracer)
    assert span.name == PUBLISH
    assert span.context == message.trace
    assert span.attributes["tidegate.reason_code"] == code
    assert span.attributes["messaging.client.id"] == "publisher"
    assert span.failed is failed


@pytest.mark.parametrize(("code", "failed"), [(0, False), (0x83, True), (FENCED, True)])
def test_an_outcome_that_comes_later_reaches_the_publisher_and_ends_the_span(
    code: int, failed: bool
) -> None:
    tracer, peer = Tracer(1), _Peer(None)
    publisher, message = _Publisher(tracer), Publish("t", qos=2)
    assert _router_link(peer, tracer).publish(publisher, message) is None
    assert not tracer.spans
    ((origin, _),) = peer.published
    assert (origin.client_id, origin.epoch) == ("publisher", 3)
    assert (origin.identity(message), origin.receipt(message)) == ("exchange", 5)
    origin.published(message, code)
    assert publisher.outcomes == [code]
    assert _only(tracer).attributes["tidegate.reason_code"] == code
    assert _only(tracer).failed is failed


def test_a_route_span_is_between_the_publish_and_what_follows_from_it() -> None:
    tracer, peer, route = Tracer(1), _Peer(), Route()
    route.groups = (("g", "t"), ("h", "t"))
    service = TracedRouterService(cast("RouterService", peer), tracer, lambda _topic: route)
    publisher, message = _Publisher(tracer), Publish("t", qos=1)
    service.publish(publisher, message)
    assert not tracer.spans
    message.trace = parent = tracer.start(PUBLISH, tracer.sample()).context
    service.publish(publisher, message)
    span = _only(tracer)
    assert (span.name, span.parent, span.context) == (ROUTE, parent, message.trace)
    sizes = [span.attributes[f"tidegate.{name}"] for name in ("edges", "sessions", "groups")]
    assert sizes == [0, 0, 2]
    assert service.instance == "instance"


def test_deliver_spans_say_how_many_connections_were_given_the_message() -> None:
    tracer, peer = Tracer(1), _Peer()
    edge = TracedEdgeLink(cast("EdgeLink", peer), tracer, peer.counters)
    message = Publish("t", qos=1)
    edge.deliver(message, "publisher")
    edge.push("c", 1, 1, message)
    edge.deliver_shared("c", 1, message, "$share/g/t", SubscriptionOptions())
    assert not tracer.spans
    message.trace = tracer.start(ROUTE, tracer.sample()).context
    edge.deliver(message, "publisher")
    edge.push("c", 1, 1, message)
    edge.deliver_shared("d", 1, message, "$share/g/t", SubscriptionOptions())
    assert {span.name for span in tracer.spans} == {DELIVER}
    assert {span.parent for span in tracer.spans} == {message.trace}
    assert [span.attributes["tidegate.sent"] for span in tracer.spans] == [3, 1, 1]
    clients = [span.attributes.get("messaging.client.id") for span in tracer.spans]
    assert clients == [None, "c", "d"]


def test_a_member_that_is_not_there_gets_no_span() -> None:
    tracer, peer = Tracer(1), _Peer(taken=False)
    edge = TracedEdgeLink(cast("EdgeLink", peer), tracer, peer.counters)
    message = Publish("t", qos=1, trace=tracer.start(ROUTE, tracer.sample()).context)
    assert not edge.deliver_shared("c", 1, message, "$share/g/t", SubscriptionOptions())
    assert not tracer.spans


def test_whether_an_edge_publishes_wills_is_asked_each_time() -> None:
    peer = _Peer()
    edge = TracedEdgeLink(cast("EdgeLink", peer), Tracer(1), peer.counters)
    assert not edge.publishes_wills  # it is being attached
    peer.publishes_wills = True
    assert edge.publishes_wills
