"""A retained message that comes again by another router takes effect once, whatever happens.

Inputs: publishes of two edges to one topic, some without an identity (QoS 0 and 1), some with one
(QoS 2, wills, removals); a router that dies or hangs at any moment, so that each edge sends what is
not confirmed to the next one, at another moment; a store that executes and answers as late as the
schedule says, or is lost before or after it has executed; reads. Observed: what the store
executes, what is confirmed, what is read. The routers' retained messages are real, the store
does what ``store/scripts/retained.lua`` does, which tests/integration/test_store.py compares.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.virtual_time import run_virtual, turns
from tidegate.link.interfaces import RetainedRequest
from tidegate.mqtt.packets import Publish
from tidegate.router.pending import Pending
from tidegate.router.retained import RetainedMessages
from tidegate.store.api import RetainedBefore, StoreUnavailable, WriterFenced
from tidegate.store.records import decode_retained

EDGES = (0, 1)
READS = ("page", "page_of", "get")

#: Publish (edge, kind, empty), or a step of the store, of an edge, of a reader. What a
#: fault needs comes more often.
ACTIONS: list[tuple[Any, ...]] = [
    *(("publish", edge, "qos2", empty) for edge in EDGES for empty in (False, False, True)),
    *(("publish", edge, "plain", empty) for edge in EDGES for empty in (False, True)),
    *(("publish", edge, "will", False) for edge in EDGES),
    *[("execute",), ("answer",)] * 3,
    ("lose",),
    ("die",),
    *(("move", edge) for edge in EDGES),
    ("late",),
    *(("read", kind) for kind in READS),
]
SCHEDULES = st.lists(st.sampled_from(ACTIONS), min_size=8, max_size=40)


@dataclass(eq=False)
class _Message:
    """A publish, at all its attempts."""

    number: int
    edge: int
    kind: str
    is_empty: bool
    #: It has taken effect: it was written, or what replaced it at its router.
    is_effective: bool = False
    is_confirmed: bool = False

    @property
    def has_identity(self) -> bool:
        """Whether it is to take effect once."""
        return self.kind != "plain"

    @property
    def value(self) -> int | None:
        """What its topic retains after it."""
        return None if self.is_empty else self.number


@dataclass(eq=False)
class _Call:
    """A call of the store that is under way."""

    execute: Callable[[], Any]
    answer: asyncio.Future[Any]
    is_executed: bool = False
    result: Any = None


class _Store:
    """What the routers share."""

    def __init__(self) -> None:
        self.record: bytes | None = None
        self.identities: set[str] = set()
        self.fenced: set[_Router] = set()

    @property
    def value(self) -> int | None:
        """What the topic retains."""
        return None if self.record is None else int(decode_retained(self.record).publish.payload)


@dataclass(eq=False)
class _Read:
    """A read in flight: how much had arrived and been written when it began."""

    kind: str
    result: asyncio.Task[Any]
    arrived: int
    written: int


class _Router:
    """One instance; it is the store of its retained messages, too."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.calls: deque[_Call] = deque()
        #: In the order in which they came, and which of these has been written last.
        self.arrived: list[_Message] = []
        #: Those of them that had taken effect by another router.
        self.repeated: set[_Message] = set()
        self.written = -1
        self.writes: list[tuple[int, int]] = []
        store: Any = self
        self.retained = RetainedMessages(store, lambda: 0, lambda: None)
        self.reads: list[_Read] = []

    async def _call(self, execute: Callable[[], Any]) -> Any:
        call = _Call(execute, asyncio.get_running_loop().create_future())
        self.calls.append(call)
        return await call.answer

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        """See Store."""
        found: list[bytes | None] = await self._call(
            lambda: [self.run.store.record for _ in topics]
        )
        return found

    async def set_retained(
        self,
        _topic: str,
        record: bytes | None,
        _expires_at_ms: int,
        _charge: object,
        identities: Sequence[str],
    ) -> RetainedBefore | None:
        """See Store."""
        if record is not None:
            number = int(decode_retained(record).publish.payload)
            at = max(n for n, one in enumerate(self.arrived) if one.number == number)
        else:
            own = identities[0] if identities else ""
            at = max(
                n
                for n, one in enumerate(self.arrived)
                if one.is_empty and (str(one.number) == own if one.has_identity else True)
            )
        result: RetainedBefore | None
        result = await self._call(lambda: self._write(record, at, identities))
        return result

    def _write(
        self, record: bytes | None, at: int, identities: Sequence[str]
    ) -> RetainedBefore | WriterFenced | None:
        store = self.run.store
        if self in store.fenced:
            return WriterFenced()
        count = len([*takewhile(store.identities.__contains__, identities)])
        if count:
            return RetainedBefore(count)
        store.identities.update(set(identities) - {""})
        store.record = record
        # From here on the promises are checked.
        message = self.arrived[at]
        assert not (message.has_identity and message.is_effective), "it takes effect twice"
        assert at >= self.written, "it is written over a newer one"
        self.written = at
        for one in self.arrived[: at + 1]:
            one.is_effective = True
        return None

    def publish(self, message: _Message, is_again: bool) -> None:
        """As ``Routing`` does it."""
        payload = b"" if message.is_empty else b"%d" % message.number
        publish = Publish("t", payload, 2 if message.has_identity else 1, True)
        pending = Pending(lambda: self._stored(message))
        if message.has_identity and message in self.arrived:
            self.retained.wait("t", pending)
        else:
            if message.has_identity and message.is_effective:
                self.repeated.add(message)
            self.arrived.append(message)
            identity = str(message.number) if message.has_identity else ""
            may_repeat = message.kind == "will" or (message.kind == "qos2" and is_again)
            self.retained.set(publish, pending, "", identity, may_repeat)
        pending.release()

    def _stored(self, message: _Message) -> None:
        if self.run.routers[message.edge] is self:
            assert message.is_effective, "it is confirmed and has no effect"
            message.is_confirmed = True

    def value(self) -> int | None:
        """What the topic retains, with what waits here."""
        for one in reversed(self.arrived[self.written + 1 :]):
            if one not in self.repeated and not (one.has_identity and one.is_effective):
                return one.value
        return self.run.store.value

    def read(self, kind: str) -> None:
        """Begin to read."""

        async def read() -> int | None:
            if kind == "page":
                messages = (await self.retained.page(RetainedRequest(["#"]))).messages
            elif kind == "page_of":
                messages = (await self.retained.page_of(["t"])).messages
            else:
                messages = await self.retained.get(["t"])
            assert len(messages) < 2
            if self in self.run.store.fenced:
                return None  # no edge takes it any more
            value = int(messages[0].payload) if messages else None
            if kind == "get" and value is None:
                new = [*self.arrived[min(arrived, written + 1) :]]
                assert self.value() is None or any(one not in self.repeated for one in new)
            else:
                assert value == self.value(), "an older one is read"
            return value

        arrived, written = len(self.arrived), self.written
        self.reads.append(_Read(kind, asyncio.ensure_future(read()), arrived, written))

    def check(self) -> None:
        """Look at the reads that have ended."""
        for one in [one for one in self.reads if one.result.done()]:
            self.reads.remove(one)
            error = one.result.exception()
            if error is not None and not isinstance(error, StoreUnavailable):
                raise error

    def step(self, what: str) -> bool:
        """Have the store execute or answer the next call, or lose all of them."""
        waiting = [call for call in self.calls if not call.is_executed]
        if what == "execute" and waiting:
            waiting[0].is_executed, waiting[0].result = True, waiting[0].execute()
        elif what == "answer" and self.calls and self.calls[0].is_executed:
            call = self.calls.popleft()
            if call.answer.done():
                return True
            if isinstance(call.result, Exception):
                call.answer.set_exception(call.result)
            else:
                call.answer.set_result(call.result)
        elif what == "lose" and self.calls:
            calls, self.calls = self.calls, deque()
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(StoreUnavailable("lost"))
        else:
            return False
        return True


