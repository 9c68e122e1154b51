"""The admin HTTP server, spoken to in raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tidegate.runtime.admin import AdminServer


class _State:
    ready = (True, "ready")
    live = (True, "alive")


@pytest.fixture
async def state() -> _State:
    return _State()


@pytest.fixture
async def server(state: _State) -> AsyncIterator[AdminServer]:
    def metrics() -> bytes:
        if state.ready[1] == "broken":
            raise RuntimeError("no metrics")
        return b"tidegate_x 1\n"

    server = AdminServer(
        "127.0.0.1",
        0,
        ready=lambda: state.ready,
        live=lambda: state.live,
        metrics=metrics,
        timeout_s=0.2,
    )
    await server.start()
    yield server
    await server.stop()


async def _send(server: AdminServer, request: bytes) -> tuple[int, str, bytes]:
    """Return status, head and body of the answer (status 0: none)."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        try:
            answer = await reader.read(-1)
        except ConnectionError:
            answer = b""
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, head.decode(), body


def _get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_metrics_are_served(server: AdminServer) -> None:
    status, head, body = await _send(server, _get("/metrics?x=1"))
    assert status == 200
    assert "Content-Type: text/plain; version=0.0.4" in head
    assert body == b"tidegate_x 1\n"


async def test_readiness_says_why_not(server: AdminServer, state: _State) -> None:
    assert await _send(server, _get("/readyz"))
    state.ready = (False, "the store does not answer")
    status, _, body = await _send(server, _get("/readyz"))
    assert (status, body) == (503, b"the store does not answer\n")


async def test_liveness(server: AdminServer, state: _State) -> None:
    assert (await _send(server, _get("/livez")))[0] == 200
    state.live = (False, "stuck")
    assert (await _send(server, _get("/livez")))[0] == 503


async def test_liveness_without_a_judge_is_being_there() -> None:
    server = AdminServer("127.0.0.1", 0, ready=lambda: (True, ""), metrics=lambda: b"")
    await server.start()
    assert (await _send(server, _get("/livez")))[0] == 200
    await server.stop()


async def test_a_page_that_fails_is_said_to_have_failed(server: AdminServer, state: _State) -> None:
    state.ready = (True, "broken")
    assert (await _send(server, _get("/metrics")))[0] == 500


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (_get("/nothing"), 404),
        (_get("/livez", "POST"), 405),
        (_get("/livez", "HEAD"), 200),
        (b"\x10\x0e\x00\x04MQTT\r\n\r\n", 400),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/2.0\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_not_a_page_is_answered_with_a_status(
    server: AdminServer, request_bytes: bytes, status: int
) -> None:
    assert (await _send(server, request_bytes))[0] == status


async def test_head_has_no_body_and_405_names_what_is_allowed(server: AdminServer) -> None:
    assert (await _send(server, _get("/livez", "HEAD")))[2] == b""
    assert "Allow: GET" in (await _send(server, _get("/livez", "PUT")))[1]


async def test_a_request_that_does_not_end_is_dropped(server: AdminServer) -> None:
    assert (await _send(server, b"GET /livez HTTP/1.1\r\n"))[0] == 0


async def test_too_many_connections_are_dropped_and_the_server_goes_on(
    server: AdminServer,
) -> None:
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(70)]
    async with asyncio.timeout(5):
        dropped = 0
        for reader, writer in held:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            dropped += 1
            writer.close()
    assert dropped == 70
    assert (await _send(server, _get("/livez")))[0] == 200


async def test_the_address_can_be_printed(server: AdminServer) -> None:
    assert server.address == f"127.0.0.1:{server.port}"
    other = AdminServer("::1", 9, ready=lambda: (True, ""), metrics=lambda: b"")
    assert other.address == "[::1]:9"
    await other.stop()
