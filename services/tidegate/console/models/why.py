"""Shapes of why a client gets nothing."""

from __future__ import annotations

from tidegate.console.models.common import Model, Partial
from tidegate.record.events import Kind
from tidegate.record.why import Severity


class Sentence(Model):
    """What is wrong with a client now, or what has happened to it."""

    text: str
    severity: Severity
    """error: this is why; warning: it may be; info: what has happened."""
    advice: str = ""
    """What to do; empty: nothing."""
    at: float | None = None
    """When it happened, seconds since 1970; null: it is so now."""
    kind: Kind | None = None


class Why(Partial):
    """Why a client gets nothing, or is not there."""

    client_id: str
    mount_point: str = ""
    sentences: list[Sentence]
    """What is wrong now, the gravest first; then the record, the newest last."""
