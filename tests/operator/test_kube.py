"""Talking to the API server: what is asked for, what answers mean, and kopf's small part."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import kopf
import pytest
from aiohttp import web

from support.brokers import pair, rendered, spec_of
from support.fake_kube_api import FakeKubeApi
from support.virtual_time import run_virtual
from support.waiting import wait_for_async
from tidegate.runtime.telemetry import log as logs
from tidegate_operator import __main__ as command
from tidegate_operator import handlers, names
from tidegate_operator.kube import client
from tidegate_operator.kube.api_server import tls_context
from tidegate_operator.kube.cache import CachedCluster
from tidegate_operator.kube.client import KubeApi, collection_path, object_path
from tidegate_operator.kube.interface import Event, KubeError, KubeUnavailable, Listed
from tidegate_operator.plan import MANAGED_KINDS, OPTIONAL_KINDS, ObjectRef
from tidegate_operator.reconcile.reconciler import Outcome
from tidegate_operator.spec import backup_crd, crd

BROKER = {"metadata": {"name": "demo", "namespace": "iot", "uid": "u"}}


@dataclass
class Asked:
    """One request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """Answers as a test says, and remembers what it was asked."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], web.StreamResponse | Any] = lambda _: {}
    token: str = "first"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        asked = Asked(
            request.method,
            request.path,
            dict(request.query),
            dict(request.headers),
            json.loads(text) if text else None,
        )
        self.asked.append(asked)
        found = self.answer(asked)
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = runner.addresses[0]
    found.url = f"http://{address[0]}:{address[1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[int]:
    """Return after how many requests it was paused before a list; nobody waits."""
    found: list[int] = []

    async def pause() -> None:
        found.append(len(server.asked))

    monkeypatch.setattr(client, "relist_pause", pause)
    return found


@pytest.fixture
async def api(server: Server, pauses: list[int]) -> AsyncIterator[KubeApi]:
    async def log_in() -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=server.url, scheme="Bearer", token=server.token)

    async with KubeApi(log_in) as found:
        yield found


def refusal(status: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message}, status=status)


# What is asked for


async def test_an_object_is_applied_by_its_owner_of_fields(server: Server, api: KubeApi) -> None:
    manifest = rendered(spec_of())[-1]
    await api.apply(manifest)
    await api.apply(manifest, dry_run=True)
    first, second = server.asked
    assert first.method == "PATCH"
    assert first.path == (
        "/apis/monitoring.coreos.com/v1/namespaces/iot/servicemonitors/demo-metrics"
    )
    assert first.headers["Content-Type"] == "application/apply-patch+yaml"
    assert first.headers["Authorization"] == "Bearer first"
    assert first.query == {
        "fieldManager": "tidegate-operator",
        "force": "true",
        "fieldValidation": "Strict",
    }
    assert first.body == manifest
    assert second.query["dryRun"] == "All"


async def test_one_object_is_read_or_is_not_there(server: Server, api: KubeApi) -> None:
    server.answer = lambda asked: {"x": 1} if asked.path.endswith("/a") else refusal(404, "no")
    assert await api.read(ObjectRef("v1", "Secret", "a"), "iot") == {"x": 1}
    assert await api.read(ObjectRef("v1", "Secret", "b"), "iot") is None
    assert await api.broker("iot", "b") is None
    assert server.asked[-1].path == "/apis/tidegate.io/v1alpha1/namespaces/iot/mqttbrokers/b"


async def test_children_are_listed_by_label_in_every_kind_page_by_page(
    server: Server, api: KubeApi
) -> None:
    def answer(asked: Asked) -> Any:
        if asked.path == "/apis/cert-manager.io/v1":
            return {"resources": [{"kind": "Certificate"}]}
        if asked.path == "/apis/monitoring.coreos.com/v1":
            return refusal(404, "no")
        if asked.path.endswith("/secrets") and "continue" not in asked.query:
            return {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "s1"}}]}
        name = "s2" if "continue" in asked.query else "x"
        return {"metadata": {}, "items": [{"metadata": {"name": name}}]}

    server.answer = answer
    found = await api.children("iot", "demo")
    kinds = [one["kind"] for one in found]
    assert set(kinds) == {kind for _, kind in MANAGED_KINDS} | {"Certificate"}
    assert [one["metadata"]["name"] for one in found if one["kind"] == "Secret"] == ["s1", "s2"]
    lists = [asked for asked in server.asked if "limit" in asked.query]
    assert {asked.query["labelSelector"] for asked in lists} == {
        "app.kubernetes.io/instance=demo,app.kubernetes.io/managed-by=tidegate-operator"
    }
    assert await api.optional_kinds() == {"Certificate": "cert-manager.io/v1"}


async def test_kinds_that_may_not_be_looked_up_are_not_there(server: Server, api: KubeApi) -> None:
    server.answer = lambda _: refusal(403, "forbidden")
    assert await api.optional_kinds() == {}
    count = len(server.asked)
    assert await api.optional_kinds() == {}
    assert len(server.asked) == count == len({version for version, _ in OPTIONAL_KINDS})


@pytest.mark.parametrize(
    ("groups", "sets_users"),
    [(["apps", "security.openshift.io"], True), (["apps", "route.openshift.io"], False)],
)
async def test_openshift_has_an_api_group_of_its_own(
    server: Server, api: KubeApi, groups: list[str], sets_users: bool
) -> None:
    server.answer = lambda _: {"groups": [{"name": name} for name in groups]}
    assert await api.platform_sets_users() is sets_users
    assert server.asked[-1].path == "/apis"


async def test_groups_that_may_not_be_read_are_no_failure(server: Server, api: KubeApi) -> None:
    server.answer = lambda _: refusal(403, "forbidden")
    assert await api.platform_sets_users() is False
    server.answer = lambda _: refusal(503, "later")
    with pytest.raises(KubeUnavailable):
        await api.platform_sets_users()


async def test_pods_and_brokers_are_listed(server: Server, api: KubeApi) -> None:
    server.answer = lambda _: {"metadata": {}, "items": []}
    await api.pods("iot", "demo")
    await api.brokers()
    pods, brokers = server.asked
    assert pods.path == "/api/v1/namespaces/iot/pods"
    assert "app.kubernetes.io/instance=demo" in pods.query["labelSelector"]
    assert brokers.path == "/apis/tidegate.io/v1alpha1/mqttbrokers"
    assert "labelSelector" not in brokers.query


async def test_deleting_takes_just_that_object(server: Server, api: KubeApi) -> None:
    await api.delete(ObjectRef("apps/v1", "StatefulSet", "demo-redis"), "iot", "uid-7")
    (asked,) = server.asked
    assert asked.method == "DELETE"
    assert asked.body["preconditions"] == {"uid": "uid-7"}
    for status in (404, 409):
        server.answer = lambda _, code=status: refusal(code, "gone, or another one")  # type: ignore[misc] # a default argument binds it
        await api.delete(ObjectRef("v1", "Secret", "x"), "iot", "uid")
    server.answer = lambda _: refusal(403, "forbidden")
    with pytest.raises(KubeError):
        await api.delete(ObjectRef("v1", "Secret", "x"), "iot", "uid")


async def test_a_pod_is_told_what_it_shall_find(server: Server, api: KubeApi) -> None:
    await api.annotate_pod("iot", "demo-edge-x", "uid-1", "abc")
    (asked,) = server.asked
    assert asked.method == "PATCH"
    assert asked.path == "/api/v1/namespaces/iot/pods/demo-edge-x"
    assert asked.headers["Content-Type"] == "application/apply-patch+yaml"
    assert asked.query["fieldManager"] == "tidegate-operator-pods"
    # The uid keeps the server from making a pod that has gone.
    assert asked.body["metadata"] == {
        "name": "demo-edge-x",
        "namespace": "iot",
        "uid": "uid-1",
        "annotations": {names.CONFIGURATION: "abc"},
    }


async def test_the_status_is_replaced_as_a_whole(server: Server, api: KubeApi) -> None:
    await api.set_status("iot", "demo", {"connections": 3})
    (asked,) = server.asked
    assert asked.path.endswith("/namespaces/iot/mqttbrokers/demo/status")
    assert asked.headers["Content-Type"] == "application/json-patch+json"
    assert asked.body == [{"op": "add", "path": "/status", "value": {"connections": 3}}]
    server.answer = lambda _: refusal(404, "gone")
    await api.set_status("iot", "demo", {})
    server.answer = lambda _: refusal(403, "forbidden")
    with pytest.raises(KubeError):
        await api.set_status("iot", "demo", {})


async def test_an_event_names_the_broker_and_is_no_reason_to_fail(
    server: Server, api: KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    await api.record_event(BROKER, "Warning", "InvalidSpec", "x" * 2000)
    (asked,) = server.asked
    assert asked.path == "/api/v1/namespaces/iot/events"
    assert asked.body["involvedObject"]["uid"] == "u"
    assert len(asked.body["message"]) == 1024
    server.answer = lambda _: refusal(403, "forbidden")
    with caplog.at_level(logging.WARNING):
        await api.record_event(BROKER, "Normal", "Serving", "")
    assert "event rejected" in caplog.text


# What answers mean


async def test_the_servers_own_words_are_kept(server: Server, api: KubeApi) -> None:
    server.answer = lambda _: refusal(422, "spec.x: Invalid value")
    with pytest.raises(KubeError, match=r"spec\.x: Invalid value") as caught:
        await api.apply(rendered(spec_of())[0])
    assert caught.value.is_rejection
    server.answer = lambda _: web.Response(status=418, text="a teapot")
    with pytest.raises(KubeError, match="a teapot") as caught:
        await api.broker("iot", "demo")
    assert not caught.value.is_rejection


async def test_a_conflict_is_not_the_objects_fault(server: Server, api: KubeApi) -> None:
    server.answer = lambda _: refusal(409, "the object has been modified")
    with pytest.raises(KubeError) as caught:
        await api.apply(rendered(spec_of())[0])
    assert not caught.value.is_rejection
    server.answer = lambda _: refusal(400, "webhook x does not support dry run")
    with pytest.raises(KubeError) as caught:
        await api.apply(rendered(spec_of())[0], dry_run=True)
    assert caught.value.is_unsupported_dry_run
    with pytest.raises(KubeError):
        await api.optional_kinds()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_is_busy_is_tried_later(
    server: Server, api: KubeApi, status: int
) -> None:
    server.answer = lambda _: refusal(status, "later")
    with pytest.raises(KubeUnavailable, match="later"):
        await api.broker("iot", "demo")


@pytest.mark.parametrize(
    "text",
    [
        "failed to create typed patch object (a/b; apps/v1, Kind=Deployment): .spec.x: unknown",
        "failed to convert new object (a/b; apps/v1, Kind=Deployment) to proper version: .spec.x",
    ],
)
async def test_what_the_server_cannot_read_is_no_failure_of_the_server(
    text: str, server: Server, api: KubeApi
) -> None:
    """It is answered with 500 all the same; a misspelled podTemplate would be tried for ever."""
    server.answer = lambda _: refusal(500, text)
    with pytest.raises(KubeError, match=r"\.spec\.x") as caught:
        await api.broker("iot", "demo")
    assert caught.value.is_rejection


async def test_a_webhook_that_is_away_is_named(server: Server, api: KubeApi) -> None:
    """With nothing but a line in the operator's log, nobody would know why a broker never comes."""
    text = 'Internal error occurred: failed calling webhook "x.example": connection refused'
    server.answer = lambda _: refusal(500, text)
    with pytest.raises(KubeError, match=r"x\.example") as caught:
        await api.apply(rendered(spec_of())[0])
    assert caught.value.is_rejection
    assert not KubeError(500, "etcd is busy").is_rejection


