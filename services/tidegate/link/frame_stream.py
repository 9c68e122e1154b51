"""A stream of the link as both ends use it, whatever carries it.

Implemented by ``grpc_carrier`` and by ``http2``, chosen in ``transport``; used by
``edge_end.router_stream`` and ``router_end.link_server``. Owns nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

#: gRPC's name of the service, and of the path of its one method.
SERVICE: Final = "tidegate.link.v1.Link"
ATTACH: Final = f"/{SERVICE}/Attach"

I_co = TypeVar("I_co", covariant=True)
O_contra = TypeVar("O_contra", contravariant=True)


class StreamFailed(Exception):
    """The stream could not begin, or ended before its end; the message says why."""


class LinkAddressError(OSError):
    """The address of the link cannot be listened on."""


class FrameStream(Protocol[I_co, O_contra]):
    """Frames in both directions, in order. Its functions raise StreamFailed once it has failed."""

    async def read(self) -> I_co | None:
        """Return the next frame; None when the peer has ended the stream."""

    async def receive(self, sink: Callable[[I_co], None]) -> None:
        """Call ``sink`` with every frame that arrives, until the peer ends the stream.

        Raises what ``sink`` raises; it is not called again after that, nor after a cancellation.
        """

    async def write(self, frame: O_contra) -> None:
        """Send a frame; return when there is room for another one. One call at a time."""


#: Serves one stream; the stream ends when it returns.
Serve = Callable[[FrameStream[Any, Any]], Awaitable[None]]
