"""The pages of an edge for the console, by path. Called by ``administration``."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Final

from tidegate.edge.inspection.description import describe
from tidegate.edge.inspection.publishing import MOST_DELETED, ConsolePublisher
from tidegate.edge.inspection.requests import (
    bad,
    field,
    filter_of,
    json_of,
    number_of,
    text,
    topic_of,
)
from tidegate.edge.inspection.sampling import MOST_PER_S, Samples
from tidegate.mqtt.topics import matches
from tidegate.runtime.admin.control import Json, Page
from tidegate.runtime.admin.http import Request, Response, json_response

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.edge import Edge
    from tidegate.mqtt.packets import SubscriptionOptions

#: Clients in one answer, and matching subscriptions that are looked at for it.
MOST_CLIENTS: Final = 1_000
_MOST_MATCHES: Final = 5_000
#: Bytes of a body that names clients or topics.
_MOST_NAMES_BYTES: Final = 8 * 1_048_576
#: JSON and base64 of a message, beside its bytes.
_OVERHEAD_BYTES: Final = 262_144
#: Clients that are described, or whose rights are looked up, before other work gets its turn.
_AT_ONCE: Final = 100
#: Keys that are compared before other work gets its turn.
_KEYS_AT_ONCE: Final = 1_000
#: What clients are searched by, beside the beginning of their identifiers.
_SEARCHED: Final = ("address", "listener", "user", "mount_point")


def handlers_of(edge: Edge) -> dict[str, Page]:
    """Return the pages of an edge."""
    pages = _Pages(edge)
    return {
        "/find-clients": pages.find,
        "/connected-receivers": pages.receivers,
        "/subscribers": pages.subscribers,
        "/rights": pages.rights,
        "/publish": pages.publish,
        "/retained": pages.retained,
        "/sample": pages.sample,
    }


class _Pages:
    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._publisher = ConsolePublisher(edge)
        self._samples = Samples(edge)

    async def find(self, request: Request) -> Response:
        """Connected clients that match, in the order of their keys: see ``_is_wanted``."""
        request.check_method("GET")
        limit = number_of(request, "limit", 100, 1, MOST_CLIENTS)
        after, query = request.query.get("after", ""), request.query
        keys = await self._first_keys(after, query, limit + 1)
        found = []
        for place, key in enumerate(keys[:limit]):
            client = self._edge.clients.get(key)
            if client is not None:
                found.append({"key": key, **describe(client)})
            if place % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        return json_response(HTTPStatus.OK, {"clients": found, "more": len(keys) > limit})

    async def _first_keys(self, after: str, query: Mapping[str, str], count: int) -> list[str]:
        """Return the first keys of clients that match; other work gets its turn in between."""
        clients = self._edge.clients
        is_search = bool(query.get("prefix")) or any(name in query for name in _SEARCHED)
        keys = list(clients)
        first: list[str] = []
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            part = [key for key in keys[start : start + _KEYS_AT_ONCE] if key > after]
            if is_search:
                part = [
                    key
                    for key in part
                    if (client := clients.get(key)) is not None and _is_wanted(client, query)
                ]
            first = heapq.nsmallest(count, first + part)
            await asyncio.sleep(0)
        return first

    async def receivers(self, request: Request) -> Response:
        """Connected clients with subscriptions that match a topic, and whether they may read it."""
        request.check_method("GET")
        topic = topic_of(request)
        found = self._edge.registry.index.match(topic)
        clients = {id(client): client for client, _ in islice(found, _MOST_MATCHES)}
        items = []
        for client in islice(clients.values(), MOST_CLIENTS):
            items.append(_receiver(client, topic))
            if len(items) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        more = len(found) > _MOST_MATCHES or len(clients) > MOST_CLIENTS
        return json_response(HTTPStatus.OK, {"receivers": items, "more": more})

    async def subscribers(self, request: Request) -> Response:
        """Connected clients that have exactly a topic filter, in the order of their keys."""
        request.check_method("GET")
        topic_filter, after = filter_of(request), request.query.get("after", "")
        limit = number_of(request, "limit", 100, 1, MOST_CLIENTS)
        found = sorted(
            (
                (client.session_key, client, options)
                for client, options in self._edge.registry.index.entries(topic_filter)
                if client.session_key > after
            ),
            key=lambda entry: entry[0],
        )
        items = [_subscription(client, topic_filter, options) for _, client, options in found]
        return json_response(
            HTTPStatus.OK, {"subscriptions": items[:limit], "more": len(items) > limit}
        )

    async def rights(self, request: Request) -> Response:
        """Whether clients, connected or not, may read a topic: by the rules of their listeners."""
        request.check_method("POST")
        value = await json_of(request, _MOST_NAMES_BYTES)
        topic, clients = text(value, "topic"), field(value, "clients", list, [])
        if len(clients) > MOST_CLIENTS:
            raise bad(f"clients: more than {MOST_CLIENTS:,}.")
        answers = []
        for place, client in enumerate(clients):
            if not isinstance(client, dict):
                raise bad("clients must be objects.")
            answers.append(self._right(client, topic))
            if place % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        return json_response(HTTPStatus.OK, {"rights": answers})

    def _right(self, client: Json, topic: str) -> str:
        """Return `allowed`, `denied`, or `depends`: on the listener that it comes through."""
        client_id, mount_point = text(client, "client_id"), field(client, "mount_point", str, "")
        username = field(client, "username", str)
        authorizer = self._edge.context.authorizer
        answers = set()
        for listener in self._edge.config.listeners:
            if listener.mount_point == mount_point:
                acl = authorizer.for_client(client_id, username, listener)
                answers.add(acl is None or acl.may_read(topic))
        if len(answers) > 1:
            return "depends"
        return "allowed" if answers == {True} and topic.startswith(mount_point) else "denied"

    async def publish(self, request: Request) -> Response:
        """Publish a message."""
        request.check_method("POST")
        most = self._edge.context.limits.max_packet_size_bytes * 4 // 3 + _OVERHEAD_BYTES
        value = await json_of(request, most)
        return json_response(HTTPStatus.OK, await self._publisher.publish(value))

    async def retained(self, request: Request) -> Response:
        """Delete retained messages by publishing empty ones."""
        request.check_method("DELETE")
        value = await json_of(request, _MOST_NAMES_BYTES)
        topics = field(value, "topics", list, [])
        if len(topics) > MOST_DELETED or not all(isinstance(topic, str) for topic in topics):
            raise bad(f"topics must be up to {MOST_DELETED} texts.")
        return json_response(HTTPStatus.OK, {"published": self._publisher.delete_retained(topics)})

    async def sample(self, request: Request) -> Response:
        """Stream a sample of a topic filter as lines of JSON."""
        request.check_method("GET")
        topic_filter = filter_of(request)
        rate = number_of(request, "rate", 100, 1, MOST_PER_S)
        lines = self._samples.begin(topic_filter, rate)
        return Response(HTTPStatus.OK, "application/jsonl", b"", stream=lines)


def _is_wanted(client: Client, query: Mapping[str, str]) -> bool:
    """Compare the beginning of the identifier and of the address, and all of the others."""
    peer = client.channel.peer
    return (
        client.client_id.startswith(query.get("prefix", ""))
        and peer.address.startswith(query.get("address", ""))
        and query.get("listener", peer.listener) == peer.listener
        and query.get("user", client.username or "") == (client.username or "")
        and query.get("mount_point", client.listener.mount_point) == client.listener.mount_point
    )


def _receiver(client: Client, topic: str) -> Json:
    names = [name for name in client.subscriptions if matches(name, topic)]
    options = [client.subscriptions[name] for name in names]
    return {
        **_named(client),
        "filters": [name[client.mount_point_length :] for name in sorted(names)],
        "qos": max((each.qos for each in options), default=0),
        "no_local": bool(options) and all(each.no_local for each in options),
        "acl": "allowed" if client.may_read(topic) else "denied",
    }


def _subscription(client: Client, topic_filter: str, options: SubscriptionOptions) -> Json:
    return {
        **_named(client),
        "filter": topic_filter[client.mount_point_length :],
        "qos": options.qos,
        "no_local": options.no_local,
        "retain_as_published": options.retain_as_published,
        "retain_handling": options.retain_handling,
        "subscription_id": options.subscription_identifier or None,
    }


def _named(client: Client) -> Json:
    return {
        "client_id": client.client_id,
        "mount_point": client.listener.mount_point,
        "username": client.username,
        "durable": client.incarnation != 0,
    }
