"""What a CONNECT and the end of its connection cost an edge: bytecode instructions, counted.

The client has a clean session that is not stored, as most have in one process, and the router has
it at once; the channel does nothing. Neither time nor load have a part in it. Which one-line fault
would this find? A packet that is decoded twice, or an object that is made for every connection and
that hardly any needs.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from counted import instructions
from support import mqtt_bytes
from support.build import sources_only
from support.lone_edge import LoneEdge
from support.mqtt_bytes import V311
from tidegate.link.interfaces import AttachedSession

#: Python 3.11 executes most.
CONNECT: Final = 2_370
END: Final = 390
COUNT: Final = 50


@sources_only
async def test_a_connection_costs_few_instructions() -> None:
    async with LoneEdge() as alone:
        attached: asyncio.Future[AttachedSession] = asyncio.get_running_loop().create_future()
        attached.set_result(AttachedSession(1, 0, False, is_stored=False))
        router: Any = alone.router
        router.attach = lambda *_: attached
        accepted = [alone.accept(V311) for _ in range(COUNT)]
        connects = [mqtt_bytes.connect(f"c{number}", version=V311) for number in range(COUNT)]

        def connect() -> None:
            for client, packet in zip(accepted, connects, strict=True):
                client.client.data_received(packet)
            alone.edge.flush()

        def end() -> None:
            for client in accepted:
                client.client.connection_lost("peer_closed")

        counts = instructions(connect) / COUNT, instructions(end) / COUNT
        assert all(client.kinds() == ["CONNACK"] for client in accepted)
        assert not alone.edge.clients
        assert counts[0] <= CONNECT
        assert counts[1] <= END
