"""What an edge answers the console: receivers, rights, publishes, deletions, samples.

Inputs: requests to the pages of a lone edge with real clients. Observed: the answers, and what
reaches the router.
"""

from __future__ import annotations

import asyncio
import base64
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.lone_edge import LoneEdge
from support.virtual_time import in_virtual_time, turns
from tidegate.edge.inspection.pages import handlers_of
from tidegate.edge.inspection.sampling import MOST_SAMPLES
from tidegate.mqtt.packets import Publish
from tidegate.runtime.admin.control import Page
from tidegate.runtime.admin.http import HttpError, Request

ACL = "user ann\ntopic read plant/#\npattern read own/%c\n"


async def ask(page: Page, method: str = "GET", content: Any = None, **query: str) -> Any:
    body = b"" if content is None else json.dumps(content).encode()
    response = await page(Request(method, "/page", query, {}, body))
    assert response.status == HTTPStatus.OK
    return json.loads(response.body)


def refused(error: pytest.ExceptionInfo[HttpError]) -> tuple[int, str]:
    return error.value.response.status.value, error.value.response.body.decode()


@in_virtual_time
async def test_receivers_are_named_with_their_filters_and_the_acls_answer(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text(ACL)
    auth = {"allow_anonymous": True, "acl_file": str(acl)}
    async with LoneEdge(auth=auth) as lone:
        pages = handlers_of(lone.edge)
        ann = await lone.connect("a", username="ann")
        ann.send(mqtt_bytes.subscribe(1, [("plant/+", 1), ("plant/#", 2), ("else/#", 0)]))
        await turns()
        answer = await ask(pages["/connected-receivers"], topic="plant/x")
        (receiver,) = answer["receivers"]
        assert (receiver["client_id"], receiver["username"]) == ("a", "ann")
        assert receiver["filters"] == ["plant/#", "plant/+"]
        assert (receiver["qos"], receiver["acl"], answer["more"]) == (2, "allowed", False)
        acl.write_text("user ann\ntopic read else/#\n")
        lone.edge.context.authorizer.reload(acl)
        lone.edge.authorization_changed()
        (receiver,) = (await ask(pages["/connected-receivers"], topic="plant/x"))["receivers"]
        assert receiver["acl"] == "denied"
        (found,) = (await ask(pages["/subscribers"], filter="plant/#"))["subscriptions"]
        assert (found["client_id"], found["filter"], found["qos"]) == ("a", "plant/#", 2)
        with pytest.raises(HttpError):
            await ask(pages["/connected-receivers"], topic="a/+")


@in_virtual_time
async def test_clients_are_found_in_the_order_of_their_keys() -> None:
    listeners = [{"name": "a", "mount_point": "m/"}]
    async with LoneEdge(listeners=listeners) as lone:
        for name in ("b", "ab", "a"):
            await lone.connect(name, username="ann" if name == "b" else None)
        page = handlers_of(lone.edge)["/find-clients"]

        async def names(**query: str) -> list[str]:
            return [one["client_id"] for one in (await ask(page, **query))["clients"]]

        assert await names() == ["a", "ab", "b"]
        answer = await ask(page, limit="2")
        assert ([one["client_id"] for one in answer["clients"]], answer["more"]) == (
            ["a", "ab"],
            True,
        )
        assert await names(after=answer["clients"][-1]["key"]) == ["b"]
        assert await names(prefix="a") == ["a", "ab"]
        assert await names(user="ann") == ["b"]
        assert await names(user="") == ["a", "ab"]
        assert await names(mount_point="") == []
        assert await names(mount_point="m/", address="127.", listener="fake") == ["a", "ab", "b"]
        assert await names(listener="other") == []


@in_virtual_time
async def test_rights_of_clients_that_are_not_connected_are_those_of_their_listeners(
    tmp_path: Path,
) -> None:
    (tmp_path / "acl").write_text(ACL)
    (tmp_path / "all").write_text("topic read #\n")
    listeners: list[dict[str, Any]] = [
        {"name": "a"},
        {"name": "b", "port": 1, "mount_point": "m/", "acl_file": str(tmp_path / "all")},
        {"name": "c", "port": 2, "mount_point": "m/"},
    ]
    auth = {"allow_anonymous": True, "acl_file": str(tmp_path / "acl")}
    async with LoneEdge(auth=auth, listeners=listeners) as lone:
        rights = handlers_of(lone.edge)["/rights"]
        clients = [
            {"client_id": "x", "username": "ann"},
            {"client_id": "x"},
            {"client_id": "x", "mount_point": "m/"},
            {"client_id": "x", "mount_point": "unknown/"},
        ]
        answer = await ask(rights, "POST", {"topic": "plant/x", "clients": clients})
        assert answer["rights"] == ["allowed", "denied", "depends", "denied"]
        answer = await ask(rights, "POST", {"topic": "own/x", "clients": clients[1:2]})
        assert answer["rights"] == ["allowed"]


@in_virtual_time
async def test_a_publish_of_the_console_waits_for_its_router_and_says_what_it_answered() -> None:
    async with LoneEdge(limits={"max_message_expiry_s": 60}) as lone:
        page, router = handlers_of(lone.edge)["/publish"], lone.router
        lone.now_ms = 1000
        router.answers_late = True
        value = {
            "topic": "t",
            "payload_base64": base64.b64encode(b"hello").decode(),
            "qos": 2,
            "retain": True,
            "properties": {"content_type": "text/plain", "user_properties": [["k", "v"]]},
        }
        waiting = asyncio.create_task(ask(page, "POST", value))
        await turns()
        origin, message = router.open[0]
        assert (message.topic, message.payload, message.qos, message.retain) == (
            *("t", b"hello"),
            *(2, True),
        )
        assert message.expires_at_ms == 61_000, "the longest that is allowed"
        assert (origin.client_id, origin.receipt(message)) == ("", -1)
        assert origin.identity(message), "a QoS 2 message that comes again is known"
        router.answer(code=0x97)
        assert await waiting == {"reason_code": 0x97, "reason": "quota_exceeded"}
        assert lone.counters.messages_received[2] == 1
        with pytest.raises(HttpError) as error:
            await ask(page, "POST", {"topic": "t", "qos": 1})
        assert refused(error)[0] == 503, "no router confirms it"
        lone.edge.pause_publishing()
        with pytest.raises(HttpError) as error:
            await ask(page, "POST", {"topic": "t"})
        assert refused(error) == (503, "No router takes messages now.\n")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "topic is missing"),
        ({"topic": "a/+"}, "topic"),
        ({"topic": "$SYS/x"}, "$SYS"),
        ({"topic": "a\0"}, "$SYS"),
        ({"topic": "\ud800"}, "UTF-8"),
        ({"topic": "t", "qos": 3}, "qos"),
        ({"topic": "t", "qos": True}, "qos"),
        ({"topic": "t", "payload_base64": "§"}, "base64"),
        ({"topic": "t", "retain": True}, "features.retain"),
        ({"topic": "t", "payload_base64": "A" * 4096}, "max_packet_size_bytes"),
        ({"topic": "t", "properties": {"user_properties": [1]}}, "properties"),
        ({"topic": "t", "properties": {"content_type": "x" * 70_000}}, "properties"),
        ({"topic": "t", "properties": {"payload_format": 2}}, "properties"),
        ({"topic": "t", "properties": {"response_topic": "a/#"}}, "properties"),
    ],
)
@in_virtual_time
async def test_a_message_that_cannot_be_published_is_refused_with_a_sentence(
    value: Any, words: str
) -> None:
    settings = {"limits": {"max_packet_size_bytes": 1024}, "features": {"retain": False}}
    async with LoneEdge(**settings) as lone:
        with pytest.raises(HttpError) as error:
            await ask(handlers_of(lone.edge)["/publish"], "POST", value)
        assert words in refused(error)[1]
        assert not lone.router.published


