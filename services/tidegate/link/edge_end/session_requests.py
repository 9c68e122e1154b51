"""CONNECT and the end of a connection, as requests to the router of the client.

Called by ``router_client`` and owns nothing. In the usual way each is a request whose reply is
handled in a callback, without a task: when a fleet comes back, or goes, there are many. What needs
more than one reply (a lost router, a takeover, wills) is a coroutine, which goes on from there.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from tidegate.core.attempt import Attempt
from tidegate.link.edge_end.endings import Endings
from tidegate.link.edge_end.lease import Lease
from tidegate.link.edge_end.requests import (
    RETRY_S,
    TRIES,
    RequestFailed,
    Requests,
    count_try,
    raise_failure,
)
from tidegate.link.edge_end.router_peer import LinkLost
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.edge_end.snapshot import Snapshot
from tidegate.link.edge_end.will_publisher import WillPublisher
from tidegate.link.edge_end.withdrawn_connects import WithdrawnConnects
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    PendingWill,
    RouterUnavailable,
)
from tidegate.link.messages import (
    SMALL_BYTES,
    read_attached,
    read_will,
    write_attach,
    write_detach,
)
from tidegate.link.v1 import link_pb2 as pb
from tidegate.runtime.process.futures import pass_on
from tidegate.runtime.process.tasks import Tasks

T = TypeVar("T")

#: How long a CONNECT waits where no router is reachable: after a store has gone back, or when all
#: routers have restarted, they are there again in milliseconds.
ROUTER_WAIT_S: Final = 1.0


class SessionRequests:
    """See the module's docstring. ``numbers`` names the requests of this process."""

    __slots__ = (
        "_endings",
        "_lease",
        "_loop",
        "_numbers",
        "_requests",
        "_routers",
        "_snapshot",
        "_tasks",
        "_timeout_s",
        "_wills",
        "_withdrawn_connects",
    )

    def __init__(
        self,
        timeout_s: float,
        numbers: itertools.count[int],
        tasks: Tasks,
        *,
        routers: RouterTable,
        requests: Requests,
        lease: Lease,
        snapshot: Snapshot,
        endings: Endings,
        wills: WillPublisher,
        withdrawn_connects: WithdrawnConnects,
    ) -> None:
        self._timeout_s = timeout_s
        self._numbers = numbers
        self._tasks = tasks
        self._routers = routers
        self._requests = requests
        self._lease = lease
        self._snapshot = snapshot
        self._endings = endings
        self._wills = wills
        self._withdrawn_connects = withdrawn_connects
        #: Kept: to look it up costs a system call until Python 3.12.
        self._loop = asyncio.get_running_loop()

    def _go_on(self, waiting: asyncio.Future[T], rest: Coroutine[Any, Any, T]) -> None:
        """Have who waits get the outcome of a coroutine, which ends when nobody waits any more."""
        task = self._loop.create_task(rest)
        task.add_done_callback(partial(pass_on, waiting))
        waiting.add_done_callback(lambda _: task.cancel())

    # CONNECT

    def attach(self, request: AttachSession) -> asyncio.Future[AttachedSession]:
        """Make this edge the owner of a session (see RouterLink)."""
        attached: asyncio.Future[AttachedSession] = self._loop.create_future()
        message = pb.Request()
        wanted = message.attach
        write_attach(wanted, request)
        # A request may be late: only the connection that is known to have the session may lose it.
        wanted.supersedes = request.own_epoch
        wanted.number = next(self._numbers)
        size = SMALL_BYTES + (len(request.will.payload) if request.will else 0)
        peer = self._routers.session_router(request.client_id) if self._lease.lasts else None
        if peer is None or (request.is_wanted is not None and not request.is_wanted()):
            self._go_on(attached, self._attach(request, message, size))
        else:
            peer.request(message, size).add_done_callback(
                partial(self._attach_answered, request, message, size, attached)
            )
        return attached

    def _attach_answered(
        self,
        request: AttachSession,
        message: pb.Request,
        size: int,
        attached: asyncio.Future[AttachedSession],
        answered: asyncio.Future[pb.Reply],
    ) -> None:
        """Take the first reply to a CONNECT, or that there will be none."""
        lost = answered.exception()
        if attached.done():
            return  # nobody waits for it
        if isinstance(lost, LinkLost):
            count_try(message)
            self._go_on(attached, self._attach(request, message, size, tries=TRIES - 1))
            return
        try:
            reply = answered.result()
            self._check(message, request, reply)
            if reply.attach.taken_epoch:
                message.attach.supersedes = reply.attach.taken_epoch
                self._go_on(attached, self._attach(request, message, size))
                return
            session = read_attached(reply.attach)
        except Exception as error:  # for who waits
            attached.set_exception(error)
            return
        if session.fence_position or session.wills:
            self._go_on(attached, self._begin(request, session))
        else:
            self._note(request, session)
            attached.set_result(session)

    async def _attach(
        self, request: AttachSession, message: pb.Request, size: int, tries: int = TRIES
    ) -> AttachedSession:
        """Ask until a router has answered for good."""
        await self._lease.wait(self._timeout_s)
        while True:
            reply = await self._send_attach(message, size, request, tries)
            if not reply.attach.taken_epoch:
                return await self._begin(request, read_attached(reply.attach))
            message.attach.supersedes = reply.attach.taken_epoch
            tries = TRIES

    async def _send_attach(
        self, message: pb.Request, size: int, request: AttachSession, tries: int
    ) -> pb.Reply:
        try:
            return await self._requests.send(
                request.client_id, message, size, request.is_wanted, ROUTER_WAIT_S, tries
            )
        except RouterUnavailable as error:
            self._withdraw(message, request, error)
            raise

    def _check(self, message: pb.Request, request: AttachSession, reply: pb.Reply) -> None:
        """Raise the failure that a router has answered with, if any."""
        try:
            raise_failure(reply)
        except RouterUnavailable as error:
            self._withdraw(message, request, error)
            raise

    def _withdraw(
        self, message: pb.Request, request: AttachSession, error: RouterUnavailable
    ) -> None:
        """Have a CONNECT withdrawn that has failed, if a router or the store may still hold it."""
        wanted = message.attach
        if wanted.tries or isinstance(error, RequestFailed):
            attempt = Attempt(wanted.number, wanted.tries + 1)
            self._withdrawn_connects.add(request.client_id, attempt)

    async def _begin(self, request: AttachSession, session: AttachedSession) -> AttachedSession:
        """Do what is to be done before the client has the session that a router has given."""
        if session.fence_position:
            # This takes as long as routers do not answer: the client's next connection may have
            # taken the wills to its edge meanwhile.
            claimed = self._wills.claim(session.wills, session.epoch)
            taken: set[str] = set()
            try:
                await self._settle(request.client_id, session.fence_position)
                session.wills = await self._without_withdrawn(request.client_id, session.wills)
            except RouterUnavailable:
                # It gets no connection: the session is given back, without its will.
                end = DetachSession(request.client_id, session.epoch, publish_will=False)
                self._tasks.spawn(self._give_back(end))
                raise
            finally:
                taken = self._wills.release(claimed)
            session.wills = [will for will in session.wills if will.will_id not in taken]
        await self._wills.publish_all(session.wills, session.epoch, self._timeout_s)
        self._note(request, session)
        return session

    async def _give_back(self, end: DetachSession) -> None:
        await self.detach(end)

    def _note(self, request: AttachSession, session: AttachedSession) -> None:
        if session.incarnation:
            self._snapshot.add_session(request.client_id, session.epoch, session.incarnation)

    async def _settle(self, client_id: str, position: int) -> None:
        """Return when every router refuses what older connections of a client still publish."""
        for _ in range(TRIES):
            excluded = self._routers.connected()
            request = pb.Request()
            request.settle.client_id, request.settle.position = client_id, position
            request.settle.told.extend(peer.instance for peer in excluded)
            answers = await asyncio.gather(
                self._requests.send(client_id, request),
                *(peer.request(pb.Request(catch_up=pb.CatchUpRequest())) for peer in excluded),
                return_exceptions=True,
            )
            for answer in answers:
                if not isinstance(answer, pb.Reply):
                    if not isinstance(answer, LinkLost):
                        raise answer
                elif answer.failure != pb.FAILURE_UNSUPPORTED:  # an older router has no fences
                    raise_failure(answer)
            if all(isinstance(answer, pb.Reply) for answer in answers):
                return
        raise RouterUnavailable("router connection lost at every attempt")

    async def _without_withdrawn(
        self, client_id: str, wills: list[PendingWill]
    ) -> list[PendingWill]:
        """Leave out wills of connections that have ended with DISCONNECT [MQTT-3.14.4-3].

        The store did not have that end yet, but the other edge has.
        """
        if not wills:
            return wills
        request = pb.Request()
        request.withdrawn.client_id = client_id
        request.withdrawn.will_ids.extend(will.will_id for will in wills)
        try:
            reply = await self._requests.send(client_id, request)
        except RouterUnavailable:
            return wills  # an older router, say
        withdrawn = set(reply.withdrawn.will_ids)
        return [will for will in wills if will.will_id not in withdrawn]

    # The end of a connection

    def detach(self, request: DetachSession) -> asyncio.Future[DetachedSession]:
        """End a connection (see RouterLink)."""
        detached: asyncio.Future[DetachedSession] = self._loop.create_future()
        self._snapshot.remove_session(request.client_id, request.epoch)
        self._endings.begin(request)
        message = pb.Request()
        write_detach(message.detach, request)
        peer = self._routers.session_router(request.client_id)
        if peer is None or not self._endings.is_settled(request):
            self._go_on(detached, self._detach(request, message))
        else:
            peer.request(message).add_done_callback(
                partial(self._detach_answered, request, message, detached)
            )
        return detached

    def _detach_answered(
        self,
        request: DetachSession,
        message: pb.Request,
        detached: asyncio.Future[DetachedSession],
        answered: asyncio.Future[pb.Reply],
    ) -> None:
        """Take the first reply to the end of a connection, or that there will be none."""
        lost = answered.exception()
        if detached.done():  # nobody waits for it
            self._endings.stored(request, is_fenced=False)
        elif lost is not None or answered.result().failure:
            pause_s = RETRY_S if lost is None else 0.0
            self._go_on(detached, self._detach(request, message, pause_s))
        else:
            reply = answered.result().detach
            self._note_stored(request, is_fenced=reply.fenced)
            if reply.wills or reply.fenced:
                self._go_on(detached, self._ended(request, reply))
            else:
                detached.set_result(DetachedSession())

    async def _detach(
        self, request: DetachSession, message: pb.Request, pause_s: float = 0.0
    ) -> DetachedSession:
        """Send the end of a connection until it is answered, once what it sent is confirmed."""
        is_fenced = False
        try:
            await self._endings.wait(request)
            if pause_s:
                await asyncio.sleep(pause_s)
            answered = await self._requests.send_until_answered(request.client_id, message)
            is_fenced = answered.detach.fenced
        finally:
            self._note_stored(request, is_fenced=is_fenced)
        return await self._ended(request, answered.detach)

    def _note_stored(self, request: DetachSession, *, is_fenced: bool) -> None:
        if is_fenced:
            self._endings.supersede(request.client_id, request.epoch)
        self._endings.stored(request, is_fenced)

    async def _ended(self, request: DetachSession, reply: pb.DetachReply) -> DetachedSession:
        """Publish the wills that the end of a connection has brought."""
        wills = [read_will(will) for will in reply.wills]
        lost = request.lost_will if reply.fenced else None
        await self._wills.publish_all(wills, request.epoch, self._timeout_s, lost)
        return DetachedSession(is_fenced=reply.fenced)
