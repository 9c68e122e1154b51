"""Clients, topics and messages in the console's API, of real brokers.

Inputs: a cluster of two edges and two routers, and one process, with connected and offline
clients, shared and retained messages, an ACL. Observed: what the API says and changes, and what
clients get.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from support.broker import Tidegate
from support.console import Api, console_line, with_console
from support.paho_client import V5, PahoClient
from support.waiting import wait_for

DEADLINE_S = 20.0
ACL = """\
topic readwrite #
user ann
topic readwrite plant/#
"""


@pytest.fixture(scope="module", params=["cluster", "process"])
def broker(request: pytest.FixtureRequest) -> Iterator[Tidegate]:
    """Each shape of a broker on one machine, with a console."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        (directory / "acl").write_text(ACL)
        (directory / "tokens").write_text("admin first\nviewer looks\noperator acts\n")
        settings: dict[str, Any] = {
            "listeners": [{"name": "tcp", "port": 0}],
            "auth": {"allow_anonymous": True, "acl_file": "acl"},
            "store": {"data_dir": "data"},
            "admin": {"port": 0},
            "console": {"port": 0, "tokens_file": "tokens"},
        }
        if request.param == "cluster":
            settings["cluster"] = {"edges": 2, "routers": 2}
        found = Tidegate(directory, settings, [], with_console())
        try:
            found.start()
            yield found
        finally:
            found.cleanup()


@pytest.fixture(scope="module")
def api(broker: Tidegate) -> Api:
    """A caller who may do everything, once the console has its store."""
    api = Api(console_line(broker).split()[2], "first")
    wait_for(lambda: api.get("/retained").status == 200, DEADLINE_S, "the store")
    return api


def good(reply: Any) -> Any:
    assert reply.status < 400, reply
    return reply.body


def names(page: Any) -> list[str]:
    assert not page["missing"], page
    return [item["client_id"] for item in page["items"]]


def offline(broker: Tidegate, client_id: str, *filters: str, login: Any = None) -> None:
    """Leave a durable session."""
    client = PahoClient(broker, client_id, protocol=V5, session_expiry_s=600, login=login)
    for topic_filter in filters:
        client.subscribe(topic_filter, 1)
    client.disconnect()


def is_offline(api: Api, client_id: str) -> bool:
    reply = api.get(f"/clients/{quote(client_id, safe='')}")
    return reply.status == 200 and reply.body["state"] == "offline"


def test_clients_are_listed_connected_ones_first_and_searched(broker: Tidegate, api: Api) -> None:
    for number in range(5):
        offline(broker, f"list-off-{number}")
    with PahoClient(broker, "list-on", protocol=V5, session_expiry_s=60):
        wait_for(lambda: is_offline(api, "list-off-4"), DEADLINE_S, "all are offline")
        everything = names(good(api.get("/clients?prefix=list-")))
        assert everything[0] == "list-on"
        assert sorted(everything[1:]) == [f"list-off-{number}" for number in range(5)]
        found, after = [], ""
        while True:
            page = good(api.get(f"/clients?prefix=list-&limit=2&after={quote(after)}"))
            assert len(page["items"]) <= 2
            found += names(page)
            after = page["next"]
            if after is None:
                break
        assert sorted(found) == sorted(everything)
        assert names(good(api.get("/clients?prefix=list-&state=connected"))) == ["list-on"]
        assert names(good(api.get("/clients?prefix=list-&address=127.0.0.1"))) == ["list-on"]
        assert names(good(api.get("/clients?prefix=list-&listener=none"))) == []
        assert len(names(good(api.get("/clients?prefix=list-&state=offline")))) == 5
    assert api.get("/clients?after=nonsense").status == 400


def test_one_client_with_its_session_queue_window_and_subscriptions(
    broker: Tidegate, api: Api
) -> None:
    client_id = "one/with a slash"
    path = f"/clients/{quote(client_id, safe='')}"
    offline(broker, client_id, "one/+", "two")
    wait_for(lambda: is_offline(api, client_id), DEADLINE_S, "it is offline")
    before_s = time.time()
    with PahoClient(broker, "one-publisher") as publisher:
        for number in range(3):
            publisher.publish(f"one/{number}", b"x" * 300, 1)
    detail = good(api.get(path))
    assert (detail["client_id"], detail["connection"], detail["user"]) == (client_id, None, "")
    assert detail["session"]["queue"]["length"] == 3
    assert detail["session"]["subscription_count"] == 2
    assert detail["session"]["ends_at"] > 0
    queue = good(api.get(f"{path}/queue?limit=2"))
    assert [entry["topic"] for entry in queue["items"]] == ["one/0", "one/1"]
    assert queue["items"][0]["is_cut"]
    assert queue["items"][0]["payload_size_bytes"] == 300
    # Whole seconds of broker time.
    assert before_s - 2 < queue["items"][0]["queued_at"] < time.time() + 1
    assert detail["session"]["queue"]["oldest_at"] == queue["items"][0]["queued_at"]
    rest = good(api.get(f"{path}/queue?limit=2&after={queue['next']}"))
    assert ([entry["topic"] for entry in rest["items"]], rest["next"]) == (["one/2"], None)
    page = good(api.get(f"{path}/subscriptions"))
    assert [(item["filter"], item["qos"]) for item in page["items"]] == [("one/+", 1), ("two", 1)]
    found = good(api.get("/subscriptions?filter=one/%2B"))
    assert names(found) == [client_id]
    assert good(api.delete(f"{path}/queue")) == {"deleted": 3}
    assert 'dropped_total{reason="queue_cleared"} 3' in api.get("//metrics").body
    assert good(api.get(path))["session"]["queue"]["length"] == 0
    with PahoClient(broker, client_id, protocol=V5, clean=False, session_expiry_s=600):
        detail = good(api.get(path))
        assert detail["state"] == "connected"
        assert detail["connection"]["receive_maximum"] > 0
        assert detail["connection"]["edge"]
    good(api.delete(f"{path}/session"))
    assert api.get(path).status == 404
    assert api.get("/clients/nobody").reason == "not_found"


