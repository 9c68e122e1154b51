"""Readers of retained values: clean sessions that subscribe anew, again and again."""

from __future__ import annotations

import asyncio

from support.load import Subscriber


async def read_steadily(reader: Subscriber, *, stay_s: tuple[float, float]) -> None:
    """Read for a while; then subscribe again, or leave and come back."""
    while True:
        await reader.connected.wait()
        await reader.subscribed.wait()
        await asyncio.sleep(reader.chance.uniform(*stay_s))
        if reader.chance.random() < 0.3 and reader.current is not None:
            reader.subscribed.clear()
            reader.subscribe(reader.current)
            continue
        reader.leave(politely=reader.chance.random() < 0.7)
        reader.subscribed.clear()
        await asyncio.sleep(reader.chance.uniform(0.0, 0.1))
        reader.wanted.set()
