"""The link carried by grpc.aio, for ``link.carrier: grpc``.

The only importer of grpc, and imported only where it is configured. Called by ``transport``. Never
reads a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tidegate.link.frame_stream import SERVICE, LinkAddressError, Serve, StreamFailed
from tidegate.link.v1 import link_pb2_grpc
from tidegate.runtime.config.model import LinkTlsConfig
from tidegate.runtime.config.referenced_files import read_authorities

log = logging.getLogger(__name__)

#: The link has its own heartbeats, and reconnects by itself.
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.lookahead_bytes", 1_048_576),
)


class GrpcStream:
    """A call of grpc.aio, of either end, as a ``FrameStream``."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> Any:
        """See FrameStream."""
        try:
            frame = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise StreamFailed(error.details()) from error
        except asyncio.InvalidStateError as error:
            raise StreamFailed("connection closed") from error
        return None if frame is grpc.aio.EOF else frame

    async def receive(self, sink: Callable[[Any], None]) -> None:
        """See FrameStream."""
        while (frame := await self.read()) is not None:
            sink(frame)

    async def write(self, frame: Any) -> None:
        """See FrameStream."""
        try:
            await self._call.write(frame)
        except grpc.aio.AioRpcError as error:
            raise StreamFailed(error.details()) from error
        except asyncio.InvalidStateError as error:
            raise StreamFailed("connection closed") from error


@contextlib.asynccontextmanager
async def open_stream(address: str, tls: LinkTlsConfig) -> AsyncIterator[GrpcStream]:
    """Begin a call to the router at HOST:PORT or unix:PATH, which ends with the block.

    Certificates are read at each call. Raises OSError.
    """
    async with _open_channel(address, tls) as channel:
        call = link_pb2_grpc.LinkStub(channel).Attach()
        try:
            yield GrpcStream(call)
        finally:
            call.cancel()


def _open_channel(address: str, tls: LinkTlsConfig) -> grpc.aio.Channel:
    target = address if address.startswith("unix:") else f"dns:///{address}"
    options: list[tuple[str, int | str]] = [*_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100)]
    if tls.ca is None or tls.key is None or tls.certificate is None:
        return grpc.aio.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(
        read_authorities(tls.ca), tls.key.read_bytes(), tls.certificate.read_bytes()
    )
    options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(target, credentials, options=options)


class _Certificates:
    """The server's certificates, read again when a file has changed."""

    def __init__(self, tls: LinkTlsConfig) -> None:
        assert tls.ca is not None
        assert tls.key is not None
        assert tls.certificate is not None
        self._files: tuple[Path, Path, Path] = (tls.key, tls.certificate, tls.ca)
        self._seen = self._stamps()

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in self._files:
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_ino))
        return tuple(found)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read the three files. Raises OSError."""
        key, certificate, ca = self._files
        pair = (key.read_bytes(), certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], read_authorities(ca))

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what to use from now on, None for no change; called at every handshake."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return None
            configuration = self.read()
        except OSError as error:
            log.warning(
                "link certificates not read, keeping the previous ones",
                extra={"reason": str(error)},
            )
            return None
        self._seen = stamps
        return configuration


class _Servicer(link_pb2_grpc.LinkServicer):
    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    async def Attach(self, _requests: object, context: Any) -> None:  # noqa: N802 - in link.proto
        await self._serve(GrpcStream(context))


class GrpcListener:
    """A gRPC server with the link's service and the standard health service."""

    def __init__(self, serve: Serve) -> None:
        self._server = grpc.aio.server(options=[*_OPTIONS, ("grpc.so_reuseport", 0)])
        self._health = health.aio.HealthServicer()
        link_pb2_grpc.add_LinkServicer_to_server(_Servicer(serve), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, address: str, tls: LinkTlsConfig) -> str:
        """See LinkListener."""
        try:
            if tls.ca is None:
                port = self._server.add_insecure_port(address)
            else:
                certificates = _Certificates(tls)
                credentials = grpc.dynamic_ssl_server_credentials(
                    certificates.read(), certificates.fetch, require_client_authentication=True
                )
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise LinkAddressError(f"cannot listen at {address}: {error}") from error
        await self._server.start()
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{port}"

    async def set_serving(self, *, is_serving: bool) -> None:
        """See LinkListener."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if is_serving else states.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, state)

    async def stop(self) -> None:
        """See LinkListener."""
        await self._server.stop(0)
