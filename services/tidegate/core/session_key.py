"""The name of a session: its client identifier, and the mount point of the client's listener.

A client identifier belongs to its mount point, so that clients of two tenants never share a
session. Edges make the key at CONNECT; link, routers and store have sessions by it and never look
inside, but for logs and traces. Pure.
"""

from __future__ import annotations

from typing import Final

#: A client identifier cannot hold U+0000 [MQTT-1.5.4-2], nor can a mount point.
SEPARATOR: Final = "\0"
#: Longest key in bytes of UTF-8: records in the store have its length in 16 bits.
MAX_KEY_BYTES: Final = 65_535


def session_key(mount_point: str, client_id: str) -> str:
    """Return the key of a session; without a mount point it is the client identifier."""
    return f"{mount_point}{SEPARATOR}{client_id}" if mount_point else client_id


def parts_of(key: str) -> tuple[str, str]:
    """Return the mount point, "" for none, and the client identifier of a key."""
    mount_point, _, client_id = key.rpartition(SEPARATOR)
    return mount_point, client_id


def log_fields(key: str) -> dict[str, str]:
    """Return what a log line says of a session: client identifier, and mount point if any."""
    mount_point, client_id = parts_of(key)
    fields = {"client_id": client_id}
    if mount_point:
        fields["mount_point"] = mount_point
    return fields
