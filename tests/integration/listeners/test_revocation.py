"""Revoked client certificates: refused in the handshake, wherever TLS is, by live lists."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority, KeyPair
from support.recording_handler import until
from support.running_listeners import Running, running
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.tls import TlsConfigurationError


class Devices:
    """An authority with a server and two devices, of which one is to be revoked."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.server = self.authority.server("localhost")
        self.good = self.authority.client("good", file="good")
        self.stolen = self.authority.client("stolen", file="stolen")

    def listener(self, crl: Path | None, protocol: str = "tls", **tls: Any) -> dict[str, Any]:
        pair = {"certificate": self.server.certificate, "key": self.server.key}
        options = {
            "certificates": [pair],
            "client_ca": self.authority.certificate,
            "client_certificates": "required",
            "reload_interval_s": 0.01,
            **tls,
        }
        if crl is not None:
            options["client_crl"] = crl
        return {"name": protocol, "protocol": protocol, "tls": options}


@pytest.fixture
def devices(tmp_path: Path) -> Devices:
    return Devices(tmp_path)


async def enters(
    server: Running,
    devices: Devices,
    pair: KeyPair | None,
    *,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    session: ssl.SSLSession | None = None,
    chain: Path | None = None,
) -> bool:
    """Whether the handshake of a device succeeds; with TLS 1.3 a refusal comes when it reads."""
    context = ssl.create_default_context(cafile=str(devices.authority.certificate))
    context.maximum_version = version
    if pair is not None:
        certificate = pair.certificate
        if chain is not None:
            certificate = devices.authority.directory / "chain.pem"
            certificate.write_bytes(pair.certificate.read_bytes() + chain.read_bytes())
        context.load_cert_chain(certificate, pair.key)
    before = server.refused(Refusal.TLS_HANDSHAKE)
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        reader, writer = await server.connect(ssl=context, server_hostname="localhost")
        if server.state.config.protocol != "wss":
            writer.write(b"\x10")
            return await reader.read(1) == b"\x10"
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        return (await reader.read(4)) == b"HTTP"
    await until(lambda: server.refused(Refusal.TLS_HANDSHAKE) == before + 1)
    return False


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize("protocol", ["tls", "wss", "auto"])
async def test_a_revoked_certificate_is_refused(
    devices: Devices, protocol: str, mode: str, version: ssl.TLSVersion
) -> None:
    crl = devices.authority.revocation_list(devices.stolen.certificate)
    config = devices.listener(crl, protocol, client_certificates=mode)
    async with running(config) as server:
        assert await enters(server, devices, devices.good, version=version)
        assert not await enters(server, devices, devices.stolen, version=version)
        without = await enters(server, devices, None, version=version)
        assert without is (mode == "optional")


async def test_the_reason_is_logged(devices: Devices, caplog: pytest.LogCaptureFixture) -> None:
    crl = devices.authority.revocation_list(devices.stolen.certificate)
    caplog.set_level("DEBUG")
    async with running(devices.listener(crl)) as server:
        assert not await enters(server, devices, devices.stolen)
    assert "certificate revoked" in str([vars(record) for record in caplog.records])


async def test_a_bundle_of_authorities_with_lists_is_understood(devices: Devices) -> None:
    crl = devices.authority.revocation_list(devices.stolen.certificate)
    bundle = devices.authority.directory / "bundle.pem"
    bundle.write_bytes(devices.authority.certificate.read_bytes() + crl.read_bytes())
    async with running(devices.listener(None, client_ca=bundle)) as server:
        assert await enters(server, devices, devices.good)
        assert not await enters(server, devices, devices.stolen)


async def test_a_new_list_counts_at_once_and_a_bad_one_changes_nothing(devices: Devices) -> None:
    crl = devices.authority.revocation_list()
    async with running(devices.listener(crl)) as server:
        assert await enters(server, devices, devices.stolen)
        devices.authority.revocation_list(devices.stolen.certificate)
        await until(lambda: server.state.counters.reloads == 1)
        assert not await enters(server, devices, devices.stolen)
        crl.write_bytes(b"rubbish")
        await until(lambda: server.state.counters.reload_failures == 1)
        assert not await enters(server, devices, devices.stolen)
        assert await enters(server, devices, devices.good)


