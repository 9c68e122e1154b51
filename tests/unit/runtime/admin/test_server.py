"""The admin HTTP server, spoken to in raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.virtual_time import in_virtual_time
from support.waiting import wait_for_async
from tidegate.runtime.admin.control import Control
from tidegate.runtime.admin.http import is_loopback
from tidegate.runtime.admin.server import AdminServer

DEADLINE_S = 5


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
    )
    await server.start()
    yield server
    await server.stop()


async def _send(server: AdminServer, request: bytes) -> tuple[int, str, bytes]:
    """Return status, head and body of the answer (status 0: none)."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        try:
            answer = await reader.read(-1)
        except ConnectionError:
            answer = b""
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, head.decode(), body


def _get(path: str, method: str = "GET", *headers: str, host: str = "127.0.0.1:1") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_who_is_waited_for_when_it_stops_is_no_error() -> None:
    """Every end of a process that somebody was asking would log a traceback."""
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: errors.append(context))
    server = AdminServer("127.0.0.1", 0, ready=lambda: (True, ""), metrics=bytes, timeout_s=60)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metrics")
    await wait_for_async(lambda: server._http.connection_count, DEADLINE_S, "it is being read")
    await server.stop()
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert not errors


async def test_metrics_are_served(server: AdminServer) -> None:
    status, head, body = await _send(server, _get("/metrics?x=1"))
    assert status == 200
    assert "Content-Type: text/plain; version=0.0.4" in head
    assert body == b"tidegate_x 1\n"


async def test_readiness_says_why_not(server: AdminServer, state: _State) -> None:
    assert await _send(server, _get("/readyz"))
    state.ready = (False, "store not reachable")
    status, _, body = await _send(server, _get("/readyz"))
    assert (status, body) == (503, b"store not reachable\n")


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


@in_virtual_time
async def test_a_request_that_does_not_end_is_dropped() -> None:
    server = AdminServer("127.0.0.1", 0, ready=lambda: (True, ""), metrics=bytes, timeout_s=3)
    reader, aborts = asyncio.StreamReader(), list[float]()
    loop = asyncio.get_running_loop()
    transport = SimpleNamespace(abort=lambda: aborts.append(loop.time()))
    writer: Any = SimpleNamespace(transport=transport, get_extra_info=lambda _name: None)
    began_s = loop.time()
    reader.feed_data(b"GET /livez HTTP/1.1\r\n")
    await server._http._accepted(reader, writer)
    assert aborts == [began_s + 3]


async def test_the_address_can_be_printed(server: AdminServer) -> None:
    assert server.address == f"127.0.0.1:{server.port}"
    other = AdminServer("::1", 9, ready=lambda: (True, ""), metrics=lambda: b"")
    assert other.address == "[::1]:9"
    await other.stop()


# What operators ask


