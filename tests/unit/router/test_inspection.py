"""What a router answers the console: durable receivers of a topic, and shared groups."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from support.fake_link import FakeEdge
from support.longest_piece import longest_piece
from tidegate.core import window
from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.router.inspection import handlers_of
from tidegate.router.table import RoutingTable
from tidegate.runtime.admin.control import Page
from tidegate.runtime.admin.http import HttpError, Request

EDGE: Any = FakeEdge("e1")


@pytest.fixture
def pages() -> dict[str, Page]:
    table = RoutingTable()
    for name in ("b", "m/\0a"):
        session = table.session(name, 1)
        filters = ("m/t/+", "m/t/1", "other") if "\0" in name else ("$share/g/t/#", "t/1")
        for topic_filter in filters:
            table.subscribe_durable(session, topic_filter, SubscriptionOptions(1, no_local=True))
    table.set_connected(table.session("b", 1), EDGE, 2)
    table.join_group(EDGE, "c", 3, "$share/g/t/#", SubscriptionOptions(2))
    table.join_group(EDGE, "c", 3, "$share/h/t", SubscriptionOptions(0))
    router: Any = SimpleNamespace(table=table)
    return handlers_of(router)


async def ask(page: Page, **query: str) -> Any:
    return json.loads((await page(Request("GET", "/page", query, {}))).body)


async def test_durable_receivers_and_groups_of_a_topic(pages: dict[str, Page]) -> None:
    answer = await ask(pages["/durable-receivers"], topic="m/t/1")
    (receiver,) = answer["receivers"]
    assert (receiver["client_id"], receiver["mount_point"]) == ("a", "m/")
    assert receiver["filters"] == ["t/+", "t/1"]
    assert (receiver["qos"], receiver["no_local"], receiver["connected"]) == (1, True, False)
    answer = await ask(pages["/durable-receivers"], topic="t/1")
    (group,) = answer["groups"]
    assert (group["name"], group["members"], group["connected"]) == ("g/t/#", 2, 2)
    assert answer["receivers"][0]["connected"]
    with pytest.raises(HttpError):
        await ask(pages["/durable-receivers"], topic="#")


async def test_groups_come_in_pages_and_one_with_its_members(pages: dict[str, Page]) -> None:
    first = await ask(pages["/shared-groups"], limit="1")
    assert ([one["name"] for one in first["groups"]], first["more"]) == (["g/t/#"], True)
    rest = await ask(pages["/shared-groups"], after="g/t/#")
    assert ([one["name"] for one in rest["groups"]], rest["more"]) == (["h/t"], False)
    group = await ask(pages["/shared-group"], name="g/t/#")
    assert [(one["client_id"], one["durable"]) for one in group["list"]] == [
        ("b", True),
        ("c", False),
    ]
    with pytest.raises(HttpError):
        await ask(pages["/shared-group"], name="nothing")


@pytest.mark.skipif(
    not (window.__file__ or "").endswith(".py"), reason="compiled code executes no bytecode"
)
async def test_no_page_takes_the_event_loop_for_a_long_piece() -> None:
    """Of a router with thousands of sessions and groups, and sessions with many filters."""
    table = RoutingTable()
    for number in range(1_200):
        session = table.session(f"{number}", 1)
        for topic_filter in ("common", *(f"own/{number}/{each}" for each in range(4))):
            table.subscribe_durable(session, topic_filter, SubscriptionOptions(1))
        table.join_group(EDGE, f"{number}", 3, "$share/g/common", SubscriptionOptions(2))
        table.join_group(EDGE, f"{number}", 3, f"$share/g{number}/common", SubscriptionOptions(2))
    # As the first message on it does.
    table.route("common")
    router: Any = SimpleNamespace(table=table)
    pages = handlers_of(router)
    for path, query, listed, count in (
        ("/durable-receivers", {"topic": "common"}, "receivers", 1_000),
        ("/durable-receivers", {"topic": "common"}, "groups", 1_000),
        ("/shared-groups", {"limit": "1000"}, "groups", 1_000),
        ("/shared-group", {"name": "g/common"}, "list", 1_000),
    ):
        answer, longest = await longest_piece(
            lambda path=path, query=query: ask(pages[path], **query)  # type: ignore[misc]  # binds now
        )
        assert len(answer[listed]) == count, path
        assert longest.instructions < 100_000, path
        assert longest.json_bytes < 65_536, path
