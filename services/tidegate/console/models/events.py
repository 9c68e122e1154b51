"""Shapes of the record."""

from __future__ import annotations

from pydantic import ConfigDict

from tidegate.console.models.common import Model, Page
from tidegate.record.events import Kind


class Event(Model):
    """Something that has happened to a client. What does not apply is left out."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    id: str
    at: float
    """Seconds since 1970."""
    edge: str
    """Where it happened; a router's name where a router found it."""
    client: str
    mount_point: str
    kind: Kind
    reason: str
    address: str | None = None
    """Address and port of the client."""
    listener: str | None = None
    user: str | None = None
    version: str | None = None
    topic: str | None = None
    """Topic name or topic filter."""
    count: int = 1
    """How many of them: messages dropped for this reason since the last such event, say."""
    detail: str | None = None
    keep_alive_s: int | None = None
    session_present: bool | None = None


class EventPage(Page[Event]):
    """Events, the newest first."""
