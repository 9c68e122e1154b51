"""Operations of a cluster that were refused where they were sent, and those that came meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from support.virtual_time import run_virtual
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.client.cluster import ClusterLanes
from tidegate.store.client.lanes import LaneSettings, Operation

PREFIX = b"{p}"
FIRST, SECOND = ("first", 1), ("second", 2)


class _Map:
    """Says which server has the one partition."""

    def __init__(self) -> None:
        self.owners: dict[bytes, tuple[str, int]] = {PREFIX: FIRST}

    async def refresh(self, _step_s: float) -> None:
        """It is as the test says."""


class _Lane:
    """Takes operations and keeps them."""

    is_down = False
    in_flight: tuple[Operation, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken: list[Any] = []

    async def open(self) -> None:
        """Nothing is behind it."""

    async def close(self) -> None:
        """See ``open``."""

    def submit(self, prefix: bytes, words: Any, size: int) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.taken.append((prefix, words, size, reply))
        return reply

    def requeue(self, operations: Any) -> None:
        self.taken += operations

    def withdraw(self, _prefixes: object) -> list[Operation]:
        """Give back what has not been sent: all but the first two."""
        unsent = self.taken[2:]
        del self.taken[2:]
        return unsent

    @property
    def words(self) -> list[int]:
        """What it has, by the number that stands in each."""
        return [operation[1][0] for operation in self.taken]


def test_operations_keep_their_order_when_their_partition_moves() -> None:
    async def play() -> None:
        where, lanes = _Map(), {FIRST: _Lane("first"), SECOND: _Lane("second")}
        settings = LaneSettings(
            script=(b"", b""),
            prefixes=(PREFIX,),
            header=[],
            on_dropped=lambda *_: None,
            timeout_s=5.0,
            counters=Counters(),
            on_replaced=lambda: None,
            processes=set(),
        )
        anything: Any = where
        cluster = ClusterLanes(anything, lambda address, _owner: lanes[address], settings)  # type: ignore[arg-type,return-value]  # a fake
        await cluster.open()
        for number in range(1, 4):
            cluster.submit(PREFIX, [number], 10)
        where.owners = {}
        fake: Any = lanes[FIRST]
        # What has not been sent comes back first, then others come, then what was sent is refused.
        cluster.take_back(fake, [])
        cluster.submit(PREFIX, [4], 10)
        cluster.take_back(fake, fake.taken)
        cluster.submit(PREFIX, [5], 10)
        where.owners = {PREFIX: SECOND}
        cluster.refresh()
        await asyncio.sleep(1)
        assert lanes[SECOND].words == [1, 2, 3, 4, 5]
        await cluster.close()

    run_virtual(play())
