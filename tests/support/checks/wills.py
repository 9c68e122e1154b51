"""Wills: each that is due is published exactly once, in time, and before what its successor says.

Where a fault leaves it open whether a connection has ended with its will, either is right: a
DISCONNECT to an edge that hangs, a CONNECT that nobody answered. Watchers have durable sessions.
What "in time" means is in the ``Snapshot``: lease, sweep and margin; time in which no router could
have reached the store is added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from support.checks.world import SLACK_S, Connection, Judge, Violation, World, matches
from support.history import Event, Key, Kind

#: Reason code of DISCONNECT.
KEEP_ALIVE_TIMEOUT: Final = 0x8D


class Due(StrEnum):
    """Whether a will is published."""

    MUST = "must"
    MAY = "may"
    NEVER = "never"


@dataclass(slots=True)
class _Will:
    """The will of one connection, and who got it: watcher -> identifier -> connection."""

    key: Key
    qos: int
    delay_s: float
    connection: Connection
    seen_at: float | None = None
    copies: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))


class Wills(Judge):
    """Judges connections that had a will."""

    def __init__(self, world: World, found: list[Violation]) -> None:
        super().__init__(world, found)
        self._wills: dict[Key, _Will] = {}
        #: Those of which something may have to come yet.
        self._open: dict[Key, _Will] = {}
        self.seen_count = 0
        #: Durable subscribers: filter, and position of SUBACK.
        self._watchers: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._given: dict[Key, int] = {}
        #: The highest number of a topic that a watcher has got.
        self._highest: dict[tuple[str, str], int] = defaultdict(int)

    def take(self, position: int, event: Event) -> None:
        match event.kind:
            case Kind.WILL:
                assert event.key is not None
                connection = self.world.connection(event.client, event.connection)
                will = _Will(event.key, event.qos, event.seconds, connection)
                self._wills[event.key] = self._open[event.key] = will
                self._given[event.key] = position
            case Kind.SUBSCRIBED if not self.world.is_clean(event.client):
                self._watchers[event.client].append((event.topic, position))
            case Kind.RECEIVED if event.client in self._watchers:
                self._received(event)
            case _:
                pass

    # --- what watchers get --------------------------------------------------------------------

    def _received(self, event: Event) -> None:
        key = event.key
        assert key is not None
        if event.connection < self.world.newest[event.client] or event.retain:
            return
        flow = event.client, key.topic
        will = self._wills.get(key)
        if will is None:
            self._highest[flow] = max(self._highest[flow], key.seq)
            return
        if self._is_repetition(will, event):
            return
        if will.connection.accepted_at is not None and key.seq < self._highest[flow]:
            text = f"after number {self._highest[flow]}, which is a later connection's"
            self.wrong("will after successor", text, event)
        if will.seen_at is None:
            will.seen_at = event.at
            self.seen_count += 1
            self._judge_first(will, event)

    def _is_repetition(self, will: _Will, event: Event) -> bool:
        """Tell whether this watcher has it: a re-delivery is right, a second copy is not."""
        copies = will.copies[event.client]
        same = any(
            packet_id == event.packet_id and connection < event.connection
            for packet_id, connection in copies
        )
        if copies and not (event.qos and event.dup and same):
            self.wrong("will twice", f"copy {len(copies) + 1}", event)
        copies.append((event.packet_id, event.connection))
        return len(copies) > 1

    def _judge_first(self, will: _Will, event: Event) -> None:
        """Judge when it was published, by the watcher that has it first."""
        connection = will.connection
        number, at = connection.number, event.at
        announced, faults = self.world.announced, self.world.faults
        if self.due(will, at) is Due.NEVER:
            self.wrong("will unwanted", self._why_never(will), event)
            return
        if connection.accepted_at is None:
            return
        hurt = faults.first(connection.place, at - self._patience_s() - will.delay_s, at)
        ended = self._earliest_end(connection)
        if ended is None or at < ended + will.delay_s - SLACK_S:
            if hurt is None and not self.world.is_uncertain(connection.client, number, at):
                when = "not yet" if ended is None else f"{at - ended:.2f} s before"
                self.wrong("will early", f"its connection has ended {when}", event)
            return
        latest = self._latest_end(connection)
        limit = latest + will.delay_s + self._patience_s() + faults.stopped_s(latest, at)
        if at > limit:
            text = f"{at - latest:.1f} s after the end, {at - limit:.1f} s too late"
            self.wrong("will late", f"{text} (lease {announced.lease_s:g} s)", event)

    # --- what has to come -----------------------------------------------------------------------

    def missing(self) -> Iterable[Violation]:
        for key, will in list(self._open.items()):
            if self._earliest_end(will.connection) is None:
                continue
            absent = [
                watcher
                for watcher, subscriptions in self._watchers.items()
                if not will.copies.get(watcher) and self._is_owed(will, subscriptions)
            ]
            due = self.due(will, self.world.now)
            if due is Due.MUST:
                for watcher in absent:
                    text = "the connection ended, and its will did not arrive"
                    yield Violation("will missing", text, watcher, key)
            if not absent or (due is not Due.MUST and self._is_over(will)):
                del self._open[key]

    def _is_over(self, will: _Will) -> bool:
        """Whether what happens now changes nothing for it."""
        latest = self._latest_end(will.connection) + will.delay_s + self._patience_s()
        return self.world.now > latest + 60

    def _is_owed(self, will: _Will, subscriptions: Iterable[tuple[str, int]]) -> bool:
        if not any(
            since < self._given[will.key] and matches(topic_filter, will.key.topic)
            for topic_filter, since in subscriptions
        ):
            return False
        if will.qos:
            return True
        # A QoS 0 will may be lost with any process that it goes through.
        end = self._latest_end(will.connection)
        return will.seen_at is None and not any(
            begin <= end + will.delay_s + self._patience_s() and (over is None or over >= end)
            for _, _, begin, over in self.world.faults.spans
        )

    def due(self, will: _Will, at: float) -> Due:
        """Say whether a will is published, by what has happened until then."""
        connection = will.connection
        if connection.accepted_at is None:
            # A refusal for want of an answer in time says nothing of what the store did.
            begun = connection.connect_at
            hurt = self.world.faults.first(connection.place, begun - self._patience_s(), begun)
            return Due.NEVER if connection.refused and hurt is None else Due.MAY
        ended = self._earliest_end(connection)
        if ended is None:
            return Due.MAY
        if connection.left == 0 and connection.ended_code == KEEP_ALIVE_TIMEOUT:
            return Due.MAY  # its DISCONNECT met the server's, which came first there
        successor = self._first(connection, accepted=True)
        if connection.left == 0 and successor is not None:
            accepted_at = successor.accepted_at
            if _is_before(successor, connection.left_at) and (
                accepted_at is not None and accepted_at > connection.left_at
            ):
                return Due.MAY  # which of the two came first, nobody knows
        if connection.left == 0 and not _is_before(successor, connection.left_at):
            if _is_before(self._first(connection, accepted=False), connection.left_at):
                return Due.MAY  # a CONNECT that nobody answered may have taken it over
            return Due.MAY if self._may_be_unheard(connection, at) else Due.NEVER
        if connection.left is None and connection.ended_at is None and successor is None:
            return Due.MAY
        if not will.delay_s:
            return Due.MUST
        return self._delayed(will, ended)

    def _delayed(self, will: _Will, ended: float) -> Due:
        """Say it of a will with a delay: a successor within the delay prevents it."""
        connection = will.connection
        following = self._first(connection, accepted=False)
        accepted = self._first(connection, accepted=True)
        latest = self._latest_end(connection)
        limit = latest + will.delay_s + self._patience_s()
        limit += self.world.faults.stopped_s(latest, self.world.now)
        if following is None or following.connect_at >= limit:
            return Due.MUST
        since = ended - self._patience_s()
        hurt = self.world.faults.first(connection.place, since, ended + will.delay_s)
        accepted_at = None if accepted is None else accepted.accepted_at
        if hurt is None and accepted_at is not None and accepted_at < ended + will.delay_s:
            return Due.NEVER
        return Due.MAY

    def _why_never(self, will: _Will) -> str:
        if will.connection.refused:
            return "its connection was refused"
        if will.connection.left == 0:
            return "its connection ended with DISCONNECT"
        return f"a successor came within the delay of {will.delay_s:g} s"

    # --- when a connection ended ----------------------------------------------------------------

    def _patience_s(self) -> float:
        announced = self.world.announced
        return announced.lease_s + announced.sweep_s + announced.margin_s

    def _may_be_unheard(self, connection: Connection, at: float) -> bool:
        """Whether its DISCONNECT may be lost: its edge was hurt then, or soon after."""
        since = connection.left_at - 4 * self.world.announced.sweep_s
        until = connection.left_at + self.world.announced.margin_s
        until += self.world.faults.stopped_s(connection.left_at, at)
        number = connection.number
        return self.world.faults.at_edge(connection.place, since, until) or (
            self.world.is_uncertain(connection.client, number, connection.left_at)
        )

    def _following(self, connection: Connection) -> Iterable[Connection]:
        """Its successors, the first one first."""
        known = self.world.connections[connection.client]
        for number in range(connection.number + 1, max(known) + 1):
            one = known.get(number)
            if one is not None and not one.refused:
                yield one

    def _first(self, connection: Connection, *, accepted: bool) -> Connection | None:
        return next(
            (
                one
                for one in self._following(connection)
                if one.accepted_at is not None or not accepted
            ),
            None,
        )

    def _earliest_end(self, connection: Connection) -> float | None:
        """When the broker may have seen the end at the earliest, unless a fault showed it one."""
        following = self._first(connection, accepted=False)
        ends = [] if following is None else [following.connect_at]
        if connection.left is not None:
            ends.append(connection.left_at)
        if connection.ended_at is not None:
            ends.append(connection.ended_at)
        return min(ends, default=None)

    def _latest_end(self, connection: Connection) -> float:
        """When it must have seen it, if its edge is well."""
        ends = [
            one.accepted_at for one in self._following(connection) if one.accepted_at is not None
        ]
        if connection.left is not None:
            ends.append(connection.left_at + connection.noticed_s)
        if connection.ended_at is not None:
            ends.append(connection.ended_at)
        return min(ends, default=self.world.now)


def _is_before(successor: Connection | None, at: float) -> bool:
    return successor is not None and successor.connect_at <= at
