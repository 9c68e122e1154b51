"""Arguments of requests, checked: what is wrong with one is said in a sentence."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.topics import SHARE_PREFIX, validate_topic_filter, validate_topic_name
from tidegate.runtime.admin.control import Json
from tidegate.runtime.admin.http import HttpError, Request


def bad(sentence: str) -> HttpError:
    """Return the error for an argument that is wrong."""
    return HttpError(HTTPStatus.BAD_REQUEST, sentence)


async def json_of(request: Request, most_bytes: int) -> Json:
    """Read the body, an object in JSON. Raises HttpError."""
    try:
        value = json.loads(await request.body(most_bytes))
    except ValueError:
        raise bad("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise bad("The body must be an object.")
    return value


def field(value: Json, name: str, kind: type, default: Any = None) -> Any:
    """Return a member of an object. Raises HttpError if it is of another type."""
    found = value.get(name, default)
    if found is not None and (
        not isinstance(found, kind) or isinstance(found, bool) != (kind is bool)
    ):
        raise bad(f"{name} is not of the right type.")
    return found


def text(value: Json, name: str) -> str:
    """Return a member that must be there, and is UTF-8. Raises HttpError."""
    found = field(value, name, str)
    if found is None:
        raise bad(f"{name} is missing.")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise bad(f"{name} is not UTF-8.") from None
    return str(found)


def topic_of(request: Request) -> str:
    """Return the topic of the query. Raises HttpError."""
    topic = request.query.get("topic", "")
    try:
        validate_topic_name(topic)
    except MqttError as error:
        raise bad(f"topic: {error}.") from None
    return topic


def filter_of(request: Request) -> str:
    """Return the topic filter of the query, which is not a shared one. Raises HttpError."""
    topic_filter = request.query.get("filter", "")
    try:
        validate_topic_filter(topic_filter)
    except MqttError as error:
        raise bad(f"filter: {error}.") from None
    if topic_filter.startswith(SHARE_PREFIX):
        raise bad("filter must not be that of a shared subscription.")
    return topic_filter


def number_of(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a number of the query. Raises HttpError."""
    found = request.query.get(name, str(default))
    if not (found.isascii() and found.isdigit() and len(found) < 10):
        raise bad(f"{name} must be a number.")
    if not least <= int(found) <= most:
        raise bad(f"{name} must be from {least} to {most:,}.")
    return int(found)
