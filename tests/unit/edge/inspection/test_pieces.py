"""However many clients an edge has: no page of the admin API keeps its event loop for long.

Input: an edge with thousands of clients, of which all have one filter and one has thousands, and
the largest pages that can be asked for. Observed: what the longest piece between two turns of the
event loop does, in instructions and in bytes of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.longest_piece import longest_piece
from support.virtual_time import in_virtual_time, turns
from tidegate.core import window
from tidegate.edge.administration import control_of
from tidegate.edge.inspection.pages import MOST_CLIENTS, handlers_of
from tidegate.runtime.admin.control import Control, Json
from tidegate.runtime.admin.http import Request
from tidegate.runtime.admin.server import AdminServer

#: More than a page has, and many more than a piece.
CLIENTS: Final = 2_500
FILTERS: Final = 2_500
#: Of the longest piece.
MOST_INSTRUCTIONS: Final = 100_000
MOST_JSON_BYTES: Final = 65_536
RIGHTS: Final[Json] = {
    "topic": "common",
    "clients": [{"client_id": str(number)} for number in range(MOST_CLIENTS)],
}

Ask = Callable[[LoneEdge], Coroutine[Any, Any, Json]]


def page(path: str, method: str = "GET", content: Json | None = None, **query: str) -> Ask:
    """Ask a page of the edge."""

    async def ask(lone: LoneEdge) -> Json:
        body = b"" if content is None else json.dumps(content).encode()
        response = await handlers_of(lone.edge)[path](Request(method, path, query, {}, body))
        found: Json = json.loads(response.body) if response.stream is None else {}
        return found

    return ask


def control(lone: LoneEdge) -> Control:
    nothing: Any = None
    return control_of(lone.edge, nothing, dict)


def server(path: str, **query: str) -> Ask:
    """Ask the admin server."""

    async def ask(lone: LoneEdge) -> Json:
        admin = AdminServer("127.0.0.1", 0, ready=dict, metrics=bytes, control=control(lone))  # type: ignore[arg-type]  # neither is asked for
        response = await admin._response(Request("GET", path, query, {}))
        found: Json = json.loads(response.body)
        return found

    return ask


#: By their names: requests, the list that each returns, and how long it is.
REQUESTS: Final[dict[str, tuple[Ask, str, int]]] = {
    "clients": (page("/find-clients", limit="1000"), "clients", 1_000),
    "a search": (page("/find-clients", limit="1000", user="ann"), "clients", 1_000),
    "a search for nothing": (page("/find-clients", prefix="x"), "clients", 0),
    "subscribers": (page("/subscribers", filter="common", limit="1000"), "subscriptions", 1_000),
    "a page behind": (page("/subscribers", filter="common", after="1"), "subscriptions", 100),
    "receivers": (page("/connected-receivers", topic="common"), "receivers", 1_000),
    "rights": (page("/rights", "POST", RIGHTS), "rights", 1_000),
    "clients of the edge": (server("/clients", limit="1000"), "clients", 1_000),
    "one client": (server("/clients/0", mount_point=""), "filters", 1_000),
}


@pytest.mark.skipif(
    not (window.__file__ or "").endswith(".py"), reason="compiled code executes no bytecode"
)
@in_virtual_time
async def test_no_page_takes_the_event_loop_for_a_long_piece() -> None:
    async with LoneEdge() as lone:
        for number in range(CLIENTS):
            client = await lone.connect(f"{number}", username="ann")
            filters = [("common", 1)]
            if not number:
                filters += [(f"own/{each}", 1) for each in range(FILTERS)]
            client.send(mqtt_bytes.subscribe(1, filters))
        await turns()
        assert lone.edge.registry.subscription_count == CLIENTS + FILTERS
        for name, (ask, listed, length) in REQUESTS.items():
            answer, longest = await longest_piece(lambda ask=ask: ask(lone))  # type: ignore[misc]  # binds now
            assert len(answer[listed]) == length, name
            assert longest.instructions < MOST_INSTRUCTIONS, name
            assert longest.json_bytes < MOST_JSON_BYTES, name
