"""How many clients are selected after a pause, and how long one waits for acknowledgements."""

from __future__ import annotations

import asyncio
from collections import deque

from support.lone_edge import LoneEdge
from support.virtual_time import run_virtual
from tidegate.edge.client.client import Client
from tidegate.edge.drain.paced_disconnector import MAX_BATCHES, TICK_S, PacedDisconnector
from tidegate.mqtt.enums import ReasonCode


def _disconnect(client: Client) -> None:
    client.disconnect(ReasonCode.SERVER_SHUTTING_DOWN)


def test_a_pause_of_the_event_loop_is_made_up_for_by_a_few_batches_only() -> None:
    """Thousands of clients that connect anew at once would be the next pause."""

    async def scenario() -> None:
        async with LoneEdge() as alone:
            waiting: deque[Client] = deque()
            for number in range(100):
                waiting.append((await alone.connect(f"c{number}")).client)
            disconnector = PacedDisconnector(alone.edge, _disconnect)
            rate = 100
            disconnector.start()
            await asyncio.sleep(10)
            disconnector.tick(rate, waiting)
            # And the first one, which is selected at any rate.
            assert disconnector.selected_count == 1 + MAX_BATCHES * TICK_S * rate

    run_virtual(scenario())


def test_a_client_waits_two_seconds_for_acknowledgements_that_do_not_come() -> None:
    async def scenario() -> None:
        async with LoneEdge() as alone:
            client = await alone.connect("c")
            alone.router.answers_late = True
            client.send(client.publish(1, qos=1))
            disconnector = PacedDisconnector(alone.edge, _disconnect)
            waiting = deque([client.client])
            disconnector.start()
            began_s = asyncio.get_running_loop().time()
            while not client.channel.is_closed:
                disconnector.tick(1, waiting)
                await asyncio.sleep(TICK_S)
            took_s = asyncio.get_running_loop().time() - began_s
            assert 2.0 <= took_s <= 2.0 + 2 * TICK_S

    run_virtual(scenario())
