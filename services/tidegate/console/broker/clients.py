"""Clients: connected ones from their edges, offline ones from the store.

A list has connected clients first, in the order of their keys, then offline ones, in the order of
the store's scan. One that connects or leaves between two pages may be in both, or in none.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from tidegate.console.broker import shapes
from tidegate.console.errors import ApiError, Reason, not_found
from tidegate.console.models.clients import (
    ClientDetail,
    ClientFilter,
    ClientPage,
    ClientState,
    QueuePage,
    SubscriptionPage,
)
from tidegate.console.nodes.client import NodeClient, NodeError
from tidegate.console.nodes.pool import Answer, Answers, Nodes
from tidegate.console.paging import decode_cursor, encode_cursor
from tidegate.console.store_link import StoreLink
from tidegate.core.session_key import session_key
from tidegate.store.api import StoreUnavailable
from tidegate.store.inspection.cursor import BadCursor
from tidegate.store.inspection.sessions import SessionInspection
from tidegate.store.inspection.values import SessionQuery, SessionState

_CONNECTED: Final = "c"
_OFFLINE: Final = "o"


@dataclass(slots=True, frozen=True)
class Search:
    """What is looked for; None: anything. Address and listener are those of a connection."""

    prefix: str = ""
    mount_point: str | None = None
    user: str | None = None
    address: str | None = None
    listener: str | None = None
    state: ClientFilter = ClientFilter.ALL

    def params(self) -> dict[str, str]:
        """Return it as an edge takes it."""
        found = {"prefix": self.prefix}
        for name in ("mount_point", "user", "address", "listener"):
            if (value := getattr(self, name)) is not None:
                found[name] = value
        return found


class Clients:
    """See the module's docstring. All methods raise ApiError and StoreUnavailable."""

    def __init__(self, nodes: Nodes, store: StoreLink) -> None:
        self._nodes = nodes
        self._store = store

    @property
    def _sessions(self) -> SessionInspection:
        return SessionInspection(self._store.access)

    # Lists

    async def page(self, search: Search, after: str, limit: int) -> ClientPage:
        """Return a page of clients that match."""
        phase, place = _position(after)
        page = ClientPage(items=[])
        if phase == _CONNECTED and search.state is not ClientFilter.OFFLINE:
            await self._add_connected(search, place, limit, page)
            if page.next is not None:
                return page
            place = ""
        is_local = search.address is not None or search.listener is not None
        if search.state is ClientFilter.CONNECTED or is_local:
            return page
        if len(page.items) < limit:
            await self._add_offline(search, place, limit, page)
        else:
            page.next = encode_cursor([_OFFLINE, ""])
        return page

    async def _add_connected(
        self, search: Search, after: str, limit: int, page: ClientPage
    ) -> None:
        params = {**search.params(), "after": after, "limit": str(limit)}
        edges = await self._edges(page.missing)
        answers = await self._nodes.ask(edges, "GET", "/find-clients", params=params)
        page.missing += answers.missing
        found = [
            [(client["key"], answer.node.name, client) for client in answer.body["clients"]]
            for answer in answers.good
        ]
        merged = list(heapq.merge(*found, key=lambda each: each[0]))
        more = len(merged) > limit or any(answer.body["more"] for answer in answers.good)
        page.items += [shapes.connected(edge, client) for _, edge, client in merged[:limit]]
        if more and merged:
            page.next = encode_cursor([_CONNECTED, merged[:limit][-1][0]])

    async def _add_offline(self, search: Search, after: str, limit: int, page: ClientPage) -> None:
        query = SessionQuery(search.prefix, search.mount_point, search.user, is_connected=False)
        try:
            part = await self._sessions.page(query, after or None, limit - len(page.items))
        except BadCursor as error:
            raise _bad_cursor() from error
        except StoreUnavailable as error:
            if search.state is ClientFilter.OFFLINE:
                raise
            page.missing.append(f"store: {error}")
            return
        page.items += [shapes.offline(item) for item in part.items]
        if part.after is not None:
            page.next = encode_cursor([_OFFLINE, part.after])

    async def _edges(self, missing: list[str]) -> Sequence[NodeClient]:
        """Return the edges, with their names; add those of which nothing is found."""
        edges = await self._nodes.edges()
        if any(edge.name == edge.address for edge in edges):
            await self._nodes.ask(edges, "GET", "/status")
        if not edges:
            missing.append("edges: no address found")
        return edges

    # One client

    async def client(self, client_id: str, mount_point: str) -> ClientDetail:
        """Return one client."""
        missing: list[str] = []
        answer = await self.connected(client_id, mount_point, missing)
        state: SessionState | None = None
        try:
            state = await self._sessions.describe(session_key(mount_point, client_id))
        except StoreUnavailable as error:
            missing.append(f"store: {error}")
        if answer is None and (state is None or not (state.incarnation or state.wills)):
            raise _unknown(client_id, missing)
        found: Mapping[str, Any] = answer.body if answer is not None else {}
        user = found.get("username") if answer is not None else state.user if state else None
        return ClientDetail(
            client_id=client_id,
            mount_point=mount_point,
            state=ClientState.OFFLINE if answer is None else ClientState.CONNECTED,
            user=user,
            connection=None if answer is None else shapes.connection(answer.node.name, found),
            session=None if state is None else shapes.session(state),
            in_flight=[shapes.in_flight(one) for one in found.get("window", [])],
            wills=[shapes.will(one) for one in state.wills] if state is not None else [],
            missing=missing,
        )

    async def connected(
        self, client_id: str, mount_point: str, missing: list[str]
    ) -> Answer | None:
        """Return what its edge says of a client; None if it is not connected."""
        answers = await self._ask("GET", "clients", client_id, mount_point, missing)
        return answers.good[0] if answers.good else None

    async def _ask(
        self, method: str, what: str, client_id: str, mount_point: str, missing: list[str]
    ) -> Answers:
        edges = await self._edges(missing)
        path = f"/{what}/{quote(client_id, safe='')}"
        params = {"mount_point": mount_point}
        answers = await self._nodes.ask(edges, method, path, params=params)
        missing += answers.missing
        return answers

    async def state(self, client_id: str, mount_point: str) -> SessionState:
        """Return the durable session of a client."""
        state = await self._sessions.describe(session_key(mount_point, client_id))
        if state is None or not state.incarnation:
            raise not_found(f"{client_id} has no session that outlives its connection")
        return state

    async def queue(
        self, client_id: str, mount_point: str, after_seq: int, limit: int
    ) -> QueuePage:
        """Return messages in the queue of a client."""
        state = await self.state(client_id, mount_point)
        found = await self._sessions.queue(state.key, state.incarnation, after_seq, limit)
        more = found and found[-1].seq < state.last_seq
        return QueuePage(
            items=[shapes.queue_entry(entry, state.sent_seq) for entry in found],
            next=str(found[-1].seq) if more else None,
        )

    async def subscriptions(
        self, client_id: str, mount_point: str, after: str, limit: int
    ) -> SubscriptionPage:
        """Return subscriptions of a client, in the order of their filters."""
        page = SubscriptionPage(items=[])
        answer = await self.connected(client_id, mount_point, page.missing)
        if answer is None or answer.body["durable"]:
            await self.state(client_id, mount_point)
            place = decode_cursor(after)
            key = session_key(mount_point, client_id)
            part = await self._sessions.subscriptions_of(key, _text(place), limit)
            page.items += [shapes.stored_subscription(item) for item in part.items]
            page.next = None if part.after is None else encode_cursor(part.after)
            return page
        place = _text(decode_cursor(after)) or ""
        found = [each for each in answer.body["filters"] if each["filter"] > place]
        common = {"client_id": client_id, "mount_point": mount_point, "durable": False}
        page.items += [
            shapes.connected_subscription(answer.node.name, {**common, **each})
            for each in found[:limit]
        ]
        if len(found) > limit:
            page.next = encode_cursor(found[limit - 1]["filter"])
        return page

    async def subscribers(self, topic_filter: str, after: str, limit: int) -> SubscriptionPage:
        """Return who has exactly a filter: connected clients without a durable session first."""
        phase, place = _position(after)
        page = SubscriptionPage(items=[])
        if phase == _CONNECTED and not topic_filter.startswith("$share/"):
            await self._add_subscribers(topic_filter, place, limit, page)
            if page.next is not None:
                return page
            place = ""
        try:
            part = await self._sessions.subscribers(
                topic_filter, place or None, max(1, limit - len(page.items))
            )
        except BadCursor as error:
            raise _bad_cursor() from error
        page.items += [shapes.stored_subscription(item) for item in part.items]
        page.next = None if part.after is None else encode_cursor([_OFFLINE, part.after])
        return page

    async def _add_subscribers(
        self, topic_filter: str, after: str, limit: int, page: SubscriptionPage
    ) -> None:
        params = {"filter": topic_filter, "after": after, "limit": str(limit)}
        answers = await self._nodes.ask(
            await self._edges(page.missing), "GET", "/subscribers", params=params
        )
        page.missing += answers.missing
        found = [
            [(_key(each), answer.node.name, each) for each in answer.body["subscriptions"]]
            for answer in answers.good
        ]
        merged = list(heapq.merge(*found, key=lambda each: each[0]))
        page.items += [
            shapes.connected_subscription(edge, each)
            for _, edge, each in merged[:limit]
            if not each["durable"]
        ]
        if len(merged) > limit or any(answer.body["more"] for answer in answers.good):
            page.next = encode_cursor([_CONNECTED, merged[:limit][-1][0]])

    # Changes

    async def disconnect(self, client_id: str, mount_point: str) -> list[str]:
        """Disconnect a client; return the edges that have."""
        missing: list[str] = []
        answers = await self._ask("DELETE", "clients", client_id, mount_point, missing)
        if not answers.good:
            raise _unknown(client_id, missing, "is not connected")
        return [answer.node.name for answer in answers.good]

    async def end_session(self, client_id: str, mount_point: str) -> None:
        """End a session; its client is disconnected first, wherever it is."""
        missing: list[str] = []
        answers = await self._ask("DELETE", "clients", client_id, mount_point, missing)
        was_connected = bool(answers.good)
        path = f"/sessions/{quote(client_id, safe='')}"
        for edge in await self._nodes.edges():
            try:
                status, _ = await edge.ask_json(
                    "DELETE", path, params={"mount_point": mount_point}, timeout_s=5.0
                )
            except NodeError as error:
                missing.append(f"{edge.name}: {error}")
                continue
            if status == HTTPStatus.OK or (status == HTTPStatus.NOT_FOUND and was_connected):
                return
            if status == HTTPStatus.NOT_FOUND:
                raise _unknown(client_id, [], "has no session")
        raise _no_edge(missing)

    async def clear_queue(self, client_id: str, mount_point: str) -> int:
        """Delete what is in the queue of a client; how many messages."""
        state = await self.state(client_id, mount_point)
        deleted = await self._sessions.clear_queue(state)
        if deleted is None:
            raise ApiError(
                HTTPStatus.CONFLICT,
                Reason.CONFLICT,
                f"{client_id} has connected, or its session has ended, meanwhile: try again",
            )
        return deleted