@in_virtual_time
async def test_deleting_stops_where_routers_take_no_more() -> None:
    async with LoneEdge() as lone:
        page = handlers_of(lone.edge)["/retained"]

        def pause(message: Publish) -> None:
            if message.topic == "b":
                lone.edge.pause_publishing()

        lone.router.on_publish = pause
        assert await ask(page, "DELETE", {"topics": ["a", "b", "c"]}) == {"published": 2}
        assert [(one.topic, one.payload, one.retain) for one in lone.router.published] == [
            ("a", b"", True),
            ("b", b"", True),
        ]


@in_virtual_time
async def test_a_sample_has_what_fits_its_rate_and_counts_the_rest() -> None:
    async with LoneEdge() as lone:
        page, router = handlers_of(lone.edge)["/sample"], lone.router
        response = await page(Request("GET", "/sample", {"filter": "a/#", "rate": "2"}, {}))
        stream = response.stream
        assert stream is not None
        assert json.loads(await anext(stream)) == {"seen": 0, "skipped": 0}
        assert router.interest == {"a/#": False}
        for number in range(3):
            lone.edge.deliver(Publish("a/1", b"%d" % number + bytes(5000), qos=1), "someone")
        lone.edge.deliver(Publish("b"), "someone")
        first, second = (await anext(stream)).splitlines()
        message = json.loads(first)
        assert (message["topic"], message["qos"], message["payload_size_bytes"]) == ("a/1", 1, 5001)
        assert len(base64.b64decode(message["payload_base64"])) == 4096
        assert base64.b64decode(json.loads(second)["payload_base64"])[:1] == b"1"
        assert json.loads(await anext(stream)) == {"seen": 3, "skipped": 1}
        lone.edge.deliver(Publish("a/2"), "someone")
        assert json.loads(await anext(stream))["topic"] == "a/2", "in the next second"
        await stream.aclose()
        assert not router.interest
        assert not lone.edge.registry.observers.all


@in_virtual_time
async def test_samples_are_limited_in_number() -> None:
    async with LoneEdge() as lone:
        page = handlers_of(lone.edge)["/sample"]
        request = Request("GET", "/sample", {"filter": "#"}, {})
        streams = [(await page(request)).stream for _ in range(MOST_SAMPLES)]
        with pytest.raises(HttpError) as error:
            await page(request)
        assert refused(error)[0] == 429
        assert streams[0] is not None
        await anext(streams[0])
        await streams[0].aclose()
        assert (await page(request)).stream is not None
