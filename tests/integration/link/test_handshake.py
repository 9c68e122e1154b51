"""How an edge and a router find out whether they may speak: certificates, versions, health."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.certificates import Authority, KeyPair
from support.fake_link import FakeOrigin, until
from support.linked import WiredRouter, Wires, every_carrier
from tidegate.link.frame_stream import SERVICE, LinkAddressError
from tidegate.link.transport import open_stream
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.v1.link_pb2_grpc import LinkStub
from tidegate.link.versions import NEWEST_VERSION, OLDEST_VERSION
from tidegate.mqtt.packets import Publish
from tidegate.runtime.config.model import LinkConfig, LinkTlsConfig

_STREAM = sys.modules["tidegate.link.edge_end.router_stream"]

pytestmark = every_carrier

NAME = "tidegate-router"


class Pki:
    """An authority of the test's own, and the files that both ends read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory / "ca")
        self.router = self._kept("router", self.authority.server(NAME))
        self.edge = self._kept("edge", self.authority.client("edge"))

    def _kept(self, role: str, pair: KeyPair) -> KeyPair:
        """Copy a pair to where a process would have it mounted."""
        kept = KeyPair(self.directory / f"{role}.pem", self.directory / f"{role}.key")
        _put(pair.certificate, kept.certificate)
        _put(pair.key, kept.key)
        return kept

    def renew(self, role: str, pair: KeyPair) -> None:
        """Put another pair in the place of a role's."""
        self._kept(role, pair)

    def settings(self, pair: KeyPair, **more: Any) -> dict[str, Any]:
        """What the configuration of one end says."""
        files = {"certificate": pair.certificate, "key": pair.key}
        return {"ca": self.authority.certificate, **files} | more


def _put(source: Path, place: Path) -> None:
    """Replace a file at once, as a mounted secret is."""
    fresh = place.with_suffix(".new")
    shutil.copy(source, fresh)
    os.replace(fresh, place)  # noqa: PTH105 - the name says it


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Certificates for one router and one edge."""
    return Pki(tmp_path)


@pytest.fixture
async def router(wires: Wires, pki: Pki) -> WiredRouter:
    """A router that wants certificates."""
    return await wires.router("r1", listen="127.0.0.1:0", tls=pki.settings(pki.router))


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, from INFO on."""
    caplog.set_level(logging.INFO, "tidegate")
    return caplog


