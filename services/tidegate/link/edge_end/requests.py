"""Questions to routers, and who is asked again when a router goes away before it has answered.

Owns nothing: the router client and the lease ask through it, ``routers`` says whom.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from tidegate.link.edge_end.router_peer import LinkLost
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.interfaces import RouterUnavailable, SessionFenced
from tidegate.link.messages import SMALL_BYTES
from tidegate.link.v1 import link_pb2 as pb

log = logging.getLogger(__name__)

RETRY_S: Final = 0.2
TRIES: Final = 4


class Requests:
    """See the module's docstring."""

    __slots__ = ("_routers",)

    def __init__(self, routers: RouterTable) -> None:
        self._routers = routers

    async def send(self, key: str, request: pb.Request, size: int = SMALL_BYTES) -> pb.Reply:
        """Ask the router for ``key``, another one if that one goes away.

        Every request may be repeated. Raises SessionFenced, RouterUnavailable.
        """
        for _ in range(TRIES):
            peer = self._routers.session_router(key)
            if peer is None:
                raise RouterUnavailable("no router can be reached")
            try:
                reply = await peer.request(request, size)
            except LinkLost:
                continue
            raise_failure(reply)
            return reply
        raise RouterUnavailable("routers come and go")

    async def send_until_answered(self, key: str, request: pb.Request) -> pb.Reply:
        """Ask until there is an answer. Raises SessionFenced."""
        while True:
            try:
                return await self.send(key, request)
            except RouterUnavailable as error:
                log.debug("a router is awaited", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_S)


def raise_failure(reply: pb.Reply) -> None:
    """Raise what a reply says has failed: SessionFenced, RouterUnavailable."""
    failure = reply.failure
    if not failure:
        return
    if failure == pb.FAILURE_FENCED:
        raise SessionFenced(reply.text)
    raise RouterUnavailable(reply.text)
