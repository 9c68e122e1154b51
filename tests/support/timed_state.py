"""Everything in a broker that ends by time, laid out before its clock steps, and judged after it.

Two places of one broker: the clients that are to live on are at the first, and so is what has ended
and waits; those that look are at the second. They may be the same.
"""

from __future__ import annotations

import time
from typing import Final, Self

from support.mqtt_bytes import V5, Property, Will
from support.raw_client import RawClient
from support.waiting import wait_for_async

#: Ends while the test looks.
BRIEF_S: Final = 1
#: A delayed will: what is brief is over when it comes.
DELAY_S: Final = 2
#: Does not end in the test, but would by any step that is tried.
LASTING_S: Final = 20
#: For a busy machine.
GRACE_S: Final = 5


def _expiry(seconds: int) -> list[Property]:
    return [("message_expiry", seconds)]


class TimedState:
    """Make it with ``lay_out``; then step a clock, and call ``check``."""

    def __init__(self, first: str, second: str, name: str) -> None:
        self._first = first
        self._second = second
        self._name = name
        self._left_s = 0.0
        self._living: list[RawClient] = []
        self._watcher: RawClient
        self._publisher: RawClient

    async def _connect(
        self, place: str, name: str, *, expiry_s: int = 0, will_delay_s: int | None = None
    ) -> RawClient:
        client = await RawClient.open(place, version=V5)
        will = None
        if will_delay_s is not None:
            delay: list[Property] = [("will_delay", will_delay_s)]
            will = Will(self._topic(f"will/{name}"), name.encode(), props=delay)
        await client.connect(
            f"{self._name}-{name}",
            clean=not expiry_s,
            props=[("session_expiry", expiry_s)] if expiry_s else [],
            will=will,
        )
        return client

    def _topic(self, name: str) -> str:
        return f"{self._name}/{name}"

    @classmethod
    async def lay_out(cls, first: str, second: str, name: str) -> Self:
        """Connect who lives on; end sessions, and store messages, that end by time or last."""
        self = cls(first, second, name)
        self._watcher = await self._connect(second, "watcher")
        await self._watcher.subscribe((self._topic("will/#"), 0))
        for kind, expiry_s in (("clean", 0), ("durable", LASTING_S)):
            client = await self._connect(first, kind, expiry_s=expiry_s, will_delay_s=0)
            await client.subscribe((self._topic("news"), 1))
            self._living.append(client)
        self._publisher = await self._connect(first, "publisher")
        for session, expiry_s in (("kept", LASTING_S), ("over", BRIEF_S)):
            client = await self._connect(first, session, expiry_s=expiry_s)
            await client.subscribe((self._topic("queued/#"), 1))
            client.close()
        for topic, expiry_s in (("lasting", LASTING_S), ("brief", BRIEF_S)):
            props = _expiry(expiry_s)
            for kind, retain in (("retained", True), ("queued", False)):
                await self._publisher.deliver(
                    self._topic(f"{kind}/{topic}"), topic.encode(), retain=retain, props=props
                )
        late = await self._connect(first, "late", expiry_s=LASTING_S, will_delay_s=DELAY_S)
        late.close()
        self._left_s = time.monotonic()
        return self

    async def check(self) -> None:
        """Nothing has ended early; what was due has ended in time; everything else goes on."""
        props = _expiry(LASTING_S)
        await self._publisher.deliver(self._topic("retained/new"), b"new", retain=True, props=props)
        await self._publisher.deliver(self._topic("queued/new"), b"new", props=props)
        # The only will is the delayed one.
        will = await self._watcher.expect("PUBLISH", topic=self._topic("will/late"))
        assert will.payload == b"late"
        took_s = time.monotonic() - self._left_s
        assert DELAY_S - 0.2 < took_s < DELAY_S + GRACE_S
        await self._publisher.deliver(self._topic("news"), b"news")
        for client in self._living:
            await client.acknowledge(await client.expect("PUBLISH", payload=b"news"))
            await client.expect_nothing()
        await self._watcher.expect_nothing()
        over = await self._connect(self._second, "over", expiry_s=LASTING_S)
        assert over.connack is not None
        assert not over.connack.session_present
        await self.check_kept(b"lasting", b"new")
        await self._watcher.subscribe((self._topic("retained/#"), 1), packet_id=2)
        await _expect_lasting(self._watcher, b"lasting", b"new")

    async def check_kept(self, *queued: bytes) -> None:
        """The session that has not expired is there, with these messages, once the brief has."""
        due_s = self._left_s + DELAY_S
        await wait_for_async(lambda: time.monotonic() > due_s, GRACE_S, "what is brief is over")
        kept = await self._connect(self._second, "kept", expiry_s=LASTING_S)
        assert kept.connack is not None
        assert kept.connack.session_present
        await _expect_lasting(kept, *queued)


async def _expect_lasting(client: RawClient, *payloads: bytes) -> None:
    """Messages that have not expired, with what is left of their interval."""
    found = [await client.expect("PUBLISH") for _ in payloads]
    assert {packet.payload for packet in found} == set(payloads)
    for packet in found:
        assert LASTING_S - DELAY_S - GRACE_S <= packet.number("message_expiry") <= LASTING_S
        await client.acknowledge(packet)
    await client.expect_nothing()
