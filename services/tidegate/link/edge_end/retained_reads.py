"""Reads of retained messages, each from the router that writes it.

Owns no state: a page says where the next one begins. Called by ``router_client``; ``router_table``
says which router has which topics. A router that has just joined is waited for: until it is OPEN,
other routers may still have messages of its topics that are not stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from tidegate.core.rendezvous import owner
from tidegate.link.edge_end.requests import raise_failure
from tidegate.link.edge_end.router_peer import LinkLost, RouterPeer, State
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.interfaces import OnRead, RetainedForQueue, RetainedPage, RouterUnavailable
from tidegate.link.messages import RETAIN, SMALL_BYTES, read_message, write_message, write_options
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish
from tidegate.mqtt.topics import has_wildcards

#: For so long a router is waited for: clients wait for SUBACK.
TIMEOUT_S: Final = 2.0
UNSUPPORTED: Final = pb.FAILURE_UNSUPPORTED
#: Messages that routers of link version 2 are asked for at a time.
TOPICS: Final = 64


class Unsupported(RouterUnavailable):
    """A router of an earlier version does not know a request."""


class RetainedReads:
    """See the module's docstring."""

    __slots__ = ("_routers",)

    def __init__(self, routers: RouterTable) -> None:
        self._routers = routers

    async def read(
        self, filters: Sequence[str], last: RetainedPage | None, on_read: OnRead | None = None
    ) -> RetainedPage:
        """Read a page, in bounded time (see RouterLink.read_retained)."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._read(filters, last, on_read)
        except TimeoutError:
            raise RouterUnavailable("no answer in time") from None

    async def _read(
        self, filters: Sequence[str], last: RetainedPage | None, on_read: OnRead | None
    ) -> RetainedPage:
        if last is not None and last.topics:
            return await self._read_topics(last.topics)
        parts = self._parts(filters)
        while not all(map(_answers, parts)):
            await self._routers.wait_changed()
            parts = self._parts(filters)
        names = tuple(sorted(self._routers.members))
        lists = last.lists if last is not None and last.names == names else {}
        replies = []
        for peer, part in parts.items():
            request = _request(peer.name, part, names, last, lists.get(peer.instance, 0))
            arrived = partial(_arrived, peer.name, names, on_read) if on_read is not None else None
            size_bytes = SMALL_BYTES + sum(map(len, part))
            replies.append(peer.request(request, size_bytes, arrived))
        others: list[asyncio.Future[None]] = []
        if last is None:
            others = [peer.sync() for peer in self._routers.connected() if peer not in parts]
        found = await asyncio.gather(*replies, return_exceptions=True)
        if any(isinstance(one, pb.Reply) and one.failure == UNSUPPORTED for one in found):
            return await self._read_topics(await self._match(filters))
        page = _merge(parts, found)
        page.names = names
        for other in others:
            try:
                await other
            except LinkLost:
                continue
        return page

    async def queue(
        self, client_id: str, incarnation: int, items: Sequence[RetainedForQueue]
    ) -> None:
        """Have messages queued, each by its router (see RouterLink.queue_retained)."""
        members = self._routers.members
        if not members:
            raise RouterUnavailable("no router reachable")
        parts: dict[str, pb.Request] = {}
        for item in items:
            name = owner(item.message.topic, members)
            request = parts.setdefault(name, pb.Request())
            one = request.queue_retained.items.add()
            one.topic = item.message.topic
            one.subscription.topic_filter = item.topic_filter
            write_options(one.subscription.options, item.options)
        asked = []
        for name, request in parts.items():
            if not _answers(members[name]):
                raise RouterUnavailable("router not ready")
            request.queue_retained.client_id = client_id
            request.queue_retained.incarnation = incarnation
            asked.append((members[name], request))
        try:
            await _replies(asked)
        except Unsupported:
            await self._enqueue(client_id, incarnation, items)

    # With a router of link version 2

    async def _enqueue(
        self, client_id: str, incarnation: int, items: Sequence[RetainedForQueue]
    ) -> None:
        request = pb.Request()
        wanted = request.enqueue
        wanted.client_id, wanted.incarnation = client_id, incarnation
        for item in items:
            message = wanted.messages.add()
            write_message(message, item.message)
            message.flags = RETAIN | min(item.message.qos, item.options.qos)
            if item.options.subscription_identifier:
                message.subscription_identifiers.append(item.options.subscription_identifier)
        await _replies([(self._routers.session_router(client_id), request)])

    async def _match(self, filters: Sequence[str]) -> list[str]:
        """Return the topics that match. Raises RouterUnavailable."""
        found: set[str] = set()
        for topic_filter in filters:
            cursor = -1
            peer = self._routers.session_router(topic_filter)
            while cursor:
                wanted = pb.MatchRetainedRequest(topic_filter=topic_filter, cursor=max(0, cursor))
                (reply,) = await _replies([(peer, pb.Request(match_retained=wanted))])
                found.update(reply.match_retained.topics)
                cursor = reply.match_retained.cursor
        return sorted(found)

    async def _read_topics(self, topics: Sequence[str]) -> RetainedPage:
        """Return the messages of the first of these topics, and a page that has the others."""
        there = {peer.name: peer for peer in self._routers.reachable()}
        if not there:
            raise RouterUnavailable("no router reachable")
        parts: dict[str, list[str]] = {}
        for topic in topics[:TOPICS]:
            parts.setdefault(owner(topic, there), []).append(topic)
        requests = [
            (there[name], pb.Request(get_retained=pb.GetRetainedRequest(topics=part)))
            for name, part in parts.items()
        ]
        page = RetainedPage([], topics=topics[TOPICS:])
        for reply in await _replies(requests):
            page.messages += map(read_message, reply.get_retained.messages)
        page.messages.sort(key=_topic_of)
        if page.topics:
            page.after = topics[TOPICS - 1]
        return page

    def _parts(self, filters: Sequence[str]) -> dict[RouterPeer, list[str]]:
        """Return the filters that each router is asked for. Raises RouterUnavailable."""
        members = self._routers.members
        if not members:
            raise RouterUnavailable("no router reachable")
        parts: dict[RouterPeer, list[str]] = {}
        for topic_filter in filters:
            if has_wildcards(topic_filter):
                for peer in members.values():
                    parts.setdefault(peer, []).append(topic_filter)
            else:
                peer = members[owner(topic_filter, members)]
                parts.setdefault(peer, []).append(topic_filter)
        return parts


async def _replies(
    requests: Sequence[tuple[RouterPeer | None, pb.Request]],
) -> list[pb.Reply]:
    """Return the replies. Raises RouterUnavailable."""
    asked = []
    for peer, request in requests:
        if peer is None:
            raise RouterUnavailable("no router reachable")
        asked.append(peer.request(request, request.ByteSize()))
    replies: list[pb.Reply] = []
    for reply in await asyncio.gather(*asked, return_exceptions=True):
        if not isinstance(reply, pb.Reply):
            raise RouterUnavailable("router connection lost")
        if reply.failure == UNSUPPORTED:
            raise Unsupported(reply.text)
        raise_failure(reply)
        replies.append(reply)
    return replies


def _answers(peer: RouterPeer) -> bool:
    return peer.attached and peer.state in {State.OPEN, State.UNVERIFIED, State.LEAVING}


def _request(
    name: str,
    filters: list[str],
    names: tuple[str, ...],
    last: RetainedPage | None,
    list_number: int,
) -> pb.Request:
    request = pb.Request()
    wanted = request.read_retained
    wanted.topic_filters.extend(filters)
    wanted.name = name
    wanted.names.extend(names)
    if last is not None:
        wanted.after = last.after or ""
        wanted.list_number = list_number
    return request


def _arrived(name: str, names: Sequence[str], on_read: OnRead, reply: pb.Reply) -> None:
    """The part of the router with this name is there."""
    found = reply.read_retained
    if not found.is_of_now:
        return
    end = found.after
    on_read(lambda topic: (not end or topic <= end) and owner(topic, names) == name)


def _merge(
    peers: Iterable[RouterPeer],
    replies: Sequence[pb.Reply | BaseException],
) -> RetainedPage:
    """Make one page, up to where every router has read. Raises RouterUnavailable."""
    page = RetainedPage([])
    for peer, reply in zip(peers, replies, strict=True):
        if not isinstance(reply, pb.Reply):
            raise RouterUnavailable("router connection lost")
        raise_failure(reply)
        found = reply.read_retained
        page.messages += map(read_message, found.messages)
        if found.after:
            page.lists[peer.instance] = found.list_number
            page.after = found.after if page.after is None else min(page.after, found.after)
    if len(replies) > 1:
        page.messages.sort(key=_topic_of)
        if page.after is not None:
            end = page.after
            page.messages = [message for message in page.messages if message.topic <= end]
    return page


def _topic_of(message: Publish) -> str:
    return message.topic
