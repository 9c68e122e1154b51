"""CONNECT and the end of a connection at the router's end of the link: calls, not tasks.

What they mean is in ``test_link_server.py`` and ``test_requests.py``; here a router answers when
the test says so, and replies are looked at one by one.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from support.virtual_time import turns
from tidegate.link.interfaces import (
    AttachedSession,
    DetachedSession,
    RouterUnavailable,
    SessionOwned,
    SessionQuotaExceeded,
)
from tidegate.link.router_end.request_handler import RequestHandler
from tidegate.link.v1 import link_pb2 as pb
from tidegate.link.versions import FENCES_VERSION
from tidegate.runtime.process.tasks import Tasks
from tidegate.runtime.telemetry.counters import Counters


class _Router:
    """A router's end whose router is these two futures."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.attached: asyncio.Future[AttachedSession] = loop.create_future()
        self.detached: asyncio.Future[DetachedSession] = loop.create_future()
        self.calls: list[str] = []
        self.replies: list[pb.Reply] = []
        self.counters = Counters()
        self.tasks = Tasks(self.counters)
        router: Any = self
        nothing: Any = None
        self.handler = RequestHandler(router, self.counters, self.tasks, nothing, nothing)
        self.peer: Any = SimpleNamespace(
            edge_id="edge-1", version=FENCES_VERSION, closed=False, reply=self.replies.append
        )
        self.edge: Any = SimpleNamespace(peer=self.peer)

    def attach(self, edge_id: str, _request: object) -> asyncio.Future[AttachedSession]:
        self.calls.append(f"attach {edge_id}")
        return self.attached

    def detach(self, _request: object) -> asyncio.Future[DetachedSession]:
        self.calls.append("detach")
        return self.detached

    def connect(self) -> None:
        request = pb.Request(id=7, attach=pb.AttachRequest(client_id="c"))
        self.handler.on_request(self.edge, request)

    def end(self) -> None:
        request = pb.Request(id=8, detach=pb.DetachRequest(client_id="c", epoch=5))
        self.handler.on_request(self.edge, request)


async def test_each_is_replied_to_and_is_no_task() -> None:
    router = _Router()
    tasks = asyncio.all_tasks()
    router.connect()
    router.end()
    assert router.calls == ["attach edge-1", "detach"]
    assert asyncio.all_tasks() == tasks
    assert len(router.tasks) == 2, "who stops waits for them"
    router.detached.set_result(DetachedSession(is_fenced=True))
    await turns()
    router.attached.set_result(AttachedSession(5, 0, False))
    await turns()
    ended, connected = router.replies
    assert (ended.id, ended.detach.fenced) == (8, True)
    assert (connected.id, connected.attach.epoch) == (7, 5)
    assert not len(router.tasks)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (SessionOwned("another user"), pb.FAILURE_OWNED),
        (SessionQuotaExceeded("too many"), pb.FAILURE_QUOTA),
        (RouterUnavailable("no store"), pb.FAILURE_UNAVAILABLE),
        (LookupError("a fault"), pb.FAILURE_INTERNAL),
    ],
)
async def test_a_failure_is_replied(error: Exception, failure: pb.Failure) -> None:
    router = _Router()
    router.connect()
    router.attached.set_exception(error)
    await turns()
    (reply,) = router.replies
    assert (reply.id, reply.failure) == (7, failure)
    assert router.counters.internal_errors == (failure == pb.FAILURE_INTERNAL)


async def test_an_edge_that_is_gone_gets_no_reply() -> None:
    router = _Router()
    router.connect()
    router.peer.closed = True
    router.attached.set_result(AttachedSession(5, 0, False))
    await turns()
    assert not router.replies


async def test_a_router_that_stops_begins_nothing_and_waits_for_nothing() -> None:
    router = _Router()
    router.connect()
    await router.tasks.stop()
    assert router.attached.cancelled()
    router.end()
    await turns()
    assert router.calls == ["attach edge-1"]
    assert not router.replies