async def test_a_server_that_is_not_there_is_tried_later(api: KubeApi, server: Server) -> None:
    async def nowhere() -> kopf.ConnectionInfo:
        # Nobody can listen on port 1 without being asked to.
        return kopf.ConnectionInfo(server="http://127.0.0.1:1")

    async with KubeApi(nowhere) as other:
        with pytest.raises(KubeUnavailable, match="API server unreachable"):
            await other.broker("iot", "demo")
    server.answer = lambda _: web.Response(text="not json")
    with pytest.raises(KubeUnavailable):
        await api.broker("iot", "demo")


async def test_a_token_that_has_ended_is_replaced(server: Server, api: KubeApi) -> None:
    server.token = "second"

    def answer(asked: Asked) -> Any:
        good = asked.headers["Authorization"] == "Bearer second"
        return {"name": "demo"} if good else refusal(401, "Unauthorized")

    server.answer = answer
    assert await api.broker("iot", "demo") == {"name": "demo"}
    server.answer = lambda _: refusal(401, "Unauthorized")
    with pytest.raises(KubeError, match="Unauthorized"):
        await api.broker("iot", "demo")


async def test_changes_are_yielded_and_gone_on_with_where_they_ended(
    server: Server, api: KubeApi
) -> None:
    def event(kind: str, name: str, version: int) -> dict[str, Any]:
        metadata = {"name": name, "resourceVersion": str(version)}
        return {"type": kind, "object": {"metadata": metadata}}

    answers = [
        [event("MODIFIED", "a", 78), event("BOOKMARK", "", 90)],
        [event("DELETED", "b", 91)],
        [{"type": "ERROR", "object": {"code": 410}}, event("ADDED", "never", 92)],
        [event("ADDED", "c", 101)],
    ]
    newest = ["77", "100"]

    def answer(asked: Asked) -> Any:
        if "watch" not in asked.query:
            return {"metadata": {"resourceVersion": newest.pop(0)}, "items": []}
        lines = answers.pop(0)
        return web.Response(body=b"".join(json.dumps(one).encode() + b"\n" for one in lines))

    server.answer = answer
    found: list[str | None] = []
    async with contextlib.aclosing(
        api.watch_metadata("v1", "Secret", "", handlers.OWN_SELECTOR)
    ) as changes:
        async for one in changes:
            found.append(None if one is None else one["metadata"]["name"])
            if found[-1] == "c":
                break
    assert found == [None, "a", "b", None, "c"]
    watches = [asked for asked in server.asked if "watch" in asked.query]
    assert [asked.query["resourceVersion"] for asked in watches] == ["77", "90", "91", "100"]
    assert watches[0].path == "/api/v1/secrets"
    assert watches[0].query["labelSelector"] == "app.kubernetes.io/managed-by=tidegate-operator"
    assert "PartialObjectMetadata" in watches[0].headers["Accept"]


