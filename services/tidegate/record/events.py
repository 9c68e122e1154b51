"""One event of the record: its kind, its reason, and its two forms, stored and shown.

Made by edges (``edge.client.recorder``) and routers, stored by ``store``, read by the console.
Every kind and every reason is from a closed set; texts that a client chooses are cut. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, Self

from tidegate.runtime.telemetry.counters import (
    AUTH_FAILURE_REASONS,
    CLOSE_REASONS,
    DROP_REASONS,
    REFUSE_REASONS,
)

#: Longest text of an event in characters: a topic, a user, a detail; and a client identifier.
MAX_TEXT: Final = 256
MAX_CLIENT: Final = 1_024


class Kind(StrEnum):
    """What has happened."""

    CONNECTED = "connected"
    TAKEN_OVER = "taken_over"
    """A newer connection of the client identifier has the session: the next ``connected``."""
    REFUSED = "refused"
    """A connection was not accepted."""
    DISCONNECTED = "disconnected"
    KEEP_ALIVE_EXPIRED = "keep_alive_expired"
    SUBSCRIBED = "subscribed"
    SUBSCRIBE_DENIED = "subscribe_denied"
    PUBLISH_DENIED = "publish_denied"
    DROPPED = "dropped"
    """The first message dropped for this reason in a minute; ``count``: how many since the last."""
    QUOTA = "quota"
    """A quota or a rate was reached."""
    SESSION_EXPIRED = "session_expired"
    SESSION_ENDED = "session_ended"
    WILL_PUBLISHED = "will_published"
    SHED = "shed"
    """Disconnected since another edge has more room."""
    DRAINED = "drained"
    """Disconnected since the edge stops."""
    BANNED = "banned"
    """Disconnected or refused by a ban, or banned by ``limits.flapping``."""


#: The reasons of each kind that has any.
REASONS: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.CONNECTED: ("",),
    Kind.TAKEN_OVER: ("session_taken_over",),
    # Where it says more, the reason of the failed authentication.
    Kind.REFUSED: tuple(dict.fromkeys((*REFUSE_REASONS, *AUTH_FAILURE_REASONS))),
    Kind.DISCONNECTED: CLOSE_REASONS,
    Kind.KEEP_ALIVE_EXPIRED: ("keep_alive_timeout",),
    Kind.SUBSCRIBED: ("",),
    # Refused in SUBACK, or granted though no message may be read (auth.denied_subscribe).
    Kind.SUBSCRIBE_DENIED: ("not_authorized", "granted_without_messages"),
    Kind.PUBLISH_DENIED: ("not_authorized",),
    Kind.DROPPED: DROP_REASONS,
    # The second: a publish that was answered with 0x97.
    Kind.QUOTA: ("publish_rate", "quota_exceeded", "session_quota"),
    Kind.SESSION_EXPIRED: ("session_expiry_interval",),
    Kind.SESSION_ENDED: ("clean_start", "connection_ended", "administrative_action"),
    Kind.WILL_PUBLISHED: ("",),
    Kind.SHED: ("shed",),
    Kind.DRAINED: ("server_shutting_down", "use_another_server", "shutdown"),
    Kind.BANNED: ("banned", "flapping"),
}

#: Kinds that are the end of a connection, by the reason that is counted.
_KIND_OF_CLOSE: Final[Mapping[str, Kind]] = {
    reason: kind
    for kind in (
        Kind.TAKEN_OVER,
        Kind.KEEP_ALIVE_EXPIRED,
        Kind.SHED,
        Kind.DRAINED,
        Kind.BANNED,
    )
    for reason in REASONS[kind]
}
#: Kinds after which the client is not connected.
ENDS: Final = frozenset({*_KIND_OF_CLOSE.values(), Kind.DISCONNECTED})


def kind_of_close(reason: str) -> Kind:
    """Return the kind of the end of a connection, by its reason in ``CLOSE_REASONS``."""
    return _KIND_OF_CLOSE.get(reason, Kind.DISCONNECTED)


@dataclass(slots=True, frozen=True, kw_only=True)
class Event:
    """One event. What is not known, or does not apply, is empty or None."""

    #: Unix time in seconds, by the broker's time.
    at: float
    kind: Kind
    #: Client identifier, without the mount point of its listener.
    client: str
    mount_point: str = ""
    reason: str = ""
    #: Where it happened: an edge, or a router.
    edge: str = ""
    #: ``host:port`` of the client.
    address: str = ""
    listener: str = ""
    user: str = ""
    #: "3.1", "3.1.1" or "5.0".
    version: str = ""
    #: Topic name or topic filter, as the client has it.
    topic: str = ""
    #: How many messages, filters or lines this event stands for.
    count: int = 1
    #: More about the reason.
    detail: str = ""
    #: Of ``connected``.
    keep_alive_s: int | None = None
    session_present: bool | None = None
    #: Position in the record, for reading on; "" until it is stored.
    id: str = ""

    def __post_init__(self) -> None:
        """Refuse a reason that its kind does not have, and cut long texts."""
        if self.reason not in REASONS[self.kind]:
            raise ValueError(f"an event {self.kind} has no reason {self.reason!r}")
        for name in ("user", "topic", "detail"):
            if len(text := getattr(self, name)) > MAX_TEXT:
                object.__setattr__(self, name, text[: MAX_TEXT - 1] + "…")
        if len(self.client) > MAX_CLIENT:
            object.__setattr__(self, "client", self.client[: MAX_CLIENT - 1] + "…")

    # As it is stored

    def encode(self) -> bytes:
        """Return the stored form: a JSON list, without the empty values at its end."""
        values = [round(self.at * 1000), *_stored_values(self)]
        while self._is_empty(_STORED[len(values) - 2]):
            values.pop()
        return _to_json(values).encode()

    def _is_empty(self, name: str) -> bool:
        value = getattr(self, name)
        return value is None or value == "" or (name == "count" and value == 1)

    @classmethod
    def decode(cls, stored: bytes, event_id: str = "") -> Self | None:
        """Return a stored event; None if it was written by a version with other events."""
        try:
            at_ms, *values = json.loads(stored)
            named: dict[str, Any] = dict(zip(_STORED, values, strict=False))
            named["kind"] = Kind(named["kind"])
            return cls(at=at_ms / 1000, id=event_id, **named)
        except (ValueError, TypeError, KeyError):
            return None

    # As it is shown

    def to_json(self) -> dict[str, object]:
        """Return the event for the API: id, at, kind, client, edge and what is not empty."""
        shown: dict[str, object] = {
            "id": self.id,
            "at": self.at,
            "edge": self.edge,
            "client": self.client,
            "mount_point": self.mount_point,
            "kind": self.kind.value,
            "reason": self.reason,
        }
        for name in _OPTIONAL:
            if not self._is_empty(name):
                shown[name] = getattr(self, name)
        return shown

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Self:
        """Return the event of an API's answer. Raises ValueError, KeyError, TypeError."""
        known = {field.name for field in fields(cls)}
        named = {name: value for name, value in shown.items() if name in known}
        return cls(**{**named, "kind": Kind(named["kind"])})

    def at_edge(self, edge: str) -> Self:
        """Return the event with the place where it happened."""
        return replace(self, edge=edge)


#: The order of the stored form. Never changed; what is new comes at the end.
_STORED: Final = (
    "kind",
    "client",
    "mount_point",
    "reason",
    "edge",
    "address",
    "listener",
    "user",
    "version",
    "topic",
    "count",
    "detail",
    "keep_alive_s",
    "session_present",
)
_OPTIONAL: Final = _STORED[5:]
_stored_values: Final = attrgetter(*_STORED)
#: Made once: ``json.dumps`` makes one at each call, which costs more than the rest.
_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