class _Clients:
    """Stands in for an edge: some clients, and what was done to them."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.drains: list[str] = []
        self.shedding = 0
        self.control = Control(
            lambda: {"version": "1"},
            self._drain,
            self._progress,
            self._page,
            lambda name, mount_point: {"client_id": name} if name in self.names else None,
            self._disconnect,
            self._shed,
            lambda: self.shedding,
        )

    def _shed(self, count: int) -> int | None:
        if self.drains:
            return None
        self.shedding = min(count, len(self.names))
        return self.shedding

    def _drain(self, reason: str) -> dict[str, Any]:
        self.drains.append(reason)
        return self._progress()

    def _progress(self) -> dict[str, Any]:
        return {"draining": bool(self.drains)}

    def _page(self, count: int, after: str) -> list[dict[str, Any]]:
        names = [name for name in sorted(self.names) if name > after]
        return [{"client_id": name, "mount_point": ""} for name in names[:count]]

    def _disconnect(self, name: str, mount_point: str | None) -> bool:
        found = name in self.names
        if found:
            self.names.remove(name)
        return found


@contextlib.asynccontextmanager
async def _serving(
    control: Control | None, host: str = "127.0.0.1", token_file: Path | None = None
) -> AsyncIterator[AdminServer]:
    server = AdminServer(
        host,
        0,
        ready=lambda: (True, "ready"),
        metrics=lambda: b"",
        control=control,
        token_file=token_file,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def _ask(server: AdminServer, path: str, method: str = "GET", *headers: str) -> Any:
    """Return the status and the decoded JSON, or the sentence."""
    status, head, body = await _send(server, _get(path, method, *headers))
    return status, json.loads(body) if "application/json" in head else body.decode()


async def test_the_status_says_whether_the_process_is_ready() -> None:
    async with _serving(_Clients().control) as server:
        assert await _ask(server, "/status") == (
            200,
            {"version": "1", "ready": True, "reason": "ready"},
        )


async def test_draining_can_be_asked_for_again_and_not_taken_back() -> None:
    clients = _Clients()
    async with _serving(clients.control) as server:
        assert await _ask(server, "/drain") == (200, {"draining": False})
        assert await _ask(server, "/drain", "POST") == (202, {"draining": True})
        assert (await _ask(server, "/drain", "POST"))[0] == 202
        status, sentence = await _ask(server, "/drain", "DELETE")
        assert status == 409
        assert sentence.startswith("Draining cannot be cancelled")
    assert clients.drains == ["admin API", "admin API"]


async def test_some_clients_can_be_let_go() -> None:
    clients = _Clients("a", "b", "c")
    async with _serving(clients.control) as server:
        assert await _ask(server, "/shed?connections=2", "POST") == (202, {"shedding": 2})
        assert await _ask(server, "/shed") == (200, {"shedding": 2})
        assert await _ask(server, "/shed?connections=9", "POST") == (202, {"shedding": 3})
        assert await _ask(server, "/shed?connections=0", "POST") == (202, {"shedding": 0})
        for wrong in ("", "?connections=", "?connections=-1", "?connections=x", "?clients=1"):
            assert (await _ask(server, f"/shed{wrong}", "POST"))[0] == 400
        await _ask(server, "/drain", "POST")
        assert (await _ask(server, "/shed?connections=1", "POST"))[0] == 409


async def test_clients_come_in_pages() -> None:
    async with _serving(_Clients("c", "a", "b").control) as server:
        first = (await _ask(server, "/clients?limit=2"))[1]
        assert [client["client_id"] for client in first["clients"]] == ["a", "b"]
        assert first["next"] == "b"
        second = (await _ask(server, "/clients?limit=2&after=b"))[1]
        assert [client["client_id"] for client in second["clients"]] == ["c"]
        assert second["next"] is None
        exact = (await _ask(server, "/clients?limit=3"))[1]
        assert exact["next"] is None


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "9" * 5000, "", "\u0661"])
async def test_a_page_has_from_1_to_1000_clients(limit: str) -> None:
    async with _serving(_Clients("a").control) as server:
        status, sentence = await _ask(server, f"/clients?limit={limit}")
    assert (status, sentence) == (400, "limit must be a number from 1 to 1000.\n")


async def test_a_client_is_named_by_its_encoded_identifier() -> None:
    clients = _Clients("a/b c\u00fc", "other")
    async with _serving(clients.control) as server:
        path = "/clients/a%2Fb%20c%C3%BC"
        assert await _ask(server, path) == (200, {"client_id": "a/b c\u00fc"})
        assert await _ask(server, path, "DELETE") == (200, {"disconnected": "a/b c\u00fc"})
        assert (await _ask(server, path, "DELETE"))[0] == 404
        assert (await _ask(server, path))[0] == 404
        assert (await _ask(server, "/clients/%ff"))[0] == 400
    assert clients.names == ["other"]


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/livez", "DELETE", "GET, HEAD"),
        ("/status", "POST", "GET, HEAD"),
        ("/drain", "PUT", "GET, HEAD, POST, DELETE"),
        ("/shed", "DELETE", "GET, HEAD, POST"),
        ("/clients", "POST", "GET, HEAD"),
        ("/clients/a", "POST", "GET, HEAD, DELETE"),
    ],
)
async def test_405_names_what_a_page_takes(path: str, method: str, allow: str) -> None:
    async with _serving(_Clients("a").control) as server:
        status, head, _ = await _send(server, _get(path, method))
    assert status == 405
    assert f"Allow: {allow}\r\n" in head + "\r\n"


async def test_a_process_without_clients_says_what_it_has() -> None:
    async with _serving(Control(dict)) as server:
        for path in ("/drain", "/shed", "/clients", "/clients/a"):
            assert await _ask(server, path) == (
                404,
                "Not found. Pages: /livez, /readyz, /metrics, /status.\n",
            )
        assert (await _ask(server, "/status"))[0] == 200


# Who may ask


async def test_with_a_token_only_its_bearer_may_ask(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret-1\n")
    async with _serving(_Clients().control, token_file=token_file) as server:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await _ask(server, path))[0] == 200
        status, head, _ = await _send(server, _get("/status"))
        assert status == 401
        assert "WWW-Authenticate: Bearer" in head
        for given in ("Bearer secret", "Bearer", "Basic secret-1", "Bearer secret-1x"):
            for path in ("/drain", "/shed?connections=1"):
                assert (await _ask(server, path, "POST", f"Authorization: {given}"))[0] == 401
        good = "Authorization: bearer secret-1"
        assert (await _ask(server, "/drain", "POST", good))[0] == 202
        token_file.write_text("secret-2")  # replaced while it runs
        assert (await _ask(server, "/status", "GET", good))[0] == 401
        assert (await _ask(server, "/status", "GET", "Authorization: Bearer secret-2"))[0] == 200
        token_file.unlink()
        status, sentence = await _ask(server, "/status", "GET", good)
        assert status == 503
        assert sentence.startswith("The token file cannot be read")


@pytest.mark.parametrize("content", [None, "", " \n"])
async def test_a_token_file_without_a_token_stops_the_start(
    tmp_path: Path, content: str | None
) -> None:
    token_file = tmp_path / "token"
    if content is not None:
        token_file.write_text(content)
    with pytest.raises(OSError, match="token"):
        async with _serving(_Clients().control, token_file=token_file):
            pass


async def test_without_a_token_only_loopback_addresses_serve_operators() -> None:
    # Bound to loopback all the same: only what the server thinks of its address differs.
    async with _serving(_Clients().control) as server:
        server._http.host = "*"
        assert (await _ask(server, "/readyz"))[0] == 200
        for path, method in (("/status", "GET"), ("/clients", "GET"), ("/drain", "POST")):
            status, sentence = await _ask(server, path, method)
            assert status == 403
            assert "admin.token_file" in sentence


async def test_a_web_page_cannot_use_the_browser_to_ask() -> None:
    clients = _Clients()
    async with _serving(clients.control) as server:
        page = "Origin: https://evil.example"
        assert (await _ask(server, "/drain", "POST", page))[0] == 403
        renamed = _get("/clients", host="evil.example:18083")
        assert (await _send(server, renamed))[0] == 403
        for host in ("localhost:1", "localhost", "[::1]:1", "[::1]", "127.0.0.1"):
            assert (await _send(server, _get("/clients", host=host)))[0] == 200
        assert (await _send(server, b"GET /clients HTTP/1.0\r\n\r\n"))[0] == 200
    assert clients.drains == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("*", False),
        ("10.0.0.1", False),
        ("host.example", False),
    ],
)
def test_loopback_addresses_are_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# Bodies


async def test_a_small_body_is_ignored() -> None:
    clients = _Clients()
    async with _serving(clients.control) as server:
        request = _get("/drain", "POST", "Content-Length: 5") + b"hello"
        assert (await _send(server, request))[0] == 202
    assert clients.drains == ["admin API"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Content-Length: 5000", 413),
        ("Content-Length: x", 400),
        ("Content-Length: -1", 400),
        ("Transfer-Encoding: chunked", 411),
    ],
)
async def test_other_bodies_are_refused(header: str, status: int) -> None:
    clients = _Clients()
    async with _serving(clients.control) as server:
        assert (await _send(server, _get("/drain", "POST", header)))[0] == status
    assert clients.drains == []


# Unix sockets, and answers that have to be waited for


async def _soon(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def test_answers_may_have_to_be_waited_for() -> None:
    control = Control(
        lambda: _soon({"role": "supervisor"}),
        lambda reason: _soon({"reason": reason}),
        lambda: _soon({"draining": True}),
        lambda count, after: _soon([{"client_id": f"c{count}{after}", "mount_point": ""}]),
        lambda client_id, mount_point: _soon({"client_id": client_id}),
        lambda client_id, mount_point: _soon(client_id == "ann"),
    )
    server = AdminServer(
        "127.0.0.1",
        0,
        ready=lambda: _soon((False, "edge-1 is starting")),
        metrics=lambda: _soon(b"tidegate_x 1\n"),
        control=control,
    )
    await server.start()
    try:
        assert (await _send(server, _get("/readyz")))[::2] == (503, b"edge-1 is starting\n")
        assert (await _send(server, _get("/metrics")))[2] == b"tidegate_x 1\n"
        for request, expected in (
            (_get("/status"), {"role": "supervisor", "ready": False}),
            (_get("/drain", "POST"), {"reason": "admin API"}),
            (_get("/drain"), {"draining": True}),
            (_get("/clients?limit=1&after=x"), {"next": None}),
            (_get("/clients/ann"), {"client_id": "ann"}),
            (_get("/clients/ann", "DELETE"), {"disconnected": "ann"}),
        ):
            status, _, body = await _send(server, request)
            assert status in {200, 202}
            assert expected.items() <= json.loads(body).items()
        assert (await _send(server, _get("/clients/bob", "DELETE")))[0] == 404
    finally:
        await server.stop()


async def test_a_unix_socket_is_served_like_a_loopback_address(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'admin'}"
    server = AdminServer(
        address,
        0,
        ready=lambda: (True, "ready"),
        metrics=lambda: b"",
        control=Control(lambda: {"role": "edge"}),
    )
    await server.start()
    try:
        assert (server.address, server.url) == (address, address)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "admin")
        writer.write(_get("/status", host="localhost"))
        async with asyncio.timeout(DEADLINE_S):
            answer = await reader.read()
        writer.close()
    finally:
        await server.stop()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"role": "edge"' in answer
