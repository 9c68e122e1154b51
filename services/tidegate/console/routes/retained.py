"""Retained messages: lists, the tree, one value, and deletions."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request

from tidegate.console.access import OPERATOR, VIEWER, Operator
from tidegate.console.broker import shapes
from tidegate.console.errors import invalid, not_found
from tidegate.console.models.clients import Done
from tidegate.console.models.common import After, Limit
from tidegate.console.models.retained import (
    Deletion,
    DeletionPage,
    DeletionRequest,
    RetainedPage,
    RetainedValue,
    Tree,
    TreeNode,
)
from tidegate.console.parts import PartsOf
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.topics import validate_topic_filter, validate_topic_name
from tidegate.store.inspection.cursor import BadCursor
from tidegate.store.inspection.retained import MOST_LEVELS, RetainedInspection
from tidegate.store.records import RecordError

router = APIRouter(tags=["retained"])

_NAME = r"^[^\x00]*$"
#: How long levels are counted.
_TREE_S: Final = 2.0

Topic = Annotated[str, Query(max_length=65_535, pattern=_NAME)]
DeletionId = Annotated[str, Path(max_length=64)]


@router.get("/retained", dependencies=[VIEWER])
async def list_retained(
    parts: PartsOf,
    filter: Annotated[str, Query(max_length=65_535, pattern=_NAME)] = "#",  # noqa: A002
    after: After = "",
    limit: Limit = 100,
) -> RetainedPage:
    """Retained messages whose topics match a filter. `#` does not match topics below `$SYS`."""
    _check_filter(filter)
    try:
        found = await RetainedInspection(parts.store.access).page(filter, after or None, limit)
    except BadCursor as error:
        raise invalid(str(error)) from None
    return RetainedPage(
        items=[shapes.retained_item(item) for item in found.items], next=found.after
    )


@router.get("/retained/tree", dependencies=[VIEWER])
async def get_tree(parts: PartsOf, prefix: Topic = "") -> Tree:
    """What is one level below a topic, with numbers and sizes; without `prefix`: first levels."""
    until_s = asyncio.get_running_loop().time() + _TREE_S
    levels, complete = await RetainedInspection(parts.store.access).levels(prefix, until_s)
    above = f"{prefix}/" if prefix else ""
    return Tree(
        prefix=prefix,
        children=[
            TreeNode(
                name=level.name,
                topic=above + level.name,
                has_value=level.has_message,
                topics=level.topics,
                size_bytes=level.bytes,
            )
            for level in levels[:MOST_LEVELS]
        ],
        topics=sum(level.topics for level in levels),
        size_bytes=sum(level.bytes for level in levels),
        is_partial=not complete,
        more=len(levels) > MOST_LEVELS,
    )


@router.get("/retained/value", dependencies=[VIEWER])
async def get_value(parts: PartsOf, topic: Topic) -> RetainedValue:
    """The retained message of a topic, with its properties."""
    try:
        record = await RetainedInspection(parts.store.access).value(topic)
    except RecordError as error:
        raise not_found(str(error)) from None
    if record is None:
        raise not_found(f"{topic} has no retained message")
    return shapes.retained_value(record)


@router.delete("/retained", dependencies=[OPERATOR])
async def delete_retained(request: Request, parts: PartsOf, topic: Topic) -> Done:
    """Delete the retained message of a topic, by publishing an empty one with QoS 0."""
    try:
        validate_topic_name(topic)
    except MqttError as error:
        raise invalid(f"topic: {error}") from None
    if not await parts.deletions.delete([topic]):
        raise not_found(f"{topic} has no retained message")
    await parts.audit.note(request, "delete retained message", topic)
    return Done(detail="deleted")


@router.post("/retained/deletions", status_code=HTTPStatus.ACCEPTED)
async def start_deletion(
    request: Request, body: DeletionRequest, caller: Operator, parts: PartsOf
) -> Deletion:
    """Begin to delete all retained messages whose topics match a filter."""
    _check_filter(body.filter)
    found = parts.deletions.start(body.filter, caller.name)
    detail = {"id": found.id}
    await parts.audit.note(request, "delete retained messages", body.filter, detail=detail)
    return found


@router.get("/retained/deletions", dependencies=[VIEWER])
async def list_deletions(parts: PartsOf) -> DeletionPage:
    """Deletions that run, and the last ones that have ended."""
    return DeletionPage(items=list(parts.deletions.all()))


@router.get("/retained/deletions/{deletion_id}", dependencies=[VIEWER])
async def get_deletion(deletion_id: DeletionId, parts: PartsOf) -> Deletion:
    """How far a deletion is."""
    return parts.deletions.get(deletion_id)


@router.delete("/retained/deletions/{deletion_id}", dependencies=[OPERATOR])
async def stop_deletion(request: Request, deletion_id: DeletionId, parts: PartsOf) -> Deletion:
    """Stop a deletion. What is deleted stays so."""
    found = await parts.deletions.stop(deletion_id)
    detail = {"id": found.id, "deleted": found.deleted}
    await parts.audit.note(request, "stop deletion", found.filter, detail=detail)
    return found


def _check_filter(topic_filter: str) -> None:
    try:
        validate_topic_filter(topic_filter)
    except MqttError as error:
        raise invalid(f"filter: {error}") from None
    if topic_filter.startswith("$share/"):
        raise invalid("filter must not be that of a shared subscription")
