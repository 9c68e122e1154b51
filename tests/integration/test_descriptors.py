"""No descriptors left: new connections are refused and counted, everything else goes on.

Inputs: brokers whose limit of open files is lowered while they run, one process and several, with
clients on every kind of listener. Observed: what connections meet, the admin server's pages, the
log, and the CPU time while nothing can be accepted.
"""

from __future__ import annotations

import resource
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.broker import Server, StartBroker
from support.certificates import Certificates
from support.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")

LISTENERS = ["tcp", "tls", "ws", "wss", "auto", "unix"]
LIMIT = 120
_UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Yield what closes the clients' sockets."""
    with ExitStack() as stack:
        yield stack


def _limit(pid: int, soft: int) -> int:
    """Change the limit of open files of a process; return the one before."""
    before, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    return before


def _connect(server: Server, listener: str, stack: ExitStack) -> socket.socket:
    address = server.address(listener)
    sock = stack.enter_context(
        socket.socket(socket.AF_UNIX if address.scheme == "unix" else socket.AF_INET)
    )
    sock.settimeout(10)
    sock.connect(address.path if address.scheme == "unix" else (address.host, address.port))
    return sock


def _is_refused(sock: socket.socket, first: bytes) -> bool:
    """Send something; whether the connection is closed instead of answered."""
    try:
        sock.sendall(first)
        return not sock.recv(4096)
    except OSError:
        return True


def _is_served(server: Server, listener: str, certificates: Certificates, stack: ExitStack) -> bool:
    sock = _connect(server, listener, stack)
    try:
        if listener in {"tls", "wss"}:
            context = ssl.create_default_context(cafile=certificates.authority.certificate)
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname="127.0.0.1"))
        if listener in {"ws", "wss"}:
            sock.sendall(_UPGRADE)
            return sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        sock.sendall(mqtt_bytes.connect("", version=mqtt_bytes.V5))
        return sock.recv(1) == b"\x20"
    except OSError:
        return False


def _fill(server: Server, stack: ExitStack) -> list[socket.socket]:
    """Connect clients until one is refused; return those that are served."""
    served: list[socket.socket] = []
    for _ in range(LIMIT):
        sock = _connect(server, "tcp", stack)
        if _is_refused(sock, mqtt_bytes.connect("", version=mqtt_bytes.V5)):
            return served
        served.append(sock)
    raise AssertionError("more connections than descriptors")


def _page(server: Server, path: str) -> str:
    address = server.address("admin")
    with urllib.request.urlopen(f"http://{address.host}:{address.port}{path}", timeout=10) as page:
        text: str = page.read().decode()
        return text


def _refused(server: Server) -> dict[str, int]:
    """How many connections each listener has refused because of descriptors."""
    found: dict[str, int] = {}
    for line in _page(server, "/metrics").splitlines():
        if line.startswith("tidegate_listener_refused_total") and 'reason="descriptors"' in line:
            name = line.partition('listener="')[2].partition('"')[0]
            found[name] = found.get(name, 0) + int(float(line.rpartition(" ")[2]))
    return found


def _await_limit(server: Server, most: int) -> None:
    """Wait until the listeners go by a limit that was lowered."""

    def is_lower() -> bool:
        lines = _page(server, "/metrics").splitlines()
        found = [line for line in lines if line.startswith("tidegate_connections_limit")]
        return 0 < sum(float(line.rpartition(" ")[2]) for line in found) < most

    wait_for(is_lower, 10, "a lower limit of connections")


def test_connections_are_refused_on_every_listener_and_the_admin_server_answers(
    start_broker: StartBroker, certificates: Certificates, sockets: ExitStack
) -> None:
    server = start_broker()
    _limit(server.pid, LIMIT)
    _await_limit(server, LIMIT)
    served = _fill(server, sockets)
    assert len(served) > LIMIT // 3
    before = _refused(server)
    for listener in LISTENERS:
        for _ in range(3):
            assert not _is_served(server, listener, certificates, sockets)
    after = _refused(server)
    assert {name: after[name] - before.get(name, 0) for name in LISTENERS} == dict.fromkeys(
        LISTENERS, 3
    )
    assert _page(server, "/livez") == "alive\n"
    assert _page(server, "/readyz") == "ready\n"
    assert server.stderr().count("limit of open files reached") == 1
    assert "connection refused" not in server.stderr()
    for listener in LISTENERS:  # one place each, at once
        served.pop().close()
        wait_for(
            lambda name=listener: _is_served(server, name, certificates, sockets),  # type: ignore[misc]
            5,
            f"a place for {listener}",
        )
    assert "refusing no more connections" not in server.stderr()


def test_the_end_of_a_shortage_is_logged_once(start_broker: StartBroker) -> None:
    server = start_broker()
    _limit(server.pid, LIMIT)
    _await_limit(server, LIMIT)
    with ExitStack() as sockets:
        count = len(_fill(server, sockets))
        _is_refused(_connect(server, "tcp", sockets), b"")
    line = "refusing no more connections for the limit of open files"
    wait_for(lambda: line in server.stderr(), 10, "a line at the end")
    assert server.stderr().count("WARNING") == 2
    assert count


def test_nothing_is_accepted_while_no_file_can_be_opened(
    start_broker: StartBroker, certificates: Certificates, sockets: ExitStack
) -> None:
    server = start_broker()
    before = _limit(server.pid, 5)
    waiting = [_connect(server, listener, sockets) for listener in LISTENERS]
    wait_for(lambda: "accepting paused" in server.stderr(), 10, "a line that says so")
    spent_s = _cpu_s(server)
    end = time.monotonic() + 1.0
    wait_for(lambda: time.monotonic() >= end, 5, "a second, over which CPU time is measured")
    assert _cpu_s(server) - spent_s < 0.3
    _limit(server.pid, before)
    waiting[0].sendall(mqtt_bytes.connect("", version=mqtt_bytes.V5))
    assert waiting[0].recv(1) == b"\x20"
    for listener in LISTENERS:
        assert _is_served(server, listener, certificates, sockets), listener
    assert server.stderr().count("accepting paused") == 1
    assert server.stderr().count("accepting resumed") == 1
    assert "Traceback" not in server.stderr()


def _cpu_s(server: Server) -> float:
    words = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def test_edges_that_share_a_port_refuse_each_for_itself(
    start_broker: StartBroker, sockets: ExitStack
) -> None:
    server = start_broker(
        listeners=[{"name": "tcp", "address": "127.0.0.1", "port": 0}],
        cluster={"edges": 2, "routers": 1},
    )
    for pid in server.descendants():
        if b"edge" in Path(f"/proc/{pid}/cmdline").read_bytes():
            _limit(pid, LIMIT)
    _await_limit(server, 2 * LIMIT)
    refused = 0
    for _ in range(2 * LIMIT):
        sock = _connect(server, "tcp", sockets)
        refused += _is_refused(sock, mqtt_bytes.connect("", version=mqtt_bytes.V5))
    assert refused
    assert _refused(server) == {"tcp": refused}
    assert _page(server, "/livez") == "alive\n"
    assert _page(server, "/readyz") == "ready\n"
    assert server.stderr().count("limit of open files reached") == 2
