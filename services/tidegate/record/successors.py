"""Which connection has taken over from another one. Pure.

The edge of the older connection only learns that there is a newer one; whose it is says the event
of the newer connection, which is in the record of the same client. Called where that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tidegate.record.events import Event, Kind

#: Edges write their events by the same clock, which they read at different moments.
_SPREAD_S: Final = 1.0


def with_successors(events: Sequence[Event]) -> list[Event]:
    """Return the events of one client, with the newer connection's address in each takeover."""
    connected = sorted(
        (event for event in events if event.kind is Kind.CONNECTED), key=lambda event: event.at
    )
    return [
        _with_successor(event, connected) if event.kind is Kind.TAKEN_OVER else event
        for event in events
    ]


def _with_successor(event: Event, connected: Sequence[Event]) -> Event:
    own = [one.at for one in connected if one.address == event.address and one.at <= event.at]
    since = own[-1] if own else event.at - _SPREAD_S
    for one in connected:
        if one.at >= since and one.address != event.address:
            return replace(event, detail=f"from {one.address} at {one.edge}")
    return event
