"""Single messages and bursts over a real link: what waits for company, and what does not.

Inputs: publishes at one edge. Observed: whether one of the outboxes on the way waits, and in how
many frames messages come.
"""

from __future__ import annotations

from typing import Any

import pytest

from support.fake_link import FakeOrigin, until
from support.linked import Wires
from tidegate.link.outbox import Outbox
from tidegate.mqtt.packets import Publish


async def test_a_single_message_waits_nowhere_and_a_burst_shares_frames(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    gather = Outbox._gather

    async def noted(outbox: Outbox[Any], wait_s: float) -> None:
        waits.append(wait_s)
        await gather(outbox, wait_s)

    monkeypatch.setattr(Outbox, "_gather", noted)
    router = await wires.router("r1")
    publisher, subscriber = [await wires.edge(router.address) for _ in range(2)]
    for edge in (publisher, subscriber):
        await edge.uses("r1")
    subscriber.router_client.add_interest(subscriber.edge.edge_id, ["t"])
    await subscriber.router_client.interest_synced()
    delivered = subscriber.fake.delivered
    publisher.router_client.publish(FakeOrigin(), Publish("t", b"alone", 1))
    await until(lambda: len(delivered) == 1, "it arrives")
    assert waits == []

    peer = subscriber.router_client.routers.members["r1"]
    before = peer.frames_received
    for number in range(500):
        publisher.router_client.publish(FakeOrigin(), Publish("t", b"%d" % number, 1))
    await until(lambda: len(delivered) == 501, "all arrive")
    # The burst is one frame, or few; others are heartbeats.
    assert peer.frames_received - before <= 50
