"""What is known of brokers: as watches tell it, and never while one is down."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from support.brokers import ALL_OPTIONAL, NAMESPACE, rendered, spec_of
from support.fake_kube_api import FakeKubeApi
from support.virtual_time import run_virtual
from tidegate_operator import names
from tidegate_operator.kube import cache as module
from tidegate_operator.kube.cache import OPTIONAL_TTL_S, CachedCluster
from tidegate_operator.kube.interface import Event, Listed
from tidegate_operator.plan import MANAGED_KINDS, ObjectRef
from tidegate_operator.render import Manifest

DEMO, OTHER = (NAMESPACE, "demo"), (NAMESPACE, "other")
KINDS = (*(kind for _, kind in MANAGED_KINDS), "Pod")


def there(version: int = 1) -> list[Manifest]:
    """Return what the server has of a broker."""
    found = copy.deepcopy(rendered(spec_of()))
    for one in found:
        one["metadata"] |= {"uid": f"uid-{one['metadata']['name']}", "resourceVersion": "1"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "demo-edge-1"}}
    pod["metadata"] = copy.deepcopy(found[0]["metadata"]) | pod["metadata"]
    found.append(pod)
    for one in found:
        one["metadata"]["resourceVersion"] = str(version)
    return found


def cached(*, up: bool = True) -> tuple[CachedCluster, FakeKubeApi]:
    """Return a cache that has seen a broker, and the cluster behind it."""
    double = FakeKubeApi()
    double.kinds = {}
    for manifest in rendered(spec_of()):
        double.fake.put(manifest)
    found = CachedCluster(double, KINDS)
    for kind in KINDS if up else ():
        tell(found, kind, there())
    return found, double


def tell(cache: CachedCluster, kind: str, objects: list[Manifest], version: str = "5") -> Any:
    replace = Listed([one for one in objects if one["kind"] == kind], version)
    changed = cache.replace(kind, "", replace)
    cache.watch_started(kind)
    return changed


def edge(version: int, **changes: Any) -> Manifest:
    """Return the edges' Deployment at a version."""
    (found,) = (
        one
        for one in there(version)
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "demo-edge")
    )
    return found | changes


async def known_edge(cache: CachedCluster) -> Manifest | None:
    found = await cache.children(*DEMO)
    return next((one for one in found if ObjectRef.of(one) == ObjectRef.of(edge(1))), None)


async def test_looking_at_what_is_watched_asks_nothing() -> None:
    cache, double = cached()
    expected = [one for one in there() if one["kind"] in KINDS and one["kind"] != "Pod"]
    assert len(await cache.children(*DEMO)) == len(expected) > 20
    assert [one["metadata"]["name"] for one in await cache.pods(*DEMO)] == ["demo-edge-1"]
    assert double.reads == 0
    assert await cache.pods(*OTHER) == []


async def test_nothing_is_believed_while_a_watch_is_down() -> None:
    cache, double = cached(up=False)
    assert cache.watches_down() == frozenset(KINDS)
    await cache.children(*DEMO)
    await cache.pods(*DEMO)
    assert double.reads == 2
    for kind in KINDS:
        tell(cache, kind, there())
    cache.watch_ended("Pod")
    await cache.children(*DEMO)
    assert double.reads == 3
    cache.watch_started("Pod")
    await cache.children(*DEMO)
    assert double.reads == 3


async def test_what_happens_is_known_and_belongs_to_somebody() -> None:
    cache, _ = cached()
    assert cache.apply_event(Event(edge(2, status={"replicas": 1}))) == [DEMO]
    assert (await known_edge(cache) or {})["status"] == {"replicas": 1}
    # Old news, and the same again.
    assert cache.apply_event(Event(edge(1))) == []
    assert cache.apply_event(Event(edge(2, status={"replicas": 1}))) == []
    assert cache.apply_event(Event(edge(3), is_deleted=True)) == [DEMO]
    assert await known_edge(cache) is None
    stranger = edge(4)
    stranger["metadata"]["name"] = "else"
    stranger["metadata"]["labels"] = {"app": "other"}
    assert cache.apply_event(Event(stranger)) == []


async def test_the_end_of_an_earlier_object_of_that_name_is_no_end() -> None:
    cache, _ = cached()
    earlier = edge(9)
    earlier["metadata"]["uid"] = "another"
    assert cache.apply_event(Event(earlier, is_deleted=True)) == [DEMO]
    assert await known_edge(cache) is not None


async def of_both(cache: CachedCluster) -> tuple[int, int]:
    """Return how many Deployments of the edges two brokers have."""
    there = [await cache.children(*one) for one in (DEMO, OTHER)]
    mine, others = (
        sum(ObjectRef.of(one) == ObjectRef.of(edge(1)) for one in found) for found in there
    )
    return mine, others


