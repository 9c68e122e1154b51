"""CONNECTs of this edge to which no router has answered: a router or the store may still hold them.

Owns those that are to be withdrawn, one of each client; ``router_client`` adds them. When a CONNECT
that was refused, or whose client has gone, takes effect at last, it must not have a session: it
would supersede the client's next connection, or discard what that one left, and publish a will.
"""

from __future__ import annotations

import contextlib
from typing import Final

from tidegate.core.attempt import Attempt
from tidegate.link.edge_end.requests import Requests, RequestUnsupported
from tidegate.link.v1 import link_pb2 as pb
from tidegate.runtime.process.tasks import Tasks

PAGE: Final = 500


class WithdrawnConnects:
    """See the module's docstring."""

    __slots__ = ("_attempts", "_edge_id", "_requests", "_running", "_tasks")

    def __init__(self, edge_id: str, requests: Requests, tasks: Tasks) -> None:
        self._edge_id = edge_id
        self._requests = requests
        self._tasks = tasks
        #: The newest of each client, with how often it was sent.
        self._attempts: dict[str, Attempt] = {}
        self._running = False

    def add(self, client_id: str, attempt: Attempt) -> None:
        """Withdraw a CONNECT, and earlier ones of the client; repeated until it is stored."""
        self._attempts[client_id] = max(attempt, self._attempts.get(client_id, attempt))
        if not self._running:
            self._running = True
            self._tasks.spawn(self._withdraw())

    async def _withdraw(self) -> None:
        try:
            while self._attempts:
                page = dict(list(self._attempts.items())[:PAGE])
                request = pb.Request()
                request.withdraw_connects.client_ids.extend(page)
                request.withdraw_connects.numbers.extend(one.number for one in page.values())
                request.withdraw_connects.tries.extend(one.tries for one in page.values())
                # During an upgrade the next CONNECT of the client supersedes this one.
                with contextlib.suppress(RequestUnsupported):
                    await self._requests.send_until_answered(self._edge_id, request)
                for client_id, attempt in page.items():
                    if self._attempts.get(client_id) == attempt:
                        del self._attempts[client_id]
        finally:
            self._running = False
