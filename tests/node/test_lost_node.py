"""A node of three is lost under load: switched off, cut off, drained.

Inputs: publishers and durable subscribers of QoS 1 and 2 at the address of the Service, over TLS; a
node that goes, with an edge and a router, or with the primary of a replicated store. Observed: the
history by every rule of ``support.history_check``, where pods are, what the status and the events
say. The control plane is on no node; the operator, and a store of one server, are on node1.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kube import node as nodes
from support.kube import node_images
from support.kube.node import Node
from support.kube.node_api import ApiError, is_ready
from support.kube.node_load import away, under_load
from support.kube.node_product import SYSTEM, Broker, Operator, broker_spec, measured
from support.waiting import wait_for
from tidegate_operator import names

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(600, func_only=True)]

BROKERS = "brokers"
FRONT = ("node2", "node3")
#: Until Kubernetes has noticed that a node is lost and has replaced its pods, on a busy machine.
NOTICED_S = 180.0


@pytest.fixture(scope="module")
def cluster(image: node_images.Image) -> Iterator[Node]:
    """Three nodes; edges and routers may be on two of them."""
    with nodes.running([image], machines=3) as found:
        print(f"three nodes: {found.times}")
        found.kubectl("label", "node", *FRONT, "room=front")
        yield found


@pytest.fixture(scope="module")
def product(cluster: Node, image: node_images.Image) -> Operator:
    """The operator, on the node that stays."""
    cluster.namespaced(SYSTEM)
    found = Operator(cluster, image)
    found.install('nodeSelector={"kubernetes.io/hostname": "node1"}')
    return found


@pytest.fixture(scope="module")
def spread(cluster: Node, product: Operator, running: list[Broker]) -> Iterator[Broker]:
    """A broker with an edge and a router on each of two nodes."""
    cluster.namespaced(BROKERS)
    spec = broker_spec()
    for component in ("edge", "router"):
        spec[component] |= {"replicas": 2, "nodeSelector": {"room": "front"}}
    spec["redis"]["bundled"]["nodeSelector"] = {"kubernetes.io/hostname": "node1"}
    found = Broker(cluster, BROKERS, "spread", spec)
    running.append(found)
    found.apply()
    print(f"Ready after {measured(lambda: found.wait_until_settled(NOTICED_S)):.1f} s")
    yield found
    running.remove(found)


@pytest.fixture
def replicated(cluster: Node, product: Operator, running: list[Broker]) -> Iterator[Broker]:
    """A broker whose store has a server on each node; the other tests' nodes are without it."""
    cluster.namespaced(BROKERS)
    spec = broker_spec()
    for component in ("edge", "router"):
        spec[component] |= {"replicas": 2}
    # Guaranteed: as much as it may have.
    size = {"cpu": "100m", "memory": "256Mi"}
    spec["redis"]["bundled"] |= {"replicas": 3, "resources": {"requests": size, "limits": size}}
    found = Broker(cluster, BROKERS, "safe", spec)
    running.append(found)
    found.apply()
    print(f"replicated after {measured(lambda: found.wait_until_settled(NOTICED_S)):.1f} s")
    yield found
    found.delete()
    running.remove(found)


@pytest.fixture(autouse=True)
def whole(cluster: Node) -> Iterator[None]:
    """Bring back every node at the end of a test."""
    yield
    for name in cluster.names:
        cluster.bring_back(name)


@pytest.mark.parametrize(("how", "lost", "other"), [("kill", *FRONT), ("cut", *reversed(FRONT))])
async def test_a_lost_node_loses_no_message(
    cluster: Node, spread: Broker, seed: int, kept_logs: Path, how: str, lost: str, other: str
) -> None:
    await away(be_on_both, spread)
    async with under_load(spread, seed, kept_logs, are_killed=True) as load:
        lose = cluster.kill if how == "kill" else cluster.cut
        await away(lose, lost)
        load.history.fault(lost, how)
        await load.still_publishing(30, NOTICED_S)
        said = await away(warned, spread, lost)
        # Kubernetes marks one pod after the other, and the event is of the first.
        assert any(f"{spread.name}-{component}-" in said for component in ("edge", "router"))
        await away(spread.wait_until_settled, NOTICED_S)
        for component in ("edge", "router"):
            assert await away(spread.nodes, component) == [other, other]
        # Whatever still runs there meets its successors.
        await away(cluster.bring_back, lost)
        await load.still_publishing(30, NOTICED_S)


async def test_a_drained_node_keeps_an_edge_and_a_router_and_loses_no_message(
    cluster: Node, spread: Broker, seed: int, kept_logs: Path
) -> None:
    drained, other = FRONT
    await away(be_on, spread, drained)
    async with under_load(spread, seed, kept_logs) as load:
        fewest = asyncio.create_task(away(fewest_ready, spread, drained))
        await away(
            cluster.kubectl,
            *("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data"),
            *("--timeout=110s",),
        )
        load.history.fault(drained, "drained")
        assert 0 not in (await fewest).values()
        await load.still_publishing(30, NOTICED_S)
        await away(spread.wait_until_settled, NOTICED_S)
        for component in ("edge", "router"):
            assert await away(spread.nodes, component) == [other, other]


