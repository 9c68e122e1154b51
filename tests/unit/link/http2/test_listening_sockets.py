"""Where a router listens: both families where it is any, one port, and files of Unix sockets."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.link.http2.listening_sockets import close_sockets, open_sockets


@pytest.fixture
def place() -> Iterator[Path]:
    """Return the path of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="tgs-") as name:
        yield Path(name) / "router"


def _reaches(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_any_address_is_that_of_both_families(host: str) -> None:
    sockets, address = open_sockets(f"{host}:0")
    try:
        named, _, port = address.rpartition(":")
        assert named == host
        assert _reaches("127.0.0.1", int(port))
        assert _reaches("::1", int(port)) is socket.has_dualstack_ipv6()
    finally:
        close_sockets(sockets)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_all_addresses_of_a_name_have_one_port(host: str) -> None:
    sockets, address = open_sockets(f"{host}:0")
    try:
        ports = {one.getsockname()[1] for one in sockets}
        assert address == f"{host}:{ports.pop()}"
        assert not ports
    finally:
        close_sockets(sockets)


def test_an_address_in_use_is_refused() -> None:
    sockets, address = open_sockets("127.0.0.1:0")
    try:
        with pytest.raises(OSError, match="in use"):
            open_sockets(address)
    finally:
        close_sockets(sockets)


def test_a_unix_socket_of_a_process_that_has_died_is_replaced(place: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(place))
    dead.close()
    sockets, address = open_sockets(f"unix:{place}")
    assert address == f"unix:{place}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
    close_sockets(sockets)
    assert not place.exists()


def test_a_file_that_is_no_socket_stays(place: Path) -> None:
    place.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        open_sockets(f"unix:{place}")
    assert place.read_text() == "mine"
