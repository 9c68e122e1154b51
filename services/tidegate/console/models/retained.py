"""Retained messages: list, tree, one value, and deletions that take a while."""

from __future__ import annotations

from enum import StrEnum

from tidegate.console.models.common import Model, Page


class RetainedItem(Model):
    """A retained message in a list."""

    topic: str
    qos: int = 0
    payload_size_bytes: int = 0
    received_at: float | None = None
    """Unix time."""
    expires_at: float | None = None
    payload_base64: str = ""
    """The first 256 bytes."""
    is_cut: bool = False
    """Whether `payload_base64` is only the beginning."""
    is_readable: bool = True
    """False: a later version of Tidegate has written it, and only its topic is shown."""


class RetainedValue(Model):
    """A retained message."""

    topic: str
    qos: int
    payload_base64: str
    payload_size_bytes: int
    received_at: float
    expires_at: float | None = None
    content_type: str | None = None
    payload_format: int | None = None
    """1: the publisher says that it is UTF-8."""
    response_topic: str | None = None
    correlation_data_base64: str | None = None
    user_properties: list[tuple[str, str]] = []


class TreeNode(Model):
    """A level below a topic."""

    name: str
    """The level; empty for `a//b`."""
    topic: str
    has_value: bool
    """Whether this topic itself has a retained message."""
    topics: int
    """Retained messages at this topic and below it."""
    size_bytes: int
    """Of their records in the store."""


class Tree(Model):
    """What is one level below a topic."""

    prefix: str
    """The topic; empty: the first levels."""
    children: list[TreeNode]
    topics: int
    size_bytes: int
    is_partial: bool = False
    """The tree is large: not all topics could be looked at in time; numbers are at least so."""
    more: bool = False
    """There are more children than are listed."""


class DeletionRequest(Model):
    """Delete what matches a filter."""

    filter: str


class DeletionState(StrEnum):
    """Where a deletion is."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class Deletion(Model):
    """A deletion of retained messages by filter."""

    id: str
    filter: str
    state: DeletionState
    looked_at: int
    """Topics that were compared with the filter."""
    deleted: int
    progress: float
    """From 0 to 1: the part of the store that was looked at."""
    started_at: float
    ended_at: float | None = None
    problem: str | None = None
    by: str = ""


class RetainedPage(Page[RetainedItem]):
    """Retained messages, in no particular order."""


class DeletionPage(Page[Deletion]):
    """Deletions, the newest first."""
