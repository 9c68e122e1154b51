"""Shared subscriptions: the members of each group, and which one is next (MQTT5 §4.8.2).

Owned by a router's table. A group is a share name and a topic filter; its members are sessions,
named by client identifier. Members without a durable session are removed by the caller when their
connection ends; those with one stay and are marked as not connected.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any, Generic, TypeVar

from tidegate.core.topic_index import TopicIndex

M = TypeVar("M")


class _Group(Generic[M]):
    """Members, the next one first."""

    __slots__ = ("connected", "offline")

    def __init__(self) -> None:
        self.connected: OrderedDict[str, M] = OrderedDict()
        self.offline: OrderedDict[str, M] = OrderedDict()


class SharedGroups(Generic[M]):
    """All groups with their members, whatever a member is to the caller."""

    __slots__ = ("_groups", "_index", "_len", "_reconnected")

    def __init__(self, index: TopicIndex[Any, Any]) -> None:
        """``index``: where groups are found by topic, with share name and topic filter as a pair.

        A group is there as long as it has members; who they are does not matter.
        """
        # Groups with the first connected member after a time, and with others that are not.
        self._reconnected: set[tuple[str, str]] = set()
        self._groups: dict[tuple[str, str], _Group[M]] = {}
        self._index = index
        self._len = 0

    def __len__(self) -> int:
        """Count the members of all groups."""
        return self._len

    def subscribe(
        self, share_name: str, topic_filter: str, client_id: str, member: M, is_connected: bool
    ) -> bool:
        """Add a member, or replace it in its place; True if the client was not in the group."""
        group = self._groups.get((share_name, topic_filter))
        if group is None:
            group = self._groups[share_name, topic_filter] = _Group()
            self._index.add(topic_filter, share_name, topic_filter)
        members, others = (
            (group.connected, group.offline) if is_connected else (group.offline, group.connected)
        )
        is_new = client_id not in members and others.pop(client_id, None) is None
        if is_connected and not members and group.offline:
            self._reconnected.add((share_name, topic_filter))
        members[client_id] = member
        self._len += is_new
        return is_new

    def unsubscribe(self, share_name: str, topic_filter: str, client_id: str) -> bool:
        """Remove a member; False if it was not in the group."""
        group = self._groups.get((share_name, topic_filter))
        if group is None:
            return False
        if client_id in group.connected:
            del group.connected[client_id]
        elif client_id in group.offline:
            del group.offline[client_id]
        else:
            return False
        self._len -= 1
        if not group.connected and not group.offline:
            del self._groups[share_name, topic_filter]
            self._reconnected.discard((share_name, topic_filter))
            self._index.remove(topic_filter, share_name)
        return True

    def set_connected(
        self, share_name: str, topic_filter: str, client_id: str, is_connected: bool
    ) -> None:
        """Note that a member's connection has begun or ended; unknown members are ignored."""
        group = self._groups.get((share_name, topic_filter))
        if group is None:
            return
        source, target = (
            (group.offline, group.connected) if is_connected else (group.connected, group.offline)
        )
        if client_id in source:
            if is_connected and not target and len(source) > 1:
                self._reconnected.add((share_name, topic_filter))
            target[client_id] = source.pop(client_id)

    def take_reconnected(self) -> list[tuple[str, str]]:
        """Return the groups that had no connected member and have one now, each once.

        Those without a member that is not connected are left out.
        """
        reconnected, self._reconnected = list(self._reconnected), set()
        return reconnected

    @property
    def group_count(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    def groups(self) -> list[tuple[str, str]]:
        """Return share name and topic filter of every group."""
        return list(self._groups)

    def count(self, share_name: str, topic_filter: str) -> tuple[int, int]:
        """Return how many members a group has, and how many of them are connected."""
        group = self._groups.get((share_name, topic_filter))
        if group is None:
            return 0, 0
        return len(group.connected) + len(group.offline), len(group.connected)

    def members(self, share_name: str, topic_filter: str) -> Iterator[tuple[str, M, bool]]:
        """Return client identifier, membership, and whether it is connected; the next one first."""
        group = self._groups.get((share_name, topic_filter))
        if group is not None:
            for client_id, member in group.connected.items():
                yield client_id, member, True
            for client_id, member in group.offline.items():
                yield client_id, member, False

    def offline(self, share_name: str, topic_filter: str) -> list[str]:
        """Return the client identifiers of the members that are not connected."""
        group = self._groups.get((share_name, topic_filter))
        return list(group.offline) if group is not None else []

    def has_connected(self, share_name: str, topic_filter: str, besides: str = "") -> bool:
        """Whether a member is connected, not counting the client ``besides``."""
        group = self._groups.get((share_name, topic_filter))
        return group is not None and len(group.connected) > (besides in group.connected)

    def member(self, share_name: str, topic_filter: str, client_id: str) -> M | None:
        """Return a client's membership, None if it has none."""
        group = self._groups.get((share_name, topic_filter))
        if group is None:
            return None
        found = group.connected.get(client_id)
        return group.offline.get(client_id) if found is None else found

    def pick(self, share_name: str, topic_filter: str, skip: Collection[str] = ()) -> M | None:
        """Return the next member, and move it to the end.

        Members that are not connected are picked only when no other is left. ``skip`` names clients
        that have been offered the message already. None if no member is left.
        """
        group = self._groups.get((share_name, topic_filter))
        if group is None:
            return None
        for members in (group.connected, group.offline):
            for client_id, member in members.items():
                if client_id not in skip:
                    members.move_to_end(client_id)
                    return member
        return None
