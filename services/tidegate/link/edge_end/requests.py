"""Requests to routers, repeated at another router when the connection is lost before the reply.

Owns no state. Called by ``router_client``, ``session_requests``, ``lease`` and ``verification``;
``router_table`` says which router to use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from tidegate.link.edge_end.router_peer import LinkLost, RouterPeer
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.interfaces import (
    RouterUnavailable,
    SessionFenced,
    SessionLost,
    SessionOwned,
    SessionQuotaExceeded,
)
from tidegate.link.messages import SMALL_BYTES
from tidegate.link.v1 import link_pb2 as pb

log = logging.getLogger(__name__)

RETRY_S: Final = 0.2
TRIES: Final = 4

#: Requests that say how often they were sent before.
_COUNTED: Final = frozenset({"attach", "subscribe", "unsubscribe"})


class RequestFailed(RouterUnavailable):
    """A router has answered that it cannot do it; the store may still."""


class RequestUnsupported(RequestFailed):
    """A router of an older version does not have this request."""


class Requests:
    """See the module's docstring."""

    __slots__ = ("_routers",)

    def __init__(self, routers: RouterTable) -> None:
        self._routers = routers

    async def send(
        self,
        key: str,
        request: pb.Request,
        size: int = SMALL_BYTES,
        is_wanted: Callable[[], bool] | None = None,
        wait_s: float = 0.0,
        tries: int = TRIES,
    ) -> pb.Reply:
        """Send a request to the router for ``key``, to another one if that connection is lost.

        Every request may be repeated, as long as ``is_wanted``. While no router is reachable it
        waits, for ``wait_s`` at most. Raises SessionFenced, SessionOwned, SessionQuotaExceeded,
        RouterUnavailable.
        """
        for _ in range(tries):
            if is_wanted is not None and not is_wanted():
                raise RouterUnavailable("connection has ended")
            peer = self._routers.session_router(key)
            if peer is None and wait_s:
                peer = await self._wait_for_router(key, wait_s)
            if peer is None:
                raise RouterUnavailable("no router reachable")
            try:
                reply = await peer.request(request, size)
            except LinkLost:
                count_try(request)
                continue
            raise_failure(reply)
            return reply
        raise RouterUnavailable("router connection lost at every attempt")

    async def _wait_for_router(self, key: str, wait_s: float) -> RouterPeer | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while (peer := self._routers.session_router(key)) is None:
                    await self._routers.wait_changed()
                return peer
        return None

    async def send_until_answered(self, key: str, request: pb.Request) -> pb.Reply:
        """Send a request until it is answered. Raises SessionFenced, RequestUnsupported."""
        while True:
            try:
                return await self.send(key, request)
            except RequestUnsupported:
                raise
            except RouterUnavailable as error:
                log.debug("router unavailable, retrying", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_S)


def count_try(request: pb.Request) -> None:
    """Note in a request that it was sent, and that nobody has answered."""
    kind = request.WhichOneof("kind")
    if kind in _COUNTED:
        getattr(request, kind).tries += 1


def raise_failure(reply: pb.Reply) -> None:
    """Raise the failure in a reply, as ``send`` does."""
    failure = reply.failure
    if not failure:
        return
    if failure == pb.FAILURE_FENCED:
        raise (SessionLost if reply.session_lost else SessionFenced)(reply.text)
    if failure == pb.FAILURE_OWNED:
        raise SessionOwned(reply.text)
    if failure == pb.FAILURE_QUOTA:
        raise SessionQuotaExceeded(reply.text)
    if failure == pb.FAILURE_UNSUPPORTED:
        raise RequestUnsupported(reply.text)
    raise RequestFailed(reply.text)
