"""Retained messages for a new subscription while routers come and go; time is virtual.

Input: a client and its delivery as far as they are looked at, a router that fails when told to.
Output: what was sent at once, what went to the session's queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from support.virtual_time import run_virtual
from tidegate.edge.client.retained_stream import RetainedStream
from tidegate.link.interfaces import RouterUnavailable
from tidegate.mqtt.packets import Publish, SubscriptionOptions


class _Harness:
    """The client, its delivery (which has room for two) and its router in one."""

    def __init__(self, failures: dict[str, int]) -> None:
        self._failures = failures
        self.is_closed = False
        self.client_id, self.incarnation = "client", 1
        self.context = SimpleNamespace(router=self)
        #: What the client may not read.
        self.forbidden: set[str] = set()
        self.sent: list[str] = []
        self.queued: list[str] = []

    def _may_fail(self, call: str) -> None:
        if self._failures.get(call, 0):
            self._failures[call] -= 1
            raise RouterUnavailable("none is there")

    async def match_retained(self, _topic_filter: str) -> AsyncIterator[list[str]]:
        self._may_fail("match")
        yield ["a", "b", "c", "d"]

    async def get_retained(self, topics: Sequence[str]) -> list[Publish]:
        self._may_fail("get")
        return [Publish(topic, b"kept", 2, True) for topic in topics]

    async def enqueue(self, _client_id: str, _incarnation: int, messages: list[Publish]) -> None:
        self._may_fail("enqueue")
        self.queued += [message.topic for message in messages]

    def may_read(self, topic: str) -> bool:
        return topic not in self.forbidden

    async def wait_for_room(self) -> None:
        """There is some."""

    def offer_retained(self, message: Publish, *_more: object) -> bool:
        if len(self.sent) == 2:
            return False
        self.sent.append(message.topic)
        return True


async def _run(harness: _Harness) -> None:
    whole = cast(Any, harness)
    await RetainedStream(whole, whole, [("#", SubscriptionOptions(2))]).run()


@pytest.mark.parametrize("call", ["match", "get", "enqueue"])
def test_a_router_that_is_away_for_a_moment_has_nothing_sent_twice(call: str) -> None:
    harness = _Harness({call: 2})
    run_virtual(_run(harness))
    assert (harness.sent, harness.queued) == (["a", "b"], ["c", "d"])


def test_what_the_client_may_not_read_is_neither_sent_nor_queued() -> None:
    harness = _Harness({})
    harness.forbidden = {"b", "d"}
    run_virtual(_run(harness))
    assert (harness.sent, harness.queued) == (["a", "c"], [])
    harness = _Harness({})
    harness.forbidden = {"c"}
    run_virtual(_run(harness))
    assert (harness.sent, harness.queued) == (["a", "b"], ["d"])


def test_it_ends_with_the_connection_while_no_router_is_there() -> None:
    harness = _Harness({"enqueue": 1000})
    may_fail = harness._may_fail

    def closes(call: str) -> None:
        if call == "enqueue" and harness._failures[call] == 997:
            harness.is_closed = True
        may_fail(call)

    cast(Any, harness)._may_fail = closes
    run_virtual(_run(harness))
    assert harness.queued == []
