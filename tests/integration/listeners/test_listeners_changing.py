"""Changes of listeners that the system refuses half way: nothing of them stays.

Inputs: listeners with recording handlers, other settings, a system that refuses a descriptor or a
port. Observed: who accepts afterwards, and with which settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.raw_client import DEADLINE_S
from support.running_listeners import Running, running
from support.waiting import wait_for_async
from tidegate.edge.transport import listeners as module
from tidegate.edge.transport.acceptor import Acceptor, protocol_factory
from tidegate.edge.transport.listeners import ListenerChange
from tidegate.runtime.config.model import ListenerConfig


async def prepared(server: Running, *configs: dict[str, Any]) -> ListenerChange:
    return await server.listeners.prepare(
        [ListenerConfig.model_validate({"port": 0, **config}) for config in configs],
        max_packet_size_bytes=1000,
        connect_timeout_s=5.0,
    )


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def port_of(server: Running, label: str) -> int:
    return int(server.listeners.addresses[label][0].rpartition(":")[2])


def held(address: str, port: int) -> socket.socket:
    """Have an address of a port, as another process would."""
    return socket.create_server((address, port))


@contextlib.asynccontextmanager
async def shut(server: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Listener one was to get more than it can have, and cannot be opened again as long as this
    lasts."""
    port = port_of(server, "one")

    def refused(_config: ListenerConfig) -> list[socket.socket]:
        raise OSError(errno.EADDRINUSE, "in use")

    with held("127.0.0.2", port), monkeypatch.context() as patch:
        patch.setattr(module, "bind", refused)
        with pytest.raises(OSError, match="cannot listen"):
            await prepared(server, ONE | {"address": "*", "port": port})
        yield


ONE: dict[str, Any] = {"name": "one"}
TWO: dict[str, Any] = {"name": "two"}


@pytest.mark.parametrize("settings", [{"backlog": 7}, {"accept_rate": 1000.0}])
async def test_a_change_that_gets_no_descriptor_leaves_everything_as_it_was(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(ONE) as server:
        change = await prepared(server, ONE | settings | {"max_qos": 0}, TWO)
        (added,) = change.added
        port = added.acceptor.port
        duplicate_sockets = Acceptor.duplicate_sockets

        def refused(acceptor: Acceptor) -> list[socket.socket]:
            if acceptor is added.acceptor:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return duplicate_sockets(acceptor)

        with monkeypatch.context() as patch:
            patch.setattr(Acceptor, "duplicate_sockets", refused)
            with pytest.raises(OSError, match="listener two: cannot be changed: Too many open"):
                await server.listeners.apply(change)
        assert is_refused(port)
        assert list(server.listeners.addresses) == ["one"]
        assert server.state.config.max_qos == 2
        _, writer = await server.connect("one")
        writer.write(b"x")
        await server.listeners.apply(await prepared(server, ONE, TWO | {"port": port}))
        await server.connect("two")


async def test_a_kept_listener_that_cannot_be_changed_goes_on_accepting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(ONE) as server:
        change = await prepared(server, ONE | {"backlog": 7}, TWO)
        port = change.added[0].acceptor.port

        def refused(_acceptor: Acceptor) -> list[socket.socket]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patch:
            patch.setattr(Acceptor, "duplicate_sockets", refused)
            with pytest.raises(OSError, match="listener one: cannot be changed"):
                await server.listeners.apply(change)
        assert is_refused(port)
        reader, writer = await server.connect("one")
        writer.write(b"hello")
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readexactly(5) == b"hello"


async def test_a_listener_that_cannot_be_opened_again_is_opened_when_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REOPEN_INTERVAL_S", 0.02)
    async with running(ONE) as server:
        port = port_of(server, "one")
        async with shut(server, monkeypatch):
            assert server.listeners.interruptions == 1
            assert server.listeners.addresses == {"one": []}
            assert is_refused(port)
        await wait_for_async(lambda: not is_refused(port), DEADLINE_S, "it is open again")
        assert port_of(server, "one") == port
        await server.connect("one")


async def test_a_listener_that_is_shut_is_not_kept_as_if_it_were_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REOPEN_INTERVAL_S", 3600.0)
    async with running(ONE) as server:
        port = port_of(server, "one")
        async with shut(server, monkeypatch):
            pass
        await server.listeners.apply(await prepared(server, ONE | {"port": port}))
        await server.connect("one")


async def test_no_listener_is_reopened_after_stop_accepting() -> None:
    async with running(ONE) as server:
        port = port_of(server, "one")
        change = await prepared(server, TWO | {"address": "*", "port": port})
        await server.listeners.stop_accepting()
        await server.listeners.undo(change)
        assert is_refused(port)


async def test_a_change_applied_after_stop_accepting_accepts_no_connection() -> None:
    async with running(ONE) as server:
        change = await prepared(server, ONE, TWO)
        port = change.added[0].acceptor.port
        await server.listeners.stop_accepting()
        await server.listeners.apply(change)
        assert is_refused(port)


async def test_a_socket_file_that_was_made_again_goes_with_a_change_that_is_undone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mqtt.sock"
    unix = {"name": "unix", "protocol": "unix", "address": str(path)}
    async with running(unix) as server:
        reader, writer = await server.connect("unix")
        path.unlink()
        await server.listeners.undo(await prepared(server, unix | {"max_qos": 0}))
        assert not path.exists()
        with held("127.0.0.1", 0) as other:
            port = other.getsockname()[1]
            with pytest.raises(OSError, match="listener two: cannot listen"):
                await prepared(server, unix, TWO | {"port": port})
        assert not path.exists()
        writer.write(b"hello")
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readexactly(5) == b"hello"
        await server.listeners.apply(await prepared(server, unix))
        await server.connect("unix")
        assert server.listeners.addresses == {"unix": [str(path)]}


async def test_a_connection_accepted_while_its_listener_is_removed_is_aborted() -> None:
    """No sweep would end its handshake, and no removal would disconnect it."""
    async with running(ONE, TWO) as server:
        state = next(each for each in server.listeners.all_listeners if each.label == "two")
        await server.listeners.apply(await prepared(server, ONE))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=theirs)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(protocol_factory(state), ours)
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        assert not state.connections
        assert not server.open_connections()
        writer.transport.abort()


async def test_a_connection_from_before_proxy_protocol_was_off_needs_no_header() -> None:
    optional = ONE | {"proxy_protocol": "optional", "trusted_proxies": ["127.0.0.1/32"]}
    async with running(optional) as server:
        reader, writer = await server.connect("one")
        await wait_for_async(lambda: server.state.handshakes, DEADLINE_S, "it is waited for")
        await server.listeners.apply(await prepared(server, ONE))
        writer.write(b"hello")
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readexactly(5) == b"hello"