async def test_a_ticket_from_before_the_revocation_is_worth_nothing(devices: Devices) -> None:
    crl = devices.authority.revocation_list()
    context = ssl.create_default_context(cafile=str(devices.authority.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(devices.stolen.certificate, devices.stolen.key)
    async with running(devices.listener(crl)) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = await _handshake(server, context, incoming, outgoing, None)
        assert session is not None
        # It does work as long as nothing has changed.
        assert await _handshake(server, context, ssl.MemoryBIO(), ssl.MemoryBIO(), session)
        devices.authority.revocation_list(devices.stolen.certificate)
        await until(lambda: server.state.counters.reloads == 1)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await _handshake(server, context, ssl.MemoryBIO(), ssl.MemoryBIO(), session)


async def _handshake(
    server: Running,
    context: ssl.SSLContext,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    session: ssl.SSLSession | None,
) -> ssl.SSLSession | None:
    reader, writer = await server.connect()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost", session=session)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError from None
            incoming.write(data)
        else:
            break
    assert tls.session_reused is (session is not None)
    return tls.session


async def test_each_authority_may_have_its_own_list(devices: Devices, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other")
    theirs, lost = other.client("theirs", file="theirs"), other.client("lost", file="lost")
    bundle, lists = tmp_path / "bundle.pem", tmp_path / "lists.pem"
    authorities = (devices.authority, other)
    bundle.write_bytes(b"".join(each.certificate.read_bytes() for each in authorities))
    made = (
        devices.authority.revocation_list(devices.stolen.certificate),
        other.revocation_list(lost.certificate),
    )
    lists.write_bytes(b"".join(path.read_bytes() for path in made))
    async with running(devices.listener(lists, client_ca=bundle)) as server:
        for pair, right in (
            (devices.good, True),
            (devices.stolen, False),
            (theirs, True),
            (lost, False),
        ):
            assert await enters(server, devices, pair) is right


@pytest.mark.parametrize("revoked", ["device", "authority", "nobody"])
@pytest.mark.parametrize("has_root_list", [True, False])
async def test_authorities_between_are_checked_where_the_root_has_a_list(
    devices: Devices, tmp_path: Path, has_root_list: bool, revoked: str
) -> None:
    between = Authority(tmp_path / "between", "between", parent=devices.authority)
    device = between.client("device", file="device")
    lists = tmp_path / "lists.pem"
    made = [between.revocation_list(*[device.certificate] * (revoked == "device"))]
    if has_root_list:
        made.append(
            devices.authority.revocation_list(*[between.certificate] * (revoked == "authority"))
        )
    lists.write_bytes(b"".join(path.read_bytes() for path in made))
    async with running(devices.listener(lists)) as server:
        expected = revoked == "nobody" or (revoked == "authority" and not has_root_list)
        assert await enters(server, devices, device, chain=between.certificate) is expected


async def test_without_a_list_of_its_authority_a_client_is_refused_and_that_is_said(
    devices: Devices, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = Authority(tmp_path / "elsewhere", "elsewhere").revocation_list()
    async with running(devices.listener(elsewhere)) as server:
        assert not await enters(server, devices, devices.good)
    (record,) = [one for one in caplog.records if "without revocation list" in one.message]
    assert record.problem.startswith("no revocation list of CN=Tidegate")  # type: ignore[attr-defined]


async def test_a_list_that_has_expired_lets_nobody_in_and_that_is_said(
    devices: Devices, caplog: pytest.LogCaptureFixture
) -> None:
    crl = devices.authority.revocation_list(expired=True)
    async with running(devices.listener(crl)) as server:
        assert not await enters(server, devices, devices.good)
        contexts = server.listeners.tls_contexts()["tls"]
        assert contexts.client_crl_next_update < contexts.client_ca_not_after
    (record,) = [one for one in caplog.records if "is not valid" in one.message]
    assert record.problem.startswith("revocation list of CN=")  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["certificates", "nothing", "a delta list", "a broken list"])
async def test_what_would_be_ignored_is_refused(devices: Devices, what: str) -> None:
    crl = devices.authority.revocation_list(delta=what == "a delta list")
    problem = "delta revocation lists are not supported"
    if what == "certificates":
        crl.write_bytes(crl.read_bytes() + devices.authority.certificate.read_bytes())
        problem = "certificates belong into the file of CA certificates"
    elif what == "nothing":
        crl.write_bytes(b"")
        problem = "no revocation list in PEM format in the file"
    elif what == "a broken list":
        crl.write_bytes(crl.read_bytes().replace(b"M", b"N", 3))
        problem = "malformed revocation list"
    with pytest.raises(TlsConfigurationError, match=rf"listener tls: cannot use .*{problem}"):
        async with running(devices.listener(crl)):
            pass
