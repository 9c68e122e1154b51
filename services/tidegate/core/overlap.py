"""Overlapping subscriptions: the one copy that a session gets of a message that several match.

Used by routers for durable sessions and by edges for connected clients: one copy, with the highest
granted QoS [MQTT-3.3.4-2] and every subscription identifier [MQTT-3.3.4-4]. Pure.
"""

from __future__ import annotations

from tidegate.mqtt.packets import SubscriptionOptions


class Overlap:
    """The merged options of all matching subscriptions of one session.

    ``own_qos`` and ``own_subscription_ids`` are for messages that the session's own client
    published: -1 when every matching subscription says No Local [MQTT-3.8.3-3].
    """

    __slots__ = (
        "own_qos",
        "own_subscription_ids",
        "qos",
        "retain_as_published",
        "subscription_ids",
    )

    def __init__(self) -> None:
        self.qos = -1
        self.own_qos = -1
        self.retain_as_published = False
        self.subscription_ids: tuple[int, ...] = ()
        self.own_subscription_ids: tuple[int, ...] = ()

    def include(self, options: SubscriptionOptions) -> None:
        """Take one more matching subscription into account."""
        identifier = options.subscription_identifier
        identifiers = (identifier,) if identifier else ()
        self.qos = max(self.qos, options.qos)
        self.subscription_ids += identifiers
        self.retain_as_published |= options.retain_as_published
        if not options.no_local:
            self.own_qos = max(self.own_qos, options.qos)
            self.own_subscription_ids += identifiers