def given_to(broker: str | None, version: int) -> Manifest:
    """Return the edges' Deployment with the label of another broker, or without."""
    found = edge(version)
    del found["metadata"]["labels"][names.INSTANCE_LABEL]
    if broker is not None:
        found["metadata"]["labels"][names.INSTANCE_LABEL] = broker
    return found


async def test_what_loses_its_label_is_not_kept() -> None:
    cache, _ = cached()
    assert cache.apply_event(Event(given_to(None, 2))) == [DEMO]
    assert await known_edge(cache) is None
    assert cache.apply_event(Event(given_to(None, 3))) == []
    assert cache.apply_event(Event(given_to(None, 4), is_deleted=True)) == []
    # It has its label again.
    assert cache.apply_event(Event(edge(5))) == [DEMO]
    assert await known_edge(cache) is not None


async def test_what_gets_another_label_is_news_to_both_brokers() -> None:
    cache, _ = cached()
    assert cache.apply_event(Event(given_to("other", 2))) == [DEMO, OTHER]
    assert await of_both(cache) == (0, 1)
    # What it was before is no news any more.
    assert cache.apply_event(Event(edge(1))) == []
    assert await of_both(cache) == (0, 1)
    assert cache.apply_event(Event(given_to("other", 3), is_deleted=True)) == [OTHER]
    assert await of_both(cache) == (0, 0)


async def test_the_end_of_what_was_known_as_anothers_is_news_to_both() -> None:
    """A watch that was down has not told of the label."""
    cache, _ = cached()
    assert set(cache.apply_event(Event(given_to("other", 3), is_deleted=True))) == {DEMO, OTHER}
    assert await of_both(cache) == (0, 0)
    assert await cache.pods(*DEMO)


async def test_a_pod_that_is_nobodys_is_no_pod_of_the_broker() -> None:
    cache, _ = cached()
    (pod,) = (one for one in there(2) if one["kind"] == "Pod")
    pod["metadata"]["labels"].pop(names.INSTANCE_LABEL)
    assert cache.apply_event(Event(pod)) == [DEMO]
    assert await cache.pods(*DEMO) == []


@pytest.mark.parametrize(("broker", "news"), [("other", {DEMO, OTHER}), (None, {DEMO})])
async def test_what_is_listed_under_another_label_has_gone_from_the_first(
    broker: str | None, news: set[tuple[str, str]]
) -> None:
    cache, _ = cached()
    now = [one for one in there(9) if one["metadata"]["name"] != "demo-edge"]
    now += [given_to(broker, 9)]
    tell(cache, "Deployment", there(8), "8")
    assert set(tell(cache, "Deployment", now, "9")) == news
    assert await of_both(cache) == (0, len(news) - 1)


async def test_an_answer_that_comes_late_brings_nothing_back() -> None:
    cache, double = cached()
    answers = [edge(3)]
    double.apply = lambda *_, **__: asyncio.sleep(0, answers.pop(0))  # type: ignore[method-assign]

    async def late(version: int) -> Manifest | None:
        answers[:] = [edge(version)]
        await cache.apply(edge(1))
        return await known_edge(cache)

    assert cache.apply_event(Event(edge(4), is_deleted=True)) == [DEMO]
    assert await late(3) is None
    # It had lost its labels only, and has them again.
    assert await late(5) is not None
    # The same of what a watch has not told, and of what it says is nobody's.
    tell(cache, "Deployment", [], "20")
    assert await late(19) is None
    assert await late(21) is not None
    assert cache.apply_event(Event(given_to(None, 23))) == [DEMO]
    assert await late(22) is None


async def test_the_end_of_labels_that_comes_late_takes_nothing_away() -> None:
    """A watch of labels tells of what has lost them as if it were deleted."""
    cache, _ = cached()
    cache.apply_event(Event(edge(8)))
    cache.apply_event(Event(edge(7), is_deleted=True))
    assert await known_edge(cache) is not None


async def test_our_answer_leaves_it_to_the_watch_to_tell_an_owner_of_its_loss() -> None:
    cache, double = cached()
    cache.apply_event(Event(given_to("other", 2)))
    answer = edge(3)
    double.apply = lambda *_, **__: asyncio.sleep(0, answer)  # type: ignore[method-assign]
    await cache.apply(edge(1))
    assert set(cache.apply_event(Event(answer))) == {DEMO, OTHER}
    assert await of_both(cache) == (1, 0)


def test_of_what_has_gone_only_the_last_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DELETED", 3)
    cache, _ = cached()
    for number in range(9):
        one = edge(number)
        one["metadata"]["uid"] = f"uid-{number}"
        cache.apply_event(Event(one, is_deleted=True))
    assert list(cache._deleted) == ["uid-6", "uid-7", "uid-8"]


