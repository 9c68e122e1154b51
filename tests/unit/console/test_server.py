"""The socket of the console; its server is tested with the API."""

from __future__ import annotations

import socket

from tidegate.console import server


def test_a_star_is_every_address_of_both_families() -> None:
    with server.listening("*", 0) as listener:
        port = listener.getsockname()[1]
        hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
        for host in hosts:
            socket.create_connection((host, port), timeout=5).close()


def test_an_address_is_that_one_only() -> None:
    # Whoever has this port at 127.0.0.1 is somebody else.
    with server.listening("127.0.0.2", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.2"
