"""A port that the system chooses is one port, at every address of the host."""

from __future__ import annotations

import asyncio
import errno
import socket
from http import HTTPStatus
from typing import Any

import pytest

from tidegate.runtime.admin.http import (
    PORT_ATTEMPTS,
    HttpServer,
    Request,
    Response,
    text_response,
)


class _Listening:
    """Stands in for asyncio's server: one socket for each address, ports as the test says."""

    def __init__(self, *ports: int) -> None:
        self.sockets = [_Socket(port) for port in ports]
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class _Socket:
    def __init__(self, port: int) -> None:
        self._port = port

    def getsockname(self) -> tuple[str, int]:
        return "address", self._port


class _System:
    """Chooses ports for IPv4 and IPv6; some are in use at one of them."""

    def __init__(self, *in_use: int) -> None:
        self._in_use = set(in_use)
        self._next = 1000
        self.made: list[_Listening] = []

    async def start_server(
        self, _accepted: object, _host: object, port: int, **_options: Any
    ) -> _Listening:
        if port in self._in_use:
            raise OSError(errno.EADDRINUSE, "in use")
        if not port:
            self._next += 10
        found = _Listening(port, port) if port else _Listening(self._next, self._next + 1)
        self.made.append(found)
        return found


async def _answer(_request: Request) -> Response:
    return text_response(HTTPStatus.OK, "alive")


@pytest.mark.parametrize("host", ["localhost", "*"])
async def test_both_families_have_the_first_ones_port(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    system = _System()
    monkeypatch.setattr(asyncio, "start_server", system.start_server)
    http = HttpServer(host, 0, _answer, 1)
    await http.start()
    assert http.port == 1010
    assert [each.is_closed for each in system.made] == [True, False]
    assert {each.getsockname()[1] for each in system.made[-1].sockets} == {1010}


async def test_a_port_that_is_in_use_at_one_address_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = _System(1010, 1020)
    monkeypatch.setattr(asyncio, "start_server", system.start_server)
    http = HttpServer("localhost", 0, _answer, 1)
    await http.start()
    assert http.port == 1030
    assert [each.is_closed for each in system.made] == [True, True, True, False]


async def test_it_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    system = _System(*range(1000, 2000))
    monkeypatch.setattr(asyncio, "start_server", system.start_server)
    with pytest.raises(OSError, match="in use"):
        await HttpServer("localhost", 0, _answer, 1).start()
    assert len(system.made) == PORT_ATTEMPTS
    assert all(each.is_closed for each in system.made)


async def test_a_probe_finds_it_at_every_address_of_localhost() -> None:
    http = HttpServer("localhost", 0, _answer, 5)
    await http.start()
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            "localhost", http.port, type=socket.SOCK_STREAM
        )
        for address in {str(entry[4][0]) for entry in found}:
            reader, writer = await asyncio.open_connection(address, http.port)
            writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
            assert b"200" in await reader.readline()
            writer.close()
            await writer.wait_closed()
    finally:
        await http.stop()
