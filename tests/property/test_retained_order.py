"""Retained and live messages meet in order, whatever overtakes what.

Inputs: publishes of topics, each by the router that writes it, some of them sent to the edge for an
earlier subscriber; a SUBSCRIBE at any moment; stores that answer late; streams from routers to the
edge that are read as slowly as the schedule says. Observed: what the subscriber gets of each topic.
The edge, its clients and the routers' retained messages are real; streams and stores are fakes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.virtual_time import run_virtual, turns
from tidegate.core.rendezvous import owner
from tidegate.link.interfaces import OnRead, RetainedPage, RetainedRequest
from tidegate.mqtt.packets import Publish
from tidegate.router import retained as router_retained
from tidegate.router.pending import Pending
from tidegate.router.retained import RetainedMessages

ROUTERS = ("r1", "r2")
WHATS = ("store", "stream")
TOPICS = ("a", "b", "c", "d")
assert {owner(topic, ROUTERS) for topic in TOPICS} == {*ROUTERS}

#: Publish (topic, whether retained, whether empty, whether an earlier subscriber of this edge was
#: there), or a step of a router's store or stream.
PUBLISHES = st.tuples(
    st.just("publish"), st.sampled_from(TOPICS), st.booleans(), st.booleans(), st.booleans()
)
STEPS = st.tuples(st.sampled_from(["store", "stream"]), st.sampled_from(ROUTERS))
SCHEDULES = st.lists(st.one_of(PUBLISHES, STEPS, STEPS, st.just(("subscribe",))), max_size=60)


class _Router:
    """One router: its retained messages, its store, and its stream to the edge."""

    def __init__(self, name: str, edge: LoneEdge) -> None:
        self.name = name
        self._edge = edge
        self._records: dict[str, bytes | None] = {}
        self._store: deque[asyncio.Future[None]] = deque()
        #: What the edge has not taken yet: messages, and replies to its reads.
        self._stream: deque[Publish | tuple[asyncio.Future[Any], Callable[[], None]]] = deque()
        store: Any = self
        self.retained = RetainedMessages(store, lambda: 0, lambda: None)

    async def _answer(self) -> None:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._store.append(answered)
        await answered

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        """See Store: it is read at once, and answered late."""
        found = [self._records.get(topic) for topic in topics]
        await self._answer()
        return found

    async def set_retained(
        self, topic: str, record: bytes | None, _expires_at_ms: int, *_more: Any
    ) -> None:
        """See Store."""
        self._records[topic] = record
        await self._answer()

    def publish(self, message: Publish, has_interest: bool) -> None:
        """As ``Routing.publish``."""
        if has_interest:
            self._stream.append(message)
        if message.retain:
            self.retained.set(message, Pending(lambda: None))

    async def read(self, request: RetainedRequest, on_read: OnRead | None) -> RetainedPage:
        """A request, and its reply through the stream."""
        page = await self.retained.page(request)
        arrived: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            if on_read is not None and page.is_of_now:
                end = page.after
                on_read(
                    lambda topic: (
                        owner(topic, ROUTERS) == self.name and (end is None or topic <= end)
                    )
                )
            arrived.set_result(None)

        self._stream.append((arrived, arrive))
        await arrived
        return page

    def step(self, what: str) -> bool:
        """Have the store answer, or the edge take one operation; False if there is none."""
        if what == "store":
            while self._store and self._store[0].done():
                self._store.popleft()
            if not self._store:
                return False
            self._store.popleft().set_result(None)
            return True
        if not self._stream:
            return False
        one = self._stream.popleft()
        if isinstance(one, Publish):
            self._edge.edge.deliver(one, "publisher")
        elif not one[0].done():
            one[1]()
        return True


class _Run:
    """One schedule."""

    def __init__(self, edge: LoneEdge) -> None:
        self.edge = edge
        self.routers = {name: _Router(name, edge) for name in ROUTERS}
        edge.router.read_retained = self._read  # type: ignore[method-assign]
        #: By topic, everything that was published; how many of these before SUBACK.
        self.published: dict[str, list[Publish]] = {topic: [] for topic in TOPICS}
        self.before_suback: dict[str, int] = {}
        self.got: dict[str, list[tuple[int, bool]]] = {topic: [] for topic in TOPICS}

    async def _read(
        self,
        filters: Sequence[str],
        last: RetainedPage | None = None,
        on_read: OnRead | None = None,
    ) -> RetainedPage:
        """As ``RetainedReads.read``."""
        after = last.after or "" if last is not None else ""
        pages = await asyncio.gather(
            *(
                router.read(RetainedRequest(filters, after, 0, router.name, ROUTERS), on_read)
                for router in self.routers.values()
            )
        )
        ends = [page.after for page in pages if page.after is not None]
        merged = RetainedPage([], min(ends) if ends else None)
        for page in pages:
            merged.messages += [
                one for one in page.messages if merged.after is None or one.topic <= merged.after
            ]
        merged.messages.sort(key=lambda message: message.topic)
        return merged

    def publish(self, topic: str, retain: bool, empty: bool, had_interest: bool) -> None:
        """Publish the next message of a topic; its number is its payload.

        ``had_interest``: it goes to the edge, which has had another subscriber until now.
        """
        number = len(self.published[topic])
        payload = b"" if empty and retain else b"%d" % number
        message = Publish(topic, payload, 0, retain)
        self.published[topic].append(message)
        has_interest = had_interest or bool(self.edge.router.interest)
        self.routers[owner(topic, ROUTERS)].publish(message, has_interest)

    def take(self, client: Any) -> None:
        """Note what the client has got."""
        for packet in client.received():
            if packet.kind == "SUBACK":
                self.before_suback = {
                    topic: len(messages) for topic, messages in self.published.items()
                }
            else:
                number = int(packet.payload) if packet.payload else -1
                self.got[packet.topic].append((number, packet.retain))

    def check(self, is_one_page: bool) -> None:
        """Check each topic."""
        for topic, messages in self.published.items():
            got = self.got[topic]
            retained = [number for number, retain in got if retain]
            live = [number for number, retain in got if not retain]
            count = len(live)
            suffix = messages[len(messages) - count :] if count else []
            # What is live is everything from some message on, each once, in order.
            assert live == [int(one.payload) if one.payload else -1 for one in suffix]
            assert count >= len(messages) - self.before_suback[topic]
            kept: bytes | None = None
            for one in messages[: len(messages) - count]:
                if one.retain:
                    kept = one.payload or None
            expected = [int(kept)] if kept is not None else []
            # What was retained then comes once, before what is live.
            if is_one_page or not any(one.retain for one in suffix):
                assert retained == expected
            else:
                assert retained in (expected, [])
            numbers = [number for number, _ in got if number >= 0]
            if is_one_page:
                assert numbers == sorted(set(numbers))


async def _play(schedule: list[Any], is_one_page: bool) -> None:
    async with LoneEdge() as edge:
        run = _Run(edge)
        client = await edge.connect("c")
        has_subscribed = False
        for action, *arguments in [*schedule, ("subscribe",)]:
            if action == "publish":
                run.publish(*arguments)
            elif action == "subscribe":
                if not has_subscribed:
                    client.send(mqtt_bytes.subscribe(1, [("+", 0)]))
                has_subscribed = True
            else:
                run.routers[arguments[0]].step(action)
            await turns()
            run.take(client)
        every = [(router, what) for router in run.routers.values() for what in WHATS]
        while sum(router.step(what) for router, what in every):
            await turns()
            run.take(client)
        run.check(is_one_page)


@settings(max_examples=300, deadline=None)
@given(SCHEDULES)
def test_a_subscriber_gets_what_is_retained_and_then_exactly_what_is_newer(
    schedule: list[Any],
) -> None:
    run_virtual(_play(schedule, True))


@settings(max_examples=300, deadline=None)
@given(SCHEDULES)
def test_pages_that_follow_have_nothing_older_than_what_came_live(schedule: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router_retained, "PAGE_TOPICS", 1)
        first = [("publish", topic, True, False, False) for topic in TOPICS]
        run_virtual(_play([*first, ("subscribe",), *schedule], False))
