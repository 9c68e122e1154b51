"""Connections that have ended at this edge while what they have published is under way.

Owns those whose end is not in the store yet: as long as that is so, the session is the ended
connection's, so the next one at another edge supersedes it, and what is still under way is refused.
``session_requests`` waits here before it reports the end of a connection; ``router_frames`` and
``verification`` report what is superseded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from tidegate.link.edge_end.publish_dispatch import PublishDispatcher
from tidegate.link.edge_end.router_peer import RouterPeer, State
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.interfaces import DetachSession, EndedPublisher
from tidegate.runtime.process.tasks import Tasks

#: How long the end of a superseded connection is remembered.
FENCE_TIMEOUT_S: Final = 10.0


class _Ending:
    """One connection; ``released``: its end may be stored, ``over``: it is superseded.

    ``settled``: every publish of it has its outcome.
    """

    __slots__ = ("client_id", "epoch", "over", "publisher", "released", "settled")

    def __init__(self, client_id: str, epoch: int, publisher: EndedPublisher) -> None:
        self.client_id = client_id
        self.epoch = epoch
        self.publisher = publisher
        self.released = asyncio.Event()
        self.over = asyncio.Event()
        self.settled = asyncio.Event()
        publisher.on_settled = self.settled.set


class Endings:
    """See the module's docstring."""

    __slots__ = ("_dispatcher", "_ending", "_routers", "_tasks", "_unstored")

    def __init__(self, routers: RouterTable, dispatcher: PublishDispatcher, tasks: Tasks) -> None:
        self._routers = routers
        self._tasks = tasks
        self._dispatcher = dispatcher
        #: By client identifier.
        self._ending: dict[str, list[_Ending]] = {}
        #: Ends that are not stored yet, by client identifier.
        self._unstored: dict[str, list[DetachSession]] = {}

    def begin(self, request: DetachSession) -> None:
        """Note that the end of a connection is to be stored."""
        self._unstored.setdefault(request.client_id, []).append(request)

    def stored(self, request: DetachSession, is_fenced: bool) -> None:
        """Note that it is stored; or it came too late, and the fence that says so is to come."""
        if is_fenced:
            asyncio.get_running_loop().call_later(FENCE_TIMEOUT_S, self._forget, request)
        else:
            self._forget(request)

    def _forget(self, request: DetachSession) -> None:
        requests = self._unstored[request.client_id]
        requests.remove(request)
        if not requests:
            del self._unstored[request.client_id]

    def withdrawn(self, client_id: str, epoch: int) -> int:
        """Return the epoch of an older connection that has ended without its will; 0: none has."""
        return max(
            (
                request.epoch
                for request in self._unstored.get(client_id, ())
                if request.epoch < epoch and not request.publish_will and not request.is_superseded
            ),
            default=0,
        )

    def connections(self) -> list[tuple[str, int]]:
        """Return those that have ended here, as (client_id, epoch)."""
        return [(name, one.epoch) for name, endings in self._ending.items() for one in endings]

    def supersede(self, client_id: str, epoch: int) -> None:
        """A newer connection has the session: what has not taken effect yet never does."""
        for ending in self._ending.get(client_id, ()):
            if ending.epoch <= epoch:
                ending.publisher.is_superseded = True
                ending.over.set()
                ending.released.set()

    def hasten(self, client_id: str) -> None:
        """The client is back at this edge: what it publishes now takes the same way, in order.

        What is under way stays known here: yet another connection may supersede all of it.
        """
        for ending in self._ending.get(client_id, ()):
            ending.released.set()

    def is_settled(self, request: DetachSession) -> bool:
        """Whether ``wait`` would return at once: nothing of a connection is under way."""
        if request.publisher is None:
            return True
        if request.publisher.is_under_way():
            return False
        waits_for, some_wait = self._under_way(request.client_id)
        return not waits_for and not some_wait

    def _under_way(self, client_id: str) -> tuple[list[RouterPeer], bool]:
        """Return the routers that have not confirmed all, and whether a client's publishes wait."""
        unconfirmed = []
        some_wait = self._dispatcher.has_unrouted(client_id)
        for peer in self._routers.members.values():
            if peer.has_waiting(client_id):
                some_wait = True
            elif peer.state in {State.OPEN, State.UNVERIFIED} and peer.has_unconfirmed():
                unconfirmed.append(peer)
        return unconfirmed, some_wait

    async def wait(self, request: DetachSession) -> None:
        """Return when all that a connection has published has taken effect, or need not do so.

        A router that has it, and has not confirmed it yet, may be lost: then it is sent again.
        """
        if request.publisher is None:
            return
        ending = _Ending(request.client_id, request.epoch, request.publisher)
        self._ending.setdefault(request.client_id, []).append(ending)
        self._tasks.spawn(self._flush(ending))
        await ending.released.wait()

    async def _flush(self, ending: _Ending) -> None:
        """Forget a connection once routers have all of it, or it is superseded."""
        over = asyncio.create_task(ending.over.wait())
        try:
            while not ending.over.is_set() and await self._wait_once(ending, over):
                pass
        finally:
            over.cancel()
            ending.released.set()
            endings = self._ending[ending.client_id]
            endings.remove(ending)
            if not endings:
                del self._ending[ending.client_id]

    async def _wait_once(self, ending: _Ending, over: asyncio.Task[bool]) -> bool:
        """Wait for the routers of now; True if there may be more to wait for."""
        unconfirmed, some_wait = self._under_way(ending.client_id)
        waits = [peer.sync() for peer in unconfirmed]
        if some_wait:
            for future in waits:
                future.add_done_callback(_retrieve)
            changed = asyncio.create_task(self._routers.wait_changed())
            await asyncio.wait({changed, over}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            return True
        if await _all_synced(waits, over):
            return True
        if over.done() or not ending.publisher.is_under_way():
            return False
        settled = asyncio.create_task(ending.settled.wait())
        await asyncio.wait({settled, over}, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        return True


async def _all_synced(waits: Iterable[asyncio.Future[None]], over: asyncio.Task[bool]) -> bool:
    """Wait for syncs; True if one of them was lost with its connection."""
    pending: set[asyncio.Future[Any]] = set(waits)
    lost = False
    while pending:
        done, _ = await asyncio.wait(pending | {over}, return_when=asyncio.FIRST_COMPLETED)
        if over in done:
            for future in pending:
                future.add_done_callback(_retrieve)
            return False
        for future in done & pending:
            lost |= future.exception() is not None
        pending -= done
    return lost


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more: its exception is of no interest."""
    if not future.cancelled():
        future.exception()
