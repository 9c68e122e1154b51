"""Messages: publishing, and live samples as server-sent events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from tidegate.console.access import OPERATOR, VIEWER
from tidegate.console.broker.messages import begin_sample, publish
from tidegate.console.errors import invalid
from tidegate.console.models.messages import Published, PublishRequest
from tidegate.console.parts import PartsOf
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.topics import validate_topic_filter

router = APIRouter(tags=["messages"])


@router.post("/publish", dependencies=[OPERATOR])
async def publish_message(request: Request, body: PublishRequest, parts: PartsOf) -> Published:
    """Publish a message through an edge, as a client would: with QoS 1 and 2 when it is stored."""
    found = await publish(parts.nodes, body)
    detail = {"qos": body.qos, "retain": body.retain, "edge": found.edge, "reason": found.reason}
    await parts.audit.note(request, "publish", body.topic, detail=detail)
    return found


@router.get(
    "/sample",
    dependencies=[VIEWER],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def sample(
    parts: PartsOf,
    filter: Annotated[str, Query(max_length=65_535)],  # noqa: A002
    rate: Annotated[int, Query(ge=1, le=1000, description="Messages in a second.")] = 100,
) -> StreamingResponse:
    """What is published on topics that match a filter, as it comes: server-sent events.

    `message` (SampleMessage), about each second `status` (SampleStatus), `error` before the end if
    the edge is lost. What exceeds the rate, or 1 MiB in a second, is skipped and counted.
    """
    try:
        validate_topic_filter(filter)
    except MqttError as error:
        raise invalid(f"filter: {error}") from None
    if filter.startswith("$share/") or "\0" in filter:
        raise invalid("filter must not be that of a shared subscription")
    events = await begin_sample(parts.nodes, filter, rate)
    return StreamingResponse(events, media_type="text/event-stream")
