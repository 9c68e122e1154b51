"""Topics: who gets a message, and groups of shared subscriptions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from tidegate.console.access import VIEWER
from tidegate.console.broker.topics import Topics
from tidegate.console.errors import invalid
from tidegate.console.models.common import Limit
from tidegate.console.models.topics import Receivers, SharedGroupDetail, SharedGroupPage
from tidegate.console.parts import PartsOf
from tidegate.console.segments import whole
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.topics import validate_topic_name

router = APIRouter(tags=["topics"])

_NAME = r"^[^\x00]*$"


def topics_of(parts: PartsOf) -> Topics:
    """Return what finds receivers."""
    return Topics(parts.nodes, parts.store)


TopicsOf = Annotated[Topics, Depends(topics_of)]


@router.get("/topics/receivers", dependencies=[VIEWER])
async def get_receivers(
    topics: TopicsOf, topic: Annotated[str, Query(max_length=65_535, pattern=_NAME)]
) -> Receivers:
    """Who gets a message on a topic (with its mount point), and who is denied it by the ACL.

    Routers say whom it goes to, edges what their ACL says.
    """
    return await topics.receivers(_checked(topic))


@router.get("/topics/{topic}/receivers", dependencies=[VIEWER])
async def get_receivers_of(
    topics: TopicsOf,
    topic: Annotated[str, Path(max_length=200_000, description="Percent-encoded: a slash is %2F.")],
) -> Receivers:
    """The same, with the topic in the path."""
    return await topics.receivers(_checked(whole(topic)))


@router.get("/shared-groups", dependencies=[VIEWER])
async def list_shared_groups(
    topics: TopicsOf,
    after: Annotated[str, Query(max_length=65_535, pattern=_NAME)] = "",
    limit: Limit = 100,
) -> SharedGroupPage:
    """Groups of shared subscriptions."""
    return await topics.groups(after, limit)


@router.get("/shared-groups/{name}", dependencies=[VIEWER])
async def get_shared_group(
    topics: TopicsOf,
    name: Annotated[str, Path(max_length=200_000, description="SHARE%2FFILTER, percent-encoded.")],
) -> SharedGroupDetail:
    """One group: its members, the next one first, and what each has unacknowledged."""
    return await topics.group(whole(name))


def _checked(topic: str) -> str:
    try:
        validate_topic_name(topic)
    except MqttError as error:
        raise invalid(f"topic: {error}") from None
    if "\0" in topic:
        raise invalid("topic: this cannot be a topic")
    return topic