async def test_everything_is_listed_and_then_followed(server: Server, api: KubeApi) -> None:
    def event(kind: str, name: str, version: int) -> dict[str, Any]:
        return {"type": kind, "object": thing(name, version)}

    def thing(name: str, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "resourceVersion": str(version)}}

    answers = [
        [event("MODIFIED", "a", 78), event("BOOKMARK", "", 90), event("DELETED", "a", 91)],
        [{"type": "ERROR", "object": {"code": 410}}],
        [event("ADDED", "c", 101)],
    ]
    pages = [
        {"metadata": {"resourceVersion": "77", "continue": "more"}, "items": [thing("a", 70)]},
        {"metadata": {"resourceVersion": "77"}, "items": [thing("b", 71)]},
        {"metadata": {"resourceVersion": "100"}, "items": []},
    ]

    def answer(asked: Asked) -> Any:
        if "watch" not in asked.query:
            return pages.pop(0)
        return web.Response(
            body=b"".join(json.dumps(one).encode() + b"\n" for one in answers.pop(0))
        )

    server.answer = answer
    found: list[tuple[Any, ...]] = []

    def keep(one: dict[str, Any]) -> dict[str, Any]:
        assert one["apiVersion"] == "v1"
        return one | {"kept": True}

    async with contextlib.aclosing(
        api.list_and_watch("v1", "Secret", "", handlers.OWN_SELECTOR, keep)
    ) as news:
        async for one in news:
            if isinstance(one, Listed):
                found.append((one.version, *(each["metadata"]["name"] for each in one.objects)))
                assert all(each["kind"] == "Secret" and each["kept"] for each in one.objects)
            else:
                found.append((one.manifest["metadata"]["name"], one.is_deleted))
                assert one.manifest["kept"]
                if one.manifest["metadata"]["name"] == "c":
                    break
    assert found == [("77", "a", "b"), ("a", False), ("a", True), ("100",), ("c", False)]
    watches = [asked for asked in server.asked if "watch" in asked.query]
    assert [asked.query["resourceVersion"] for asked in watches] == ["77", "91", "100"]
    assert {asked.query["labelSelector"] for asked in server.asked} == {handlers.OWN_SELECTOR}
    assert watches[0].headers["Accept"] == "application/json"


