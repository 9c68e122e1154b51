"""The fan-out of topics: which connected clients get their messages, and in what form.

Found by the edge for each topic and kept until something relevant changes, so that the hot path
finds everything decided: permission, granted QoS, merged overlapping subscriptions, and clients
grouped by the exact bytes they will get. Topics that match the same filters have one fan-out, if
the same clients may read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.core.overlap import Overlap
from tidegate.edge.delivered_once import Connection
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.packets import Publish, SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client


class Recipient(Overlap):
    """What one client gets of one topic, over all of its matching subscriptions."""

    __slots__ = ("client",)

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client

    @property
    def is_special(self) -> bool:
        """Whether its bytes cannot be shared with others, or depend on who published."""
        client = self.client
        return (
            self.own_qos != self.qos
            or self.own_subscription_ids != self.subscription_ids
            or client.aliases is not None
            or client.maximum_packet_size_bytes > 0
        )

    def offer(self, message: Publish, publisher_id: str) -> None:
        """Deliver a QoS 1 or 2 message to an ephemeral session."""
        client = self.client
        qos, subscription_ids = self.qos, self.subscription_ids
        retain = message.retain and self.retain_as_published
        if client.session_key == publisher_id:
            qos, subscription_ids = self.own_qos, self.own_subscription_ids
            if qos <= 0:
                if not qos:
                    client.delivery.send_qos0(message, retain, subscription_ids)
                return
        client.delivery.offer(message, min(qos, message.qos), retain, subscription_ids)

    def send_qos0(self, message: Publish, publisher_id: str) -> None:
        """Deliver at QoS 0 to one client whose bytes are its own."""
        client = self.client
        subscription_ids = self.subscription_ids
        if client.session_key == publisher_id:
            if self.own_qos < 0:
                return
            subscription_ids = self.own_subscription_ids
        client.delivery.send_qos0(
            message, message.retain and self.retain_as_published, subscription_ids
        )


class Group:
    """Clients that get the very same bytes."""

    __slots__ = (
        "clients",
        "mount_point_length",
        "retain_as_published",
        "subscription_ids",
        "version",
    )

    def __init__(
        self,
        version: ProtocolVersion,
        retain_as_published: bool,
        subscription_ids: tuple[int, ...],
        mount_point_length: int,
    ) -> None:
        self.version = version
        self.retain_as_published = retain_as_published
        self.subscription_ids = subscription_ids
        #: Characters at the beginning of the topic that the client does not see.
        self.mount_point_length = mount_point_length
        self.clients: list[Client] = []


class FanOut:
    """What a message of a topic does at this edge: what is derived from its matches.

    ``groups`` and ``special`` are for QoS 0 messages. Of messages with a higher QoS, ``low_groups``
    and ``low_special`` get QoS 0 copies, ``windowed`` QoS 1 or 2 ones; durable sessions with QoS 1
    or 2 are absent there: the router queues for them.
    """

    __slots__ = (
        "_connections",
        "groups",
        "low_groups",
        "low_special",
        "special",
        "windowed",
    )

    def __init__(self) -> None:
        self._connections: frozenset[Connection] | None = None
        self.groups: list[Group] = []
        self.special: list[Recipient] = []
        self.low_groups: list[Group] = []
        self.low_special: list[Recipient] = []
        self.windowed: list[Recipient] = []

    def connections(
        self, matches: list[tuple[Client, SubscriptionOptions]]
    ) -> frozenset[Connection]:
        """The connections with a matching subscription; ``matches`` are those it was built from."""
        connections = self._connections
        if connections is None:
            connections = frozenset((client.session_key, client.epoch) for client, _ in matches)
            self._connections = connections
        return connections


def recipients_of(topic: str, matches: list[tuple[Client, SubscriptionOptions]]) -> list[Recipient]:
    """Merge the subscriptions of each client; those that may not read the topic are left out."""
    recipients: dict[int, Recipient] = {}
    for client, options in matches:
        recipient = recipients.get(id(client))
        if recipient is None:
            recipient = recipients[id(client)] = Recipient(client)
        recipient.include(options)
    return [one for one in recipients.values() if one.client.may_read(topic)]


def unreadable(topic: str, matches: list[tuple[Client, SubscriptionOptions]]) -> tuple[int, ...]:
    """Return the places of clients whose rules do not let them read a topic.

    All else that a fan-out is made of is the same for all topics that match the same filters; so is
    whether they are under a client's mount point (see ``TopicIndex.match``).
    """
    return tuple(
        place
        for place, (client, _) in enumerate(matches)
        if client.acl is not None and not client.may_read(topic)
    )


def build_fan_out(topic: str, matches: list[tuple[Client, SubscriptionOptions]]) -> FanOut:
    """Decide who gets messages of ``topic``: every check that does not need the message."""
    fan_out = FanOut()
    groups: dict[object, Group] = {}
    low_groups: dict[object, Group] = {}
    for recipient in recipients_of(topic, matches):
        client = recipient.client
        low = recipient.qos == 0
        if not low and not client.incarnation:
            fan_out.windowed.append(recipient)
        if recipient.is_special:
            fan_out.special.append(recipient)
            if low:
                fan_out.low_special.append(recipient)
            continue
        key = (
            client.version >= ProtocolVersion.V5,
            recipient.retain_as_published,
            recipient.subscription_ids,
            client.mount_point_length,
        )
        for applies, table in ((True, groups), (low, low_groups)):
            if not applies:
                continue
            group = table.get(key)
            if group is None:
                group = table[key] = Group(
                    client.version,
                    recipient.retain_as_published,
                    recipient.subscription_ids,
                    client.mount_point_length,
                )
            group.clients.append(client)
    fan_out.groups = list(groups.values())
    fan_out.low_groups = list(low_groups.values())
    return fan_out
