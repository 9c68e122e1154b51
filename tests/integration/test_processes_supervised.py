"""``tidegate serve --edges N --routers M``: one command, a whole cluster, nothing left behind.

Inputs: the supervisor with two edges and two routers on its embedded store; its processes killed;
signals; the admin API. Observed: the ready line, merged pages, which processes and directories are
there afterwards, and what clients on the shared port notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.broker import READY, Address, Server, Settings, wait_until_gone
from support.raw_client import RawClient
from support.store_server import StoreServer, programs
from support.waiting import wait_for, wait_for_async
from tidegate.store.keys import FORMAT_KEY

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

DEADLINE_S = 60.0
SHUTTING_DOWN = 0x8B
USE_ANOTHER_SERVER = 0x9C
PROCESSES = ["router-1", "router-2", "edge-1", "edge-2"]


class Supervised(Server):
    """The supervisor's process, with ``TMPDIR`` inside its own directory."""

    product = "tidegate"

    def __init__(self, directory: Path, settings: Settings) -> None:
        super().__init__(directory)
        self.settings = settings
        self.scratch = directory / "t"
        self.scratch.mkdir()
        self.ready_line = ""

    def start(self) -> None:
        """Start it and return once it has printed its ready line."""
        file = self.directory / "tidegate.yaml"
        file.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        environment = ["env", f"TMPDIR={self.scratch}"]
        command = [*environment, sys.executable, "-m", "tidegate", "serve"]
        process = self._spawn([*command, "--config", str(file)])
        wait_for(
            lambda: self._find_ready_line() or process.poll() is not None,
            DEADLINE_S,
            f"a line {READY!r}",
        )
        self.ready_line = self._find_ready_line()
        assert self.ready_line, f"ended with {process.poll()}:\n{self.stderr()}"
        for word in self.ready_line.removeprefix(READY).split():
            name, _, url = word.partition("=")
            if "://" in url:
                self.addresses[name] = Address.parse(url)

    def _find_ready_line(self) -> str:
        lines = self.stdout().splitlines(keepends=True)
        return next((x.strip() for x in lines if x.startswith(READY) and x[-1] == "\n"), "")

    def page(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Ask the admin server; status and body, (0, "") when nobody answers."""
        address = self.address("admin")
        url = f"http://{address.host}:{address.port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def json(self, path: str, method: str = "GET") -> dict[str, Any]:
        """The decoded answer."""
        status, body = self.page(path, method)
        assert status in {200, 202}, body
        found: dict[str, Any] = json.loads(body)
        return found

    def child(self, name: str) -> int:
        """The identifier of one of its processes."""
        pid = self.json("/status")["processes"][name]["pid"]
        assert isinstance(pid, int)
        return pid

    def is_ready(self) -> bool:
        """Whether all of it is."""
        return self.page("/readyz") == (200, "ready\n")


def _settings(directory: Path) -> Settings:
    (directory / "users").write_text("")
    return {
        "listeners": [{"name": "tcp", "address": "127.0.0.1", "port": 0}],
        "auth": {
            "allow_anonymous": True,
            "password_file": "users",
            # Only SIGHUP makes it read again.
            "reload_interval_s": 3600,
        },
        "store": {"data_dir": "data", "edge_lease_s": 2},
        "link": {"heartbeat_s": 0.25, "timeout_s": 1.0, "discovery_interval_s": 0.2},
        "admin": {"port": 0},
        "drain": {"deadline_s": 10},
        "cluster": {"edges": 2, "routers": 2},
    }


@contextlib.contextmanager
def _supervised() -> Iterator[Supervised]:
    # Short, because the path of a Unix socket has about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="tgs-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        server = Supervised(directory, _settings(directory))
        try:
            server.start()
            yield server
        finally:
            print(server.stderr()[-15_000:])
            server.cleanup()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Supervised]:
    """Yield one cluster for the tests that leave it as it was."""
    with _supervised() as server:
        yield server


@pytest.fixture
def fleeting() -> Iterator[Supervised]:
    """Yield a cluster of the test's own."""
    with _supervised() as server:
        yield server


async def _open(server: Supervised) -> RawClient:
    address = server.address()
    return await RawClient.open(f"tcp://{address.host}:{address.port}")


async def _connect(server: Supervised, client_id: str) -> RawClient:
    client = await _open(server)
    await client.connect(client_id)
    return client


async def _on_both_edges(server: Supervised, prefix: str) -> dict[str, RawClient]:
    """Connect until each edge has a client of this test: the system spreads connections."""
    found: dict[str, RawClient] = {}
    for number in range(100):
        client_id = f"{prefix}-{number}"
        client = await _connect(server, client_id)
        processes = await asyncio.to_thread(_edges_by_client, server)
        found.setdefault(processes[client_id], client)
        if len(found) == 2:
            return found
    raise AssertionError("one edge gets all connections")


def _edges_by_client(server: Supervised) -> dict[str, str]:
    """Which edge each client is at, asked of the edges themselves."""
    found = {}
    for name in ("edge-1", "edge-2"):
        socket = next(server.scratch.glob(f"tidegate-*/{name}.admin"))
        for client in _ask_unix(socket, "/clients?limit=1000")["clients"]:
            found[client["client_id"]] = name
    return found


def _ask_unix(path: Path, target: str) -> dict[str, Any]:
    import http.client
    import socket

    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.connect(str(path))
        connection.request("GET", target)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    return found


@pytest.fixture
def prefix() -> str:
    """What the names of one test begin with."""
    return secrets.token_hex(4)


@pytest.fixture
async def clients(lasting: Supervised, prefix: str) -> dict[str, RawClient]:
    """A connected client at each edge."""
    return await _on_both_edges(lasting, prefix)


async def test_the_ready_line_names_shared_ports_and_how_many_share_them(
    lasting: Supervised,
) -> None:
    address = lasting.address()
    assert lasting.ready_line.startswith(
        f"tidegate ready tcp=tcp://{address.host}:{address.port} admin=http://127.0.0.1:"
    )
    assert lasting.ready_line.endswith(" edges=2 routers=2")
    assert lasting.is_ready()


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_reaches_clients_at_every_edge(
    clients: dict[str, RawClient], prefix: str, qos: int
) -> None:
    one, two = clients.values()
    for client in (one, two):
        await client.subscribe((f"{prefix}/t", qos))
    await two.publish(f"{prefix}/t", b"hello", qos=qos, packet_id=9)
    received = await one.expect_among("PUBLISH", payload=b"hello")
    await one.acknowledge(received)
    received = await two.expect_among("PUBLISH", payload=b"hello")


async def test_status_shows_every_process(lasting: Supervised) -> None:
    facts = lasting.json("/status")
    assert (facts["role"], facts["ready"]) == ("supervisor", True)
    assert list(facts["processes"]) == PROCESSES
    for name, process in facts["processes"].items():
        assert (process["name"], process["ready"]) == (name, True)
        assert process["pid"] in lasting.descendants()


async def test_clients_of_all_edges_are_listed_and_disconnected(
    lasting: Supervised, clients: dict[str, RawClient], prefix: str
) -> None:
    names = [f"{prefix}-{number}" for number in range(3)]
    extra = await _connect(lasting, f"{prefix}-zzz")
    listed = lasting.json(f"/clients?after={prefix}&limit=1000")["clients"]
    found = [client["client_id"] for client in listed]
    assert found == sorted(found)
    assert names[0] in found
    (first,) = lasting.json(f"/clients?after={prefix}&limit=1")["clients"]
    assert first["client_id"] == found[0]
    assert lasting.json(f"/clients/{prefix}-zzz")["client_id"] == f"{prefix}-zzz"
    lasting.json(f"/clients/{prefix}-zzz", "DELETE")
    await extra.expect("DISCONNECT", reason=0x98)
    assert lasting.page(f"/clients/{prefix}-nobody")[0] == 404


async def test_metrics_of_all_processes_are_merged(
    lasting: Supervised, clients: dict[str, RawClient]
) -> None:
    assert len(clients) == 2
    status, text = lasting.page("/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    roles = {
        sample.labels["process"]: sample.labels["role"]
        for sample in families["tidegate_build_info"].samples
    }
    assert roles == {
        "supervisor": "supervisor",
        **{name: name.partition("-")[0] for name in PROCESSES},
    }
    opened = {
        sample.labels["process"]: sample.value
        for sample in families["tidegate_connections_open"].samples
    }
    assert min(opened["edge-1"], opened["edge-2"]) >= 1
    assert opened["router-1"] == 0
    assert set(families["tidegate_child_ready"].samples[0].labels) == {"child", "process"}


async def test_a_hangup_is_passed_on(lasting: Supervised, prefix: str) -> None:
    from tidegate.edge.auth import password_file

    name = f"user-{prefix}"
    password_file.set_user(
        lasting.directory / "users", name, "secret", "sha512-pbkdf2", create=False
    )
    os.kill(lasting.pid, signal.SIGHUP)
    async with asyncio.timeout(DEADLINE_S):
        for number in range(20):
            while True:
                client = await _open(lasting)
                with contextlib.suppress(AssertionError):
                    await client.connect(f"{prefix}-{number}", username=name, password=b"secret")
                    break


async def test_an_edge_that_dies_is_started_again_and_its_clients_come_back(
    lasting: Supervised, clients: dict[str, RawClient], prefix: str
) -> None:
    pid = lasting.child("edge-1")
    os.kill(pid, signal.SIGKILL)
    assert await clients["edge-1"].receive_or_end() is None
    # The other one takes whoever comes meanwhile.
    await clients["edge-2"].expect_nothing()
    status, text = await asyncio.to_thread(lasting.page, "/readyz")
    assert (status, text[:7]) in {(503, "edge-1 "), (200, "ready\n")}
    await _eventually(lasting, lasting.is_ready)
    process = lasting.json("/status")["processes"]["edge-1"]
    assert process["pid"] != pid
    assert process["restarts"] == 1
    assert "tidegate_child_restarts_total" in lasting.page("/metrics")[1]
    again = await _on_both_edges(lasting, f"{prefix}-again")
    await again["edge-1"].subscribe((f"{prefix}/x", 1))
    await clients["edge-2"].deliver(f"{prefix}/x", b"back")
    await again["edge-1"].expect_among("PUBLISH", payload=b"back")


async def _eventually(server: Supervised, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(holds):
            assert server.process is not None
            assert server.process.poll() is None, "the supervisor has ended"
            await asyncio.sleep(0.05)


async def test_clients_stay_when_a_router_dies(
    lasting: Supervised, clients: dict[str, RawClient], prefix: str
) -> None:
    one, two = clients.values()
    await one.subscribe((f"{prefix}/#", 1))
    os.kill(lasting.child("router-2"), signal.SIGKILL)
    # Both routers' topics go on, whoever has them now.
    for number in range(10):
        await two.deliver(f"{prefix}/{number}", b"%d" % number, packet_id=number + 1)
    payloads: set[bytes] = set()
    while len(payloads) < 10:
        received = await one.expect("PUBLISH")
        payloads.add(received.payload)
        await one.acknowledge(received)
    await _eventually(lasting, lasting.is_ready)
    assert lasting.json("/status")["processes"]["router-2"]["restarts"] >= 1


async def test_nothing_is_left_after_sigterm(fleeting: Supervised, prefix: str) -> None:
    clients = await _on_both_edges(fleeting, prefix)
    family = fleeting.descendants()
    # The embedded store, two routers and two edges.
    assert len(family) >= 5
    assert len(list(fleeting.scratch.glob("tidegate-*"))) == 1
    assert fleeting.process is not None
    fleeting.process.send_signal(signal.SIGTERM)
    for client in clients.values():
        await client.expect("DISCONNECT", reason=SHUTTING_DOWN)
    process = fleeting.process
    await wait_for_async(lambda: process.poll() is not None, DEADLINE_S, "its end")
    assert process.returncode == 0
    for pid in family:
        wait_until_gone(pid)
    assert not list(fleeting.scratch.iterdir())
    assert " ERROR " not in fleeting.stderr()
    # Clients, then edges, then routers, then the store.
    said = [line for line in fleeting.stderr().splitlines() if line.endswith(": stopped")]
    names = [line.split()[2] for line in said]
    assert sorted(names[:2]) == ["edge-1", "edge-2"]
    assert sorted(names[2:4]) == ["router-1", "router-2"]


async def test_a_second_signal_ends_it_at_once_and_leaves_nothing(
    fleeting: Supervised, prefix: str
) -> None:
    clients = await _on_both_edges(fleeting, prefix)
    family = fleeting.descendants()
    process = fleeting.process
    assert process is not None
    # A client that owes an acknowledgement keeps its edge for a while.
    for client in clients.values():
        await client.subscribe((f"{prefix}/t", 1))
    os.kill(fleeting.child("edge-1"), signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    await clients["edge-2"].expect_among("DISCONNECT")
    process.send_signal(signal.SIGTERM)
    await wait_for_async(lambda: process.poll() is not None, 5.0, "its end")
    assert process.returncode == 128 + signal.SIGTERM
    for pid in family:
        wait_until_gone(pid)
    assert not list(fleeting.scratch.iterdir())


async def test_its_processes_end_when_it_is_killed(fleeting: Supervised) -> None:
    family = fleeting.descendants()
    os.kill(fleeting.child("edge-1"), signal.SIGSTOP)
    fleeting.kill()
    for pid in family:
        wait_until_gone(pid)


async def test_edges_shed_clients_together_at_one_request(
    fleeting: Supervised, prefix: str
) -> None:
    clients = await _on_both_edges(fleeting, prefix)
    open_count = fleeting.json("/status")["clients"]
    assert fleeting.json(f"/shed?connections={open_count + 5}", "POST") == {"shedding": open_count}
    for client in clients.values():
        await client.expect("DISCONNECT", reason=USE_ANOTHER_SERVER)
    await _eventually(fleeting, lambda: fleeting.json("/status")["clients"] == 0)
    assert fleeting.json("/shed") == {"shedding": 0}
    assert fleeting.json("/shed?connections=1", "POST") == {"shedding": 0}
    await _open(fleeting)
    fleeting.json("/drain", "POST")
    assert fleeting.page("/shed?connections=1", "POST")[0] == 409


async def test_all_edges_drain_at_one_request(fleeting: Supervised, prefix: str) -> None:
    clients = await _on_both_edges(fleeting, prefix)
    progress = fleeting.json("/drain", "POST")
    assert progress["draining"]
    assert progress["clients_at_start"] >= 2
    for client in clients.values():
        await client.expect("DISCONNECT", reason=SHUTTING_DOWN)
    await _eventually(fleeting, lambda: fleeting.json("/drain")["done"])
    assert fleeting.json("/drain")["clients_left"] == 0
    status, text = fleeting.page("/readyz")
    assert status == 503
    assert "edge-1: drained" in text
    assert "edge-2: drained" in text
    with pytest.raises(ConnectionRefusedError):
        await _open(fleeting)
    # A drained edge is not started again: it would take clients.
    pid = fleeting.child("edge-1")
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert "edge-1 is not running" in fleeting.page("/readyz")[1]


async def test_a_store_that_no_router_can_use_ends_it() -> None:
    with tempfile.TemporaryDirectory(prefix="tgs-") as name:
        directory = Path(name).resolve()
        program = programs()["valkey"] or programs()["redis"]
        assert program is not None
        store = StoreServer(program, directory)
        store.start()
        try:
            # Another layout, which is refused.
            store.command("SET", FORMAT_KEY, "0:1")
            settings = _settings(directory)
            settings["store"] = {"url": store.url}
            server = Supervised(directory, settings)
            with pytest.raises(AssertionError, match="ended with 1"):
                server.start()
        finally:
            store.stop()
        sentence = "tidegate: cannot start: store.url: the store holds format version 0"
        assert server.stderr().splitlines()[-1].startswith(sentence)
        assert not list(server.scratch.iterdir())


async def test_what_cannot_start_ends_it_with_a_sentence() -> None:
    with tempfile.TemporaryDirectory(prefix="tgs-") as name:
        directory = Path(name).resolve()
        settings = _settings(directory)
        settings["auth"]["acl_file"] = "none"
        server = Supervised(directory, settings)
        with pytest.raises(AssertionError, match="ended with 1"):
            server.start()
        assert (
            server.stderr().splitlines()[-1].startswith("tidegate: cannot start: auth.acl_file: ")
        )
        assert not list(server.scratch.iterdir())
