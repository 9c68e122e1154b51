"""The link on each event loop that processes run on: their transports are not the same classes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority
from support.fake_link import FakeOrigin, until
from support.linked import Wires
from tidegate.mqtt.packets import Publish
from tidegate.runtime.process import event_loop

pytestmark = pytest.mark.parametrize("use_uvloop", [True, False], ids=["uvloop", "asyncio"])

Play = Callable[[Wires], Coroutine[Any, Any, None]]


def _run(play: Play, use_uvloop: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert event_loop.implementation(loop) == ("uvloop" if use_uvloop else "asyncio")
        with tempfile.TemporaryDirectory(prefix="tgl-", ignore_cleanup_errors=True) as name:
            async with Wires(Path(name)) as wires:
                await play(wires)

    event_loop.run(main(), use_uvloop=use_uvloop)


async def _exchange(
    wires: Wires, listen: str, router_tls: dict[str, Any], edge_tls: dict[str, Any]
) -> None:
    router = await wires.router("r1", listen=listen, tls=router_tls)
    edge = await wires.edge(router.address, tls=edge_tls)
    await edge.uses("r1")
    edge.router_client.add_interest(edge.edge.edge_id, "t")
    await edge.router_client.interest_synced()
    payloads = [b"small", b"x" * 3_000_000, b"small again"]
    origin = FakeOrigin()
    for payload in payloads:
        edge.router_client.publish(origin, Publish("t", payload, 1))
    await until(lambda: len(edge.fake.payloads) == len(payloads), "all have come back")
    assert edge.fake.payloads == payloads
    router.link_server.drop_all()
    await until(lambda: len(router.fake.named("attach_edge")) == 2, "it has come again")
    await edge.uses("r1")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("is_encrypted", [True, False], ids=["tls", "clear"])
def test_frames_are_exchanged(
    use_uvloop: bool, kind: str, is_encrypted: bool, tmp_path: Path
) -> None:
    router_tls: dict[str, Any] = {}
    edge_tls: dict[str, Any] = {}
    if is_encrypted:
        authority = Authority(tmp_path / "ca")
        server, client = authority.server("tidegate-router"), authority.client("edge")
        router_tls = {"certificate": server.certificate, "key": server.key}
        edge_tls = {"certificate": client.certificate, "key": client.key}
        router_tls["ca"] = edge_tls["ca"] = authority.certificate

    async def play(wires: Wires) -> None:
        listen = "127.0.0.1:0" if kind == "tcp" else wires.place("r1")
        await _exchange(wires, listen, router_tls, edge_tls)

    _run(play, use_uvloop)
