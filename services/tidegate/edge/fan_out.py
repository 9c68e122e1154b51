"""Delivery plans: for one topic, which connected clients get its messages, and in what form.

Built by the edge from its index and kept until something relevant changes, so that the hot path
finds everything decided: permission, granted QoS, merged overlapping subscriptions, and clients
grouped by the exact bytes they will get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.core.overlap import Overlap
from tidegate.mqtt.enums import ProtocolVersion
from tidegate.mqtt.packets import SubscriptionOptions

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client


class Recipient(Overlap):
    """One client's due of one topic, over all of its matching subscriptions."""

    __slots__ = ("client",)

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client

    @property
    def needs_care(self) -> bool:
        """True when its bytes cannot be shared with others, or depend on who published."""
        client = self.client
        return (
            self.own_qos != self.qos
            or self.own_subscription_ids != self.subscription_ids
            or client.aliases is not None
            or client.maximum_packet_size_bytes > 0
        )


class Group:
    """Clients that get the very same bytes."""

    __slots__ = ("clients", "hidden", "retain_as_published", "subscription_ids", "version")

    def __init__(
        self,
        version: ProtocolVersion,
        retain_as_published: bool,
        subscription_ids: tuple[int, ...],
        hidden: int,
    ) -> None:
        self.version = version
        self.retain_as_published = retain_as_published
        self.subscription_ids = subscription_ids
        #: Characters of the topic that the mount point hides.
        self.hidden = hidden
        self.clients: list[Client] = []


class FanOut:
    """What a message of one topic does at this edge; valid while ``matches`` is current.

    ``groups`` and ``special`` are for QoS 0 messages. Of messages with a higher QoS, ``low_groups``
    and ``low_special`` get QoS 0 copies, ``windowed`` QoS 1 or 2 ones; durable sessions with QoS 1
    or 2 are absent there: the router queues for them.
    """

    __slots__ = ("groups", "low_groups", "low_special", "matches", "special", "windowed")

    def __init__(self, matches: object) -> None:
        self.matches = matches
        self.groups: list[Group] = []
        self.special: list[Recipient] = []
        self.low_groups: list[Group] = []
        self.low_special: list[Recipient] = []
        self.windowed: list[Recipient] = []


def build_fan_out(topic: str, matches: list[tuple[Client, SubscriptionOptions]]) -> FanOut:
    """Decide who gets messages of ``topic``: every check that does not need the message."""
    recipients: dict[int, Recipient] = {}
    for client, options in matches:
        recipient = recipients.get(id(client))
        if recipient is None:
            recipient = recipients[id(client)] = Recipient(client)
        recipient.include(options)
    plan = FanOut(matches)
    groups: dict[object, Group] = {}
    low_groups: dict[object, Group] = {}
    for recipient in recipients.values():
        client = recipient.client
        if not client.may_read(topic):
            continue
        low = recipient.qos == 0
        if not low and not client.durable:
            plan.windowed.append(recipient)
        if recipient.needs_care:
            plan.special.append(recipient)
            if low:
                plan.low_special.append(recipient)
            continue
        key = (
            client.version >= ProtocolVersion.V5,
            recipient.retain_as_published,
            recipient.subscription_ids,
            client.hidden,
        )
        for wanted, table in ((True, groups), (low, low_groups)):
            if not wanted:
                continue
            group = table.get(key)
            if group is None:
                group = table[key] = Group(
                    client.version,
                    recipient.retain_as_published,
                    recipient.subscription_ids,
                    client.hidden,
                )
            group.clients.append(client)
    plan.groups = list(groups.values())
    plan.low_groups = list(low_groups.values())
    return plan
