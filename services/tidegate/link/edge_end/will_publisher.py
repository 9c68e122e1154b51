"""Wills that this edge publishes: of connections that ended here, or that others have left to it.

Owns those under way. Called by ``router_client`` (for the wills that the end or the beginning of a
connection has brought) and by ``router_frames`` (for those that a router's sweep has found). A will
takes the path of every publish, by the router of its topic, so it precedes what the same client's
next connection publishes (G5). When it is stored, the router deletes it; one that was not published
in time is claimed for another edge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tidegate.link.edge_end.publish_dispatch import PublishDispatcher
from tidegate.link.edge_end.requests import Requests
from tidegate.link.interfaces import FENCED, PendingWill
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import Publish
from tidegate.runtime.process.tasks import Tasks

#: After so long a will that is not stored is left to the edge that claims it next: a little less
#: than a claim lasts in the store.
CLAIM_S: Final = 8.0


class WillOrigin:
    """The connection that has ended, as the origin of its will."""

    __slots__ = (
        "_done",
        "_until_s",
        "client_id",
        "epoch",
        "is_claimed",
        "is_fenced",
        "will_id",
    )

    is_will: Final = True

    def __init__(
        self, will: PendingWill, done: asyncio.Future[bool], epoch: int, *, is_claimed: bool
    ) -> None:
        self.client_id = will.client_id
        #: Of the connection by which this edge has the will. A fence of an older one, which took
        #: the will from this edge before, may come late: it does not count any more.
        self.epoch = max(epoch, will.epoch)
        self.will_id = will.will_id
        #: Whether the store has it as pending, and this edge's to publish.
        self.is_claimed = is_claimed
        self._done = done
        self._until_s = asyncio.get_running_loop().time() + CLAIM_S
        self.is_fenced = False

    @property
    def is_superseded(self) -> bool:
        """Whether it is another edge's task by now (see Origin)."""
        return self.is_fenced or asyncio.get_running_loop().time() >= self._until_s

    def identity(self, message: Publish) -> str:
        """The same wherever it is published (see Origin)."""
        return f"will|{self.will_id}"

    def receipt(self, message: Publish) -> int:
        """No PUBREC is waited for."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """It is stored, or refused because it is another edge's task (see Origin)."""
        if not self._done.done():
            self._done.set_result(code != FENCED)


class WillPublisher:
    """See the module's docstring."""

    __slots__ = ("_edge_id", "_publish_dispatcher", "_requests", "_tasks", "_under_way")

    def __init__(
        self,
        edge_id: str,
        publish_dispatcher: PublishDispatcher,
        requests: Requests,
        tasks: Tasks,
    ) -> None:
        self._edge_id = edge_id
        self._publish_dispatcher = publish_dispatcher
        self._requests = requests
        self._tasks = tasks
        #: By client identifier.
        self._under_way: dict[str, list[WillOrigin]] = {}

    def publish(
        self, will: PendingWill, epoch: int = 0, *, is_claimed: bool = True
    ) -> asyncio.Future[bool]:
        """Publish a will; the future ends when it is stored (True), or another edge's task.

        ``epoch``: that of the client's connection by which this edge has the will; 0: of the will.
        ``is_claimed``: whether the store has it as pending; False where the store has lost it.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        origin = WillOrigin(will, done, epoch, is_claimed=is_claimed)
        self._under_way.setdefault(will.client_id, []).append(origin)
        self._publish_dispatcher.publish_will(origin, will.message)
        self._tasks.spawn(self._confirm(will, origin, done))
        return done

    def claim(self, wills: Sequence[PendingWill], epoch: int) -> list[WillOrigin]:
        """Note wills that this edge is about to publish: a fence counts for them from now on.

        ``epoch``: that of the client's connection by which this edge has them.
        """
        origins = []
        for will in wills:
            nobody: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            origins.append(WillOrigin(will, nobody, epoch, is_claimed=True))
            self._under_way.setdefault(will.client_id, []).append(origins[-1])
        return origins

    def release(self, origins: Sequence[WillOrigin]) -> set[str]:
        """End ``claim``; return the identifiers of those that are another edge's task by now."""
        for origin in origins:
            self._forget(origin)
        return {origin.will_id for origin in origins if origin.is_superseded}

    def _forget(self, origin: WillOrigin) -> None:
        under_way = self._under_way[origin.client_id]
        under_way.remove(origin)
        if not under_way:
            del self._under_way[origin.client_id]

    async def publish_all(
        self,
        wills: Sequence[PendingWill],
        epoch: int,
        timeout_s: float,
        lost: PendingWill | None = None,
    ) -> None:
        """Publish wills; return when they are stored, or after ``timeout_s``: they keep order.

        ``epoch``: that of the client's connection by which this edge has them. ``lost``: one more,
        that the store has lost.
        """
        stored = [self.publish(will, epoch) for will in wills]
        if lost is not None:
            stored.append(self.publish(lost, epoch, is_claimed=False))
        if stored:
            await asyncio.wait(stored, timeout=timeout_s)

    def claimed(self) -> list[str]:
        """Return the identifiers of what is under way, and claimed for this edge in the store."""
        return [
            origin.will_id
            for origins in self._under_way.values()
            for origin in origins
            if origin.is_claimed
        ]

    def leave(self, will_id: str) -> None:
        """A will has been published, or is another edge's to publish."""
        for origin in self._under_way.get(will_id.split(":", 1)[1], ()):
            origin.is_fenced = origin.is_fenced or origin.will_id == will_id

    def fence(self, client_id: str, epoch: int) -> None:
        """Wills of this client that this edge has by a lower epoch are another edge's task."""
        for origin in self._under_way.get(client_id, ()):
            origin.is_fenced = origin.is_fenced or origin.epoch < epoch

    async def _confirm(
        self, will: PendingWill, origin: WillOrigin, done: asyncio.Future[bool]
    ) -> None:
        try:
            async with asyncio.timeout(CLAIM_S):
                is_stored = await asyncio.shield(done)
        except TimeoutError:
            return
        finally:
            self._forget(origin)
        if is_stored:
            request = pb.Request()
            request.wills_published.will_ids.append(will.will_id)
            await self._requests.send_until_answered(self._edge_id, request)