async def test_a_lost_node_of_the_primary_loses_no_message(
    cluster: Node, replicated: Broker, seed: int, kept_logs: Path
) -> None:
    for how, lose in (("switched off", cluster.kill), ("cut off", cluster.cut)):
        old, lost = await away(primary, replicated)
        async with under_load(replicated, seed, kept_logs, are_killed=True) as load:
            await away(lose, lost)
            load.history.fault(f"{old} and {lost}", how)
            await load.still_publishing(30, NOTICED_S)
            new, _ = await away(primary, replicated, old)
            print(f"{lost} was {how}: the primary was {old}, and is {new}")
            await away(cluster.bring_back, lost)
            await load.still_publishing(30, NOTICED_S)
            await away(replicated.wait_until_settled, NOTICED_S)
            assert (await away(primary, replicated))[0] != old
            # Nothing that a router knew has been lost: no client hears 0x80, "session lost".
            assert await away(gone_back, replicated) == []


def primary(broker: Broker, but: str = "") -> tuple[str, str]:
    """Wait until a server other than ``but`` says that it is the primary; its pod and its node.

    A server that is cut off may go on to say so.
    """

    def look() -> tuple[str, str] | None:
        for pod in broker.pods("redis"):
            name = pod["metadata"]["name"]
            if name == but or not is_ready(pod):
                continue
            path = f"/api/v1/namespaces/{broker.namespace}/pods/{name}:18083/proxy/store"
            with contextlib.suppress(ApiError, OSError):
                if broker.node.api.request("GET", path).get("role") == "primary":
                    return name, pod["spec"]["nodeName"]
        return None

    found = wait_for(look, NOTICED_S, "a server is the primary")
    assert found is not None
    return found


def gone_back(broker: Broker) -> list[str]:
    """Return what routers have logged of a store that has gone back to an older state."""
    place = ("--namespace", broker.namespace)

    def read() -> list[str] | None:
        # A kubelet that has just come back does not know all of its pods yet.
        with contextlib.suppress(AssertionError):
            return [
                broker.node.kubectl("logs", pod["metadata"]["name"], *place)
                for pod in broker.pods("router")
            ]
        return None

    logs = wait_for(read, NOTICED_S, "the logs of the routers")
    assert logs is not None
    return [line for log in logs for line in log.splitlines() if "gone back" in line]


def be_on_both(broker: Broker) -> None:
    """Have an edge and a router on each of the two nodes: the second ones prefer the other node."""
    for count in (1, 2):
        broker.change({"edge": {"replicas": count}, "router": {"replicas": count}})
        broker.wait_until_settled(NOTICED_S)
        # One that is about to go counts for the scheduler.
        wait_for(lambda: not ending(broker), NOTICED_S, "pods that were to go have gone")
    for component in ("edge", "router"):
        assert broker.nodes(component) == list(FRONT)


def ending(broker: Broker) -> list[str]:
    """Return the pods of a broker that are about to go."""
    selector = f"{names.INSTANCE_LABEL}={broker.name}"
    found = broker.node.api.list("v1", "Pod", broker.namespace, selector)
    return [one["metadata"]["name"] for one in found if "deletionTimestamp" in one["metadata"]]


def be_on(broker: Broker, node: str) -> None:
    """Have both edges and both routers on one node."""
    without = [name for name in FRONT if name != node]
    broker.node.kubectl("cordon", *without)
    place = ("--namespace", broker.namespace)
    for component in ("edge", "router"):
        workload = f"deployment/{broker.name}-{component}"
        broker.node.kubectl("rollout", "restart", workload, *place)
        broker.node.kubectl("rollout", "status", workload, "--timeout=110s", *place)
    broker.wait_until_settled(NOTICED_S)
    broker.node.kubectl("uncordon", *without)
    for component in ("edge", "router"):
        assert broker.nodes(component) == [node, node]


def warned(broker: Broker, node: str) -> str:
    """Wait for the warning that a node is lost; what it says."""
    said: list[str] = wait_for(
        lambda: [text for text in broker.told("NodeLost") if f"Node {node} no longer" in text],
        NOTICED_S,
        f"a warning names {node}",
    )
    return said[0]


def fewest_ready(broker: Broker, node: str) -> dict[str, int]:
    """Watch until no edge and no router is on a node; how many were ready at the worst moment."""
    fewest = {"edge": 2, "router": 2}

    def is_empty() -> bool:
        for component, count in fewest.items():
            fewest[component] = min(count, broker.ready_pods(component))
        return not any(node in broker.nodes(component) for component in fewest)

    wait_for(is_empty, NOTICED_S, f"{node} is empty")
    return fewest
