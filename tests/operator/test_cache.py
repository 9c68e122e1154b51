"""What is remembered of a broker: until something changes, and never while a watch is down."""

from __future__ import annotations

import asyncio
from typing import Any

from support.brokers import NAMESPACE, rendered, spec_of
from support.cluster_double import ClusterDouble
from support.virtual_time import run_virtual
from tidegate_operator.cache import LONGEST_S, CachedCluster
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Manifest

DEMO, OTHER = (NAMESPACE, "demo"), (NAMESPACE, "other")


def cached(*watches: str) -> tuple[CachedCluster, ClusterDouble]:
    """Return a cache whose watches are all up."""
    double = ClusterDouble()
    for manifest in rendered(spec_of()):
        double.fake.put(manifest)
    found = CachedCluster(double, watches or ("a", "b"))
    for watch in watches or ("a", "b"):
        found.began(watch)
    return found, double


async def asks(cluster: CachedCluster, double: ClusterDouble, key: tuple[str, str] = DEMO) -> int:
    """Return how many requests looking at a broker costs."""
    before = double.reads
    await cluster.children(*key)
    await cluster.pods(*key)
    return double.reads - before


async def test_what_nobody_has_touched_is_asked_for_once() -> None:
    cluster, double = cached()
    assert await asks(cluster, double) == 2
    assert await asks(cluster, double) == 0
    assert len(await cluster.children(*DEMO)) == len(rendered(spec_of()))


async def test_what_has_changed_is_asked_for_again() -> None:
    cluster, double = cached()
    for key in (DEMO, OTHER):
        await asks(cluster, double, key)
    cluster.changed(DEMO)
    assert await asks(cluster, double, OTHER) == 0
    assert await asks(cluster, double, DEMO) == 2


async def test_what_we_have_written_is_asked_for_again() -> None:
    cluster, double = cached()
    await asks(cluster, double)
    manifest = rendered(spec_of(), name="demo")[0]
    await cluster.apply(manifest, dry_run=True)
    assert await asks(cluster, double) == 0
    await cluster.apply(manifest)
    assert await asks(cluster, double) == 2
    await cluster.delete(ObjectRef("v1", "Secret", "demo-admin"), NAMESPACE, "uid")
    assert await asks(cluster, double) == 2


async def test_nothing_is_believed_while_a_watch_is_down() -> None:
    cluster, double = cached()
    await asks(cluster, double)
    cluster.ended("a")
    assert await asks(cluster, double) == 2
    assert await asks(cluster, double) == 2
    cluster.began("a")
    assert await asks(cluster, double) == 2
    assert await asks(cluster, double) == 0


async def test_a_change_during_a_list_is_not_lost() -> None:
    cluster, double = cached()
    original = double.children

    async def slow(namespace: str, name: str) -> list[Manifest]:
        found = await original(namespace, name)
        # The answer is on its way, and a watch is faster.
        cluster.changed(DEMO)
        return found

    double.children = slow  # type: ignore[method-assign] # the seam that is tested
    await cluster.children(*DEMO)
    double.children = original  # type: ignore[method-assign] # see above
    before = double.reads
    await cluster.children(*DEMO)
    assert double.reads == before + 1


def test_what_is_old_is_asked_for_again() -> None:
    async def play() -> None:
        cluster, double = cached()
        await asks(cluster, double)
        await asyncio.sleep(LONGEST_S - 1)
        assert await asks(cluster, double) == 0
        await asyncio.sleep(2)
        assert await asks(cluster, double) == 2

    run_virtual(play())


async def test_what_is_given_away_can_be_changed() -> None:
    cluster, _ = cached()
    (await cluster.children(*DEMO)).clear()
    assert await cluster.children(*DEMO)


async def test_everything_else_is_passed_on() -> None:
    cluster, double = cached()
    broker: dict[str, Any] = {
        "apiVersion": "tidegate.io/v1alpha1",
        "kind": "MqttBroker",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
    }
    double.fake.put(broker)
    assert await cluster.broker(*DEMO)
    assert await cluster.broker(*OTHER) is None
    assert await cluster.read(ObjectRef("v1", "Secret", "demo-admin"), NAMESPACE)
    await cluster.set_status(*DEMO, {"a": 1})
    await cluster.say(broker, "Normal", "Serving", "")
    assert double.status_writes == len(double.events) == 1
    assert await cluster.optional_kinds() == double.kinds
