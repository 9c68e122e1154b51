"""Clients, their subscriptions and what is under way to them, as the admin API describes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tidegate.edge.client.connection_log import VERSION_NAMES
from tidegate.runtime.admin.control import Json

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.client.in_flight import InFlight


def describe(client: Client) -> Json:
    """Describe a client and its connection."""
    peer = client.channel.peer
    under_way, queued = client.delivery.waiting()
    connected_s = time.time() - (client.context.time_s() - client.since_s)
    host = f"[{peer.address}]" if ":" in peer.address else peer.address
    return {
        "client_id": client.client_id,
        "mount_point": client.listener.mount_point,
        "username": client.username,
        "address": f"{host}:{peer.port}" if peer.port else host,
        "listener": peer.listener,
        "transport": peer.transport,
        "version": VERSION_NAMES[client.version],
        "since": time_of(connected_s),
        "durable": client.incarnation != 0,
        "subscriptions": len(client.subscriptions),
        "in_flight": under_way,
        "queued": queued,
        "slow": client.slow,
    }


def describe_filter(client: Client, name: str) -> Json:
    """Describe one of its subscriptions."""
    options = client.subscriptions[name]
    return {
        "filter": name,
        # How much of it the ACL lets the client read: all, some or none.
        "readable": client.readable(name).value,
        "qos": options.qos,
        "no_local": options.no_local,
        "retain_as_published": options.retain_as_published,
        "retain_handling": options.retain_handling,
        "subscription_id": options.subscription_identifier or None,
    }


def describe_exchange(one: InFlight) -> Json:
    """Describe a message that is under way to a client."""
    message = one.message
    return {
        "packet_id": one.packet_id,
        "seq": one.seq,
        "awaits": one.awaits,
        "qos": one.qos,
        "topic": message.topic if message is not None else None,
        "size_bytes": len(message.payload) if message is not None else None,
        "group": one.group,
    }


def time_of(unix_s: float) -> str | None:
    """Return a time in the form of RFC 3339, in UTC, to the second; None for 0."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s)) if unix_s else None
