"""Publishing through an edge, and live samples of an edge."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, Final

from tidegate.console.broker.shapes import properties_of
from tidegate.console.errors import ApiError, Reason
from tidegate.console.models.messages import (
    Published,
    PublishRequest,
    SampleMessage,
    SampleStatus,
)
from tidegate.console.nodes.client import NodeClient, NodeError
from tidegate.console.nodes.pool import Nodes

#: Longer than an edge waits for its router.
_PUBLISH_S: Final = 6.0
_REASONS: Final = {
    HTTPStatus.BAD_REQUEST: Reason.INVALID,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Reason.TOO_LARGE,
    HTTPStatus.TOO_MANY_REQUESTS: Reason.TOO_MANY,
}


async def publish(nodes: Nodes, request: PublishRequest) -> Published:
    """Publish a message through an edge. Raises ApiError."""
    payload = request.payload_base64
    if payload is None:
        payload = base64.b64encode((request.payload or "").encode()).decode()
    body = {
        "topic": request.topic,
        "payload_base64": payload,
        "qos": request.qos,
        "retain": request.retain,
        "properties": request.properties.model_dump(exclude_none=True),
    }
    problems = []
    for edge in await _shuffled(nodes):
        try:
            status, answer = await edge.ask_json(
                "POST", "/publish", body=body, timeout_s=_PUBLISH_S
            )
        except NodeError as error:
            problems.append(f"{edge.name}: {error}")
            if str(error) == "timeout":
                break  # it may have been published
            continue
        if status < 400:
            return Published(edge=edge.name, **answer)
        if status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise _refused(status, answer)
        problems.append(f"{edge.name}: {answer.get('error', status)}")
    raise _no_edge(problems)


async def begin_sample(nodes: Nodes, topic_filter: str, rate: int) -> AsyncIterator[bytes]:
    """Begin a sample at an edge; return it as server-sent events. Raises ApiError."""
    problems = []
    for edge in await _shuffled(nodes):
        stack = AsyncExitStack()
        try:
            response = await stack.enter_async_context(
                edge.stream(
                    "GET",
                    "/sample",
                    params={"filter": topic_filter, "rate": rate},
                    timeout_s=None,
                )
            )
            if response.status < 400:
                return _events(edge, stack, response.content)
            sentence = (await response.text())[:500].strip()
            await stack.aclose()
        except NodeError as error:
            await stack.aclose()
            problems.append(f"{edge.name}: {error}")
            continue
        if response.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE}:
            raise _refused(response.status, {"error": sentence})
        problems.append(f"{edge.name}: {sentence}")
    raise _no_edge(problems)


async def _events(
    edge: NodeClient, stack: AsyncExitStack, lines: AsyncIterable[bytes]
) -> AsyncIterator[bytes]:
    """Turn lines of an edge into events, until one of both ends."""
    try:
        async with stack:
            async for line in lines:
                yield _event(json.loads(line))
    except NodeError as error:
        value = {"error": f"{edge.name}: {error}", "reason": Reason.NODE_UNAVAILABLE.value}
        yield f"event: error\ndata: {json.dumps(value)}\n\n".encode()


def _event(found: dict[str, Any]) -> bytes:
    if "seen" in found:
        status = SampleStatus(seen=found["seen"], skipped=found["skipped"])
        return f"event: status\ndata: {status.model_dump_json()}\n\n".encode()
    properties = properties_of(base64.b64decode(found["properties_base64"]))
    payload = found["payload_base64"]
    message = SampleMessage(
        at=found["at_ms"] / 1000,
        topic=found["topic"],
        qos=found["qos"],
        retain=found["retain"],
        payload_size_bytes=found["payload_size_bytes"],
        payload_base64=payload,
        is_cut=found["payload_size_bytes"] > len(base64.b64decode(payload)),
        content_type=properties.content_type,
        payload_format=properties.payload_format_indicator,
        user_properties=list(properties.user_properties),
    )
    return f"event: message\ndata: {message.model_dump_json()}\n\n".encode()


async def _shuffled(nodes: Nodes) -> list[NodeClient]:
    edges = list(await nodes.edges())
    random.shuffle(edges)
    return edges


def _refused(status: int, answer: dict[str, Any]) -> ApiError:
    return ApiError(
        HTTPStatus(status),
        _REASONS.get(HTTPStatus(status), Reason.INVALID),
        str(answer.get("error", "the edge refuses it")),
    )


def _no_edge(problems: list[str]) -> ApiError:
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        Reason.NODE_UNAVAILABLE,
        f"no edge could do it: {'; '.join(problems) or 'none is configured (console.edges)'}",
    )
