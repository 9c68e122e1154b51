"""The five stories of a client that gets nothing, as the API tells them of a real broker.

Input: clients that do what devices do wrong. Output: the first sentence and its advice. Sentences
by themselves are in ``unit/record/test_why.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support.broker import Tidegate
from support.console import Api, with_console
from support.paho_client import V5, PahoClient
from support.waiting import wait_for

DEADLINE_S = 20.0
ACL = "topic readwrite open/#\n"


@pytest.fixture(scope="module")
def broker() -> Iterator[Tidegate]:
    """One process with a console, an ACL and small queues."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        (directory / "acl").write_text(ACL)
        settings: dict[str, Any] = {
            "listeners": [{"name": "tcp", "port": 0}],
            "auth": {"allow_anonymous": True, "acl_file": "acl"},
            "limits": {"max_queued_messages": 3},
            "store": {"data_dir": "data"},
            "admin": {"port": 0},
            "console": {"port": 0},
        }
        found = Tidegate(directory, settings, [], with_console())
        try:
            found.start()
            yield found
        finally:
            found.cleanup()


@pytest.fixture(scope="module")
def api(broker: Tidegate) -> Api:
    """A caller of the API, once the console has its store."""
    api = Api.of(broker)
    wait_for(lambda: api.get("/events").status == 200, DEADLINE_S, "the store")
    return api


def why(api: Api, client_id: str, begins: str, topic: str = "") -> dict[str, Any]:
    """Return the first sentence about a client, once it begins so."""
    query = f"?topic={quote(topic)}" if topic else ""
    last: list[Any] = []

    def found() -> dict[str, Any] | None:
        reply = api.get(f"/clients/{quote(client_id)}/why{query}")
        assert reply.status == 200, reply
        last[:] = reply.body["sentences"]
        first: dict[str, Any] = last[0]
        return first if first["text"].startswith(begins) else None

    try:
        sentence = wait_for(found, DEADLINE_S, begins)
    except AssertionError:
        pytest.fail(f"not {begins!r} but {last}")
    assert sentence is not None
    assert sentence["severity"] == "error"
    return sentence


def test_wrong_acl(broker: Tidegate, api: Api) -> None:
    client = PahoClient(broker, "acl", protocol=V5)
    assert client.subscribe("plant/#", 1) == [0x87]
    found = why(api, "acl", "its subscription to plant/# was refused")
    assert "add `topic read plant/#`" in found["advice"]
    client.disconnect()


def test_full_queue(broker: Tidegate, api: Api) -> None:
    client = PahoClient(broker, "queue", protocol=V5, session_expiry_s=600)
    client.subscribe("open/queue", 1)
    client.disconnect()
    publisher = PahoClient(broker, "publisher", protocol=V5)
    for number in range(5):
        publisher.publish("open/queue", b"%d" % number, 1)
    publisher.disconnect()
    found = why(api, "queue", "its queue is full: 3 of 3 messages wait, the oldest since 20")
    assert "limits.max_queued_messages" in found["advice"]


def test_kicked_by_its_twin(broker: Tidegate, api: Api) -> None:
    twins = [PahoClient(broker, "twin", protocol=V5) for _ in range(4)]
    found = why(api, "twin", "two clients use this client identifier: 3 times in ")
    assert "a client identifier of its own" in found["advice"]
    events = api.get("/clients/twin/events").body["items"]
    newest = next(event for event in events if event["kind"] == "connected")
    taken_over = next(event for event in events if event["kind"] == "taken_over")
    assert taken_over["detail"] == f"from {newest['address']} at {newest['edge']}"
    for twin in twins:
        twin.disconnect()


def test_expired_session(broker: Tidegate, api: Api) -> None:
    client = PahoClient(broker, "expired", protocol=V5, session_expiry_s=1)
    client.subscribe("open/x", 1)
    client.disconnect()
    why(api, "expired", "its session expired at ")
    back = PahoClient(broker, "expired", protocol=V5, session_expiry_s=600)
    found = why(api, "expired", "its session expired at ")
    assert "has to subscribe again" in found["advice"]
    back.disconnect()


def test_wrong_filter(broker: Tidegate, api: Api) -> None:
    client = PahoClient(broker, "filter", protocol=V5)
    client.subscribe("open/Plant/+", 1)
    found = why(api, "filter", "its subscription does not match open/plant/7", "open/plant/7")
    assert found["advice"] == "open/Plant/+: upper and lower case differ"
    client.disconnect()
