"""TLS: handshakes, names, client certificates, reloading, ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority, KeyPair
from support.recording_handler import until
from support.running_listeners import Running, running, unsent_bytes
from tidegate.edge.transport.accepted_connection import Refusal
from tidegate.edge.transport.tls import TlsConfigurationError

BIG = b"\x30" + bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> KeyPair:
    return authority.server("localhost", "broker.test", file="server")


def tls(pair: KeyPair, *more: KeyPair, **options: Any) -> dict[str, Any]:
    certificates = [{"certificate": each.certificate, "key": each.key} for each in (pair, *more)]
    return {"certificates": certificates, **options}


def client(authority: Authority, alpn: list[str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


async def connect(
    server: Running, context: ssl.SSLContext, name: str = "localhost"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await server.connect(ssl=context, server_hostname=name)


def names_of(writer: asyncio.StreamWriter) -> set[str]:
    certificate = writer.get_extra_info("peercert")
    return {value for _, value in certificate["subjectAltName"]}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_bytes_go_both_ways(
    authority: Authority, pair: KeyPair, version: ssl.TLSVersion
) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}) as server:
        context = client(authority)
        context.minimum_version = context.maximum_version = version
        reader, writer = await connect(server, context)
        writer.write(b"\x10hello")
        assert await reader.readexactly(6) == b"\x10hello"
        peer = server.handlers[0].channel.peer
        assert peer.transport == "tls"
        assert peer.tls.version == {2: "TLSv1.2", 3: "TLSv1.3"}[version - 0x0301]
        assert peer.tls.server_name == "localhost"
        writer.close()
        await until(lambda: server.handlers[0].lost)
        assert server.handlers[0].lost == ["peer_closed"]


async def test_what_tls_says_is_one_object_for_connections_that_are_alike(
    authority: Authority, pair: KeyPair
) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}) as server:
        writers = [(await connect(server, client(authority)))[1] for _ in range(2)]
        await until(lambda: len(server.handlers) == 2)
        one, other = (handler.channel.peer for handler in server.handlers)
        assert one.tls is other.tls
        assert one.address is other.address
        for writer in writers:
            writer.close()


async def test_large_data_goes_both_ways(authority: Authority, pair: KeyPair) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}) as server:
        reader, writer = await connect(server, client(authority))
        writer.write(BIG * 4)
        assert await reader.readexactly(len(BIG) * 4) == BIG * 4


async def test_only_mqtt_is_agreed_on_by_alpn(authority: Authority, pair: KeyPair) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}) as server:
        for offer, agreed in ((["mqtt"], "mqtt"), (["http/1.1", "mqtt"], "mqtt"), (["h2"], None)):
            reader, writer = await connect(server, client(authority, offer))
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"


async def test_the_minimum_version_is_kept(authority: Authority, pair: KeyPair) -> None:
    config = {"protocol": "tls", "tls": tls(pair, minimum_version="1.3")}
    async with running(config) as server:
        context = client(authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match="version"):
            await connect(server, context)
        await until(lambda: server.refused(Refusal.TLS_HANDSHAKE) == 1)


async def test_the_certificate_follows_the_name(authority: Authority, pair: KeyPair) -> None:
    exact = authority.server("a.example.org", file="exact")
    wildcard = authority.server("*.example.org", file="wildcard")
    config = {"protocol": "tls", "tls": tls(pair, exact, wildcard)}
    async with running(config) as server:
        for name, expected in (
            ("a.example.org", "a.example.org"),
            ("A.Example.ORG", "a.example.org"),
            ("b.example.org", "*.example.org"),
            ("x.b.example.org", "localhost"),
            ("elsewhere.net", "localhost"),
        ):
            context = client(authority)
            context.check_hostname = False
            _, writer = await connect(server, context, name)
            assert expected in names_of(writer), name
        context = client(authority, ["mqtt"])
        _, writer = await connect(server, context, "a.example.org")
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "mqtt"


async def test_configured_names_replace_those_in_the_certificate(
    authority: Authority, pair: KeyPair
) -> None:
    other = authority.server("a.example.org", file="other")
    config = tls(pair, other)
    config["certificates"][1]["server_names"] = ["tenant.test"]
    async with running({"protocol": "tls", "tls": config}) as server:
        context = client(authority)
        context.check_hostname = False
        for name, expected in (("tenant.test", "a.example.org"), ("a.example.org", "localhost")):
            _, writer = await connect(server, context, name)
            assert expected in names_of(writer)


@pytest.mark.parametrize("mode", ["optional", "required"])
async def test_a_verified_client_certificate_names_the_peer(
    authority: Authority, pair: KeyPair, mode: str
) -> None:
    mine = authority.client("device-7", file="client")
    options = tls(pair, client_ca=authority.certificate, client_certificates=mode)
    async with running({"protocol": "tls", "tls": options}) as server:
        context = client(authority)
        context.load_cert_chain(mine.certificate, mine.key)
        reader, writer = await connect(server, context)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        peer = server.handlers[0].channel.peer
        assert peer.tls.certificate_common_name == "device-7"
        assert peer.tls.certificate_subject == "CN=device-7"


async def test_no_client_certificate_where_it_is_optional(
    authority: Authority, pair: KeyPair
) -> None:
    options = tls(pair, client_ca=authority.certificate, client_certificates="optional")
    async with running({"protocol": "tls", "tls": options}) as server:
        reader, writer = await connect(server, client(authority))
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert server.handlers[0].channel.peer.tls.certificate_common_name == ""


@pytest.mark.parametrize("has_foreign", [False, True])
async def test_a_wrong_or_missing_client_certificate_is_refused(
    authority: Authority, pair: KeyPair, tmp_path: Path, has_foreign: bool
) -> None:
    options = tls(pair, client_ca=authority.certificate, client_certificates="required")
    async with running({"protocol": "tls", "tls": options}) as server:
        context = client(authority)
        if has_foreign:
            foreign = Authority(tmp_path, "Somebody else").client("device-7")
            context.load_cert_chain(foreign.certificate, foreign.key)
        # With TLS 1.3 a client learns of it when it reads.
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            reader, _ = await connect(server, context)
            assert await reader.read(1) == b""
        await until(lambda: server.refused(Refusal.TLS_HANDSHAKE) == 1)
        assert not server.handlers


async def test_what_is_no_tls_is_refused(pair: KeyPair) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}) as server:
        reader, writer = await server.connect()
        writer.write(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        with contextlib.suppress(ConnectionResetError):
            await reader.read(-1)
        await until(lambda: server.refused(Refusal.TLS_HANDSHAKE) == 1)


async def test_a_handshake_that_takes_too_long_is_dropped(pair: KeyPair) -> None:
    config = {"protocol": "tls", "tls": tls(pair, handshake_timeout_s=0.05)}
    async with running(config) as server:
        reader, writer = await server.connect()
        writer.write(b"\x16\x03\x01\x02")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await until(lambda: server.refused(Refusal.TIMEOUT) == 1)


async def test_a_peer_that_leaves_in_the_handshake_is_counted(pair: KeyPair) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}) as server:
        _, writer = await server.connect()
        writer.write(b"\x16\x03\x01\x02")
        writer.close()
        await until(lambda: server.refused(Refusal.ABANDONED) == 1)
        assert server.open_connections() == 0


async def test_nothing_is_delivered_while_paused_and_nothing_is_lost(
    authority: Authority, pair: KeyPair
) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}, echo=False) as server:
        server.handlers.on_made = lambda handler: handler.channel.pause_reading()
        _, writer = await connect(server, client(authority))
        writer.write(BIG)
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        assert handler.data == b""
        handler.channel.resume_reading()
        await until(lambda: handler.data)
        handler.channel.pause_reading()
        held = len(handler.data)
        await asyncio.sleep(0)
        assert len(handler.data) == held
        handler.channel.resume_reading()
        await until(lambda: len(handler.data) == len(BIG))
        assert handler.data == BIG


async def test_what_was_sent_before_the_end_is_delivered_after_a_pause(
    authority: Authority, pair: KeyPair
) -> None:
    """A client may publish and leave at once, while the broker lets it wait."""
    async with running({"protocol": "tls", "tls": tls(pair)}, echo=False) as server:
        server.handlers.on_made = lambda handler: handler.channel.pause_reading()
        _, writer = await connect(server, client(authority))
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        writer.write(BIG[:5000])
        await writer.drain()
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)
        handler.channel.resume_reading()
        await until(lambda: handler.lost)
        assert handler.data == BIG[:5000]
        assert handler.lost == ["peer_closed"]


async def test_a_slow_peer_pauses_and_resumes_the_handler(
    authority: Authority, pair: KeyPair
) -> None:
    config = {"protocol": "tls", "tls": tls(pair), "write_high_water_bytes": 65_536}
    async with running(config, echo=False) as server:
        reader, writer = await connect(server, client(authority))
        await until(lambda: server.handlers)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        handler = server.handlers[0]
        sent = 0
        while not handler.write_pauses:
            handler.channel.write([BIG])
            sent += len(BIG)
        assert unsent_bytes(handler) > 65_536
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await reader.readexactly(sent)) == sent
        await until(lambda: handler.write_pauses == [True, False])
        handler.channel.close()
        assert await reader.read(-1) == b""


async def test_our_close_sends_close_notify(authority: Authority, pair: KeyPair) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}, echo=False) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tunnel = client(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
        reader, writer = await server.connect()
        while True:
            try:
                tunnel.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65_536))
        writer.write(outgoing.read())
        await until(lambda: server.handlers)
        server.handlers[0].channel.write([b"last"])
        server.handlers[0].channel.close()
        incoming.write(await reader.read(-1))
        assert tunnel.read(100) == b"last"
        # An end without close_notify would be SSLEOFError or SSLWantReadError here.
        assert tunnel.read(100) == b""
        writer.close()
        await until(lambda: server.handlers[0].lost == ["local_close"])


async def test_a_broken_record_is_a_tls_error(authority: Authority, pair: KeyPair) -> None:
    async with running({"protocol": "tls", "tls": tls(pair)}) as server:
        _, writer = await connect(server, client(authority))
        await until(lambda: server.handlers)
        sock = writer.get_extra_info("socket")
        os.write(sock.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: server.handlers[0].lost)
        assert server.handlers[0].lost == ["tls_error"]


def replace_with(pair: KeyPair, other: KeyPair) -> None:
    for mine, new in ((pair.key, other.key), (pair.certificate, other.certificate)):
        copy = mine.with_suffix(".new")
        copy.write_bytes(new.read_bytes())
        copy.replace(mine)


async def test_changed_files_are_taken_and_connections_stay(
    authority: Authority, tmp_path: Path
) -> None:
    pair = Authority(tmp_path / "unused").server("old.test")
    replace_with(pair, authority.server("old.test", file="old"))
    config = {"protocol": "tls", "tls": tls(pair, reload_interval_s=0.01)}
    async with running(config) as server:
        context = client(authority)
        context.check_hostname = False
        reader, writer = await connect(server, context)
        assert "old.test" in names_of(writer)
        contexts = server.listeners.tls_contexts()[server.state.label]
        before = contexts.certificate_not_after
        replace_with(pair, authority.server("new.test", file="new"))
        await until(lambda: server.state.counters.reloads)
        _, second = await connect(server, context)
        assert "new.test" in names_of(second)
        assert contexts.certificate_not_after >= before
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"


async def test_bad_files_keep_the_last_good_ones(authority: Authority, tmp_path: Path) -> None:
    pair = Authority(tmp_path / "unused").server("old.test")
    replace_with(pair, authority.server("old.test", file="old"))
    config = {"protocol": "tls", "tls": tls(pair, reload_interval_s=0.01)}
    async with running(config) as server:
        context = client(authority)
        context.check_hostname = False
        pair.certificate.write_text("rubbish")
        await until(lambda: server.state.counters.reload_failures)
        _, writer = await connect(server, context)
        assert "old.test" in names_of(writer)
        pair.certificate.unlink()
        await until(lambda: server.state.counters.reload_failures == 2)
        replace_with(pair, authority.server("new.test", file="new"))
        await until(lambda: server.state.counters.reloads)
        _, writer = await connect(server, context)
        assert "new.test" in names_of(writer)


async def test_a_swapped_mount_is_a_change(authority: Authority, tmp_path: Path) -> None:
    """A mounted Secret: tls.crt -> ..data/tls.crt, ..data -> ..2026_1, swapped by a rename."""
    for version, name in (("..2026_1", "old.test"), ("..2026_2", "new.test")):
        directory = tmp_path / version
        directory.mkdir()
        made = authority.server(name, file=version)
        (directory / "tls.crt").write_bytes(made.certificate.read_bytes())
        (directory / "tls.key").write_bytes(made.key.read_bytes())
    (tmp_path / "..data").symlink_to("..2026_1")
    pair = KeyPair(tmp_path / "tls.crt", tmp_path / "tls.key")
    for path in (pair.certificate, pair.key):
        path.symlink_to(Path("..data") / path.name)
    config = {"protocol": "tls", "tls": tls(pair, reload_interval_s=0.01)}
    async with running(config) as server:
        (tmp_path / "..data_tmp").symlink_to("..2026_2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        await until(lambda: server.state.counters.reloads)
        context = client(authority)
        context.check_hostname = False
        _, writer = await connect(server, context)
        assert "new.test" in names_of(writer)


async def test_bad_files_stop_the_start_and_are_named(pair: KeyPair, tmp_path: Path) -> None:
    missing = KeyPair(tmp_path / "missing.pem", pair.key)
    other_key = KeyPair(pair.certificate, Authority(tmp_path / "x").server("x.test").key)
    rubbish = KeyPair(tmp_path / "rubbish.pem", pair.key)
    rubbish.certificate.write_text("rubbish")
    for bad in (missing, other_key, rubbish):
        with pytest.raises(TlsConfigurationError, match=bad.certificate.name):
            async with running({"protocol": "tls", "tls": tls(bad)}):
                pass
