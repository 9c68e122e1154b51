"""A flood from one address while good clients work from another: it costs its sender only.

Inputs: ``support.flood`` in a process of its own, from 127.0.0.2; a hundred clients from 127.0.0.1
that exchange messages (``support.good_clients``), one that comes anew twice a second with its
password, and a probe of ``/livez`` four times a second. Observed: what each of them waits, the
broker's memory and its log.

The flood's own work must not count as the broker's: where there are two processors or more, the
last one is the flood's, which the good clients share; the broker and its store have the others, in
calm and flood alike, and all have the priority that they have anywhere. What an exchange takes ends
with the kernel's time stamp of the reply. Without that, p99 was two to three times what it was in
calm, most of it for want of the processor that the flood's sender had.

How fast things are is printed; what fails a test is a wait that no busy machine explains, or that
nothing has waited where it should have.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import flood, good_clients
from support.broker import StartBroker, Tidegate
from support.raw_client import RawClient
from support.waiting import wait_for_async

_CLIENTS = 100
_CALM_S = 2.0
_FLOOD_S = 4.0
#: Until a busy machine has connected the good clients.
_BEGIN_S = 30.0
#: The kubelet waits one second; a broker that is starved answers after many, or never.
_PROBE_S = 1.0
#: A right password is answered within this, however many wrong ones there are.
_LOGIN_S = 5.0
#: An exchange of a good client.
_SLOWEST_MS = 2000.0
#: What a flood may cost: connections that are held, each with its buffers, and what the process
#: keeps of it; where there are passwords, two hashes that are computed at a time as well.
_GROWTH_BYTES = 64 * 1024 * 1024
_HASHES_BYTES = 2 * 64 * 1024 * 1024
#: Lines of the log in a second, all kinds together: of each listener, of connections that broke a
#: rule, of those of an address. And what two addresses may have at once.
_LINES_PER_S = 10 * len(flood.LISTENERS) + 10 + 2 * 10
_LINES_AT_ONCE = 2 * 100
#: Kinds whose connections are handled, and fail, as fast as they are sent; and how many have waited
#: when there have been pauses. On a busy machine there is hardly a flood.
_PACED = frozenset({"wrong passwords", "guessed passwords", "garbage"})
_MANY_WAITED = 1000

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("no_connection_is_left")]


class _Goods:
    """Good clients besides those that exchange messages, and how long each has waited."""

    def __init__(self, server: Tidegate) -> None:
        self._server = server
        self._numbers = itertools.count()
        self.logins_s: list[float] = []
        self.probes_s: list[float] = []

    async def connect(self) -> RawClient:
        """Connect one more with its password, from 127.0.0.1."""
        address = self._server.address("tcp")
        client = await RawClient.open(f"tcp://{address.host}:{address.port}")
        name = f"login-{next(self._numbers)}"
        await client.connect(name, username="good", password=b"secret")
        return client

    async def come_and_go(self) -> None:
        """Connect, and leave, twice a second."""
        while True:
            began = time.monotonic()
            client = await self.connect()
            self.logins_s.append(time.monotonic() - began)
            client.close()
            await asyncio.sleep(0.5)

    async def probe(self) -> None:
        """Ask for ``/livez`` four times a second."""
        address = self._server.address("admin")
        url = f"http://{address.host}:{address.port}/livez"

        def ask() -> int:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return int(reply.status)

        while True:
            began = time.monotonic()
            assert await asyncio.to_thread(ask) == 200
            self.probes_s.append(time.monotonic() - began)
            await asyncio.sleep(0.25)

    async def have_worked(self, count: int) -> None:
        """Return when there have been ``count`` logins and probes."""
        await wait_for_async(
            lambda: min(len(self.logins_s), len(self.probes_s)) >= count,
            _BEGIN_S,
            "the good clients work",
        )

    def begin(self) -> None:
        """Forget what was measured so far."""
        self.logins_s.clear()
        self.probes_s.clear()


@contextlib.asynccontextmanager
async def _at_work(goods: _Goods) -> AsyncIterator[None]:
    """Run them around a block; none of them may fail."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in (goods.come_and_go(), goods.probe())]
        yield
        for task in tasks:
            task.cancel()


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _processors(server: Tidegate) -> set[int]:
    """Return the flood's, after the broker and what it started have been given the others."""
    all_of_them = sorted(os.sched_getaffinity(0))
    if len(all_of_them) < 2:
        return set(all_of_them)
    for pid in {server.pid} | server.descendants():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), all_of_them[:-1])
    return set(all_of_them[-1:])


