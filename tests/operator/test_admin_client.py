"""Asking pods over their admin port: what they say, and what it means that they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from support.virtual_time import in_virtual_time
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


class SlowClient(AdminClient):
    """A client whose pods take so long to answer, by their names; the others answer at once."""

    def __init__(self, **answer_s: float) -> None:
        super().__init__()
        self._answer_s = answer_s
        self.open = self.most_open = 0

    async def _status(self, pod: Pod, token: bytes) -> PodReport:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(self._answer_s.get(pod.name, 0))
        self.open -= 1
        return UNREACHABLE


@in_virtual_time
async def test_silent_pods_hold_nothing_up() -> None:
    client = SlowClient(silent=60)
    began_s = asyncio.get_running_loop().time()
    assert list(await client.poll([pod("silent"), pod("other")], b"t")) == ["uid-other"]
    assert asyncio.get_running_loop().time() - began_s == admin_client.ROUND_S


@in_virtual_time
async def test_pods_are_polled_some_at_a_time_and_the_first_ones_first() -> None:
    pods = [pod(f"e{number}") for number in range(400)]
    client = SlowClient(**{one.name: admin_client.TIMEOUT_S - 0.1 for one in pods})
    found = await client.poll(pods, b"t")
    rounds = int(admin_client.ROUND_S / admin_client.TIMEOUT_S)
    assert client.most_open == 64
    assert set(found) == {one.key for one in pods[: 64 * rounds]}


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