def beginning(status: int) -> Callable[[Asked], Any]:
    """Answer that a watch may begin, and then refuse it."""
    start = {"metadata": {"resourceVersion": "1"}}
    return lambda asked: refusal(status, "no") if "watch" in asked.query else start


@pytest.mark.parametrize(("status", "error"), [(403, KubeError), (500, KubeUnavailable)])
async def test_a_watch_that_is_refused_or_breaks_is_an_error(
    server: Server, api: KubeApi, status: int, error: type[Exception]
) -> None:
    server.answer = beginning(status)
    changes = api.watch_metadata("v1", "Secret", "", handlers.OWN_SELECTOR)
    assert await anext(changes) is None
    with pytest.raises(error):
        await anext(changes)


async def test_new_credentials_do_not_cut_a_watch_off(server: Server, api: KubeApi) -> None:
    more = asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        yield b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}\n'
        await more.wait()
        yield b'{"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "10"}}}\n'

    def answer(asked: Asked) -> Any:
        if "watch" in asked.query:
            return web.Response(body=lines())
        if asked.headers["Authorization"] != f"Bearer {server.token}":
            return refusal(401, "unknown")
        return {"metadata": {"resourceVersion": "7"}, "items": []}

    server.answer = answer
    changes = api.watch_metadata("v1", "Secret", "", handlers.OWN_SELECTOR)
    assert await anext(changes) is None
    waiting = asyncio.ensure_future(anext(changes))
    await wait_for_async(
        lambda: any("watch" in asked.query for asked in server.asked), 10, "a watch"
    )
    for number in range(5):
        server.token = f"token-{number}"
        # Many are refused at once, and one of them logs in.
        await asyncio.gather(*(api.broker("iot", "demo") for _ in range(4)))
        if number == 0:
            more.set()
            found = await asyncio.wait_for(waiting, 10)
            assert found is not None
            assert found["metadata"]["resourceVersion"] == "10"
    assert len(api._server._previous) == 2
    await changes.aclose()


