"""Retained messages that change while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import pytest

from support.virtual_time import in_virtual_time, turns
from tidegate.core.rendezvous import owner
from tidegate.link.interfaces import RetainedPage, RetainedRequest
from tidegate.mqtt.packets import Publish
from tidegate.router.pending import Pending
from tidegate.router.retained import MAX_LISTS, PAGE_BYTES, PAGE_MESSAGES, SLICE, RetainedMessages
from tidegate.store.api import RetainedBefore, StoreUnavailable
from tidegate.store.records import encode_retained


class _Store:
    """Has a retained message for every topic; ``may_answer`` cleared: reading waits."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        found = [encode_retained(Publish(topic, b"old", 1, True), 0) for topic in topics]
        await self.may_answer.wait()
        return list(found)

    async def set_retained(
        self, topic: str, record: bytes | None, expires_at_ms: int, *_more: Any
    ) -> None:
        """It is stored at once."""


@in_virtual_time
async def test_a_message_that_is_replaced_while_it_is_read_is_left_out() -> None:
    """Whoever reads has subscribed already, and gets the newer one as a message of now."""
    store: Any = _Store()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    reading = asyncio.create_task(retained.get(["stays", "changes", "goes"]))
    await turns()
    retained.set(Publish("changes", b"new", 1, True), Pending(lambda: None))
    retained.set(Publish("goes", b"", 1, True), Pending(lambda: None))
    await retained.idle()
    store.may_answer.set()
    assert [(one.topic, one.payload) for one in await reading] == [("stays", b"old")]


@in_virtual_time
async def test_a_message_that_is_being_stored_is_read_as_it_will_be() -> None:
    store: Any = _Store()
    store.may_answer.set()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    retained.set(Publish("new", b"new", 1, True), Pending(lambda: None))
    retained.set(Publish("gone", b"", 1, True), Pending(lambda: None))
    found = await retained.get(["new", "gone", "old"])
    assert [(one.topic, one.payload) for one in found] == [("new", b"new"), ("old", b"old")]
    await retained.idle()


@in_virtual_time
async def test_reads_that_end_at_different_times_each_see_what_changed_during_them() -> None:
    store: Any = _Store()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    first = asyncio.create_task(retained.get(["a"]))
    await turns()
    second = asyncio.create_task(retained.get(["b"]))
    await turns()
    second.cancel()
    await turns()
    retained.set(Publish("a", b"new", 1, True), Pending(lambda: None))
    store.may_answer.set()
    assert await first == []


# Pages


def _with_topics(store: Any, topics: Sequence[str]) -> RetainedMessages:
    store.may_answer.set()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    for topic in topics:
        retained.apply(topic, True)
    return retained


def _topics(page: RetainedPage) -> list[str]:
    return [message.topic for message in page.messages]


@in_virtual_time
async def test_pages_have_every_topic_that_matches_once_in_order() -> None:
    store: Any = _Store()
    names = [f"{number:05}" for number in range(2 * PAGE_MESSAGES + 1)]
    retained = _with_topics(store, [*reversed(names), "other/1"])
    found, after, number = [], "", 0
    for _ in range(3):
        page = await retained.page(RetainedRequest(["+", "0000+", "00001"], after, number))
        found += _topics(page)
        assert len(page.messages) <= PAGE_MESSAGES + SLICE
        after, number = page.after or "", page.lists.get("", 0)
        if page.after is None:
            break
    assert found == names
    assert not retained._lists