class _Run:
    """One schedule."""

    def __init__(self) -> None:
        self.store = _Store()
        self.instances = [_Router(self)]
        #: Which router each edge uses.
        self.routers = [self.instances[0] for _ in EDGES]
        self.is_dead = False
        self.messages: list[_Message] = []
        self.failures: list[BaseException] = []

    def move(self, edge: int) -> None:
        """An edge finds its router dead: it fences it, and sends what is not confirmed again."""
        old, newest = self.routers[edge], self.instances[-1]
        if old is newest and not self.is_dead:
            return
        if old is newest:
            self.instances.append(_Router(self))
            self.is_dead = False
        for one in self.instances[:-1]:
            self.store.fenced.add(one)
        if not self.instances[-1].arrived:
            self.instances[-1].retained.apply("t", self.store.record is not None)
        self.routers[edge] = self.instances[-1]
        for message in self.messages:
            if message.edge == edge and not message.is_confirmed:
                self.instances[-1].publish(message, is_again=True)

    def act(self, action: str, arguments: Sequence[Any]) -> None:
        """Do what the schedule says."""
        if action == "publish":
            edge, kind, is_empty = arguments
            message = _Message(len(self.messages), edge, kind, is_empty)
            self.messages.append(message)
            router = self.routers[edge]
            if not (self.is_dead and router is self.instances[-1]):
                router.publish(message, is_again=False)
        elif action == "die":
            self.is_dead = True
        elif action == "move":
            self.move(*arguments)
        elif action == "late":
            # A router that is given up has calls under way.
            for one in self.instances[:-1]:
                _ = one.step("execute") or one.step("answer")
        elif action == "read":
            if not self.is_dead:
                self.instances[-1].read(*arguments)
        else:
            self.instances[-1].step(action)

    def check(self) -> None:
        """Look at what has ended."""
        for one in self.instances:
            one.check()
        if self.failures:
            raise self.failures[0]


async def _play(schedule: Sequence[tuple[Any, ...]]) -> None:
    run = _Run()
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: run.failures.append(context.get("exception") or AssertionError())
    )
    for action, *arguments in schedule:
        run.act(action, arguments)
        await turns()
        run.check()
    for edge in EDGES:
        run.move(edge)
        if run.is_dead:
            run.move(edge)
    for _ in range(1000):
        await turns()
        last = run.instances[-1]
        if not last.step("execute") and not last.step("answer"):
            if all(one.is_confirmed for one in run.messages) and not last.reads:
                break
            await asyncio.sleep(3)  # it waits before it calls the store again
        run.check()
    run.check()
    assert all(one.is_confirmed for one in run.messages)
    assert run.store.value == run.instances[-1].value()


@settings(max_examples=800, deadline=None)
@given(SCHEDULES)
def test_each_takes_effect_once_and_what_is_confirmed_has_taken_effect(
    schedule: list[tuple[Any, ...]],
) -> None:
    run_virtual(_play(schedule))
