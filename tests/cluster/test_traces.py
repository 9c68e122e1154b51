"""One trace for one publish, with a span from every process that it passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from support.cluster import Cluster
from support.cluster_clients import ClusterClients, receive_publish
from support.otlp_receiver import HttpReceiver, ReceivedSpan
from support.waiting import wait_for

pytestmark = pytest.mark.cluster

HOPS = ("publish", "route", "append", "deliver")


async def test_a_publish_is_one_trace_from_edge_to_router_to_store_to_edge(
    start_cluster: Callable[..., Awaitable[Cluster]],
) -> None:
    with HttpReceiver() as receiver:
        telemetry = {"otlp_endpoint": receiver.endpoint, "trace_ratio": 1.0}
        cluster = await start_cluster(telemetry=telemetry)
        cluster_clients = ClusterClients(cluster)
        topic = cluster_clients.topic()
        subscriber = await cluster_clients.connect(0, "subscriber", durable=True)
        await subscriber.subscribe((topic, 1))
        publisher = await cluster_clients.connect(1, "publisher")
        await publisher.deliver(topic, b"once")
        assert (await receive_publish(subscriber)).payload == b"once"

        def found() -> dict[str, ReceivedSpan]:
            spans = {span.name: span for span in receiver.spans}
            return spans if set(HOPS) <= set(spans) else {}

        spans = await asyncio.to_thread(wait_for, found, 20.0, "a span of every hop")
    publish, route, append, deliver = (spans[name] for name in HOPS)
    assert {span.trace_id for span in spans.values()} == {publish.trace_id}
    assert [route.parent_id, append.parent_id, deliver.parent_id] == [
        publish.span_id,
        route.span_id,
        append.span_id,
    ]
    # The context has crossed the link twice; the store call belongs to the router's own span.
    assert [span.parent_is_remote for span in (route, append, deliver)] == [True, False, True]
    who = [span.resource["service.instance.id"] for span in (publish, route, append, deliver)]
    assert who[0] == "edge-1"
    assert who[1] == who[2]
    assert who[1].startswith("router-")
    assert who[3] == "edge-0"