async def test_a_watch_that_is_too_late_begins_again(server: Server, api: KubeApi) -> None:
    server.answer = beginning(410)
    changes = api.watch_metadata("v1", "Secret", "", handlers.OWN_SELECTOR)
    assert [await anext(changes), await anext(changes)] == [None, None]
    await changes.aclose()


@pytest.mark.parametrize("stream", ["watch_metadata", "list_and_watch"])
async def test_a_server_that_forgets_at_once_is_not_asked_without_a_pause(
    server: Server, api: KubeApi, pauses: list[int], stream: str
) -> None:
    error = json.dumps({"type": "ERROR", "object": {"code": 410}}).encode() + b"\n"
    start: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "items": []}
    server.answer = lambda asked: web.Response(body=error) if "watch" in asked.query else start
    keep = (lambda one: one,) if stream == "list_and_watch" else ()
    news = getattr(api, stream)("v1", "Secret", "", handlers.OWN_SELECTOR, *keep)
    for _ in range(4):
        await anext(news)
    await news.aclose()
    # Each time after a list and a watch.
    assert pauses == [2, 4, 6]


@pytest.mark.parametrize("stream", ["watch_metadata", "list_and_watch"])
async def test_a_watch_that_ends_at_once_is_not_begun_again_without_a_pause(
    server: Server, api: KubeApi, pauses: list[int], stream: str
) -> None:
    """Something between us and the server may end them so."""
    start: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "items": []}
    one = {"metadata": {"name": "x", "namespace": "iot", "resourceVersion": "2"}}
    told = json.dumps({"type": "ADDED", "object": one}).encode() + b"\n"

    def answer(asked: Asked) -> web.StreamResponse | Any:
        if "watch" not in asked.query:
            return start
        return web.Response(body=told if len(server.asked) > 4 else b"")

    server.answer = answer
    keep = (lambda one: one,) if stream == "list_and_watch" else ()
    news = getattr(api, stream)("v1", "Secret", "", handlers.OWN_SELECTOR, *keep)
    await anext(news)
    await anext(news)
    await news.aclose()
    # After each watch, and nothing is listed again.
    assert pauses == [2, 3, 4]