def _reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why routers could not be reached, as logged."""
    return [
        record.__dict__["reason"]
        for record in caplog.records
        if record.message == "router unreachable, retrying"
    ]


# Certificates


async def test_an_edge_and_a_router_with_certificates_of_one_authority_speak(
    wires: Wires, pki: Pki, router: WiredRouter
) -> None:
    edge = await wires.edge(router.address, tls=pki.settings(pki.edge))
    await edge.uses("r1")
    origin = FakeOrigin()
    edge.router_client.publish(origin, Publish("t", b"secret", 1))
    await until(lambda: origin.answers, "it is answered")
    assert router.fake.payloads == [b"secret"]


async def test_a_router_that_another_authority_has_signed_is_not_spoken_to(
    wires: Wires, pki: Pki, router: WiredRouter, tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    stranger = Authority(tmp_path / "other", "Another authority")
    settings = pki.settings(pki.edge) | {"ca": stranger.certificate}
    edge = await wires.edge(router.address, tls=settings)
    await until(lambda: _reasons(quiet), "the reason is logged")
    assert not edge.router_client.routers.reachable()
    assert not router.fake.calls


async def test_an_edge_that_another_authority_has_signed_is_refused(
    wires: Wires, pki: Pki, router: WiredRouter, tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    stranger = Authority(tmp_path / "other", "Another authority")
    settings = pki.settings(stranger.client("intruder"))
    edge = await wires.edge(router.address, tls=settings)
    await until(lambda: _reasons(quiet), "the reason is logged")
    assert not edge.router_client.routers.reachable()
    assert not router.fake.calls


async def test_an_edge_without_a_certificate_is_refused(pki: Pki, router: WiredRouter) -> None:
    credentials = grpc.ssl_channel_credentials(pki.authority.certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", NAME)]
    async with grpc.aio.secure_channel(router.address, credentials, options) as channel:
        call = LinkStub(channel).Attach()
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    assert not router.fake.calls


async def test_an_edge_without_tls_is_refused(
    wires: Wires, router: WiredRouter, quiet: pytest.LogCaptureFixture
) -> None:
    edge = await wires.edge(router.address)
    await until(lambda: _reasons(quiet), "the reason is logged")
    assert not edge.router_client.routers.reachable()


async def test_a_router_is_known_by_the_name_in_its_certificate_whatever_its_address(
    wires: Wires, pki: Pki, router: WiredRouter, quiet: pytest.LogCaptureFixture
) -> None:
    wrong = await wires.edge(router.address, tls=pki.settings(pki.edge, server_name="another-name"))
    await until(lambda: _reasons(quiet), "the reason is logged")
    assert not wrong.router_client.routers.reachable()
    right = await wires.edge(router.address, tls=pki.settings(pki.edge, server_name=NAME))
    await right.uses("r1")


async def test_certificates_cover_unix_sockets_too(wires: Wires, pki: Pki) -> None:
    router = await wires.router("r1", tls=pki.settings(pki.router))
    edge = await wires.edge(router.address, tls=pki.settings(pki.edge))
    await edge.uses("r1")


async def test_new_certificates_are_used_for_new_connections_on_both_sides(
    wires: Wires, pki: Pki, router: WiredRouter, tmp_path: Path
) -> None:
    tls = pki.settings(pki.edge)
    edge = await wires.edge(router.address, tls=tls)
    await edge.uses("r1")
    # Another authority takes over, with new certificates for both; the files change under way.
    authority = Authority(tmp_path / "next", "The next authority")
    _put(authority.certificate, pki.authority.certificate)
    pki.renew("router", authority.server(NAME))
    pki.renew("edge", authority.client("edge"))
    # The connection that there is goes on.
    origin = FakeOrigin()
    edge.router_client.publish(origin, Publish("t", b"old connection", 1))
    await until(lambda: origin.answers, "it is answered")
    router.link_server.drop_all()
    await until(lambda: len(router.fake.named("attach_edge")) == 2, "it has come again")
    await edge.uses("r1")
    other = await wires.edge(router.address, tls=tls)
    await other.uses("r1")


async def test_a_certificate_that_cannot_be_read_changes_nothing(
    wires: Wires, pki: Pki, router: WiredRouter, quiet: pytest.LogCaptureFixture
) -> None:
    pki.router.key.unlink()
    edge = await wires.edge(router.address, tls=pki.settings(pki.edge))
    await edge.uses("r1")
    await until(
        lambda: "link certificates not read, keeping the previous ones" in quiet.messages,
        "it is logged",
    )


async def test_a_bundle_with_revocation_lists_is_refused_by_both_ends(
    wires: Wires, pki: Pki, router: WiredRouter
) -> None:
    bundle = pki.directory / "bundle.pem"
    crl = pki.authority.revocation_list(pki.edge.certificate)
    bundle.write_bytes(pki.authority.certificate.read_bytes() + crl.read_bytes())
    with pytest.raises(OSError, match="revocation lists"):
        await wires.router("r2", listen="127.0.0.1:0", tls=pki.settings(pki.router, ca=bundle))
    tls = LinkTlsConfig(**pki.settings(pki.edge, ca=bundle))
    config = LinkConfig(tls=tls, carrier=wires.carriers.edge)
    with pytest.raises(OSError, match="revocation lists"):
        async with open_stream(router.address, config):
            pass


async def test_an_edge_whose_certificate_is_not_there_yet_tries_again(
    wires: Wires, pki: Pki, router: WiredRouter, quiet: pytest.LogCaptureFixture
) -> None:
    aside = pki.edge.key.with_suffix(".aside")
    pki.edge.key.rename(aside)
    edge = await wires.edge(router.address, tls=pki.settings(pki.edge))
    await until(lambda: _reasons(quiet), "the reason is logged")
    aside.rename(pki.edge.key)
    await edge.uses("r1")


# Addresses that cannot be had


async def test_an_address_in_use_is_named(wires: Wires, router: WiredRouter) -> None:
    with pytest.raises(LinkAddressError, match=router.address):
        await wires.router("r2", listen=router.address)


# Versions


async def _greet(router: WiredRouter, **hello: Any) -> pb.Welcome:
    async with grpc.aio.insecure_channel(router.address) as channel:
        call = LinkStub(channel).Attach()
        await call.write(pb.EdgeFrame(hello=pb.Hello(edge_id="e", **hello)))
        frame = await call.read()
        call.cancel()
        welcome: pb.Welcome = frame.welcome
        return welcome


@pytest.mark.parametrize(
    ("oldest", "newest", "spoken"), [(0, 1, 1), (1, 99, 4), (2, 3, 3), (5, 9, 0)]
)
async def test_versions_are_agreed_upon_or_refused_with_a_sentence(
    wires: Wires, oldest: int, newest: int, spoken: int
) -> None:
    router = await wires.router("r1")
    welcome = await _greet(router, oldest_version=oldest, newest_version=newest)
    assert welcome.version == spoken
    assert bool(welcome.refusal) is not bool(spoken)
    if not spoken:
        assert welcome.refusal == pb.REFUSAL_VERSION
        assert welcome.text == (
            f"no common version of the link: router {OLDEST_VERSION} to {NEWEST_VERSION}, "
            f"edge {oldest} to {newest}"
        )


async def test_an_edge_says_why_a_router_refuses_it(
    wires: Wires, monkeypatch: pytest.MonkeyPatch, quiet: pytest.LogCaptureFixture
) -> None:
    router = await wires.router("r1")
    monkeypatch.setattr(_STREAM, "OLDEST_VERSION", 7)
    monkeypatch.setattr(_STREAM, "NEWEST_VERSION", 9)
    edge = await wires.edge(router.address)
    await until(lambda: _reasons(quiet), "the reason is logged")
    (reason,) = _reasons(quiet)
    assert "no common version of the link: router 1 to 4, edge 7 to 9" in reason
    assert not edge.router_client.routers.reachable()
    # After an upgrade of one of the two it goes on by itself, and the reason was logged once.
    monkeypatch.undo()
    await edge.uses("r1")
    assert len(_reasons(quiet)) == 1


@pytest.mark.parametrize(("edge_newest", "spoken"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4)])
async def test_neighbouring_versions_work_together(
    wires: Wires, monkeypatch: pytest.MonkeyPatch, edge_newest: int, spoken: int
) -> None:
    router = await wires.router("r1")
    monkeypatch.setattr(_STREAM, "NEWEST_VERSION", edge_newest)
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    (peer,) = router.link_server.edges
    assert peer.version == edge.router_client.routers.members["r1"].version == spoken
    edge.router_client.add_interest(edge.edge.edge_id, ["t"])
    await edge.router_client.interest_synced()
    origin = FakeOrigin()
    trace = bytes(range(25))
    edge.router_client.publish(origin, Publish("t", b"x", 1, trace=trace))
    edge.router_client.publish(origin, Publish("t", b"y", 1))
    await until(lambda: len(origin.answers) == 2 and len(edge.fake.delivered) == 2, "both come")


async def test_a_router_that_ends_refuses_newcomers(
    wires: Wires, quiet: pytest.LogCaptureFixture
) -> None:
    router = await wires.router("r1")
    await router.link_server.leave(0.1)
    edge = await wires.edge(router.address)
    await until(lambda: _reasons(quiet), "the reason is logged")
    assert _reasons(quiet) == ["router refused the edge: router is shutting down"]
    assert not edge.router_client.routers.reachable()


# Health


async def _health(router: WiredRouter, service: str) -> str:
    async with grpc.aio.insecure_channel(router.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_checks_say_whether_edges_are_welcome(wires: Wires, service: str) -> None:
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    assert await _health(router, service) == "SERVING"
    leaving = asyncio.create_task(router.link_server.leave(20))
    await until(lambda: router.link_server.stopping, "it leaves")
    # The edge that is attached has nobody else, and is served to the end.
    assert await _health(router, service) == "NOT_SERVING"
    assert edge.open_to() == {"r1"}
    await edge.stop()
    await leaving


async def test_a_service_that_is_not_there_is_unknown_to_health_checks(wires: Wires) -> None:
    router = await wires.router("r1")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await _health(router, "another.Service")
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_is_watched_until_the_client_has_enough(wires: Wires) -> None:
    router = await wires.router("r1")
    async with grpc.aio.insecure_channel(router.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE)) for _ in range(2)]
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="another.Service"))
        states = health_pb2.HealthCheckResponse
        assert [(await watch.read()).status for watch in watches] == [states.SERVING] * 2
        assert (await unknown.read()).status == states.SERVICE_UNKNOWN
        watches[0].cancel()
        await router.link_server.leave(0.01)
        assert (await watches[1].read()).status == states.NOT_SERVING


async def test_large_frames_and_many_small_ones_arrive_between_the_carriers(wires: Wires) -> None:
    # Of more than every window, in both directions at a time, and with a header in two frames.
    router = await wires.router("r1")
    edge = await wires.edge(router.address)
    await edge.uses("r1")
    edge.router_client.add_interest(edge.edge.edge_id, "t")
    await edge.router_client.interest_synced()
    payloads = [
        bytes([number]) * (3_000_000 if number % 20 == 7 else number) for number in range(60)
    ]
    origin = FakeOrigin()
    for payload in payloads:
        edge.router_client.publish(origin, Publish("t", payload, 1))
    await until(lambda: len(edge.fake.payloads) == len(payloads), "all have come back")
    assert edge.fake.payloads == payloads
