"""What the operator says of itself, alone and as a whole with kopf and a cluster behind HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import kopf
import pytest
from aiohttp import web

from support.brokers import NAMESPACE, UID, spec_of
from support.fake_api import FakeApi
from support.fake_cluster import FakeCluster
from support.ports import free_port
from support.waiting import wait_for, wait_for_async
from tidegate_operator import handlers, names
from tidegate_operator.health import SERVED_TTL_S, OperatorHealth, admin_server

DEADLINE_S = 20.0


async def test_it_is_not_ready_before_it_has_started() -> None:
    health = OperatorHealth()
    assert await health.readiness() == (False, "starting")
    assert health.liveness() == (True, "alive")
    health.waiting_for = ""
    assert await health.readiness() == (True, "ready")


async def test_it_is_not_ready_while_something_is_not_watched() -> None:
    health = OperatorHealth()
    health.waiting_for = ""
    down = {"Secret iot", "Pod "}
    health.watches_down = lambda: down
    assert await health.readiness() == (False, "watches down: Pod, Secret iot")
    down.clear()
    assert (await health.readiness())[0]
    assert health.liveness()[0]


async def test_a_task_that_ended_is_worth_a_restart() -> None:
    health = OperatorHealth()
    health.waiting_for = ""
    health.fatal = "the queue has ended"
    assert health.liveness() == (False, "the queue has ended")
    assert await health.readiness() == (False, "the queue has ended")


async def test_it_asks_now_and_then_whether_brokers_are_served() -> None:
    health = OperatorHealth()
    health.waiting_for = ""
    asked = 0
    answer = "MqttBrokers cannot be listed: gone"

    async def ask() -> str:
        nonlocal asked
        asked += 1
        return answer

    health.check_served = ask
    for _ in range(3):
        assert await health.readiness() == (False, answer)
    assert asked == 1
    answer = ""
    health._served_until_s -= SERVED_TTL_S
    assert (await health.readiness())[0]
    assert asked == 2


async def test_reconciles_are_timed_and_counted_by_their_result() -> None:
    health = OperatorHealth()
    async with health.reconciling():
        pass
    health.reconciled(3, 1)
    async with health.reconciling():
        pass
    health.reconciled(0, 0)
    with contextlib.suppress(RuntimeError):
        async with health.reconciling():
            raise RuntimeError
    assert health.results == {"changed": 1, "unchanged": 1, "failed": 1}
    assert health.written == {"apply": 3, "delete": 1}
    assert health.duration.cumulative()[-1] == ("+Inf", 3.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_it_is_reached_over_both_families(host: str) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("no IPv6 here")
    port = free_port()
    server = admin_server(OperatorHealth(), "*", port)
    await server.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        found = await asyncio.to_thread(_page, f"http://{shown}:{port}", "/livez")
        assert found == (200, "alive\n")
    finally:
        await server.stop()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _page(url: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url + path) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextlib.asynccontextmanager
async def _running(monkeypatch: pytest.MonkeyPatch, api: FakeApi) -> AsyncIterator[str]:
    """The whole operator; yields where its pages are."""

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=api.url)

    monkeypatch.setattr(handlers, "log_in", log_in)
    served: list[str] = []
    make = admin_server

    def noted(health: OperatorHealth, address: str, port: int) -> Any:
        server = make(health, address, port)
        start = server.start

        async def start_and_note() -> None:
            await start()
            served.append(server.url)

        return _Started(server, start_and_note)

    monkeypatch.setattr(handlers, "admin_server", noted)
    operator = handlers.Operator(
        handlers.Options("image:1", "system", admin_address="127.0.0.1", admin_port=0)
    )
    stop = threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(
            kopf.operator(
                registry=handlers.register(operator),
                standalone=True,
                clusterwide=True,
                stop_flag=stop,
            )
        )
    )
    thread.start()
    try:
        await wait_for_async(lambda: bool(served), DEADLINE_S, "its pages")
        yield served[0]
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, DEADLINE_S)
        assert not thread.is_alive()


class _Started:
    """An admin server whose start is noted."""

    def __init__(self, server: Any, start: Any) -> None:
        self.start = start
        self.stop = server.stop
        self.url = ""


async def test_the_whole_operator_becomes_ready_and_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = FakeApi(FakeCluster())
    await api.start()
    key = (names.API_VERSION, names.KIND, NAMESPACE, "demo")
    api.cluster.objects[key] = {
        "apiVersion": key[0],
        "kind": key[1],
        "metadata": {
            "name": "demo",
            "namespace": NAMESPACE,
            "uid": UID,
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": spec_of(),
    }
    async with _running(monkeypatch, api) as url:
        await _eventually(url, "/readyz", lambda status, _: status == 200)
        assert await asyncio.to_thread(_page, url, "/livez") == (200, "alive\n")
        none = 'tidegate_operator_reconciles_total{result="changed"} 0.0'
        text = await _eventually(url, "/metrics", lambda _, text: none not in text)
        for line in (
            "tidegate_operator_brokers 1.0",
            "tidegate_operator_watches_down 0.0",
            'tidegate_operator_reconciles_total{result="failed"} 0.0',
            'tidegate_operator_api_requests_total{code="200",method="PATCH"}',
            'tidegate_operator_reconcile_duration_seconds_bucket{le="+Inf"}',
            'tidegate_build_info{role="operator"',
        ):
            assert line in text, line
        assert "tidegate_connections_open" not in text
    await api.stop()


class Away(FakeApi):
    """An API server that is too busy for a while."""

    away = True

    async def _object(self, request: web.Request) -> web.StreamResponse:
        return self._busy() if self.away else await super()._object(request)

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        return self._busy() if self.away else await super()._collection(request)

    def _busy(self) -> web.Response:
        return web.json_response({"message": "not now"}, status=503)


async def test_an_api_server_that_is_away_at_the_start_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handlers, "RETRY_S", 0.1)
    api = Away(FakeCluster())
    await api.start()
    async with _running(monkeypatch, api) as url:
        said = await _eventually(url, "/readyz", lambda status, text: "cannot be listed" in text)
        assert said
        assert await asyncio.to_thread(_page, url, "/livez") == (200, "alive\n")
        api.away = False
        await _eventually(url, "/readyz", lambda status, _: status == 200)
    await api.stop()


async def test_a_start_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf begins again after a minute: the port must be free then."""

    async def no_login(**_: Any) -> kopf.ConnectionInfo:
        raise kopf.LoginError("no token yet")

    monkeypatch.setattr(handlers, "log_in", no_login)
    port = free_port()
    options = handlers.Options("i", "system", admin_address="127.0.0.1", admin_port=port)
    registry = handlers.register(handlers.Operator(options))
    (handler,) = [
        one for one in registry._activities.get_all_handlers() if str(one.id).endswith("start")
    ]
    start: Any = handler.fn
    for _ in range(2):
        with pytest.raises(kopf.LoginError):
            await start(settings=kopf.OperatorSettings())
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def _eventually(url: str, path: str, is_so: Callable[[int, str], bool]) -> str:
    """Ask from a thread: the API server that the operator asks lives in this one."""

    def asked() -> tuple[str] | None:
        status, text = _page(url, path)
        return (text,) if is_so(status, text) else None

    found = await asyncio.to_thread(wait_for, asked, DEADLINE_S, f"{path} says so")
    assert found is not None
    return found[0]