@in_virtual_time
async def test_a_page_is_bounded_by_bytes() -> None:
    class Large(_Store):
        async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
            large = bytes(PAGE_BYTES // SLICE)
            return [encode_retained(Publish(topic, large, 1, True), 0) for topic in topics]

    retained = _with_topics(Large(), [f"{number:05}" for number in range(3 * SLICE)])
    page = await retained.page(RetainedRequest(["#"]))
    assert len(page.messages) == SLICE
    assert page.after == page.messages[-1].topic


@in_virtual_time
async def test_a_list_that_is_not_there_any_more_is_made_again() -> None:
    store: Any = _Store()
    names = [f"{number:05}" for number in range(PAGE_MESSAGES * 2)]
    retained = _with_topics(store, names)
    for _ in range(MAX_LISTS + 5):
        retained._keep(0, [])
    assert len(retained._lists) == MAX_LISTS
    page = await retained.page(RetainedRequest(["#"], names[PAGE_MESSAGES], 1))
    assert _topics(page) == names[PAGE_MESSAGES + 1 :]


@in_virtual_time
async def test_each_router_returns_the_topics_that_it_writes() -> None:
    store: Any = _Store()
    names = [f"t/{number}" for number in range(50)]
    routers = ["r1", "r2", "r3"]
    retained = _with_topics(store, names)
    parts = [
        _topics(await retained.page(RetainedRequest(["#"], "", 0, router, routers)))
        for router in routers
    ]
    assert sorted(parts[0] + parts[1] + parts[2]) == sorted(names)
    assert {owner(topic, routers) for topic in parts[1]} == {"r2"}


class _Slow(_Store):
    """Answers at once only for pages that begin with the first topic."""

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        if topics[0] != "00000":
            await self.may_answer.wait()
        return [encode_retained(Publish(topic, b"old", 1, True), 0) for topic in topics]


def _set(retained: RetainedMessages, topic: str, payload: bytes = b"new") -> None:
    retained.set(Publish(topic, payload, 1, True), Pending(lambda: None))


@in_virtual_time
async def test_what_is_written_while_a_first_page_is_read_is_in_it() -> None:
    """Also when it has been read for the page already, or was not there when the read began."""
    store: Any = _Slow()
    names = [f"{number:05}" for number in range(4 * SLICE)]
    retained = _with_topics(store, names)
    store.may_answer.clear()
    request = RetainedRequest(["+"], "", 0, "r2", ["r1", "r2"])
    mine = [name for name in names if owner(name, request.names) == "r2"]
    added = ["a/b", *(f"x{number}" for number in range(20))]
    reading = asyncio.create_task(retained.page(request))
    await turns()
    _set(retained, mine[0])
    _set(retained, mine[1], b"")
    for topic in added:
        _set(retained, topic)
    store.may_answer.set()
    page = await reading
    assert page.is_of_now
    there = [name for name in added if "/" not in name and owner(name, request.names) == "r2"]
    assert there
    assert _topics(page) == sorted([mine[0], *mine[2:], *there])
    assert {one.topic for one in page.messages if one.payload == b"new"} == {mine[0], *there}


@in_virtual_time
async def test_what_is_written_while_a_later_page_is_read_is_left_out_of_it() -> None:
    """It comes to a subscription that is in effect."""
    store: Any = _Slow()
    names = [f"{number:05}" for number in range(PAGE_MESSAGES + SLICE)]
    retained = _with_topics(store, names)
    page = await retained.page(RetainedRequest(["#"]))
    assert page.after is not None
    rest = names[len(page.messages) :]
    store.may_answer.clear()
    request = RetainedRequest(["#"], page.after, page.lists[""])
    reading = asyncio.create_task(retained.page(request))
    await turns()
    _set(retained, rest[0])
    store.may_answer.set()
    page = await reading
    assert not page.is_of_now
    assert _topics(page) == rest[1:]


@in_virtual_time
async def test_what_is_added_behind_a_first_page_is_in_the_next_one() -> None:
    """Edges take what of it has come to them for what is read later."""
    store: Any = _Slow()
    names = [f"{number:05}" for number in range(PAGE_MESSAGES + SLICE)]
    retained = _with_topics(store, names)
    store.may_answer.clear()
    reading = asyncio.create_task(retained.page(RetainedRequest(["#"])))
    await turns()
    _set(retained, "z")
    store.may_answer.set()
    page = await reading
    assert page.after is not None
    assert "z" not in _topics(page)
    page = await retained.page(RetainedRequest(["#"], page.after, page.lists[""]))
    assert _topics(page)[-1] == "z"


@in_virtual_time
async def test_topics_that_are_asked_for_by_name_are_read_as_they_are_when_it_ends() -> None:
    store: Any = _Store()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    reading = asyncio.create_task(retained.page_of(["a", "b", "c"]))
    await turns()
    _set(retained, "a")
    _set(retained, "b", b"")
    _set(retained, "other")
    store.may_answer.set()
    page = await reading
    assert page.is_of_now
    assert [(one.topic, one.payload) for one in page.messages] == [("a", b"new"), ("c", b"old")]


# What may have been stored before


class _Identities(_Store):
    """Has stored some identities already; ``may_write`` cleared: writing waits."""

    def __init__(self, *stored: str) -> None:
        super().__init__()
        self.may_answer.set()
        self.records: dict[str, bytes | None] = {}
        self.stored = {*stored}
        self.may_write = asyncio.Event()
        #: Whether the reply to the next write is lost.
        self.is_lost = False
        self.writes: list[tuple[str, ...]] = []

    async def get_retained(self, topics: Sequence[str]) -> list[bytes | None]:
        found = [self.records.get(topic) for topic in topics]
        await self.may_answer.wait()
        return found

    async def set_retained(  # type: ignore[override]
        self,
        topic: str,
        record: bytes | None,
        expires_at_ms: int,
        charge: Any = None,
        identities: Sequence[str] = (),
    ) -> RetainedBefore | None:
        await self.may_write.wait()
        if self.is_lost:
            self.is_lost = False
            raise StoreUnavailable
        self.writes.append((*identities,))
        count = len([*takewhile(self.stored.__contains__, identities)])
        if count:
            return RetainedBefore(count)
        self.records[topic] = record
        return None

    async def expired_retained(self, *_arguments: Any) -> list[str]:
        return []


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("payload", [b"older", b""])
@in_virtual_time
async def test_what_may_have_been_stored_before_is_read_when_that_is_known(
    payload: bytes, is_first: bool
) -> None:
    store: Any = _Identities(*([] if is_first else ["identity"]))
    store.records["t"] = encode_retained(Publish("t", b"newer", 2, True), 0)
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    retained.apply("t", True)
    done: list[int] = []
    pending = Pending(lambda: done.append(1))
    retained.set(Publish("t", payload, 2, True), pending, "c", "identity", True)
    pending.release()
    pages = retained.page(RetainedRequest(["#"])), retained.page_of(["t"])
    reads = [asyncio.create_task(page) for page in pages]
    await turns()
    assert not any(read.done() for read in reads)
    assert not done
    store.may_write.set()
    expected = [b"newer"] if not is_first else [payload] if payload else []
    for read in reads:
        assert [one.payload for one in (await read).messages] == expected
    assert done == [1]
    await retained.expire()
    assert retained.match("#") == (["t"] if expected else [])


@in_virtual_time
async def test_what_comes_for_the_first_time_is_read_before_it_is_stored() -> None:
    """As what has no identity: nobody who publishes all the time keeps reads waiting."""
    store: Any = _Identities()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    retained.set(Publish("t", b"x", 2, True), Pending(lambda: None), "c", "identity")
    assert [one.payload for one in await retained.get(["t"])] == [b"x"]
    store.may_write.set()
    await retained.idle()


@in_virtual_time
async def test_a_read_does_not_wait_for_ever_for_what_cannot_be_stored() -> None:
    store: Any = _Identities()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    retained.set(Publish("t", b"x", 2, True), Pending(lambda: None), "c", "identity", True)
    with pytest.raises(StoreUnavailable):
        await retained.page_of(["t"])
    reading = asyncio.create_task(retained.page_of(["t"]))
    await turns()
    retained.cancel()  # this router is fenced
    with pytest.raises(StoreUnavailable):
        await reading
    store.may_write.set()
    await retained.idle()


@in_virtual_time
async def test_what_has_no_identity_is_written_without_one() -> None:
    store: Any = _Identities()
    store.may_write.set()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    for payload in (b"1", b"2", b""):
        retained.set(Publish("t", payload, 1, True), Pending(lambda: None))
    await retained.idle()
    assert store.writes == [()]
    assert store.records == {"t": None}


@in_virtual_time
async def test_what_comes_again_during_a_read_and_is_stored_then_is_read() -> None:
    store: Any = _Identities()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    store.may_answer.clear()
    reading = asyncio.create_task(retained.page_of(["t"]))
    await turns()
    retained.set(Publish("t", b"x", 2, True), Pending(lambda: None), "c", "identity", True)
    store.may_answer.set()
    await turns()
    assert not reading.done()
    store.may_write.set()
    assert [one.payload for one in (await reading).messages] == [b"x"]


@in_virtual_time
async def test_a_read_fails_when_it_is_not_known_whether_the_store_has_what_came_again() -> None:
    """The second attempt finds it known, by the first one or by another router."""
    store: Any = _Identities()
    retained = RetainedMessages(store, lambda: 0, lambda: None)
    store.may_answer.clear()
    reading = asyncio.create_task(retained.page_of(["t"]))
    await turns()
    retained.set(Publish("t", b"x", 2, True), Pending(lambda: None), "c", "identity", True)
    store.stored, store.is_lost = {"identity"}, True
    store.may_write.set()
    store.may_answer.set()
    with pytest.raises(StoreUnavailable):
        await reading
    await retained.idle()
