"""The standard health service of gRPC (grpc.health.v1.Health), as probes of Kubernetes call it.

Owns the states of services. Its methods are served by ``server``; ``transport`` sets the states.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from grpc_health.v1 import health_pb2

from tidegate.link.http2.method import Method
from tidegate.link.http2.status import CallRefused, Status
from tidegate.link.http2.stream import Stream

SERVICE: Final = "grpc.health.v1.Health"
#: The longest request: a service's name.
REQUEST_BYTES: Final = 4096

_Response = health_pb2.HealthCheckResponse


class Health:
    """See the module's docstring. Services are unknown until their state is set."""

    def __init__(self) -> None:
        self._states: dict[str, int] = {}
        self._changed: asyncio.Future[None] | None = None

    def set(self, service: str, *, is_serving: bool) -> None:
        """Set the state of a service; watchers get it."""
        self._states[service] = _Response.SERVING if is_serving else _Response.NOT_SERVING
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    async def check(self, stream: Stream[Any, Any]) -> None:
        """Serve Check: the state of a service once."""
        service = await _requested(stream)
        state = self._states.get(service)
        if state is None:
            raise CallRefused(Status.NOT_FOUND, "no such service")
        await stream.write(_Response(status=state))

    async def list_all(self, stream: Stream[Any, Any]) -> None:
        """Serve List: the states of all services."""
        await stream.read()
        answer = health_pb2.HealthListResponse()
        for service, state in self._states.items():
            answer.statuses[service].status = state
        await stream.write(answer)

    async def watch(self, stream: Stream[Any, Any]) -> None:
        """Serve Watch: the state of a service, and again whenever it changes."""
        service = await _requested(stream)
        sent = None
        while True:
            state = self._states.get(service, _Response.SERVICE_UNKNOWN)
            if state != sent:
                await stream.write(_Response(status=state))
                sent = state
            elif self._changed is None:
                self._changed = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._changed)
            else:
                await asyncio.shield(self._changed)


def methods_of(health: Health) -> dict[str, Method]:
    """Return the methods of the service by path."""
    check, watched = health_pb2.HealthCheckRequest, health_pb2.HealthListRequest
    return {
        f"/{SERVICE}/Check": Method(check.FromString, health.check, REQUEST_BYTES),
        f"/{SERVICE}/List": Method(watched.FromString, health.list_all, REQUEST_BYTES),
        f"/{SERVICE}/Watch": Method(check.FromString, health.watch, REQUEST_BYTES),
    }


async def _requested(stream: Stream[Any, Any]) -> str:
    request = await stream.read()
    if request is None:
        raise CallRefused(Status.INVALID_ARGUMENT, "there is no request")
    return str(request.service)
