"""Binding; accepting itself is proven over sockets in tests/integration/listeners."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path

import pytest

from tidegate.edge.transport.acceptor import bind
from tidegate.runtime.config.model import ListenerConfig, ListenerProtocol


def unix(path: Path, mode: int = 0o660) -> ListenerConfig:
    return ListenerConfig(protocol=ListenerProtocol.UNIX, address=str(path), unix_mode=mode)


def test_star_is_one_port_on_both_families() -> None:
    sockets = bind(ListenerConfig(address="*", port=0))
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert sockets[0].family == socket.AF_INET
        if len(sockets) == 2:
            assert sockets[1].family == socket.AF_INET6
            assert sockets[1].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    finally:
        for sock in sockets:
            sock.close()


def test_localhost_is_one_port_on_both_loopback_addresses() -> None:
    sockets = bind(ListenerConfig(address="localhost", port=0))
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        expected = ["127.0.0.1", "::1"][: len(sockets)]
        assert [sock.getsockname()[0] for sock in sockets] == expected
    finally:
        for sock in sockets:
            sock.close()


def test_an_ipv4_mapped_address_is_bound_as_ipv4() -> None:
    (sock,) = bind(ListenerConfig(address="::ffff:127.0.0.1", port=0))
    with sock:
        assert sock.family == socket.AF_INET
        assert sock.getsockname()[0] == "127.0.0.1"


def test_keepalive_and_no_delay_are_set_where_connections_inherit_them() -> None:
    (sock,) = bind(ListenerConfig(port=0, tcp_keepalive_s=40))
    with sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 40


def test_keepalive_can_be_off() -> None:
    (sock,) = bind(ListenerConfig(port=0, tcp_keepalive_s=0))
    with sock:
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_taken_port_is_named() -> None:
    (first,) = bind(ListenerConfig(port=0))
    with first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}") as caught:
            bind(ListenerConfig(port=port))
        assert caught.value.errno == errno.EADDRINUSE


def test_a_unix_socket_gets_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    (sock,) = bind(unix(path, 0o600))
    with sock:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stale_unix_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    bind(unix(path))[0].close()
    assert path.exists()
    (sock,) = bind(unix(path))
    sock.close()


def test_a_unix_socket_in_use_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    (sock,) = bind(unix(path))
    with sock:
        sock.listen()
        with pytest.raises(OSError, match=r"mqtt\.sock") as caught:
            bind(unix(path))
        assert caught.value.errno == errno.EADDRINUSE
    assert path.exists()


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        bind(unix(path))
    assert path.read_text() == "precious"


def test_a_port_is_shared_only_if_all_listeners_set_reuse_port() -> None:
    held = bind(ListenerConfig(port=0, reuse_port=True))[0]
    try:
        port = held.getsockname()[1]
        other = bind(ListenerConfig(port=port, reuse_port=True))[0]
        other.close()
        held.listen()
        with pytest.raises(OSError, match=f"port {port}") as caught:
            bind(ListenerConfig(port=port))
        assert caught.value.errno == errno.EADDRINUSE
    finally:
        held.close()
