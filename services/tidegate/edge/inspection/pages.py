"""The pages of an edge for the console, by path. Called by ``administration``.

However many clients there are, a page takes the event loop for short pieces only.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from tidegate.edge.inspection.search import first_keys
from tidegate.mqtt.topics import matches
from tidegate.runtime.admin.control import Json, Page
from tidegate.runtime.admin.http import Request, Response, json_response
from tidegate.runtime.admin.pieces import Turns, chosen_of, encoded, first_of, object_of

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
        """Connected clients that match, in the order of their keys: see ``search``."""
        request.check_method("GET")
        limit = number_of(request, "limit", 100, 1, MOST_CLIENTS)
        after, query = request.query.get("after", ""), request.query
        clients = self._edge.clients
        keys = await first_keys(clients, after, limit + 1, query)

        def found(key: str) -> Json | None:
            client = clients.get(key)
            return None if client is None else {"key": key, **describe(client)}

        answer = await encoded(keys[:limit], found)
        return await object_of({"clients": answer, "more": len(keys) > limit})

    async def receivers(self, request: Request) -> Response:
        """Connected clients with subscriptions that match a topic, and whether they may read it."""
        request.check_method("GET")
        topic = topic_of(request)
        found = self._edge.registry.index.match(topic).pairs
        clients = {id(client): client for client, _ in islice(found, _MOST_MATCHES)}
        receivers, turns = [], Turns()
        for client in islice(clients.values(), MOST_CLIENTS):
            names = list(client.subscriptions)
            matching = await chosen_of(names, lambda name: matches(name, topic), turns)
            receivers.append((client, sorted(matching)))
        more = len(found) > _MOST_MATCHES or len(clients) > MOST_CLIENTS
        answer = await encoded(receivers, lambda each: _receiver(*each, topic))
        return await object_of({"receivers": answer, "more": more})

    async def subscribers(self, request: Request) -> Response:
        """Connected clients that have exactly a topic filter, in the order of their keys."""
        request.check_method("GET")
        topic_filter, after = filter_of(request), request.query.get("after", "")
        limit = number_of(request, "limit", 100, 1, MOST_CLIENTS)
        found = await first_of(
            self._edge.registry.index.entries(topic_filter),
            limit + 1,
            lambda part: [entry for entry in part if entry[0].session_key > after],
            key=lambda entry: entry[0].session_key,
        )
        answer = await encoded(found[:limit], lambda each: _subscription(topic_filter, *each))
        return await object_of({"subscriptions": answer, "more": len(found) > limit})

    async def rights(self, request: Request) -> Response:
        """Whether clients, connected or not, may read a topic: by the rules of their listeners."""
        request.check_method("POST")
        value = await json_of(request, _MOST_NAMES_BYTES)
        topic, clients = text(value, "topic"), field(value, "clients", list, [])
        if len(clients) > MOST_CLIENTS:
            raise bad(f"clients: more than {MOST_CLIENTS:,}.")
        answer = await encoded(clients, lambda client: self._right(client, topic))
        return await object_of({"rights": answer})

    def _right(self, client: object, topic: str) -> str:
        """Return `allowed`, `denied`, or `depends`: on the listener that it comes through."""
        if not isinstance(client, dict):
            raise bad("clients must be objects.")
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
        published = await self._publisher.delete_retained(topics)
        return json_response(HTTPStatus.OK, {"published": published})

    async def sample(self, request: Request) -> Response:
        """Stream a sample of a topic filter as lines of JSON."""
        request.check_method("GET")
        topic_filter = filter_of(request)
        rate = number_of(request, "rate", 100, 1, MOST_PER_S)
        lines = self._samples.begin(topic_filter, rate)
        return Response(HTTPStatus.OK, "application/jsonl", b"", stream=lines)


def _receiver(client: Client, matching: Sequence[str], topic: str) -> Json | None:
    """Describe a receiver by its filters that match; None when it has unsubscribed meanwhile."""
    names = [name for name in matching if name in client.subscriptions]
    if not names:
        return None
    options = [client.subscriptions[name] for name in names]
    return {
        **_named(client),
        "filters": [name[client.mount_point_length :] for name in names],
        "qos": max(each.qos for each in options),
        "no_local": all(each.no_local for each in options),
        "acl": "allowed" if client.may_read(topic) else "denied",
    }


def _subscription(topic_filter: str, client: Client, options: SubscriptionOptions) -> Json:
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
