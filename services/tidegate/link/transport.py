"""gRPC as the link uses it: channels, servers, certificates, limits.

Called by ``edge_end.router_stream`` and ``router_end.link_server``. Never reads a frame.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tidegate.link.v1 import link_pb2_grpc
from tidegate.runtime.config.model import LinkTlsConfig
from tidegate.runtime.config.referenced_files import read_authorities

log = logging.getLogger(__name__)

SERVICE: Final = "tidegate.link.v1.Link"

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


class LinkAddressError(OSError):
    """The address of the link cannot be listened on."""


def target(address: str) -> str:
    """Return gRPC's name for HOST:PORT or unix:PATH."""
    return address if address.startswith("unix:") else f"dns:///{address}"


def open_channel(address: str, tls: LinkTlsConfig) -> grpc.aio.Channel:
    """Make a channel to one router; certificates are read at each call. Raises OSError."""
    options: list[tuple[str, int | str]] = [*_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100)]
    if tls.ca is None or tls.key is None or tls.certificate is None:
        return grpc.aio.insecure_channel(target(address), options=options)
    credentials = grpc.ssl_channel_credentials(
        read_authorities(tls.ca), tls.key.read_bytes(), tls.certificate.read_bytes()
    )
    options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(target(address), credentials, options=options)


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


class LinkListener:
    """A gRPC server with the link's service and the standard health service."""

    def __init__(self, servicer: link_pb2_grpc.LinkServicer) -> None:
        self._server = grpc.aio.server(options=[*_OPTIONS, ("grpc.so_reuseport", 0)])
        self._health = health.aio.HealthServicer()
        link_pb2_grpc.add_LinkServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, address: str, tls: LinkTlsConfig) -> str:
        """Listen at ADDRESS:PORT or unix:PATH; return that, with the port that the system chose.

        Raises OSError when the address cannot be bound or a certificate cannot be read.
        """
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

    async def set_serving(self, serving: bool) -> None:
        """Set the status of gRPC's health checks: whether edges are accepted."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, state)

    async def stop(self) -> None:
        """Close every stream and stop listening."""
        await self._server.stop(0)
