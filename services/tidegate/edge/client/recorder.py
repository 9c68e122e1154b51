"""Events of this edge's clients for the record: what the connection log has, without its limits.

One per edge, called by its clients where they connect, end, are refused or denied, and where one of
their messages is dropped, and by listeners for connections that end before CONNECT. An event costs
a tuple here; it is encoded when it is sent, a bounded number of them at a time. What does not fit,
and what no router takes, is counted as ``record_dropped``. Never waits, and nothing waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from tidegate.core.session_key import session_key
from tidegate.edge.channel import Peer
from tidegate.edge.client.connection_log import VERSION_NAMES
from tidegate.record.drop_minutes import DropMinutes
from tidegate.record.events import Event, Kind, kind_of_close
from tidegate.runtime.telemetry.counters import AUTH_FAILURE_REASONS

if TYPE_CHECKING:
    from tidegate.edge.client.connection_log import LoggedClient
    from tidegate.mqtt.enums import ProtocolVersion
    from tidegate.runtime.config.model import RecordConfig
    from tidegate.runtime.telemetry.counters import Counters

#: Events that wait to be sent; the oldest ones are dropped when there are more.
MAX_WAITING: Final = 10_000
#: How long an event waits for others.
GATHER_S: Final = 0.25
#: The same denial is recorded again after that long, and so many of them are remembered.
DENIAL_S: Final = 60.0
MAX_DENIALS: Final = 10_000
#: Addresses and reasons of connections that ended before CONNECT, in a minute: anybody can make
#: such connections, and they must not push everything else out of the record.
MAX_TURNED_AWAY: Final = 100


_AUTH_FAILURES: Final = frozenset(AUTH_FAILURE_REASONS)
#: Refusals that have a kind of their own.
_KIND_OF_REFUSAL: Final = {"banned": Kind.BANNED, "session_quota": Kind.QUOTA}

#: Client identifier, mount point, peer, user, version.
_Who: TypeAlias = "tuple[str, str, Peer, str | None, ProtocolVersion | None]"
#: The same, then kind, when (ms), reason, topic, count, detail, keep alive (s), session present.
_Waiting: TypeAlias = (
    "tuple[str, str, Peer, str | None, ProtocolVersion | None,"
    " Kind, int, str, str, int, str, int | None, bool | None]"
)

#: Looked up once: each look at a member of an enumeration costs as much as the rest of an event.
_CONNECTED: Final = Kind.CONNECTED


class Recorder:
    """See the module's docstring. ``start`` before the first client."""

    __slots__ = (
        "_counters",
        "_denied",
        "_drops",
        "_is_sending",
        "_later",
        "_most",
        "_now_ms",
        "_place",
        "_send",
        "_turned_away",
        "_waiting",
        "_who_of",
        "is_on",
        "now_s",
    )

    _later: Callable[[float, Callable[[], object]], object]

    def __init__(
        self,
        config: RecordConfig,
        place: str,
        counters: Counters,
        now_ms: Callable[[], int],
        send: Callable[[Sequence[tuple[str, bytes]]], bool],
    ) -> None:
        """``place`` names this edge; ``send`` hands events to a router, False: to none."""
        self._place = place
        self._counters = counters
        self._now_ms = now_ms
        self._send = send
        self._waiting: deque[_Waiting] = deque()
        self._is_sending = False
        self._drops = DropMinutes()
        #: By listener and address.
        self._turned_away = DropMinutes(MAX_TURNED_AWAY)
        #: Clients whose messages were dropped, by session key, as long as that is remembered.
        self._who_of: dict[str, _Who] = {}
        #: (session key, topic or filter) -> when its denial was recorded.
        self._denied: dict[tuple[str, str], float] = {}
        #: Seconds of the loop's clock, as of the last tick.
        self.now_s = 0.0
        self.reconfigure(config)

    def start(self, later: Callable[[float, Callable[[], object]], object]) -> None:
        """Take the event loop's ``call_later``."""
        self._later = later

    def reconfigure(self, config: RecordConfig) -> None:
        """Go by other settings from now on."""
        self.is_on = config.enabled
        self._most = max(1, round(config.max_events_per_s * GATHER_S))
        if not self.is_on:
            self._waiting.clear()

    def tick(self, now_s: float) -> None:
        """Take the time, and record what was dropped or refused in minutes that are over."""
        self.now_s = now_s
        for place, reason, detail, count in self._turned_away.over(now_s):
            if self.is_on:
                self._add(Kind.REFUSED, _nobody(place), reason, "", count, detail)
        for key, reason, topic, count in self._drops.over(now_s):
            who = self._who_of.get(key)
            if who is not None and self.is_on:
                self._add(Kind.DROPPED, who, reason, topic, count)
        if len(self._who_of) >= MAX_DENIALS:
            self._who_of.clear()
        if len(self._denied) >= MAX_DENIALS:
            self._denied = {
                name: at_s for name, at_s in self._denied.items() if now_s < at_s + DENIAL_S
            }

    # Events

    def connected(self, client: LoggedClient, session_present: bool) -> None:
        """A client has its CONNACK."""
        if self.is_on:
            self._append(
                (
                    client.client_id,
                    client.listener.mount_point,
                    client.channel.peer,
                    client.username,
                    client.version,
                    _CONNECTED,
                    self._now_ms(),
                    "",
                    "",
                    1,
                    "",
                    client.keep_alive_s,
                    session_present,
                )
            )

    def disconnected(self, client: LoggedClient, reason: str, detail: str) -> None:
        """A connected client's connection has ended, for a reason that is counted."""
        if not self.is_on:
            return
        if reason not in self._counters.closed:
            reason, detail = "lost", reason
        self._add(kind_of_close(reason), _who(client), reason, "", 1, detail)

    def refused(self, client: LoggedClient, reason: str, detail: str) -> None:
        """A connection has ended before CONNACK, or with one that refuses it."""
        if not self.is_on:
            return
        if not client.connection.has_connect:
            peer = client.channel.peer
            self.turned_away(peer.listener, reason, detail, peer.address)
            return
        if detail in _AUTH_FAILURES:
            reason, detail = detail, ""
        kind = _KIND_OF_REFUSAL.get(reason, Kind.REFUSED)
        self._add(kind, _who(client), reason, "", 1, detail)

    def turned_away(self, listener: str, reason: str, detail: str, address: str) -> None:
        """A connection has ended before there was a CONNECT; the first of a minute is an event."""
        place = f"{listener}\0{address}"
        if self.is_on and self._turned_away.note(place, reason, detail, self.now_s):
            self._add(Kind.REFUSED, _nobody(place), reason, "", 1, detail)

    def subscribed(self, client: LoggedClient, filters: Sequence[str]) -> None:
        """A client has its SUBACK with these (internal) topic filters granted."""
        if self.is_on and filters:
            names = [_shown(client, name) for name in filters[:10]]
            detail = ", ".join(names) if len(names) > 1 else ""
            self._add(Kind.SUBSCRIBED, _who(client), "", names[0], len(filters), detail)

    def subscribe_denied(
        self, client: LoggedClient, filters: Sequence[str], is_granted: bool
    ) -> None:
        """The ACL does not let a client read (internal) topic filters; ``is_granted`` though."""
        if not self.is_on:
            return
        reason = "granted_without_messages" if is_granted else "not_authorized"
        for name in filters[:10]:
            if self._is_first(client, name):
                self._add(Kind.SUBSCRIBE_DENIED, _who(client), reason, _shown(client, name))

    def publish_denied(self, client: LoggedClient, topic: str) -> None:
        """The ACL does not let a client publish to an (internal) topic."""
        if self.is_on and self._is_first(client, topic):
            self._add(Kind.PUBLISH_DENIED, _who(client), "not_authorized", _shown(client, topic))

    def quota(self, client: LoggedClient, reason: str, topic: str = "") -> None:
        """A client has reached a rate or a quota."""
        if self.is_on and self._is_first(client, f"\0{reason}"):
            self._add(Kind.QUOTA, _who(client), reason, _shown(client, topic))

    def dropped(self, client: LoggedClient, reason: str, topic: str, count: int = 1) -> None:
        """Messages for a client were dropped; the first of a reason in a minute is an event."""
        if not self.is_on:
            return
        key = _key(client)
        topic = _shown(client, topic)
        if self._drops.note(key, reason, topic, self.now_s, count):
            who = self._who_of[key] = _who(client)
            self._add(Kind.DROPPED, who, reason, topic, count)

    def flapping(self, client: LoggedClient, detail: str) -> None:
        """A client is banned by ``limits.flapping``."""
        if self.is_on:
            self._add(Kind.BANNED, _who(client), "flapping", "", 1, detail)

    def _is_first(self, client: LoggedClient, name: str) -> bool:
        """Whether the same has not been recorded in the last minute."""
        place = _key(client), name
        at_s = self._denied.get(place)
        if at_s is not None and self.now_s < at_s + DENIAL_S:
            return False
        if at_s is None and len(self._denied) >= MAX_DENIALS:
            return False
        self._denied[place] = self.now_s
        return True

    # Sending

    def _add(
        self,
        kind: Kind,
        who: _Who,
        reason: str = "",
        topic: str = "",
        count: int = 1,
        detail: str = "",
    ) -> None:
        at_ms = self._now_ms()
        self._append((*who, kind, at_ms, reason, topic, count, detail, None, None))

    def _append(self, event: _Waiting) -> None:
        waiting = self._waiting
        waiting.append(event)
        if len(waiting) > MAX_WAITING:
            waiting.popleft()
            self._counters.record_dropped += 1
        if not self._is_sending:
            self._is_sending = True
            self._later(GATHER_S, self._send_and_go_on)

    def send_all(self) -> None:
        """Send everything: the edge stops."""
        while self._waiting:
            self._send_some()

    def _send_some(self) -> None:
        waiting = self._waiting
        events = [self._encoded(waiting.popleft()) for _ in range(min(self._most, len(waiting)))]
        if events and not self._send(events):
            self._counters.record_dropped += len(events)

    def _send_and_go_on(self) -> None:
        """Send what may be sent now; the rest follows after a moment."""
        self._send_some()
        waiting = self._waiting
        self._is_sending = bool(waiting)
        if waiting:
            self._later(GATHER_S, self._send_and_go_on)

    def _encoded(self, waiting: _Waiting) -> tuple[str, bytes]:
        client_id, mount_point, peer, user, version = waiting[:5]
        kind, at_ms, reason, topic, count, detail, keep_alive_s, session_present = waiting[5:]
        event = Event(
            at=at_ms / 1000,
            kind=kind,
            client=client_id,
            mount_point=mount_point,
            reason=reason,
            edge=self._place,
            address=_address(peer),
            listener=peer.listener,
            user=user or "",
            version=VERSION_NAMES[version] if version is not None else "",
            topic=topic,
            count=count,
            detail=detail,
            keep_alive_s=keep_alive_s,
            session_present=session_present,
        )
        return session_key(mount_point, client_id) if client_id else "", event.encode()


def _who(client: LoggedClient) -> _Who:
    client_id, user, version = client.client_id, client.username, None
    if client.connection.has_connect:
        version = client.version
    packet = client.connect
    if packet is not None and not client_id:
        client_id, user = packet.client_id, packet.username
    return client_id, client.listener.mount_point, client.channel.peer, user, version


def _nobody(place: str) -> _Who:
    """Who it is before CONNECT: a listener and an address."""
    listener, _, address = place.partition("\0")
    return "", "", Peer(address, 0, "", listener), None, None


def _key(client: LoggedClient) -> str:
    return session_key(client.listener.mount_point, client.client_id)


def _shown(client: LoggedClient, topic: str) -> str:
    """A topic or a filter as the client has it, without the mount point of its listener."""
    mount_point = client.listener.mount_point
    if not mount_point:
        return topic
    if topic.startswith("$share/"):
        share, name, topic_filter = topic.split("/", 2)
        return f"{share}/{name}/{topic_filter.removeprefix(mount_point)}"
    return topic.removeprefix(mount_point)


def _address(peer: Peer) -> str:
    if not peer.port:
        return peer.address
    return f"[{peer.address}]:{peer.port}" if ":" in peer.address else f"{peer.address}:{peer.port}"