def _password_file(directory: Path) -> str:
    file = directory / "passwords"
    tidegate = str(Path(sys.executable).with_name("tidegate"))
    subprocess.run([tidegate, "passwd", "-c", "-b", str(file), "good", "secret"], check=True)
    return str(file)


def _metric(server: Tidegate, name: str) -> int:
    address = server.address("admin")
    with urllib.request.urlopen(f"http://{address.host}:{address.port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    start = f"{name} "
    return next(int(float(line.removeprefix(start))) for line in lines if line.startswith(start))


@pytest.mark.parametrize("kind", flood.KINDS)
async def test_a_flood_costs_its_sender_only(
    start_broker: StartBroker, tmp_path: Path, kind: str
) -> None:
    """G6: whatever comes from 127.0.0.2, clients of 127.0.0.1 and the probes are served."""
    auth = {"allow_anonymous": False, "password_file": _password_file(tmp_path)}
    server = start_broker(auth=auth)
    names = ("admin",) if kind == "half admin requests" else flood.LISTENERS
    ports = [server.address(name).port for name in names]
    processors = _processors(server)
    goods = _Goods(server)
    async with good_clients.running(server.address("tcp").port, _CLIENTS) as clients:
        os.sched_setaffinity(clients.pid, processors)
        async with _at_work(goods):
            await goods.have_worked(2)
            await clients.waits_ms()
            await asyncio.sleep(_CALM_S)
            calm_ms = _quantile(await clients.waits_ms(), 0.99)
            memory, before = server.memory_bytes(), len(server.stderr().splitlines())
            began_s = time.monotonic()
            goods.begin()
            async with flood.running(kind, _FLOOD_S, ports, processors):
                await asyncio.sleep(_FLOOD_S)
            waits_ms = await clients.waits_ms()
            await goods.have_worked(1)
            lines = len(server.stderr().splitlines()) - before
            measured = {
                "seconds": round(time.monotonic() - began_s, 1),
                "p99 calm ms": round(calm_ms, 2),
                "p99 ms": round(_quantile(waits_ms, 0.99), 2),
                "login ms": round(1000 * max(goods.logins_s)),
                "probe ms": round(1000 * max(goods.probes_s)),
                "MiB": round((server.memory_bytes() - memory) / 2**20, 1),
                "log lines": lines,
                "waited": _metric(server, "tidegate_connections_waited_total"),
                "pauses": _metric(server, "tidegate_connect_pauses_total"),
            }
    print(json.dumps({"flood": kind, **measured}))
    assert max(waits_ms) < _SLOWEST_MS, measured
    assert max(goods.logins_s) < _LOGIN_S, measured
    assert max(goods.probes_s) < _PROBE_S, measured
    hashes = _HASHES_BYTES if "passwords" in kind else 0
    assert measured["MiB"] * 2**20 < _GROWTH_BYTES + hashes, measured
    assert lines < _LINES_PER_S * measured["seconds"] + _LINES_AT_ONCE, measured
    # Each takes a third of a millisecond and more: all at once they would be one long turn.
    assert measured["waited"] or kind != "TLS handshakes at once", measured
    # Otherwise the event loop is never idle, and computes no hash without clients waiting for it.
    is_paced = kind in _PACED and measured["waited"] > _MANY_WAITED
    assert measured["pauses"] or not is_paced, measured
