"""Retained and live messages of one topic, published while a client subscribes.

``race`` plays it, over any broker: one client publishes numbers with RETAIN, another subscribes in
between. ``faults_in`` says what is wrong with what it got.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from support import mqtt_bytes
from support.mqtt_bytes import Packet
from support.raw_client import RawClient

COUNT = 12
#: How many are published before SUBSCRIBE is sent.
FIRST = 4


def faults_in(got: Sequence[tuple[int, bool]], last: int, at_suback: int) -> list[str]:
    """What is wrong with these (number, RETAIN); ``at_suback`` was begun when SUBACK had come."""
    numbers = [number for number, _ in got]
    faults = []
    if numbers != sorted(set(numbers)):
        faults.append("a number came twice, or after a newer one")
    if numbers[-1:] != [last]:
        faults.append("the last one is missing")
    if any(retain for _, retain in got[1:]):
        faults.append("RETAIN is set on a live message")
    if numbers and numbers != list(range(numbers[0], last + 1)):
        faults.append("one is missing")
    if any(retain and number > at_suback for number, retain in got):
        faults.append("RETAIN is set on what was published after SUBACK")
    return faults


async def race(
    publisher: RawClient,
    subscriber: RawClient,
    topic: str,
    filters: Sequence[tuple[str, int]],
    qos: int,
) -> list[str]:
    """Publish numbers, subscribe meanwhile; return the faults, and what came."""
    begun = -1
    may_subscribe = asyncio.Event()

    async def publish() -> None:
        nonlocal begun
        for number in range(COUNT):
            begun = number
            await publisher.deliver(topic, b"%d" % number, qos=qos, packet_id=1, retain=True)
            if number == FIRST - 1:
                may_subscribe.set()
            await asyncio.sleep(0)

    got: list[tuple[int, bool]] = []
    at_suback = COUNT

    async def take(packet: Packet) -> None:
        nonlocal at_suback
        if packet.kind == "SUBACK":
            at_suback = begun
        elif packet.kind == "PUBREL":
            await subscriber.send(mqtt_bytes.acknowledge("PUBCOMP", packet.packet_id))
        else:
            assert packet.kind == "PUBLISH", packet
            one = (int(packet.payload), packet.retain)
            # What is retained comes once for each filter.
            if not (one[1] and len(filters) > 1 and got[-1:] == [one]):
                got.append(one)
            if packet.qos:
                kind = "PUBACK" if packet.qos == 1 else "PUBREC"
                await subscriber.send(mqtt_bytes.acknowledge(kind, packet.packet_id))

    publishing = asyncio.create_task(publish())
    await may_subscribe.wait()
    await subscriber.send(mqtt_bytes.subscribe(7, list(filters), version=subscriber.version))
    while at_suback == COUNT or got[-1:] == [] or got[-1][0] != COUNT - 1:
        await take(await subscriber.receive())
    await publishing
    await subscriber.send(mqtt_bytes.PINGREQ)
    while (packet := await subscriber.receive()).kind != "PINGRESP":
        await take(packet)
    faults = faults_in(got, COUNT - 1, at_suback)
    return [*faults, repr(got), f"SUBACK came at {at_suback}"] if faults else []
