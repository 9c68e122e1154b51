"""How delivery of a shared message at its member's edge is reported to the router that sent it.

Inputs: real ends of the link; the edge and the router behind them are fakes. Observed: the receipt
that the router's side handed in.
"""

from __future__ import annotations

import pytest

from support.build import sources_only
from support.fake_link import until
from support.linked import Wires
from tidegate.link.router_end import edge_peer
from tidegate.mqtt.packets import Publish, SubscriptionOptions

GROUP = "$share/g/t"


class _Receipt:
    """Written down."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def done(self) -> None:
        """See SharedReceipt."""
        self.heard.append("done")

    def returned(self) -> None:
        """See SharedReceipt."""
        self.heard.append("returned")


@pytest.mark.parametrize("end", ["acknowledged", "gone", "not there", "edge lost"])
async def test_the_giver_hears_what_becomes_of_a_message(wires: Wires, end: str) -> None:
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    (attached,) = router.link_server.edges
    receipt = _Receipt()
    edge.fake.has_member = end != "not there"
    message = Publish("t", b"m", 1)
    assert attached.deliver_shared("c", 1, message, GROUP, SubscriptionOptions(1), receipt)
    if end != "not there":
        await until(lambda: edge.fake.receipts, "the edge has it")
        assert receipt.heard == []
    match end:
        case "acknowledged":
            edge.fake.receipts[0].done()
        case "gone":
            edge.fake.receipts[0].returned()
        case "edge lost":
            await edge.stop()
    await until(lambda: receipt.heard, "the receipt is told")
    assert receipt.heard == ["done" if end == "acknowledged" else "returned"]
    assert not attached.shared


@sources_only
async def test_what_is_not_followed_counts_as_done(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_peer, "MAX_SHARED", 0)
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    receipt = _Receipt()
    options = SubscriptionOptions(1)
    (attached,) = router.link_server.edges
    assert attached.deliver_shared("c", 1, Publish("t", b"m", 1), GROUP, options, receipt)
    assert receipt.heard == ["done"]