async def test_what_we_have_written_is_known_before_it_is_told() -> None:
    cache, _ = cached()
    manifest = rendered(spec_of(edge={"replicas": 7}))
    (wanted,) = (one for one in manifest if ObjectRef.of(one) == ObjectRef.of(edge(1)))
    await cache.apply(wanted, dry_run=True)
    assert (await known_edge(cache) or {})["spec"]["replicas"] == 2
    applied = await cache.apply(wanted)
    applied["metadata"]["resourceVersion"] = "8"
    cache.apply_event(Event(applied))
    assert (await known_edge(cache) or {})["spec"]["replicas"] == 7
    # It comes back, which is no news, and what was before it comes late.
    assert cache.apply_event(Event(copy.deepcopy(applied))) == []
    assert cache.apply_event(Event(edge(7))) == []
    assert (await known_edge(cache) or {})["spec"]["replicas"] == 7
    await cache.delete(ObjectRef.of(wanted), NAMESPACE, applied["metadata"].get("uid", ""))


async def test_what_we_have_deleted_is_gone_at_once() -> None:
    cache, _ = cached()
    await cache.delete(ObjectRef.of(edge(1)), NAMESPACE, edge(1)["metadata"]["uid"])
    assert await known_edge(cache) is None


async def test_a_list_says_what_was_missed() -> None:
    cache, _ = cached()
    cache.watch_ended("Deployment")
    cache.apply_event(Event(edge(20)))
    # The list is older than what was written meanwhile; the routers have gone.
    assert tell(cache, "Deployment", [], "10") == [DEMO]
    left = [one for one in await cache.children(*DEMO) if one["kind"] == "Deployment"]
    assert [one["metadata"]["resourceVersion"] for one in left] == ["20"]
    assert tell(cache, "Deployment", there(30), "30") == [DEMO]
    assert tell(cache, "Deployment", there(30), "31") == []


async def test_lists_of_one_namespace_say_nothing_about_others() -> None:
    cache, _ = cached()
    assert cache.replace("Deployment", "elsewhere", Listed([], "50")) == []
    assert await known_edge(cache) is not None


async def test_a_broker_that_nothing_is_known_of_is_asked_for_its_authorities() -> None:
    cache, double = cached()
    assert await cache.children(*OTHER) == []
    assert double.reads == 1
    # The watch is late: what is there is not made twice.
    for kind in KINDS:
        tell(cache, kind, [])
    assert len(await cache.children(*DEMO)) == len(rendered(spec_of()))


async def test_what_nobody_looks_at_is_not_kept() -> None:
    cache, _ = cached()
    scaled = {"manager": "hpa", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:paused": {}}}}
    for one in there(40):
        one["metadata"]["managedFields"] = [copy.deepcopy(scaled), {"manager": "me"}]
        if one["kind"] == "Pod":
            one["spec"] = {"containers": [], "terminationGracePeriodSeconds": 7}
        cache.apply_event(Event(one))
    kept = {
        one["kind"]: one["metadata"]["managedFields"]
        for one in await cache.children(*DEMO)
        if "managedFields" in one["metadata"]
    }
    only = {"manager": "hpa", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    assert kept == {"Deployment": [only]}
    (pod,) = await cache.pods(*DEMO)
    assert pod["spec"] == {"terminationGracePeriodSeconds": 7}


def test_kinds_of_others_are_asked_for_from_time_to_time() -> None:
    async def play() -> None:
        cache, double = cached()
        double.kinds = ALL_OPTIONAL
        for _ in range(2):
            await cache.children(*DEMO)
        assert double.reads == 1
        await asyncio.sleep(OPTIONAL_TTL_S + 1)
        await cache.children(*DEMO)
        assert double.reads == 2
        await cache.apply(rendered(spec_of())[0])
        await cache.children(*DEMO)
        assert double.reads == 4

    run_virtual(play())


def test_watches_are_waited_for_but_not_for_ever() -> None:
    async def play() -> None:
        cache, _ = cached(up=False)
        began_s = asyncio.get_running_loop().time()
        await cache.wait_until_watching(10)
        assert asyncio.get_running_loop().time() - began_s == 10
        for kind in KINDS:
            cache.watch_started(kind)
        await cache.wait_until_watching(10)
        assert asyncio.get_running_loop().time() - began_s == 10
        cache.watch_ended(KINDS[0])
        await cache.wait_until_watching(10)
        assert asyncio.get_running_loop().time() - began_s == 20

    run_virtual(play())


async def test_what_is_given_away_can_be_changed() -> None:
    cache, _ = cached()
    (await cache.children(*DEMO)).clear()
    assert await cache.children(*DEMO)


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
    await cluster.record_event(broker, "Normal", "Serving", "")
    assert double.status_writes == len(double.events) == 1
    assert await cluster.optional_kinds() == double.kinds