def _key(found: Mapping[str, Any]) -> str:
    return session_key(found["mount_point"], found["client_id"])


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _bad_cursor()
    return value


def _position(after: str) -> tuple[str, str]:
    """Read a cursor: which part of the list it is in, and the place there."""
    place = decode_cursor(after)
    if place is None:
        return _CONNECTED, ""
    match place:
        case [str(phase), str(at)] if phase in (_CONNECTED, _OFFLINE):
            return phase, at
    raise _bad_cursor()


def _bad_cursor() -> ApiError:
    return ApiError(
        HTTPStatus.BAD_REQUEST, Reason.INVALID, "after is not what `next` of a page was"
    )


def _no_edge(missing: Sequence[str]) -> ApiError:
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        Reason.NODE_UNAVAILABLE,
        f"no edge could do it: {'; '.join(missing) or 'none is configured (console.edges)'}",
    )


def _unknown(client_id: str, missing: Sequence[str], what: str = "is not known") -> ApiError:
    """Return the error for a client that is not there, or may be where nothing answers."""
    if missing:
        return ApiError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            Reason.NODE_UNAVAILABLE,
            f"{client_id} {what} where it was looked for, but not all could be asked: "
            f"{'; '.join(missing)}",
        )
    return not_found(f"{client_id} {what}")
