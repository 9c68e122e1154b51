"""Asking pods over their admin port: what they say, and what it means that they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from tidegate_operator.live_state import Pod
from tidegate_operator.pods import admin_client
from tidegate_operator.pods.admin_client import AdminClient
from tidegate_operator.pods.config_state import (
    UNAUTHORIZED,
    UNREACHABLE,
    PodReport,
    PollResult,
    ReportedConfig,
    ReportedFile,
)


@dataclass
class Server:
    """An admin port that answers as a test says."""

    port: int = 0
    asked: list[web.Request] = field(default_factory=list)
    answer: Callable[[], Awaitable[web.StreamResponse]] | web.StreamResponse | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if callable(self.answer):
            return await self.answer()
        assert self.answer is not None
        return self.answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AdminClient]:
    async with AdminClient(server.port) as found:
        yield found


def pod(name: str = "e1", address: str = "127.0.0.1") -> Pod:
    return Pod(name, "edge", "", True, False, "", address, f"uid-{name}")


async def test_pods_are_asked_with_the_token(server: Server, client: AdminClient) -> None:
    status = {
        "clients": 7,
        "configuration": {"digest": "abc", "problem": "", "restart_needed": [], "files": {}},
        # More than comes in one piece.
        "other": "x" * 300_000,
    }

    async def answer() -> web.StreamResponse:
        return web.json_response(status)

    server.answer = answer
    found = await client.poll([pod("e1"), pod("e2")], b"secret\n")
    expected = PodReport(PollResult.REPORTED, 7, ReportedConfig(ReportedFile("abc")))
    assert found == {"uid-e1": expected, "uid-e2": expected}
    assert [one.path for one in server.asked] == ["/status"] * 2
    assert server.asked[0].headers["Authorization"] == "Bearer secret"
    assert await client.poll([], b"") == {}


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (lambda: web.Response(status=401), UNAUTHORIZED),
        (lambda: web.Response(status=404), UNREACHABLE),
        (lambda: web.Response(status=302, headers={"Location": "/elsewhere"}), UNREACHABLE),
        (lambda: web.Response(text="no json"), UNREACHABLE),
        (lambda: web.Response(body=b"\xff\xfe"), UNREACHABLE),
        (lambda: web.Response(text="[" * 5_000), UNREACHABLE),
        (lambda: web.Response(body=b"[" + b" " * 2_000_000 + b"]"), UNREACHABLE),
        (lambda: web.json_response({"clients": []}), PodReport(PollResult.REPORTED)),
    ],
)
async def test_what_is_no_status_is_no_answer(
    server: Server,
    client: AdminClient,
    answer: Callable[[], web.Response],
    meaning: PodReport,
) -> None:
    server.answer = answer()
    assert await client.poll([pod()], b"t") == {"uid-e1": meaning}
    assert len(server.asked) == 1


async def test_a_pod_that_is_not_there_is_no_error(server: Server, client: AdminClient) -> None:
    # Nothing listens on another address of the loopback network.
    found = await client.poll([pod(address="127.9.9.9"), pod(address="::1")], b"t")
    assert set(found.values()) == {UNREACHABLE}


async def test_silent_pods_hold_nothing_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "TIMEOUT_S", 30.0)
    monkeypatch.setattr(admin_client, "ROUND_S", 0.2)

    async def hang() -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.answer = hang
    async with AdminClient(server.port) as client:
        assert await client.poll([pod()], b"t") == {}


async def test_an_edge_is_told_how_many_clients_to_let_go(
    server: Server, client: AdminClient
) -> None:
    for status in (200, 202):
        server.answer = web.json_response({"shedding": 30}, status=status)
        assert await client.shed(pod(), b"t", 40) == 30
    request = server.asked[0]
    assert (request.method, request.path_qs) == ("POST", "/shed?connections=40")
    assert request.headers["Authorization"] == "Bearer t"


async def test_an_edge_that_does_not_let_clients_go_is_no_error(
    server: Server, client: AdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    for answer in (web.Response(status=404), web.json_response({}), web.json_response([1])):
        server.answer = answer
        assert await client.shed(pod(), b"t", 40) is None
    assert caplog.text.count("rejected shed request") == 3