def test_the_pause_before_a_list_is_short() -> None:
    async def play() -> float:
        began_s = asyncio.get_running_loop().time()
        await client.relist_pause()
        return asyncio.get_running_loop().time() - began_s

    assert 0.5 <= run_virtual(play()) <= 5


def test_paths_are_those_of_the_api() -> None:
    assert collection_path("v1", "Pod", "") == "api/v1/pods"
    assert object_path("apps/v1", "Deployment", "iot", "a") == (
        "apis/apps/v1/namespaces/iot/deployments/a"
    )
    for api_version, kind in (*MANAGED_KINDS, *OPTIONAL_KINDS):
        assert collection_path(api_version, kind, "x")


def test_credentials_of_a_kubeconfig_are_used() -> None:
    made = pair("api")
    encoded = base64.b64encode(made.certificate).decode()
    context = tls_context(
        kopf.ConnectionInfo(
            server="https://api",
            ca_data=encoded,
            certificate_data=encoded,
            private_key_data=made.key,
        )
    )
    assert not isinstance(context, bool)
    assert context.check_hostname
    insecure = tls_context(kopf.ConnectionInfo(server="https://api", insecure=True))
    assert not isinstance(insecure, bool)
    assert not insecure.check_hostname
    assert tls_context(kopf.ConnectionInfo(server="http://api")) is True


# The CRD


async def test_an_older_definition_is_brought_up_to_date(server: Server, api: KubeApi) -> None:
    server.answer = lambda asked: (
        {"metadata": {"annotations": {names.CRD_REVISION: "0"}}} if asked.method == "GET" else {}
    )
    assert await handlers.upgrade_crd(api)
    written = [asked for asked in server.asked if asked.method == "PATCH"]
    assert [asked.body for asked in written] == [crd.definition(), backup_crd.definition()]
    for asked, name in zip(written, ("mqttbrokers", "mqttbackups"), strict=True):
        assert asked.path.endswith(f"/customresourcedefinitions/{name}.tidegate.io")


async def test_a_definition_that_is_not_there_is_made(server: Server, api: KubeApi) -> None:
    """Helm makes no new ones when it upgrades a release."""
    server.answer = lambda asked: refusal(404, "not found") if asked.method == "GET" else {}
    assert await handlers.upgrade_crd(api)
    assert [asked.method for asked in server.asked] == ["GET", "PATCH"] * 2


async def test_a_definition_whose_revision_somebody_has_spoilt_is_brought_up_to_date(
    server: Server, api: KubeApi
) -> None:
    server.answer = lambda asked: (
        {"metadata": {"annotations": {names.CRD_REVISION: "x"}}} if asked.method == "GET" else {}
    )
    assert await handlers.upgrade_crd(api)


