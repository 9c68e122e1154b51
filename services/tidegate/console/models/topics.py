"""Topics: who gets a message, and the groups of shared subscriptions."""

from __future__ import annotations

from enum import StrEnum

from tidegate.console.models.clients import ClientState
from tidegate.console.models.common import Model, Page


class Verdict(StrEnum):
    """What the ACL says of a client and a topic."""

    ALLOWED = "allowed"
    DENIED = "denied"
    DEPENDS = "depends"
    """The client is offline, and its possible listeners have different ACLs."""
    UNKNOWN = "unknown"
    """No edge could be asked."""


class Receiver(Model):
    """A client that gets a message on a topic, or would, if the ACL let it."""

    client_id: str
    mount_point: str = ""
    state: ClientState
    user: str | None = None
    filters: list[str]
    """Its subscriptions that match; without the mount point."""
    qos: int
    """The highest QoS that was granted."""
    acl: Verdict
    edge: str | None = None
    durable: bool = False
    no_local: bool = False
    """Whether it does not get what it has published itself."""


class ReceiverGroup(Model):
    """A group of shared subscriptions that matches: one of its members gets the message."""

    share_name: str
    filter: str
    members: int
    connected: int


class Receivers(Model):
    """Who gets a message on a topic."""

    topic: str
    receivers: list[Receiver]
    groups: list[ReceiverGroup]
    more: bool = False
    """Whether there are more receivers than are listed."""
    missing: list[str] = []


class GroupMember(Model):
    """A member of a group of shared subscriptions."""

    client_id: str
    mount_point: str = ""
    state: ClientState
    durable: bool
    qos: int
    edge: str | None = None
    unacknowledged: int | None = None
    """Messages of this group that the member has been given and has not acknowledged: in its
    queue, or in its window where the session is not durable. Null: it could not be asked."""
    is_least: bool = False
    """Whether there may be more: only the first 1,000 entries of its queue are looked at."""


class SharedGroup(Model):
    """A group of shared subscriptions in a list."""

    name: str
    """`SHARE/FILTER`, as in the path of one group."""
    share_name: str
    filter: str
    members: int
    connected: int


class SharedGroupDetail(Model):
    """One group with its members, the next one to be given a message first."""

    name: str
    share_name: str
    filter: str
    members: list[GroupMember]
    more: bool = False
    missing: list[str] = []


class SharedGroupPage(Page[SharedGroup]):
    """Groups of shared subscriptions, in the order of their names."""