def test_disconnecting_needs_an_operator_and_is_in_the_audit(broker: Tidegate, api: Api) -> None:
    with PahoClient(broker, "kicked", protocol=V5) as client:
        assert Api(api.url, "looks").post("/clients/kicked/disconnect").status == 403
        assert Api(api.url, "acts").delete("/clients/kicked/session").status == 403
        good(Api(api.url, "acts").post("/clients/kicked/disconnect"))
        wait_for(lambda: client.disconnected is not None, DEADLINE_S, "it is disconnected")
    wait_for(
        lambda: api.post("/clients/kicked/disconnect").status == 404, DEADLINE_S, "it has gone"
    )
    (entry,) = [
        one
        for one in good(api.get("/audit"))["items"]
        if one["target"] == "kicked" and one["action"] == "disconnect client"
    ]
    assert entry["role"] == "operator"


def test_who_gets_a_message_is_said_with_the_acls_answer(broker: Tidegate, api: Api) -> None:
    offline(broker, "who-ann", "#", login=("ann", "x"))
    offline(broker, "who-bob", "secret/+")
    wait_for(lambda: is_offline(api, "who-ann"), DEADLINE_S, "it is offline")
    wait_for(lambda: is_offline(api, "who-bob"), DEADLINE_S, "it is offline")
    with PahoClient(broker, "who-carl") as carl, PahoClient(broker, "who-dora") as dora:
        carl.subscribe("secret/#", 0)
        dora.subscribe("$share/group/secret/x", 1)

        def receivers() -> dict[str, Any]:
            found = good(api.get("/topics/receivers?topic=secret/x"))
            assert not found["missing"]
            return {one["client_id"]: one for one in found["receivers"]} | {"all": found}

        wait_for(lambda: len(receivers()) >= 4, DEADLINE_S, "all are known")
        found = receivers()
        states = {
            name: (one["state"], one["acl"], one["filters"])
            for name, one in found.items()
            if name != "all"
        }
        assert states == {
            "who-ann": ("offline", "denied", ["#"]),
            "who-bob": ("offline", "allowed", ["secret/+"]),
            "who-carl": ("connected", "allowed", ["secret/#"]),
        }
        (group,) = found["all"]["groups"]
        assert (group["share_name"], group["filter"], group["connected"]) == (
            *("group", "secret/x"),
            1,
        )
        assert good(api.get("/topics/secret%2Fx/receivers")) == found["all"]
    good(api.delete("/clients/who-ann/session"))


def test_a_shared_group_has_its_members_with_what_is_unacknowledged(
    broker: Tidegate, api: Api
) -> None:
    offline(broker, "share-off", "$share/g/work/#")
    wait_for(lambda: is_offline(api, "share-off"), DEADLINE_S, "it is offline")
    with PahoClient(broker, "share-publisher") as publisher:
        for _ in range(3):
            publisher.publish("work/1", b"x", 1)
    groups = good(api.get("/shared-groups"))["items"]
    assert {"name": "g/work/#", "members": 1, "connected": 0}.items() <= groups[0].items()
    group = good(api.get("/shared-groups/g%2Fwork%2F%23"))
    (member,) = group["members"]
    assert (member["client_id"], member["state"], member["unacknowledged"]) == (
        *("share-off", "offline"),
        3,
    )
    assert api.get("/shared-groups/g%2Fnothing").status == 404
    good(api.delete("/clients/share-off/session"))