async def test_a_newer_definition_and_one_that_may_not_be_seen_are_left_alone(
    server: Server, api: KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    revision = str(crd.REVISION)
    server.answer = lambda _: {"metadata": {"annotations": {names.CRD_REVISION: revision}}}
    assert not await handlers.upgrade_crd(api)
    assert [asked.method for asked in server.asked] == ["GET", "GET"]
    server.answer = lambda _: refusal(403, "forbidden")
    with caplog.at_level(logging.WARNING):
        assert not await handlers.upgrade_crd(api)
    assert "CRD upgrade rejected" in caplog.text


# kopf's part


def test_kopf_adds_no_finalizers_and_no_annotations() -> None:
    """It would for every kind of handler but those for events."""
    registry = handlers.register(handlers.Operator(handlers.Options("image", "ns")))
    assert len(list(registry._watching.get_all_handlers())) == 1
    for others in (registry._changing, registry._spawning, registry._indexing):
        assert list(others.get_all_handlers()) == []


async def test_a_broker_that_is_seen_before_the_start_is_no_failure() -> None:
    handlers.Operator(handlers.Options("image", "ns")).enqueue("iot", "demo")


def test_a_broker_is_news_when_its_generation_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own writes of its status are not."""
    operator = handlers.Operator(handlers.Options("image", "ns"))
    news: list[str] = []
    monkeypatch.setattr(operator, "enqueue", lambda _, name: news.append(name))
    for generation in (1, 1, 2, 2, None, None, 1, 1):
        state = None if generation is None else ("u", generation)
        operator.broker_changed("iot", f"{generation}", state)
        operator.broker_changed("iot", "demo", state)
    assert [name for name in news if name == "demo"] == ["demo"] * 5


def test_a_broker_that_was_made_again_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its watch was down, nobody has told that the first one has gone."""
    operator = handlers.Operator(handlers.Options("image", "ns"))
    news: list[str] = []
    monkeypatch.setattr(operator, "enqueue", lambda _, name: news.append(name))
    registry = handlers.register(operator)
    (handler,) = registry._watching.get_all_handlers()
    told: Any = handler.fn

    async def tell(uid: str) -> None:
        metadata = {"name": "demo", "namespace": "iot", "uid": uid, "generation": 1}
        await told(event={"type": None, "object": {"metadata": metadata}})

    for uid in ("a", "a", "b", "b"):
        asyncio.run(tell(uid))
    assert news == ["demo", "demo"]


async def test_a_broker_that_is_found_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = handlers.Operator(handlers.Options("image", "ns"))
    key, old, new = ("iot", "demo"), ("a", 1), ("b", 1)
    requeue_after_s: float | None = None
    comes: handlers.BrokerVersion | None = None

    class FakeHandlers:
        async def reconcile(self, namespace: str, name: str) -> Outcome:
            if comes is not None:
                operator.broker_changed(namespace, name, comes)
            return Outcome(requeue_after_s)

    monkeypatch.setattr(operator, "_reconciler", FakeHandlers())
    operator.broker_changed(*key, old)
    assert await operator._work(key) is None
    assert operator._versions == {}
    # It comes back after it was found gone.
    operator.broker_changed(*key, old)
    comes = new
    await operator._work(key)
    assert operator._versions == {key: new}
    requeue_after_s, comes = 60.0, None
    assert await operator._work(key) == 60
    assert operator._versions == {key: new}


async def test_the_operator_works_on_what_it_sees_until_it_stops(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()

    def answer(request: Asked) -> Any:
        if request.path.endswith("/mqttbrokers/demo"):
            asked.set()
            return refusal(404, "gone")
        return {"metadata": {"resourceVersion": "1", "annotations": {}}, "items": []}

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=server.url)

    server.answer = answer
    monkeypatch.setattr(handlers, "log_in", log_in)
    operator = handlers.Operator(handlers.Options("image", "ns"))
    with caplog.at_level(logging.CRITICAL):
        await operator.start()
        operator.enqueue("iot", "demo")
        await asyncio.wait_for(asked.wait(), 5)
        await operator.stop()


async def test_brokers_are_looked_for_until_they_can_be_listed(
    server: Server, api: KubeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """kopf looks once which kinds there are: a CRD that comes later would never be served."""
    monkeypatch.setattr(handlers, "RETRY_S", 0.0)
    answers: list[Any] = [refusal(404, "the server could not find it"), refusal(503, "later")]
    empty: dict[str, Any] = {"metadata": {}, "items": []}
    server.answer = lambda _: answers.pop(0) if answers else empty
    with caplog.at_level(logging.WARNING):
        await handlers.wait_for_crd(api, ["a", "b"])
    assert caplog.text.count("are the CRD and the roles installed") == 2
    assert [asked.path.split("/")[-2] for asked in server.asked[-2:]] == ["a", "b"]


async def test_a_watch_that_is_down_is_begun_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handlers, "RETRY_S", 0.0)
    runs = 0
    labels = {names.INSTANCE_LABEL: "demo", names.MANAGED_BY_LABEL: names.FIELD_MANAGER}
    metadata = {"name": "demo-edge", "namespace": "iot", "labels": labels}
    ours = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    others = ours | {"metadata": metadata | {"name": "users", "labels": None}}
    moved = ours | {"metadata": metadata | {"labels": labels | {names.INSTANCE_LABEL: "other"}}}

    async def stream() -> AsyncIterator[Listed | Event]:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise asyncio.CancelledError
        assert "Secret " in cache.watches_down()
        yield Listed([ours], "7")
        assert not cache.watches_down()
        # Known already, somebody else's, now another's, and gone.
        for event in (Event(ours), Event(others), Event(moved), Event(moved, is_deleted=True)):
            yield event
        raise KubeUnavailable("broken")

    cache = CachedCluster(FakeKubeApi(), ["Secret "])
    operator = handlers.Operator(handlers.Options("image", "ns"))
    seen: list[str] = []
    monkeypatch.setattr(operator, "enqueue", lambda _, name: seen.append(name))
    with caplog.at_level(logging.CRITICAL), pytest.raises(asyncio.CancelledError):
        await operator._watch_children(cache, "Secret", "", stream)
    assert seen == ["demo", "demo", "other", "other"] * 2


async def test_who_refers_to_what_has_changed_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handlers, "RETRY_S", 0.0)
    runs = 0

    async def changes() -> AsyncIterator[dict[str, Any] | None]:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise asyncio.CancelledError
        yield None
        for name in ("users", "other"):
            yield {"metadata": {"name": name, "namespace": "iot"}}
        raise KubeUnavailable("broken")

    cache = CachedCluster(FakeKubeApi(), ["users"])
    operator = handlers.Operator(handlers.Options("image", "ns"))
    operator._reference_index.update(("iot", "demo"), [("Secret", "users")])
    seen: list[str] = []
    monkeypatch.setattr(operator, "enqueue", lambda _, name: seen.append(name))
    with caplog.at_level(logging.CRITICAL), pytest.raises(asyncio.CancelledError):
        await operator._watch_references(cache, "users", "Secret", changes)
    assert seen == ["demo", "demo"]
    assert cache.watches_down() == {"users"}


async def test_without_credentials_nothing_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(kopf.LoginError):
        await handlers.log_in()


def test_the_command_line_reaches_kopf(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(kopf, "run", lambda **options: given.update(options))
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.delenv("LOGNAME")
    command.main(["--image", "i", "--watch", "a", "--watch", "b"])
    assert given["namespaces"] == ["a", "b"]
    assert given["clusterwide"] is False
    assert given["standalone"] is True
    # A container's user may have no name, which kopf would fail at.
    assert os.environ["LOGNAME"]
    command.main(["--image", "i"])
    assert given["clusterwide"] is True
