"""Expiry: no message comes after its own, no session is there after its own, and none too early."""

from __future__ import annotations

from support.checks.world import SLACK_S, Connection, Judge
from support.history import NO_CODE, Event, Kind

#: A remaining interval is a whole number of seconds, rounded up perhaps.
_ROUNDED_S = 1.0


class Expiry(Judge):
    """Judges what has a Message Expiry Interval, and clients with a Session Expiry Interval."""

    def take(self, position: int, event: Event) -> None:
        if event.kind is Kind.RECEIVED:
            self._received(event)
        elif event.kind is Kind.CONNECTED:
            connection = self.world.connection(event.client, event.connection)
            before = self.world.previous(connection)
            if before is not None and before.expiry_s:
                self._session(event, connection, before)

    # --- messages -----------------------------------------------------------------------------

    def _received(self, event: Event) -> None:
        assert event.key is not None
        message = self.world.messages.get(event.key)
        # Whoever gets it with DUP, to that one the delivery had begun in time.
        if message is None or not message.seconds or event.dup:
            return
        connection = self.world.connection(event.client, event.connection)
        late_s = event.at - message.last_sent_at - message.seconds
        # What an edge that hangs has already written arrives when it does.
        hurt_s = self.world.faults.at_edge_s(connection.place, message.last_sent_at, event.at)
        if late_s > self.world.announced.margin_s + hurt_s:
            self.wrong("expired", f"{late_s:.1f} s after its expiry", event)
        waited_s = 0.0
        if message.acknowledged != NO_CODE and connection.accepted_at is not None:
            waited_s = max(0.0, connection.accepted_at - message.acknowledged_at)
        if event.seconds > message.seconds - waited_s + _ROUNDED_S + SLACK_S:
            text = f"{event.seconds:g} s of {message.seconds:g} s are said to be left after"
            self.wrong("interval", f"{text} {waited_s:.1f} s in the queue", event)

    # --- sessions -----------------------------------------------------------------------------

    def _session(self, event: Event, connection: Connection, before: Connection) -> None:
        announced, faults = self.world.announced, self.world.faults
        ends = [before.ended_at, before.left_at if before.left is not None else None]
        known = [at for at in ends if at is not None]
        if not known:
            known = [connection.connect_at]
        end = min(known)
        away_s = connection.connect_at - end
        latest_s = announced.lease_s + announced.sweep_s + announced.margin_s
        latest_s += faults.stopped_s(end, event.at) + before.noticed_s
        if event.code and away_s > before.expiry_s + latest_s:
            text = f"present after {away_s:.1f} s, its expiry is {before.expiry_s:g} s"
            self.wrong("session kept", text, event)
        since = faults.first(before.place, end - announced.lease_s - announced.margin_s, end)
        away_s = event.at - (end if since is None else min(since, end))
        if not event.code and away_s < before.expiry_s - SLACK_S:
            text = f"not present after {away_s:.1f} s, its expiry is {before.expiry_s:g} s"
            self.wrong("session lost", text, event)
