"""What carries the link: gRPC, by our own HTTP/2 on the event loop or by grpcio's.

Called by ``edge_end.router_stream`` and ``router_end.link_server``. Both carriers speak the same
protocol, so the two ends choose independently (``link.carrier``). Never reads a frame.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tidegate.link.frame_stream import ATTACH, SERVICE, FrameStream, Serve
from tidegate.link.http2 import health
from tidegate.link.http2.client import MAX_MESSAGE_BYTES
from tidegate.link.http2.client import open_stream as open_http2_stream
from tidegate.link.http2.method import Method
from tidegate.link.http2.server import Listener
from tidegate.link.v1 import link_pb2 as pb
from tidegate.runtime.config.model import Carrier, LinkConfig, LinkTlsConfig
from tidegate.runtime.telemetry.counters import Counters


def open_stream(
    address: str, config: LinkConfig
) -> AbstractAsyncContextManager[FrameStream[pb.RouterFrame, pb.EdgeFrame]]:
    """Begin a stream to the router at HOST:PORT or unix:PATH, which ends with the block.

    Certificates are read at each call. Raises OSError or StreamFailed.
    """
    if config.carrier is Carrier.GRPC:
        from tidegate.link import grpc_carrier  # noqa: PLC0415 - it starts threads

        return grpc_carrier.open_stream(address, config.tls)
    return open_http2_stream(
        address, ATTACH, pb.RouterFrame.FromString, config.tls, config.timeout_s
    )


class LinkListener(Protocol):
    """What accepts edges, with gRPC's standard health service beside it."""

    async def start(self, address: str, tls: LinkTlsConfig) -> str:
        """Listen at ADDRESS:PORT or unix:PATH; return that, with the port that the system chose.

        Raises OSError when the address cannot be bound or a certificate cannot be read.
        """

    async def set_serving(self, *, is_serving: bool) -> None:
        """Set the status of gRPC's health checks: whether edges are accepted."""

    async def stop(self) -> None:
        """Close every stream and stop listening."""


def make_listener(carrier: Carrier, serve: Serve, counters: Counters) -> LinkListener:
    """Return a listener that has ``serve`` called with every stream of an edge."""
    if carrier is Carrier.GRPC:
        from tidegate.link import grpc_carrier  # noqa: PLC0415 - it starts threads

        return grpc_carrier.GrpcListener(serve)
    return _Http2Listener(serve, counters)


class _Http2Listener:
    """See LinkListener."""

    def __init__(self, serve: Serve, counters: Counters) -> None:
        self._health = health.Health()
        self._listener = Listener(
            {
                ATTACH: Method(pb.EdgeFrame.FromString, serve, MAX_MESSAGE_BYTES),
                **health.methods_of(self._health),
            },
            counters,
        )

    async def start(self, address: str, tls: LinkTlsConfig) -> str:
        return await self._listener.start(address, tls)

    async def set_serving(self, *, is_serving: bool) -> None:
        for service in ("", SERVICE):
            self._health.set(service, is_serving=is_serving)

    async def stop(self) -> None:
        await self._listener.stop()