def test_retained_messages_are_published_shown_and_deleted(broker: Tidegate, api: Api) -> None:
    for number in range(30):
        body = {
            "topic": f"plant/{number % 3}/{number}",
            "payload": "23.5",
            "qos": 1,
            "retain": True,
        }
        published = good(api.post("/publish", body))
        assert published["reason_code"] in {0, 16}
    value = {
        "topic": "plant/value",
        "payload_base64": base64.b64encode(b"\0\1").decode(),
        "qos": 2,
        "retain": True,
        "properties": {"content_type": "application/cbor", "user_properties": [["k", "v"]]},
    }
    good(api.post("/publish", value))
    found = good(api.get("/retained/value?topic=plant/value"))
    assert (found["payload_base64"], found["content_type"]) == ("AAE=", "application/cbor")
    assert found["user_properties"] == [["k", "v"]]
    tree = good(api.get("/retained/tree?prefix=plant"))
    assert [(one["name"], one["topics"], one["has_value"]) for one in tree["children"]] == [
        ("0", 10, False),
        ("1", 10, False),
        ("2", 10, False),
        ("value", 1, True),
    ]
    assert len(good(api.get("/retained?filter=plant/%2B/%2B&limit=1000"))["items"]) == 30
    with PahoClient(broker, "retained-watcher") as watcher:
        watcher.subscribe("plant/0/#", 1)
        wait_for(lambda: len(watcher.messages) == 10, DEADLINE_S, "what is retained")
        assert good(api.delete("/retained?topic=plant/0/0"))["done"]
        wait_for(lambda: len(watcher.messages) == 11, DEADLINE_S, "that it is deleted")
        assert watcher.messages[-1].payload == b""
    assert api.delete("/retained?topic=plant/0/0").status == 404
    deletion = good(Api(api.url, "acts").post("/retained/deletions", {"filter": "plant/#"}))

    def done() -> Any:
        state = good(api.get(f"/retained/deletions/{deletion['id']}"))
        return state if state["state"] != "running" else None

    wait_for(lambda: done() is not None, DEADLINE_S, "the end of the deletion")
    assert {"state": "done", "deleted": 30, "progress": 1.0}.items() <= done().items()
    assert good(api.get("/retained?filter=plant/%23"))["items"] == []
    with PahoClient(broker, "retained-late") as late, PahoClient(broker, "retained-last") as last:
        late.subscribe("plant/#", 0)
        last.publish("plant/last", b"live", 1)
        wait_for(lambda: bool(late.messages), DEADLINE_S, "a live message")
        assert [message.topic for message in late.messages] == ["plant/last"]


def test_a_sample_has_messages_of_all_edges_as_events(broker: Tidegate, api: Api) -> None:
    parts = urlsplit(api.url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=DEADLINE_S)
    headers = {"Authorization": f"Bearer {api.token}"}
    connection.request("GET", "/api/v1/sample?filter=sampled/%23", headers=headers)
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("text/event-stream")
    with PahoClient(broker, "sampled-1") as one, PahoClient(broker, "sampled-2") as two:
        events: list[Any] = []
        topics: set[str] = set()
        kind = ""
        while len(topics) < 2:
            line = response.readline().decode().strip()
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
                if kind == "status":
                    # The interest reaches routers a moment after the sample has begun.
                    one.publish("sampled/1", b"x", 0)
                    two.publish("sampled/2", b"y", 1)
            elif line.startswith("data: ") and kind == "message":
                events.append(json.loads(line.removeprefix("data: ")))
                topics = {event["topic"] for event in events}
    response.close()
    connection.close()
    assert topics == {"sampled/1", "sampled/2"}
    assert api.get("/sample?filter=a/%23/b").status == 400


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/subscriptions", "filter or client"),
        ("/retained?filter=a%23", "filter"),
        ("/retained?after=x", "after"),
        ("/topics/receivers?topic=a/%2B", "topic"),
        ("/clients/a/queue?after=x", "after"),
        ("/clients/%00", "client identifier"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(api: Api, path: str, words: str) -> None:
    reply = api.get(path)
    assert (reply.status, reply.reason) == (400, "invalid")
    assert words in reply.body["error"]


def test_a_node_that_hangs_is_named_and_the_rest_is_there(broker: Tidegate, api: Api) -> None:
    edges = [pid for pid in broker.descendants() if is_edge(pid)]
    if not edges:
        pytest.skip("one process: without it there is nothing to ask")
    offline(broker, "behind", "behind/#")
    wait_for(lambda: is_offline(api, "behind"), DEADLINE_S, "it is offline")
    os.kill(edges[0], signal.SIGSTOP)
    try:
        page = good(api.get("/clients?prefix=behind"))
        missing = page["missing"]
        detail = good(api.get("/clients/behind"))
        receivers = good(api.get("/topics/receivers?topic=behind/x"))
        nobody = api.get("/clients/nobody-at-all")
    finally:
        os.kill(edges[0], signal.SIGCONT)
    assert [item["client_id"] for item in page["items"]] == ["behind"]
    assert len(missing) == 1
    assert missing[0].endswith(": timeout")
    assert (detail["state"], detail["missing"]) == ("offline", missing)
    assert [one["client_id"] for one in receivers["receivers"]] == ["behind"]
    assert receivers["missing"]
    # It may be connected to the edge that does not answer.
    assert (nobody.status, nobody.reason) == (503, "node_unavailable")
    wait_for(
        lambda: not good(api.get("/clients?prefix=behind"))["missing"], DEADLINE_S, "all answer"
    )
    good(api.delete("/clients/behind/session"))


def is_edge(pid: int) -> bool:
    """Whether a process is an edge of the cluster."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"edge" in words
